// Where a decision comes from when it is followed back to the end, and how the graph is read.

const ENDS = [
  ["embed", "patches"],
  ["pos_embed", "positions"],
  ["embed_norm", "the first norm's constants"],
  ["error", "errors"],
  ["left_out", "left out"],
];

class Account {
  constructor(view) {
    this.view = view;
    this.root = element("div", { class: "account-box" });
    const line = (...parts) => element("li", {}, ...parts);
    const kind = view.facts.unit_kind;
    const mark = (name, text) => element("span", { class: `mark ${name}` }, element("i", {}), text);
    this.howTo = element(
      "div",
      { class: "how-to" },
      element("h3", {}, "How to read the graph"),
      element(
        "ul",
        {},
        line(`Left is what enters the model, right the answer. Each box is a ${kind} of a block; its small picture shows where it is at work. The most influential stand on top.`),
        line("A ", mark("plus", "red"), " line raises what it leads to, a ", mark("minus", "blue"), " line lowers it; the wider, the more influence."),
        line("Click a box: its card, its edges, and where on the picture it is active. Click a patch of the picture: the boxes that are at work there."),
        line("The sliders show more or fewer boxes and lines. Pin boxes to keep them, and put them into a group with a name."),
      ),
    );
  }

  draw({ merged, shown }) {
    const found = merged.ends();
    const { facts } = this.view;
    const parts = ENDS.map(([kind, name]) => [kind, name, found[kind]]).filter(([, , share]) => share > 0.0005);
    this.parts = parts;
    const sum = parts.reduce((all, [, , share]) => all + share, 0) || 1;
    const told = { embed: "what is on the patches", pos_embed: "where patches lie", error: "what transcoders miss", left_out: `${facts.unit_kind}s that are no nodes` };
    this.root.replaceChildren(
      element("h3", {}, "Where the answer comes from, followed back to the end"),
      element("div", { class: "ends", role: "img", "aria-label": parts.map(([, name, share]) => `${name} ${percent(share)}`).join(", ") }, ...parts.map(([kind, , share]) => element("i", { class: kind, style: `width: ${((100 * share) / sum).toFixed(2)}%` }))),
      element("ul", { class: "ends-key" }, ...parts.map(([kind, name, share]) => element("li", { "data-end": kind }, element("i", { class: kind }), `${name} ${percent(share)}`, told[kind] ? element("small", {}, ` ${told[kind]}`) : null))),
      element("p", { class: "note" }, `${merged.graph.picture.n_nodes.toLocaleString("en")} of ${(merged.graph.picture.active_units ?? merged.graph.picture.n_nodes).toLocaleString("en")} active ${facts.unit_kind}s are nodes of the graph. ${shown.nodes.length} boxes are drawn.`),
    );
  }
}
