// What was measured of a dictionary: from tensors to the numbers of one feature, one token, one picture. Nothing here draws.

class Features {
  constructor(tensors, facts) {
    Object.assign(this, { tensors, facts });
    this.n = tensors.counts.shape[0];
    this.nBins = tensors.counts.shape[1];
    this.nTokens = facts.prefix.length + facts.grid[0] * facts.grid[1];
    const { data: counts } = tensors.counts;
    this.active = Float64Array.from({ length: this.n }, (_, feature) => {
      let sum = 0;
      for (let bin = 0; bin < this.nBins; bin++) sum += counts[feature * this.nBins + bin];
      return sum;
    });
    this.density = this.active.map((count) => count / facts.n_tokens);
    const ranks = tensors.top_values.shape[1];
    this.largest = Float64Array.from({ length: this.n }, (_, feature) => tensors.top_values.data[feature * ranks]);
    this.kept = new Map();
  }

  once(key, compute) {
    if (!this.kept.has(key)) this.kept.set(key, compute());
    return this.kept.get(key);
  }

  row(name, feature) {
    const { data, shape } = this.tensors[name];
    return data.subarray(feature * shape[1], (feature + 1) * shape[1]);
  }

  /** [{image, token, value}] of the strongest pictures ("top"), or of those at each level ("level"); null where there is none. */
  examples(kind, feature) {
    const [images, tokens, values] = ["images", "tokens", "values"].map((part) => this.row(`${kind}_${part}`, feature));
    return Array.from(images, (image, i) => (image < 0 ? null : { image, token: tokens[i], value: values[i] }));
  }

  histogram(feature) {
    return { counts: this.row("counts", feature), width: this.tensors.bin_width.data[feature] };
  }

  nearest(feature) {
    const cosines = this.row("near_cosines", feature);
    return Array.from(this.row("near_ids", feature), (id, i) => [id, cosines[i]]);
  }

  /** {raised, lowered}: [[class, value]], the strongest first; null where features have no classes. */
  classes(feature) {
    const values = this.row("class_values", feature);
    if (!values.length) return null;
    const pairs = Array.from(this.row("class_ids", feature), (index, i) => [index, values[i]]);
    return { raised: pairs.slice(0, pairs.length / 2), lowered: pairs.slice(pairs.length / 2).reverse() };
  }

  firstClass(feature) {
    const ids = this.row("class_ids", feature);
    return ids.length ? ids[0] : null;
  }

  /** Moran's I; NaN where too few maps have one. */
  locality(feature) {
    return this.tensors.locality.data[feature];
  }

  // ---- Pictures that are shown whole ----

  range(picture, token) {
    const { data: ends } = this.tensors.active_ends;
    const at = picture * this.nTokens + token;
    return [at ? ends[at - 1] : 0, ends[at]];
  }

  /** The features of some tokens of a picture with their largest activation there, the strongest first. */
  at(picture, tokens) {
    const { active_features: ids, active_values: values } = this.tensors;
    const found = new Map();
    for (const token of tokens) {
      const [start, end] = this.range(picture, token);
      for (let i = start; i < end; i++)
        if (values.data[i] > (found.get(ids.data[i]) ?? -Infinity)) found.set(ids.data[i], values.data[i]);
    }
    return [...found].sort((one, other) => other[1] - one[1]);
  }

  /** The same of all tokens. */
  ofPicture(picture) {
    return this.once(`picture ${picture}`, () => this.at(picture, Array(this.nTokens).keys()));
  }

  /** The activation of a feature at every token of a picture. */
  map(picture, feature) {
    const { active_features: ids, active_values: values } = this.tensors;
    const map = new Float64Array(this.nTokens);
    for (let token = 0; token < this.nTokens; token++) {
      const [start, end] = this.range(picture, token);
      for (let i = start; i < end; i++) if (ids.data[i] === feature) map[token] = values.data[i];
    }
    return map;
  }

  /** What a feature is worth to the logit of a picture's answer, by its gradient; null where there is no answer. */
  worth(picture, feature) {
    const { worth } = this.tensors;
    return worth ? worth.data[picture * this.n + feature] : null;
  }

  /** {doses, classes, logits [dose][class], rest [dose]} of a feature that was steered in a picture; null of others. */
  doses(picture, feature) {
    const steered = this.facts.pictures[picture]?.doses;
    const place = steered?.features.indexOf(feature) ?? -1;
    if (place < 0) return null;
    const { data, shape } = this.tensors[`doses_${picture}`];
    const [, nDoses, nClasses] = shape;
    const first = place * nDoses;
    const logits = this.facts.doses.map((_, dose) => data.subarray((first + dose) * nClasses, (first + dose + 1) * nClasses));
    const rest = this.tensors[`doses_rest_${picture}`].data.subarray(first, first + nDoses);
    return { doses: this.facts.doses, classes: steered.classes, logits, rest };
  }
}
