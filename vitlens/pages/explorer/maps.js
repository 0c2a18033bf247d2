// Maps over the picture: text, colour scales, and one number for every token. Nothing here knows what is chosen elsewhere.

// ---- Text -----------------------------------------------------------------------------------------------------------

/** An element; children that are strings become text, never markup. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

/** Three or four digits; a typographic minus. */
function number(value) {
  const size = Math.abs(value);
  const text =
    value === 0
      ? "0"
      : size >= 10000 || size < 0.00001
        ? value.toExponential(2)
        : size >= 100
          ? value.toFixed(1)
          : size >= 1
            ? value.toFixed(3)
            : size >= 0.01
              ? value.toFixed(4)
              : value.toPrecision(3);
  return text.replace(/-/g, "−");
}

const signed = (value) => (value > 0 ? "+" : "") + number(value);
const percent = (share) => `${(100 * share).toFixed(share < 0.01 ? 2 : 1)} %`;

/** The error rounded up to one digit. */
function withError(value, error, show) {
  if (!error) return show(value);
  const unit = 10 ** Math.floor(Math.log10(error));
  return `${show(value)} ± ${(Math.ceil(error / unit) * unit).toPrecision(1)}`;
}

/** Plotly reads some tags in names: text from outside must not have any. */
const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const cut = (text, longest = 34) => (text.length <= longest ? text : text.slice(0, longest - 1) + "…");

// ---- Colour scales: each says what it is normalised by --------------------------------------------------------------

function colourScale(shades, low, high, note, place = (value) => (value - low) / (high - low || 1)) {
  const last = shades.length - 1;
  const colour = (value) => shades[Math.max(0, Math.min(last, Math.round(place(value) * last)))];
  return { shades, low, high, note, colour };
}

const largest = (values) => values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);

const SCALES = {
  fromZero: (looks, theme, patches) =>
    colourScale(looks.sequential, 0, largest(patches) || 1, "0 to this map's largest patch"),
  signed(looks, theme, patches) {
    const end = largest(patches) || 1;
    return colourScale(
      looks.themes[theme].diverging,
      -end,
      end,
      "0 in the middle, ends at this map's largest magnitude",
    );
  },
  span(looks, theme, patches, selected) {
    const others = [...patches].filter((_, i) => i !== selected || patches.length === 1);
    return colourScale(
      looks.sequential,
      Math.min(...others),
      Math.max(...others),
      "this map's smallest to largest patch, the chosen one left out",
    );
  },
  rank(looks, theme, patches, selected, nClasses) {
    const end = Math.log(nClasses);
    const place = (rank) => 1 - Math.log1p(rank) / (end || 1);
    return colourScale(looks.sequential, nClasses - 1, 0, "logarithm of the rank, 0 is first of all classes", place);
  },
};

// ---- A map: one number for every token ------------------------------------------------------------------------------

/** A picture with prefix tokens as chips above it, colours over its patches, a legend, and the strongest tokens listed. */
class TokenMap {
  constructor(facts, name, events) {
    this.facts = facts;
    [this.rows, this.columns] = facts.grid;
    this.nPrefix = facts.prefix.length;
    this.heading = element("h3", {});
    this.chips = facts.prefix.map((label, token) =>
      element(
        "button",
        { class: "chip", type: "button", "data-token": token, onclick: (event) => events.pick(token, event) },
        element("span", { class: "swatch" }),
        label,
        element("output", {}),
      ),
    );
    this.image = element("img", { alt: "" });
    this.canvas = element("canvas", { width: this.columns, height: this.rows });
    this.outlines = element("div", { class: "outlines" });
    this.frame = element("div", { class: "frame" }, this.image, this.canvas, this.outlines);
    this.legend = element("div", { class: "legend" });
    this.hovered = element("output", { class: "hovered" });
    this.list = element("ol", { class: "strongest" });
    this.root = element(
      "section",
      { class: "panel map", "data-map": name },
      this.heading,
      element("div", { class: "chips" }, ...this.chips),
      this.frame,
      this.hovered,
      this.legend,
      this.list,
    );
    this.frame.addEventListener("click", (event) => events.pick(this.tokenAt(event), event));
    this.frame.addEventListener("pointermove", (event) => events.hover(this.tokenAt(event), this));
    this.frame.addEventListener("pointerleave", () => events.hover(null, this));
    this.events = events;
    this.shown = null;
  }

