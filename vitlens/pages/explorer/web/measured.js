// What was measured of a picture: from compressed bytes to numbers. Nothing here draws.

// ---- Bytes ----------------------------------------------------------------------------------------------------------

const KINDS = { F32: Float32Array, I32: Int32Array, I16: Int16Array, I8: Int8Array, U8: Uint8Array };

function fromBase64(text) {
  const binary = atob(text.trim());
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

async function unpack(bytes) {
  if (typeof DecompressionStream === "undefined") throw new Error("This page needs a browser of 2023 or later.");
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

/** The tensors of a safetensors file, {name: {data, shape}}. */
function readSafetensors(buffer) {
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const tensors = {};
  for (const [name, entry] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    const [start, end] = entry.data_offsets;
    const Kind = KINDS[entry.dtype];
    const bytes = buffer.slice(8 + length + start, 8 + length + end);
    tensors[name] = { data: new Kind(bytes), shape: entry.shape };
  }
  return tensors;
}

// ---- Numbers of one picture -----------------------------------------------------------------------------------------

/**
 * `choice` is {class, baseline}: a number of it is the class's less the baseline's. What was not measured, or not for this
 * class, is null.
 */
class Measured {
  constructor(tensors, picture, facts) {
    Object.assign(this, { tensors, picture, facts, classes: picture.classes });
    [this.nBlocks, this.nHeads, this.nTokens] = tensors.pattern.shape;
    this.nPrefix = facts.prefix.length;
    this.nPatches = this.nTokens - this.nPrefix;
    this.steps = tensors.pattern.data instanceof Int8Array ? 127 : 255;
    this.outliers = tensors.outliers?.data ?? new Uint8Array(this.nPatches);
    this.kept = new Map();
  }

  /** What is asked for often and costs more than a look is kept. */
  once(key, compute) {
    if (!this.kept.has(key)) this.kept.set(key, compute());
    return this.kept.get(key);
  }

  stores({ class: wanted, baseline }) {
    return this.classes.includes(wanted) && (baseline === null || this.classes.includes(baseline));
  }

  /** Of a number per class, that of the choice. */
  of(choice, value) {
    return choice.baseline === null ? value(choice.class) : value(choice.class) - value(choice.baseline);
  }

  /** An entry of a tensor whose first axis is the page's classes. */
  entry(name, choice, size, at) {
    const { data } = this.tensors[name];
    return this.of(choice, (index) => data[this.classes.indexOf(index) * size + at]);
  }

  // ---- Attention and similarity: of a set of tokens ----

  /** Where these tokens look, their mean ("from"), or how much each token looks at them, their sum ("to"). */
  attention(direction, block, head, tokens) {
    if (tokens.length < 20) return this.attentionOf(direction, block, head, tokens);
    return this.once(`${direction} ${block} ${head} ${tokens}`, () => this.attentionOf(direction, block, head, tokens));
  }

  attentionOf(direction, block, head, tokens) {
    const n = this.nTokens;
    const { data: codes } = this.tensors.pattern;
    const { data: scales } = this.tensors.pattern_scale;
    const values = new Float64Array(n);
    const heads = head === null ? [...Array(this.nHeads).keys()] : [head];
    const share = heads.length * this.steps ** 2 * (direction === "from" ? tokens.length : 1);
    for (const h of heads) {
      const first = (block * this.nHeads + h) * n;
      for (const token of tokens) {
        for (let other = 0; other < n; other++) {
          const [query, key] = direction === "from" ? [token, other] : [other, token];
          const code = codes[(first + query) * n + key];
          values[other] += (code < 0 ? -1 : 1) * code * code * (scales[first + query] / share);
        }
      }
    }
    return values;
  }

  /** Differential attention can be negative. */
  hasNegativeAttention() {
    return this.steps === 127;
  }

  /** The cosine of every token's stream with those of some tokens, their mean. */
  cosines(block, tokens) {
    const n = this.nTokens;
    const { data } = this.tensors.cosines;
    const first = block * ((n * (n + 1)) / 2);
    const values = new Float64Array(n);
    for (const token of tokens) {
      for (let other = 0; other < n; other++) {
        const [i, j] = token < other ? [token, other] : [other, token];
        values[other] += data[first + i * n - (i * (i - 1)) / 2 + (j - i)] / 32767 / tokens.length;
      }
    }
    return values;
  }

  /** The colour of every patch after a block, as `ColourScale` reads it; artefact tokens have none. */
  colours(block) {
    const { data } = this.tensors.colours;
    return Float64Array.from({ length: this.nPatches }, (_, patch) => {
      const first = 3 * (block * this.nPatches + patch);
      return this.outliers[patch] ? NaN : (data[first] << 16) | (data[first + 1] << 8) | data[first + 2];
    });
  }

  // ---- Direct contributions to the logit ----

  /** What every token wrote through a head, or through all of a block. */
  writes(block, head, choice) {
    if (!this.stores(choice)) return null;
    const { nBlocks, nHeads, nTokens } = this;
    const { data } = this.tensors.shares;
    const scales = this.tensors.shares_scale?.data;
    const values = new Float64Array(nTokens);
    const add = (index, sign) => {
      for (const h of head === null ? Array(nHeads).keys() : [head]) {
        const row = (this.classes.indexOf(index) * nBlocks + block) * nHeads + h;
        const unit = sign * (scales ? scales[row] / 127 : 1);
        for (let token = 0; token < nTokens; token++) values[token] += data[row * nTokens + token] * unit;
      }
    };
    add(choice.class, 1);
    if (choice.baseline !== null) add(choice.baseline, -1);
    return values;
  }

  /** What every token wrote through all heads of all blocks together. */
  writesOfAll(choice) {
    if (!this.stores(choice)) return null;
    return this.once(`writes ${choice.class} ${choice.baseline}`, () => {
      const sum = new Float64Array(this.nTokens);
      for (let block = 0; block < this.nBlocks; block++)
        this.writes(block, null, choice).forEach((value, token) => (sum[token] += value));
      return sum;
    });
  }

  /** [block · head]: what each head wrote, of all tokens together, biases included. */
  heads(choice) {
    const size = this.nBlocks * this.nHeads;
    return this.written(choice, size, "heads", "all_heads");
  }

  /** [block]: what each MLP wrote. */
  mlps(choice) {
    return this.written(choice, this.nBlocks, "mlps", "all_mlps");
  }

  written(choice, size, stored, coded) {
    if (this.tensors[stored] && this.stores(choice))
      return Float64Array.from({ length: size }, (_, at) => this.entry(stored, choice, size, at));
    if (!this.tensors[coded]) return null;
    return Float64Array.from({ length: size }, (_, at) => this.of(choice, (index) => this.decoded(coded, at, index)));
  }

  /** An entry [row, class] of a tensor that has all classes, in codes of two bytes. */
  decoded(name, row, index) {
    const { data, shape } = this.tensors[name];
    return (data[row * shape.at(-1) + index] * this.tensors[`${name}_scale`].data[row]) / 32767;
  }

  /** The classes that a head (or an MLP) raises and lowers most: [[index, logit], …], strongest first. */
  classesOf(name, row, n = 3) {
    const tensor = this.tensors[name];
    if (!tensor) return null;
    const values = Float64Array.from({ length: tensor.shape.at(-1) }, (_, index) => this.decoded(name, row, index));
    const order = ranked(values, (value) => value);
    const pairs = (indices) => indices.map((index) => [index, values[index]]);
    return { raised: pairs(order.slice(0, n)), lowered: pairs(order.slice(-n).reverse()) };
  }

  /** The sum of all contributions beside the logit: {heads, groups, sum, logit, residual}. */
  account(choice) {
    if (!this.stores(choice) || !this.tensors.groups) return null;
    const nGroups = this.tensors.groups.shape[1];
    const heads = this.heads(choice).reduce((sum, share) => sum + share, 0);
    const groups = Array.from({ length: nGroups }, (_, i) => this.entry("groups", choice, nGroups, i));
    return {
      heads,
      groups,
      sum: groups.reduce((sum, share) => sum + share, heads),
      logit: this.entry("logits", choice, 1, 0),
      residual: this.entry("residuals", choice, 1, 0),
    };
  }

  // ---- The class lens ----

  /** "logit", "probability" or "rank" (1 is first) of a class after every block, as the model itself reads. */
  reading(quantity, index) {
    const at = this.classes.indexOf(index);
    const { nBlocks } = this;
    if (at >= 0) {
      if (!this.tensors.reading_logit) return null;
      const { data } = this.tensors[`reading_${quantity}`] ?? {};
      if (!data) return null;
      const first = quantity === "rank" ? 1 : 0;
      return Float64Array.from({ length: nBlocks }, (_, block) => data[block * this.classes.length + at] + first);
    }
    if (!this.tensors.all_reading) return null;
    return Float64Array.from({ length: nBlocks }, (_, block) => {
      const logits = this.allReading(block);
      if (quantity === "logit") return logits[index];
      if (quantity === "rank") return 1 + logits.filter((logit) => logit > logits[index]).length;
      return this.probabilities(logits)[index];
    });
  }

  allReading(block) {
    const n = this.tensors.all_reading.shape[1];
    return this.once(`reading ${block}`, () =>
      Float64Array.from({ length: n }, (_, index) => this.decoded("all_reading", block, index)),
    );
  }

  /** The lens of every token of a block; of a difference of classes that of their logits. */
  lens(quantity, block, choice) {
    if (!this.stores(choice) || !this.tensors.lens_logit) return null;
    const { data } = this.tensors[`lens_${choice.baseline === null ? quantity : "logit"}`];
    const n = this.classes.length;
    const first = quantity === "rank" && choice.baseline === null ? 1 : 0;
    return Float64Array.from({ length: this.nTokens }, (_, token) => {
      const at = (block * this.nTokens + token) * n;
      return first + this.of(choice, (index) => data[at + this.classes.indexOf(index)]);
    });
  }

  /** The first classes of a token after a block: [{index, logit, probability}]. */
  top(block, token) {
    const { top_classes, top_logits, top_probabilities } = this.tensors;
    if (!top_classes) return [];
    const k = top_classes.shape[2];
    return Array.from({ length: k }, (_, i) => {
      const at = (block * this.nTokens + token) * k + i;
      return { index: top_classes.data[at], logit: top_logits.data[at], probability: top_probabilities.data[at] };
    });
  }

  // ---- The answer ----

  /** By what the model's outputs mean; NaN where they have no probability. */
  probabilities(logits) {
    const { output } = this.picture;
    if (output === "softmax") return softmax(logits);
    return Float64Array.from(logits, output === "sigmoid" ? sigmoid : () => NaN);
  }

  /** The probability of every class; of those of the page where not all are stored. */
  answer() {
    return this.once("answer", () => {
      const all = this.tensors.answer_logits;
      if (all) return this.probabilities(all.data);
      const last = this.nBlocks - 1;
      const found = new Float64Array(this.facts.n_classes).fill(NaN);
      const read = this.tensors.reading_probability?.data;
      if (read) this.classes.forEach((index, at) => (found[index] = read[last * this.classes.length + at]));
      return found;
    });
  }

  answerLogit(choice) {
    const all = this.tensors.answer_logits;
    if (all) return this.of(choice, (index) => all.data[index]);
    return this.stores(choice) && this.tensors.logits ? this.entry("logits", choice, 1, 0) : NaN;
  }

  /** The classes, the most probable first; none where they have no probability. */
  leading(n) {
    const known = (index) => Number.isFinite(this.answer()[index]);
    return this.once("leading", () => ranked(this.answer(), (share) => share).filter(known)).slice(0, n);
  }

  place(index) {
    const answer = this.answer();
    return 1 + answer.filter((share) => share > answer[index]).length;
  }

  // ---- What the removal of a part costs ----

  /** {patches, heads, mlps}: what the logit loses without each; positive where the part speaks for the class. */
  lost(choice) {
    const { effect_logits } = this.tensors;
    if (!effect_logits || !this.stores(choice)) return null;
    return this.once(`lost ${choice.class} ${choice.baseline}`, () => {
      const [n, nClasses] = effect_logits.shape;
      const whole = this.answerLogit(choice);
      const all = Float64Array.from({ length: n }, (_, cell) => {
        const without = (index) => effect_logits.data[cell * nClasses + this.classes.indexOf(index)];
        return whole - this.of(choice, without);
      });
      const heads = this.nPatches + this.nBlocks * this.nHeads;
      return {
        patches: all.subarray(0, this.nPatches),
        heads: all.subarray(this.nPatches, heads),
        mlps: all.subarray(heads),
      };
    });
  }

  /**
   * The answer without a part (a row of the effects): {probability of the class, first class}; null where it is estimated or
   * has no probability. Where classes do not exclude each other, none comes first in the place of this one.
   */
  without(cell, index) {
    const { effect_logits, effect_lse, effect_top } = this.tensors;
    const at = this.classes.indexOf(index);
    if (!effect_lse || at < 0 || Number.isNaN(effect_lse.data[cell])) return null;
    const logit = effect_logits.data[cell * effect_logits.shape[1] + at];
    const { output } = this.picture;
    if (output === "softmax")
      return { probability: Math.exp(logit - effect_lse.data[cell]), first: effect_top.data[cell] };
    return output === "sigmoid" ? { probability: sigmoid(logit), first: index } : null;
  }

  // ---- Heatmaps and their test ----

  heatmap(which) {
    const { nPatches } = this;
    return this.tensors.heatmap?.data.subarray(which * nPatches, (which + 1) * nPatches) ?? null;
  }

  /** {steps, maps: [values per heatmap], random: [values per order]} of the picture's first class. */
  removal() {
    const { removal_steps, removal_curves } = this.tensors;
    if (!removal_steps) return null;
    const n = removal_steps.shape[0];
    const nMaps = this.tensors.heatmap.shape[0];
    const curves = Array.from({ length: removal_curves.shape[0] }, (_, i) =>
      removal_curves.data.subarray(i * n, (i + 1) * n),
    );
    return { steps: removal_steps.data, maps: curves.slice(0, nMaps), random: curves.slice(nMaps) };
  }

  /**
   * The ends of the scales of logits, the same whatever class, block or head is chosen: of one patch, of what one part
   * writes directly, and of what its removal costs.
   */
  ends() {
    return this.once("ends", () => {
      const most = { patches: 0, direct: 0, lost: 0 };
      const more = (kind, values) => (most[kind] = Math.max(most[kind], values ? largest(values) : 0));
      for (const index of this.classes) {
        const choice = { class: index, baseline: null };
        const lost = this.lost(choice);
        more("patches", lost?.patches);
        for (const values of [this.heads(choice), this.mlps(choice)]) more("direct", values);
        for (const values of [lost?.heads, lost?.mlps, lost?.patches, this.heads(choice), this.mlps(choice)])
          more("lost", values);
      }
      for (const scale of this.tensors.shares_scale?.data ?? []) most.patches = Math.max(most.patches, scale);
      return { patches: niceEnd(most.patches), direct: niceEnd(most.direct), lost: niceEnd(most.lost) };
    });
  }

  lensEnd() {
    return this.once("lens end", () => niceEnd(largest(this.tensors.logits?.data ?? [10])));
  }
}

function softmax(logits) {
  const most = logits.reduce((one, other) => Math.max(one, other), -Infinity);
  const powers = Float64Array.from(logits, (logit) => Math.exp(logit - most));
  const sum = powers.reduce((one, other) => one + other, 0);
  return powers.map((power) => power / sum);
}

const sigmoid = (logit) => 1 / (1 + Math.exp(-logit));

/** The pictures, each unpacked when it is first asked for. */
class Pictures {
  constructor(facts, bytesOf) {
    this.loaded = facts.pictures.map((picture, i) => {
      let promise = null;
      return () => {
        promise ??= Promise.resolve(bytesOf(i))
          .then(unpack)
          .then((buffer) => new Measured(readSafetensors(buffer), picture, facts));
        return promise;
      };
    });
  }

  get(index) {
    return this.loaded[index]();
  }
}
