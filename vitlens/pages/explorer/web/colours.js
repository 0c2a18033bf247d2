// Colours: hue says the sign and opacity the size, so that what lies below stays visible; one scale for each quantity.

/** Of maps on pictures, in both themes; the style sheet has the same for drawings, as --plus, --minus and --only. */
const HUES = { plus: [178, 24, 43], minus: [33, 102, 172], only: [255, 176, 0] };
/** Lines, told apart by everyone (Okabe & Ito). */
const LINES = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7d8593", "#a6761d"];

/** From a value to how strongly it is drawn: −1 … 1, or 0 … 1 where there are no negative values. */
class Scale {
  /**
   * `end` is drawn in full. `root` 2 or 3: the square or cube root of a share is drawn, so that small ones are seen too.
   * `show` writes a value, `note` says in words what the ends are.
   */
  constructor({ end, signed: both = false, root = 2, hues = null, show = number, note = "" }) {
    Object.assign(this, { end, both, root, show, note, hides: true });
    this.hues = hues ?? (both ? { plus: HUES.plus, minus: HUES.minus } : { plus: HUES.only, minus: HUES.minus });
  }

  strength(value) {
    if (!Number.isFinite(value)) return 0;
    const share = clamp(value / this.end, this.both ? -1 : 0, 1);
    return Math.sign(share) * Math.abs(share) ** (1 / this.root);
  }

  /** The value that is drawn this strongly. */
  at(strength) {
    return this.end * Math.sign(strength) * Math.abs(strength) ** this.root;
  }

  /** What is not drawn evenly says so. */
  named() {
    return { 2: "square-root scale, small values are lifted", 3: "cube-root scale, small values are lifted" }[this.root] ?? "";
  }

  colour(value) {
    return value < 0 ? this.hues.minus : this.hues.plus;
  }

  /** What a table says. */
  written(value) {
    return value;
  }

  /** The same quantity with another end; it says that it is stretched. */
  stretched(end, note) {
    return new Scale({ ...this, signed: this.both, end: end || this.end, note });
  }

  /** As text for a style, such as of a swatch. */
  css(value, most = 0.85) {
    return `rgb(${this.colour(value).join(" ")} / ${(most * Math.abs(this.strength(value))).toFixed(3)})`;
  }

  /** Where a legend has a mark: [place from 0 to 1, text]. */
  ticks() {
    const places = this.both ? [-1, -0.5, 0, 0.5, 1] : [0, 0.25, 0.5, 0.75, 1];
    return places.map((place) => [this.both ? (place + 1) / 2 : place, this.show(this.at(place))]);
  }

  gradient() {
    const stops = Array.from({ length: 9 }, (_, i) => {
      const value = this.at(this.both ? i / 4 - 1 : i / 8);
      return this.css(value);
    });
    return `linear-gradient(to right, ${stops})`;
  }
}

/** The rank of a class: first is drawn in full, the last not at all. */
class RankScale extends Scale {
  constructor(nClasses) {
    super({ end: 1, root: 1, show: (rank) => `${Math.round(rank)}.`, note: "place of the class, 1 is first; logarithmic scale" });
    this.n = nClasses;
  }

  strength(rank) {
    return Number.isFinite(rank) ? 1 - Math.log(rank) / Math.log(Math.max(2, this.n)) : 0;
  }

  at(strength) {
    return this.n ** (1 - strength);
  }

  stretched() {
    return this;
  }
}

/** Three numbers of a patch as its colour: a value is 65536 red + 256 green + blue, each from 0 to 255. */
class ColourScale extends Scale {
  constructor(note) {
    super({ end: 1, signed: true, root: 1, note });
    this.hides = false;
    this.show = (value) => this.colour(value).map((part, i) => `${"RGB"[i]} ${Math.round(part / 2.55)} %`).join(", ");
  }

  strength(value) {
    return Number.isFinite(value) ? 1 : 0;
  }

  colour(value) {
    return [(value >> 16) & 255, (value >> 8) & 255, value & 255];
  }

  written(value) {
    return `#${value.toString(16).padStart(6, "0")}`;
  }

  /** Of the legend, from −1 to 1: each of the three from dark to bright. */
  at(place) {
    const part = clamp((3 * (place + 1)) / 2, 0, 2.999);
    return Math.round(255 * (part % 1)) << (16 - 8 * Math.floor(part));
  }

  ticks() {
    return ["first", "second", "third"].map((name, i) => [(2 * i + 1) / 6, name]);
  }

  gradient() {
    const stops = Array.from({ length: 91 }, (_, i) => this.css(this.at(i / 45 - 1), 1));
    return `linear-gradient(to right, ${stops})`;
  }

  stretched() {
    return this;
  }
}

/**
 * Paints a number for every cell of a grid, one pixel each; the browser enlarges it. Where there is no sign, what is weak
 * is dimmed too, so that the eye goes to what is strong.
 */
function paint(canvas, values, scale, options) {
  const pixels = new ImageData(canvas.width, canvas.height);
  for (let i = 0; i < values.length; i++) {
    const { colour, alpha } = glaze(values[i], scale, options);
    if (alpha > 0) pixels.data.set([...colour, 255 * alpha], 4 * i);
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

/** The colour and opacity that lie on a patch. */
function glaze(value, scale, { opacity = 0.85, threshold = 0 } = {}) {
  const strength = Math.abs(scale.strength(value));
  const hidden = strength < threshold;
  const tint = hidden ? 0 : opacity * strength * (scale.both ? 1 : 0.75);
  const dim = scale.both ? 0 : opacity * 0.5 * (hidden ? 1 : 1 - strength);
  const alpha = tint + dim * (1 - tint);
  return { alpha, colour: scale.colour(value).map((part) => (alpha ? Math.round((part * tint) / alpha) : part)) };
}

/** The largest magnitude of some numbers. */
function largest(values) {
  let most = 0;
  for (const value of values) if (Math.abs(value) > most) most = Math.abs(value);
  return most;
}

/** How much brighter a dark photograph is drawn below a map, so that the map has the colours of its scale. */
async function lightOf(uri) {
  const image = new Image();
  image.src = uri;
  await image.decode();
  const canvas = element("canvas", { width: 16, height: 16 });
  const brush = canvas.getContext("2d");
  brush.drawImage(image, 0, 0, 16, 16);
  const { data } = brush.getImageData(0, 0, 16, 16);
  const mean = data.reduce((sum, value, i) => sum + (i % 4 === 3 ? 0 : value), 0) / (0.75 * data.length);
  return clamp(120 / Math.max(mean, 1), 1, 2.2).toFixed(2);
}
