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
    const places = same ? "" : " (another photo; the selection marks the same rows and columns)";
    this.other.heading.textContent = headingOf(two, one) + places;
    this.other.draw(shownTwo);
    this.drawTable(one, two);
    this.difference.root.hidden = !same;
    if (!same) return;
    this.difference.setPicture(one.measured.picture);
    this.difference.heading.textContent =
      one.measured === two.measured
        ? `block ${one.names.block} − block ${two.names.block}`
        : `${one.measured.picture.name} − ${two.measured.picture.name}`;
    const both = !layer.colours && shownOne.values && shownTwo.values;
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
      absent: layer.colours ? "colours have no difference" : "no difference: one of the two has no such map",
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
