// The card of the chosen node; without one, how the graph is read, and where the decision comes from.

/** Patches of this picture that a card shows. */
const MOST_PATCHES = 6;

class NodeCard {
  /** `events`: pick(key), pin(key). */
  constructor(view, events) {
    Object.assign(this, { view, events, kind: "close" });
    this.views = segmented("how much of each picture is shown", VIEWS, (kind) => {
      this.kind = kind;
      this.draw(this.at);
    });
    this.root = element("div", { class: "card", "data-card": "node" });
    this.rows = [];
  }

  draw(at) {
    this.at = at;
    const { node } = at;
    const hasExamples = node && node.unit >= 0 && at.units.examples(node.unit);
    this.views.hidden = !hasExamples;
    press(this.views, this.kind);
    if (!node) this.root.replaceChildren(...this.overview(at));
    else this.root.replaceChildren(...[this.facts(at), ...(node.group ? this.group(at) : node.unit >= 0 ? this.unit(at) : [this.told(at)])].filter(Boolean));
  }

  facts({ node, merged, grid }) {
    const { tip } = this.view;
    const sums = merged.sums(node);
    const { graph } = merged;
    const activation = Math.max(...node.members.map((member) => (Number.isFinite(graph.activation[member]) ? graph.activation[member] : -Infinity)));
    const rows = [
      ["influence", `${percent(node.influence)}; ${node.rank + 1}. of ${merged.nodes.length} nodes`],
      node.tokens.length ? ["where", node.tokens.length > 1 ? `nodes at ${grid.names(node.tokens)}` : grid.names(node.tokens)] : null,
      Number.isFinite(activation) ? [node.members.length > 1 ? "largest activation" : "activation", number(activation)] : null,
      sums && node.kind === "logit" ? ["logit", number(sums.total)] : null,
    ].filter(Boolean);
    this.rows = rows;
    const pinned = this.view.state.pinned.includes(node.key);
    return element(
      "div",
      { class: "card-head" },
      element(
        "dl",
        { class: "facts" },
        ...rows.map(([name, value]) => element("div", {}, element("dt", {}, GLOSSARY[name] ? tip.term(name) : name), element("dd", {}, value))),
      ),
      node.group || node.kind === "logit" ? null : button(pinned ? "unpin" : "pin", () => this.events.pin(node.key), { class: "pin", title: "keep it in view, and for a group (p)" }),
    );
  }

  unit(at) {
    const { node, units, merged, grid } = at;
    const { view } = this;
    const { facts, tip, crops } = view;
    const examples = units.examples(node.unit);
    const map = merged.graph.map(node.unit);
    const here = ranked(map, (value) => value).filter((token) => map[token] > 0).slice(0, MOST_PATCHES);
    return [
      element("h3", {}, examples ? `Strongest in ${count(facts.n_images, "picture")}` : "Strongest in this picture"),
      examples
        ? examples.length
          ? exampleList(crops, grid, examples, this.kind, tip)
          : element("p", { class: "note" }, "It is active in none of them.")
        : element(
            "ol",
            { class: "crops examples" },
            ...here.map((token) => element("li", { "data-token": token }, crop(grid, token, CLOSE), element("small", {}, number(map[token])))),
          ),
      this.classes(node),
    ];
  }

  classes({ unit }) {
    const found = this.view.units.classes(unit);
    return found && classesMoved(this.view, found);
  }

  group({ node, merged, grid }) {
    const { facts } = this.view;
    const plain = new Map(node.group.members.map((key) => [key, merged.graph.members(key)]));
    return [
      element("h3", {}, "What is in it"),
      element(
        "ul",
        { class: "group-members" },
        ...[...plain].map(([key, members]) => element("li", {}, element("span", {}, memberName(facts, grid, merged.graph, key)), element("output", {}, percent(members.reduce((sum, member) => sum + merged.graph.influence[member], 0))))),
      ),
      button("take the group apart", () => this.events.ungroup(node.group), { class: "ungroup" }),
    ];
  }

  told({ node }) {
    const { facts } = this.view;
    const said = {
      error: `What the MLP of block ${node.block} writes and its transcoder does not. The graph takes it as it is: why it is so cannot be told from features.`,
      embed: "What the patches hold when they enter the model: the evidence of the picture itself.",
      pos_embed: "Where each patch lies, whatever is on it: the same in every picture.",
      embed_norm: "What the norm before the first block adds.",
      logit: `The decision. The edges into it say which nodes raise it and which lower it; with what is left out and constants they add up to it. ${facts.unit_kind === "neuron" ? "Nodes are the MLPs' own neurons." : ""}`,
    }[node.kind];
    return said ? element("p", { class: "note" }, said) : null;
  }

  /** Without a node: at the tokens that are selected, or the whole. */
  overview(at) {
    const { state, merged, grid } = at;
    if (state.tokens.length) {
      const chosen = new Set(state.tokens);
      const found = merged.ranking.filter(({ tokens, unit, group }) => (unit >= 0 || group) && tokens.some((token) => chosen.has(token))).slice(0, 16);
      return [
        element("h3", {}, `Nodes at ${grid.names(state.tokens)}`),
        found.length ? element("ul", { class: "near" }, ...found.map((node) => this.item(node))) : element("p", { class: "note" }, "No feature at this place is a node of the graph."),
      ];
    }
    return [this.view.account.root, this.view.account.howTo];
  }

  item(node) {
    const { facts, grid } = this.view;
    return element("li", {}, button(cut(nodeName(facts, grid, node, true), 48), () => this.events.pick(node.key), { class: "link", "data-node": node.key }), element("output", {}, percent(node.influence)));
  }

  table() {
    return [["what", "value"], ...this.rows];
  }
}

/** The name of what a key stands for, in a graph. */
function memberName(facts, grid, graph, key) {
  const [first] = graph.members(key);
  if (first === undefined) return `${key}, which is no node of this picture`;
  const isSingle = graph.key(first, true) !== key;
  const unit = graph.unit[first];
  const node = { kind: graph.kind(first), block: graph.block[first], number: unit < 0 ? -1 : graph.units.number[unit], tokens: [graph.token[first]], single: isSingle, text: "" };
  return nodeName(facts, grid, node, true);
}
