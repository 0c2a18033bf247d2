// Two pictures: which nodes have more influence in one than in the other.

const MOST_COMPARED = 14;

class Difference {
  /** `events`: pick(key). */
  constructor(view, events) {
    this.view = view;
    this.note = element("p", { class: "note" });
    this.bars = new Bars(view.tip, "difference", ["this picture", "the other"], {
      pick: ({ key }) => events.pick(key),
      tell: ({ name, values }) => [capital(name), `influence ${percent(values[0])} here, ${percent(values[1])} there`],
    });
    this.key = element("p", { class: "key" });
    this.root = element("div", {}, this.note, this.key, this.bars.root);
  }

  draw({ merged, beside, state, facts, grid }) {
    const keys = new Set([...merged.byKey.keys(), ...beside.byKey.keys()]);
    const of = (graph, key) => graph.byKey.get(key)?.influence ?? 0;
    const rows = [...keys]
      .map((key) => {
        const node = merged.byKey.get(key) ?? beside.byKey.get(key);
        return { key, node, name: nodeName(facts, grid, node, true), values: [of(merged, key), of(beside, key)], chosen: key === state.node };
      })
      .filter(({ node }) => node.kind !== "logit")
      .sort((one, other) => Math.abs(other.values[0] - other.values[1]) - Math.abs(one.values[0] - one.values[1]))
      .slice(0, MOST_COMPARED)
      .map((row) => ({ ...row, label: facts.labels[`${row.node.block}.${row.node.number}`] ?? shortName(facts, row.node) }));
    this.rows = rows;
    const end = niceEnd(Math.max(...rows.flatMap(({ values }) => values)));
    const names = [state.picture, state.beside].map((i) => facts.pictures[i].name);
    this.note.textContent = "Nodes whose influence differs most.";
    this.key.replaceChildren(element("i", {}), cut(names[0], 40), element("i", { class: "thin" }), cut(names[1], 40));
    this.bars.draw({ rows, scale: new Scale({ end, root: 1, show: percent }), axis: "influence" });
  }

  table() {
    return this.bars.table();
  }
}

const shortName = (facts, node) =>
  node.number >= 0 ? `block ${node.block}: ${node.number}` : node.kind === "error" ? `block ${node.block}: errors` : (KIND_WORDS[node.kind] ?? node.kind);
