// Two pictures beside one another: the same layer on both, their difference, and what was found in a table.

class Compare {
  constructor(grid, tip, events) {
    this.other = new Stage(grid, tip, events.other, "the picture beside it, with the same map");
    this.difference = new Stage(grid, tip, events.difference, "the difference of the two maps");
    this.difference.root.classList.add("difference");
    this.table = element("table", { class: "two" });
    this.stages = [this.other, this.difference];
  }

  /** `one` and `two` are what layers are asked with, of the same choices; `layer` what is on show. */
  draw(one, two, layer, shownOne, shownTwo) {
    this.other.setPicture(two.measured.picture);
    this.other.heading.textContent = two.measured.picture.name;
    this.other.draw(shownTwo);
    this.difference.setPicture(one.measured.picture);
    this.difference.heading.textContent = "the first less the second";
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
    this.drawTable(one, two);
  }

  drawTable(one, two) {
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

/** What there is to say of a picture and a choice of classes, in a few words each. */
function found(at) {
  const { measured, choice, names, facts } = at;
  const answer = measured.answer();
  const leading = measured.leading(3).map((index) => `${cut(names.short(index), 24)} ${percent(answer[index])}`);
  const rows = {
    "What does it answer?": leading.join(", "),
    [`${names.choice}: probability`]: percent(answer[choice.class]),
    [`${names.choice}: logit`]: signed(measured.answerLogit(choice)),
  };
  const ranks = measured.reading("rank", choice.class);
  if (ranks) {
    let first = ranks.length;
    while (first > 0 && ranks[first - 1] === 1) first -= 1;
    rows["When is it decided?"] =
      first < ranks.length ? `first from block ${facts.blocks[first]} on` : "it is not first at the end";
  }
  const heads = measured.heads(choice);
  if (heads)
    rows["Who writes it?"] = ranked(heads)
      .slice(0, 3)
      .map((cell) => `${names.cell(cell)} ${signed(heads[cell])}`)
      .join(", ");
  const lost = measured.lost(choice);
  if (lost)
    rows["What if it is removed?"] = ranked(lost.heads)
      .slice(0, 3)
      .map((cell) => `${names.cell(cell)} ${signed(lost.heads[cell])}`)
      .join(", ");
  return rows;
}
