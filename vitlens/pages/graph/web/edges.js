// The edges of the chosen node: what goes into it, and what comes of it, the most influential first.

const MOST_LISTED = 12;

class EdgeList {
  /** `side`: "in" or "out"; `events`: pick(key). */
  constructor(view, side, events) {
    Object.assign(this, { view, side, events, rows: [] });
    this.note = element("p", { class: "note" });
    this.list = element("ol", { class: "edge-list" });
    this.root = element("div", { class: `edge-panel ${side}` }, this.note, this.list);
  }

  draw(at) {
    this.at = at;
    const { merged } = at;
    const node = at.node ?? merged.nodes[0];
    const isIn = this.side === "in";
    const edges = node[this.side];
    const other = isIn ? "source" : "target";
    const shareOf = ({ flow, target }) => flow / (target.influence || 1);
    this.rows = edges.map((edge) => ({ node: edge[other], share: shareOf(edge), effect: edge.effect, edge }));
    const end = Math.max(...this.rows.map(({ share }) => share), 1e-9);
    this.list.replaceChildren(...this.rows.slice(0, MOST_LISTED).map((row) => this.row(row, end)));
    this.note.textContent = `${this.told(node, edges, isIn)}${this.throughAll(edges)}`;
  }

  /** Through which heads these edges lead together, by the magnitude of what each brings. */
  throughAll(edges) {
    const found = this.at.merged.graph.through(edges.flatMap(({ held }) => held));
    const told = headsTold(found, this.view.facts.heads, 4);
    return told ? ` On the way: ${told}.` : "";
  }

  told(node, edges, isIn) {
    if (!edges.length) return isIn ? "Nothing goes into it: it is where the graph begins." : "Nothing that is drawn comes of it.";
    const more = edges.length > MOST_LISTED ? `The first ${MOST_LISTED} of ${count(edges.length, "node")}. ` : "";
    if (!isIn) return `${more}Share: how much of the target's edges it is.`;
    const { total, constant, rest } = this.at.merged.sums(node);
    const listed = this.rows.slice(0, MOST_LISTED).reduce((sum, { effect }) => sum + effect, 0);
    const others = total - listed - constant - rest;
    return `${more}These ${signed(listed)}, other edges ${signed(others)}, left out ${signed(rest)}, constants ${signed(constant)}: together ${number(total)}.`;
  }

  row({ node, share, effect, edge }, end) {
    const { view } = this;
    const { facts, grid } = view;
    const name = nodeName(facts, grid, node, true);
    const via = headsTold(this.at.merged.graph.through(edge.held), facts.heads, 2);
    const mark = view.boards[this.at.state.picture].picture_(node);
    return element(
      "li",
      {},
      element(
        "button",
        {
          type: "button",
          "data-node": node.key,
          "data-share": share,
          "data-effect": effect,
          "aria-label": `${name}: share ${percent(share)}, effect ${signed(effect)}`,
          title: name,
          onclick: () => this.events.pick(node.key),
        },
        mark ?? element("span", { class: "crop prefix" }, "logit"),
        element("span", { class: "name" }, name, ...(via ? [element("small", { "data-via": "" }, `through ${via}`)] : [])),
        element("i", { class: effect < 0 ? "minus" : "plus", style: `width: ${(46 * clamp(share / end, 0, 1)).toFixed(1)}px` }),
        element("output", {}, percent(share)),
        element("output", {}, signed(effect)),
      ),
    );
  }

  table() {
    const { facts, grid } = this.view;
    return [["node", "share", "effect"], ...this.rows.map(({ node, share, effect }) => [nodeName(facts, grid, node, true), share, effect])];
  }
}

/** "L5H1 62 %, no head 20 %": the heads that bring most, as shares of all that heads bring, whatever its sign. */
function headsTold(found, names, most) {
  if (!found) return "";
  const sum = found.reduce((all, value) => all + Math.abs(value), 0);
  return ranked(found)
    .slice(0, most)
    .filter((head) => Math.abs(found[head]) > 0.03 * sum)
    .map((head) => `${names[head]} ${wholePercent(Math.abs(found[head]) / sum)}`)
    .join(", ");
}
