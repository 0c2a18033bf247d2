// The graph as it is drawn: nodes of one feature at several tokens together, or groups that the reader made. Nothing here draws.

class Merged {
  /** `groups`: [{name, members: keys}]. */
  constructor(graph, together, groups) {
    Object.assign(this, { graph, together });
    this.nodes = [];
    this.byKey = new Map();
    this.of = new Int32Array(graph.n);
    const grouped = new Map(groups.flatMap((group, i) => group.members.flatMap((key) => graph.members(key).map((node) => [node, i]))));
    for (let node = 0; node < graph.n; node++) {
      const group = grouped.get(node);
      const key = group === undefined ? graph.key(node, together) : `group${group}`;
      if (!this.byKey.has(key)) this.add(key, node, group === undefined ? null : groups[group]);
      const made = this.byKey.get(key);
      made.members.push(node);
      made.influence += graph.influence[node];
      this.of[node] = made.place;
    }
    for (const node of this.nodes) node.tokens = [...new Set(node.members.map((member) => graph.token[member]))].filter((token) => token >= 0).sort((one, other) => one - other);
    this.ranking = ranked(this.nodes.map(({ influence }) => influence)).map((place) => this.nodes[place]);
    this.ranking.forEach((node, rank) => (node.rank = rank));
    this.joinEdges();
  }

  add(key, first, group) {
    const { graph } = this;
    const unit = group ? -1 : graph.unit[first];
    const node = {
      key,
      place: this.nodes.length,
      kind: group ? "group" : graph.kind(first),
      block: graph.block[first],
      unit,
      number: unit < 0 ? -1 : graph.units.number[unit],
      group,
      single: !this.together && !group,
      text: graph.picture.logits[first] ?? "",
      members: [],
      influence: 0,
      in: [],
      out: [],
    };
    this.nodes.push(node);
    this.byKey.set(key, node);
  }

  /** Edges between the same two nodes are one: effects and flows add up. What stays within a node is none. */
  joinEdges() {
    const { graph, of } = this;
    const n = this.nodes.length;
    const places = new Map();
    const joined = [];
    for (let e = 0; e < graph.effect.length; e++) {
      const [target, source] = [of[graph.target[e]], of[graph.source[e]]];
      if (target === source) continue;
      const id = target * n + source;
      let edge = places.get(id);
      if (!edge) places.set(id, (edge = { target: this.nodes[target], source: this.nodes[source], flow: 0, effect: 0, held: [] })) && joined.push(edge);
      edge.flow += graph.flow[e];
      edge.effect += graph.effect[e];
      edge.held.push(e);
    }
    joined.sort((one, other) => other.flow - one.flow);
    this.edges = joined;
    for (const edge of joined) {
      edge.target.in.push(edge);
      edge.source.out.push(edge);
    }
  }

  /** What a node stands for, summed over its members: {total, constant, rest, listed}. Null where nothing goes into it. */
  sums(node) {
    const { graph } = this;
    const targets = node.members.filter((member) => Number.isFinite(graph.total[member]));
    if (!targets.length) return null;
    const sum = (values) => targets.reduce((all, member) => all + values[member], 0);
    return { total: sum(graph.total), constant: sum(graph.constant), rest: sum(graph.rest) };
  }

  /** The influence of some nodes at each token. */
  influenceMap(nodes, nTokens) {
    const { graph } = this;
    const map = new Float64Array(nTokens);
    for (const { members } of nodes) for (const member of members) if (graph.token[member] >= 0) map[graph.token[member]] += graph.influence[member];
    return map;
  }

  /** Where all influence ends: in what enters the model, in errors, in what is left out: [[kind, share]]. */
  ends() {
    const { graph } = this;
    const found = { embed: 0, pos_embed: 0, embed_norm: 0, error: 0, left_out: 0 };
    for (let node = 0; node < graph.n; node++) {
      const kind = graph.kind(node);
      if (kind in found) found[kind] += graph.influence[node];
      if (Number.isFinite(graph.left_out[node])) found.left_out += graph.influence[node] * graph.left_out[node];
    }
    return found;
  }
}
