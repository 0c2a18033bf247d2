// One picture's graph: from tensors to nodes and edges. Nothing here draws.

/** What is known of the units of all pictures. */
class UnitTable {
  constructor(tensors) {
    this.tensors = tensors;
    this.block = tensors.unit_block.data;
    this.number = tensors.unit_number.data;
  }

  row(name, unit) {
    const { data, shape } = this.tensors[name];
    return data.subarray(unit * shape[1], (unit + 1) * shape[1]);
  }

  /** {raised, lowered}: [[class, value]], the strongest first; null where directions have no classes. */
  classes(unit) {
    const values = this.row("class_values", unit);
    if (!values.length) return null;
    const pairs = Array.from(this.row("class_ids", unit), (index, i) => [index, values[i]]);
    return {
      raised: pairs.slice(0, pairs.length / 2).filter(([, value]) => value > 0),
      lowered: pairs.slice(pairs.length / 2).reverse().filter(([, value]) => value < 0),
    };
  }

  /** [{image, token, value}] of the data set's strongest pictures; null without a data set. */
  examples(unit) {
    if (!this.tensors.top_images) return null;
    const [images, tokens, values] = ["images", "tokens", "values"].map((part) => this.row(`top_${part}`, unit));
    return Array.from(images, (image, i) => (image < 0 ? null : { image, token: tokens[i], value: values[i] })).filter(Boolean);
  }
}

class Graph {
  constructor(tensors, place, facts, units) {
    const of = (name) => tensors[`${name}_${place}`].data;
    Object.assign(this, { place, facts, units, maps: tensors[`map_${place}`], scales: of("map_scale") });
    this.picture = facts.pictures[place];
    this.kinds = of("kind");
    for (const name of ["block", "token", "unit", "activation", "influence", "total", "constant", "rest", "left_out", "magnitude"])
      this[name] = of(name);
    this.target = of("edge_target");
    this.source = of("edge_source");
    this.effect = of("edge_effect");
    this.n = this.kinds.length;
    this.heads = tensors[`heads_codes_${place}`] ?? null;
    if (this.heads) this.readHeads(of("heads_edge"), of("heads_scale"));
    // The share of the logits' influence that goes through each edge.
    this.flow = Float64Array.from(this.effect, (effect, e) => (this.influence[this.target[e]] * Math.abs(effect)) / (this.magnitude[this.target[e]] || 1));
  }

  readHeads(edges, scales) {
    this.headsRow = new Map(Array.from(edges, (edge, row) => [edge, row]));
    this.headsScale = scales;
  }

  /** What each head brought of some edges, the last number through none; null where it is known of none of them. */
  through(edges) {
    if (!this.heads) return null;
    const [, n] = this.heads.shape;
    const rows = edges.map((edge) => this.headsRow.get(edge)).filter((row) => row !== undefined);
    if (!rows.length) return null;
    const found = new Float64Array(n);
    for (const row of rows) for (let head = 0; head < n; head++) found[head] += (this.headsScale[row] * this.heads.data[row * n + head]) / 127;
    return found;
  }

  kind(node) {
    return this.facts.kinds[this.kinds[node]];
  }

  /** What names a node in the address, and the same feature in another picture; `together`: whatever its token. */
  key(node, together) {
    const kind = this.kind(node);
    const at = together ? "" : `.${this.token[node]}`;
    if (kind === "logit") return `${kind}.${node}`;
    if (kind === "error") return `error${this.block[node]}${at}`;
    if (this.unit[node] >= 0) return `u${this.block[node]}.${this.units.number[this.unit[node]]}${at}`;
    return `${kind}${at}`;
  }

  /** The nodes that a key of either form names. */
  members(key) {
    this.byKey ??= this.index();
    return this.byKey.get(key) ?? [];
  }

  index() {
    const found = new Map();
    for (let node = 0; node < this.n; node++)
      for (const key of new Set([this.key(node, true), this.key(node, false)])) {
        if (!found.has(key)) found.set(key, []);
        found.get(key).push(node);
      }
    return found;
  }

  /** The activation of a unit at every token. */
  map(unit) {
    const n = this.maps.shape[1];
    return Float64Array.from(this.maps.data.subarray(unit * n, (unit + 1) * n), (code) => (code * this.scales[unit]) / 255);
  }
}