  tokenAt(event) {
    const box = this.frame.getBoundingClientRect();
    const place = (part, size, n) => Math.max(0, Math.min(n - 1, Math.floor((part / size) * n)));
    const row = place(event.clientY - box.top, box.height, this.rows);
    return this.nPrefix + row * this.columns + place(event.clientX - box.left, box.width, this.columns);
  }

  label(token) {
    if (token < this.nPrefix) return this.facts.prefix[token];
    const patch = token - this.nPrefix;
    return `(${Math.floor(patch / this.columns)}, ${patch % this.columns})`;
  }

  /** As a title says it. */
  name(token) {
    if (token >= this.nPrefix) return `patch ${this.label(token)}`;
    const label = this.label(token);
    return label.startsWith("register") ? label : `the ${label} token`;
  }

  setPicture(picture) {
    this.image.src = picture.uri;
    this.frame.style.aspectRatio = `${picture.width} / ${picture.height}`;
    this.frame.style.setProperty("--cell", `${100 / this.columns}% ${100 / this.rows}%`);
  }

  /** `measured` is {values, errors} per token, `scale` one of SCALES. */
  draw(title, measured, scale, { selected, ranked = "largest", show = number, leaveOut = null }) {
    this.heading.textContent = title;
    const patches = measured.values.subarray(this.nPrefix);
    const { theme } = this.root.closest("[data-theme]").dataset;
    const colours = SCALES[scale](this.facts.looks, theme, patches, selected - this.nPrefix, this.facts.n_classes);
    const pixels = new ImageData(this.columns, this.rows);
    patches.forEach((value, i) => pixels.data.set([...colours.colour(value), 255], 4 * i));
    this.canvas.getContext("2d").putImageData(pixels, 0, 0);
    this.shown = { ...measured, show };
    this.chips.forEach((chip, token) => {
      chip.lastChild.value = show(measured.values[token]);
      chip.title = this.valueOf(token);
      chip.firstChild.style.background = `rgb(${colours.colour(measured.values[token])})`;
    });
    this.drawLegend(colours, show);
    this.drawList(ranked, leaveOut);
    this.tell(null);
  }

  drawLegend(colours, show) {
    const stops = Array.from(
      { length: 9 },
      (_, i) => `rgb(${colours.shades[Math.round((i / 8) * (colours.shades.length - 1))]})`,
    );
    const bar = element("span", { class: "bar", style: `background: linear-gradient(to right, ${stops})` });
    const note = this.nPrefix ? `${colours.note}; prefix tokens on the same scale, cut at its ends` : colours.note;
    this.legend.replaceChildren(show(colours.low), bar, show(colours.high), element("small", {}, note));
  }

  drawList(ranked, leaveOut) {
    const { values } = this.shown;
    const weight = { largest: (v) => -v, smallest: (v) => v, magnitude: (v) => -Math.abs(v) }[ranked];
    const order = [...values.keys()].filter((token) => token !== leaveOut);
    order.sort((a, b) => weight(values[a]) - weight(values[b]));
    this.list.replaceChildren(
      ...order.slice(0, 5).map((token) =>
        element(
          "li",
          {},
          element(
            "button",
            {
              type: "button",
              "data-token": token,
              "data-value": values[token],
              onclick: (event) => this.events.pick(token, event),
            },
            element("span", {}, this.label(token)),
            element("span", {}, this.valueOf(token)),
          ),
        ),
      ),
    );
  }

  valueOf(token) {
    const { values, errors, show } = this.shown;
    return errors ? withError(values[token], errors[token], show) : show(values[token]);
  }

  /** Says the number of the token under the pointer. */
  tell(token) {
    this.hovered.value = token === null || !this.shown ? "" : `${this.label(token)}: ${this.valueOf(token)}`;
  }

  /** Outlines: {selected, hovered, marked}. */
  outline({ selected, hovered = null, marked = [] }) {
    const kinds = [...marked.map((token) => [token, "marked"]), [selected, "selected"], [hovered, "hovered"]];
    this.outlines.replaceChildren(
      ...kinds
        .filter(([token]) => token !== null && token >= this.nPrefix)
        .map(([token, kind]) => {
          const patch = token - this.nPrefix;
          const [row, column] = [Math.floor(patch / this.columns), patch % this.columns];
          const style =
            `left: ${(100 * column) / this.columns}%; top: ${(100 * row) / this.rows}%; ` +
            `width: ${100 / this.columns}%; height: ${100 / this.rows}%`;
          return element("div", { class: kind, style });
        }),
    );
    this.chips.forEach((chip, token) => {
      chip.setAttribute("aria-pressed", token === selected);
      chip.classList.toggle("marked", marked.includes(token));
    });
  }
}
