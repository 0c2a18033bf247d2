// Two pictures beside one another: the same layer on both, their difference, and what was found in a table.

class Compare {
  constructor(grid, tip, events) {
    this.other = new Stage(grid, tip, events.other, "the picture beside it, with the same map");
    this.difference = new Stage(grid, tip, events.difference, "the difference of the two maps");
    this.difference.root.classList.add("difference");
    this.legend = element("div", {});
    this.difference.root.append(this.legend);
    this.table = element("table", { class: "two" });
    this.stages = [this.other, this.difference];
  }

  /** `one` and `two` are what layers are asked with, of the same choices; `layer` what is on show. */
  draw(one, two, layer, shownOne, shownTwo) {
    this.other.setPicture(two.measured.picture);
    // Positions are shared, what lies there is not: a difference of maps means something on one photograph alone.
    const same = samePhotograph(one.measured.picture, two.measured.picture);
    const nearest = layer.colours && !same ? nearestPatches(one, two) : null;
    const places = nearest?.length ? nearestTold(nearest, one.grid) : "the selection marks the same rows and columns";
    this.other.heading.textContent = headingOf(two, one) + (same ? "" : ` (another photo; ${places})`);
    this.other.draw(nearest ? { ...shownTwo, selected: nearest.map(({ token }) => token) } : shownTwo);
    this.drawTable(one, two);
    // Colours have no difference.
    this.difference.root.hidden = !same || Boolean(layer.colours);
    if (this.difference.root.hidden) return;
    this.difference.setPicture(one.measured.picture);
    this.difference.heading.textContent =
      one.measured === two.measured
        ? `block ${one.names.block} − block ${two.names.block}`
        : `${one.measured.picture.name} − ${two.measured.picture.name}`;
    const both = shownOne.values && shownTwo.values;
    const values = both ? shownOne.values.map((value, token) => value - shownTwo.values[token]) : null;
    const scale = new Scale({
      end: shownOne.scale.end,
      signed: true,
      root: shownOne.scale.root,
      show: layer.name === "from" || layer.name === "to" ? percentSigned : signed,
      note: "",
    });
    this.difference.draw({
      ...shownOne,
      values,
      scale,
      outliers: [],
      absent: "no difference: one of the two has no such map",
    });
    this.legend.replaceChildren(ramp(scale));
  }

  drawTable(one, two) {
    // Two blocks of one picture have the same answer.
    this.table.hidden = one.measured === two.measured;
    if (this.table.hidden) return;
    const rows = [one, two].map((at) => found(at));
    const names = [one, two].map(({ measured }) => cut(measured.picture.name, 40));
    this.table.replaceChildren(
      element(
        "thead",
        {},
        element("tr", {}, element("td", {}), ...names.map((name) => element("th", { scope: "col" }, name))),
      ),
      element(
        "tbody",
        {},
        ...Object.keys(rows[0]).map((what) =>
          element(
            "tr",
            {},
            element("th", { scope: "row" }, what),
            ...rows.map((row) => element("td", {}, row[what] ?? "–")),
          ),
        ),
      ),
    );
  }
}

const percentSigned = (share) => (share > 0 ? "+" : "") + percent(share);

/** What a map beside another is of: the picture, or the block where the picture is the same. */
function headingOf({ measured, names, choice }, other) {
  if (measured === other.measured) return `block ${names.block}`;
  return choice.class === null ? measured.picture.name : `${measured.picture.name}: ${names.choice}`;
}

/**
 * The patches of the picture beside it that are nearest to the selected ones, [{from, token, cosine, mutual}]; null where
 * the two were not measured together.
 */
function nearestPatches({ measured, state, facts, grid }, two) {
  if (!facts.measured_together || !measured.tensors.nearest || state.beside === null) return null;
  const { nBlocks, nPatches, nPrefix } = measured;
  const at = (other, patch) => (other * nBlocks + state.block) * nPatches + patch;
  const found = [];
  for (const from of state.tokens.filter((token) => token >= nPrefix)) {
    const place = at(state.beside, from - nPrefix);
    const patch = measured.tensors.nearest.data[place];
    if (patch < 0) continue;
    const back = two.measured.tensors.nearest.data[at(state.picture, patch)];
    const cosine = measured.tensors.nearest_cosine.data[place] / 32767;
    found.push({ from, token: grid.nPrefix + patch, cosine, mutual: back === from - nPrefix });
  }
  return found;
}

function nearestTold(nearest, grid) {
  if (nearest.length > 1)
    return `pink: nearest to the ${nearest.length} selected patches, ${nearest.filter(({ mutual }) => mutual).length} of them mutually`;
  const [{ from, token, cosine, mutual }] = nearest;
  return `${grid.name(token)} is nearest to ${grid.name(from)}, cosine ${number(cosine)}${mutual ? ", mutually" : ""}`;
}

/** Two runs, two models, or before and after: pictures that are told apart by a bracket, or not at all. */
function samePhotograph(one, other) {
  const plain = ({ name }) => name.replace(/ \([^()]*\)$/, "");
  return one.uri === other.uri || plain(one) === plain(other);
}

/** What there is to say of a picture and a choice of classes, in a few words each. */
function found(at) {
  const { measured, choice, names, facts } = at;
  const answer = measured.answer();
  const leading = measured.leading(3).map((index) => `${cut(names.short(index), 24)} ${percent(answer[index])}`);
  const rows = {
    ...(leading.length && { "What does it answer?": leading.join(", ") }),
    Class: names.choice,
    ...(Number.isFinite(answer[choice.class]) && { "Its probability": percent(answer[choice.class]) }),
    "Its logit": signed(measured.answerLogit(choice)),
  };
  const ranks = measured.reading("rank", choice.class);
  if (ranks) {
    let first = ranks.length;
    while (first > 0 && ranks[first - 1] === 1) first -= 1;
    rows["When is it decided?"] =
      first < ranks.length ? `first from block ${facts.blocks[first]} on` : "it is not first at the end";
  }
  const writers = parted(measured, choice, names).slice(0, 4);
  if (writers.length)
    rows["Who writes it?"] = writers.map(({ name, value }) => `${name} ${signed(value)}`).join(", ");
  const lost = measured.lost(choice);
  if (lost) {
    const costs = [...lost.heads].map((value, cell) => [names.cell(cell), value]);
    lost.mlps.forEach((value, i) => costs.push([`MLP of block ${facts.blocks[i]}`, value]));
    rows["What if it is removed?"] = ranked(costs.map(([, value]) => value))
      .slice(0, 4)
      .map((i) => `${costs[i][0]} ${signed(costs[i][1])}`)
      .join(", ");
  }
  return rows;
}
