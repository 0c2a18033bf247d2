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

/** A value for every token, with the largest error of each where they were quantised. */
const perToken = (values, errors = null) => ({ values, errors });

class Measured {
  constructor(tensors, classes) {
    this.tensors = tensors;
    this.classes = classes;
    [this.nBlocks, this.nHeads, this.nTokens] = tensors.pattern.shape;
    this.steps = tensors.pattern.data instanceof Int8Array ? 127 : 255;
  }

  position(index) {
    return this.classes.indexOf(index);
  }

  heads(head) {
    return head === null ? [...Array(this.nHeads).keys()] : [head];
  }

  /** The attention of a query to every token ("row") or of every query to a token ("column"); head null is the mean. */
  attention(direction, block, head, token) {
    const n = this.nTokens;
    const { data: codes } = this.tensors.pattern;
    const { data: scales } = this.tensors.pattern_scale;
    const values = new Float64Array(n);
    const errors = new Float64Array(n);
    const heads = this.heads(head);
    for (const h of heads) {
      const first = (block * this.nHeads + h) * n;
      for (let other = 0; other < n; other++) {
        const [query, key] = direction === "row" ? [token, other] : [other, token];
        const code = codes[(first + query) * n + key];
        const unit = scales[first + query] / (this.steps * this.steps) / heads.length;
        values[other] += Math.sign(code) * code * code * unit;
        errors[other] += (Math.abs(code) + 0.25) * unit;
      }
    }
    return perToken(values, errors);
  }

  /** The cosine of a token's stream with every token's. */
  cosines(block, token) {
    const n = this.nTokens;
    const { data } = this.tensors.cosines;
    const first = block * ((n * (n + 1)) / 2);
    const values = new Float64Array(n);
    for (let other = 0; other < n; other++) {
      const [i, j] = token < other ? [token, other] : [other, token];
      values[other] = data[first + i * n - (i * (i - 1)) / 2 + (j - i)] / 32767;
    }
    return perToken(values, new Float64Array(n).fill(0.5 / 32767));
  }

  /** What every token wrote through a head, or through all of a block, into the logit (less that of the baseline). */
  contributions(block, head, choice) {
    const values = new Float64Array(this.nTokens);
    for (const h of this.heads(head)) {
      for (let token = 0; token < this.nTokens; token++) values[token] += this.share(choice, block, h, token);
    }
    return perToken(values);
  }

  share(choice, block, head, token) {
    const at = (block * this.nHeads + head) * this.nTokens + token;
    return this.difference("shares", choice, this.nBlocks * this.nHeads * this.nTokens, at);
  }

  /** [head][block]: what a token wrote through every head; of all tokens together, biases included, without a token. */
  board(choice, token = null) {
    return Array.from({ length: this.nHeads }, (_, head) =>
      Array.from({ length: this.nBlocks }, (_, block) =>
        token === null
          ? this.difference("heads", choice, this.nBlocks * this.nHeads, block * this.nHeads + head)
          : this.share(choice, block, head, token),
      ),
    );
  }

  /** The sum of all contributions beside the logit: {heads, groups, sum, logit, residual}. */
  account(choice) {
    const nGroups = this.tensors.groups.shape[1];
    const heads = this.board(choice)
      .flat()
      .reduce((sum, share) => sum + share, 0);
    const groups = Array.from({ length: nGroups }, (_, i) => this.difference("groups", choice, nGroups, i));
    return {
      heads,
      groups,
      sum: groups.reduce((sum, share) => sum + share, heads),
      logit: this.difference("logits", choice, 1, 0),
      residual: this.difference("residuals", choice, 1, 0),
    };
  }

  /** An entry of a tensor whose first axis is the class: the chosen class's less the baseline's. */
  difference(name, choice, size, at) {
    const { data } = this.tensors[name];
    const value = data[this.position(choice.class) * size + at];
    return choice.baseline === null ? value : value - data[this.position(choice.baseline) * size + at];
  }

  /** The lens of a class ("logit", "probability" or "rank") at a block and token; of the model's reading without a token. */
  lens(quantity, index, block, token = null) {
    const row = token === null ? block : block * this.nTokens + token;
    const { data } = this.tensors[`${token === null ? "reading" : "lens"}_${quantity}`];
    return data[row * this.classes.length + this.position(index)];
  }

  /** The lens of every token; of a difference of classes the difference of their logits. */
  lensMap(quantity, block, choice) {
    const values = new Float64Array(this.nTokens);
    for (let token = 0; token < this.nTokens; token++) {
      values[token] = this.lens(quantity, choice.class, block, token);
      if (choice.baseline !== null) values[token] -= this.lens(quantity, choice.baseline, block, token);
    }
    return perToken(values);
  }

  /** The first classes of a token after a block: [{index, logit, probability}]. */
  top(block, token) {
    const { top_classes, top_logits, top_probabilities } = this.tensors;
    const k = top_classes.shape[2];
    return Array.from({ length: k }, (_, i) => {
      const at = (block * this.nTokens + token) * k + i;
      return { index: top_classes.data[at], logit: top_logits.data[at], probability: top_probabilities.data[at] };
    });
  }
}

/** The pictures, each unpacked when it is first asked for. */
class Pictures {
  constructor(facts, bytesOf) {
    this.loaded = facts.pictures.map((picture, i) => {
      let promise = null;
      return () => {
        promise ??= Promise.resolve(bytesOf(i))
          .then(unpack)
          .then((buffer) => {
            return new Measured(readSafetensors(buffer), picture.classes);
          });
        return promise;
      };
    });
  }

  get(index) {
    return this.loaded[index]();
  }
}
