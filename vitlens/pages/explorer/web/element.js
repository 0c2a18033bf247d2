// Elements and text: the one way in which anything comes onto the page, and how numbers are written.

const SVG_SPACE = "http://www.w3.org/2000/svg";

/** An element; children that are strings become text, never markup. `on…` are listeners. */
function element(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** The same for a part of a drawing. */
function drawn(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG_SPACE, tag), attributes, children);
}

function filled(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name.startsWith("aria-") && value !== null && value !== undefined) made.setAttribute(name, String(value));
    else if (value !== null && value !== undefined && value !== false)
      made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function button(label, onclick, attributes = {}) {
  return element("button", { type: "button", onclick, ...attributes }, label);
}

/** Draws a chart again once its box has another width. */
function followWidth(chart) {
  const { root } = chart;
  new ResizeObserver(() => chart.shown && root.clientWidth !== chart.width && chart.draw(chart.shown)).observe(root);
}

/** A link inside of a sentence: it breaks over lines as words do, which buttons do not. */
function link(text, onclick, attributes = {}) {
  const key = (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    onclick(event);
  };
  return element("span", { class: "link", role: "link", tabindex: 0, onclick, onkeydown: key, ...attributes }, text);
}

/** A term in brackets, behind a question. */
const bracket = (term) => element("span", { class: "bracket" }, "(", term, ")");

/** Buttons of which one is pressed. */
function segmented(label, entries, choose) {
  return element(
    "div",
    { class: "segmented", role: "group", "aria-label": label },
    ...entries.map(([value, text]) => button(text, () => choose(value), { "data-value": value })),
  );
}

function press(group, value, disabled = false) {
  for (const each of group.children) {
    each.setAttribute("aria-pressed", each.dataset.value === String(value));
    each.disabled = disabled;
  }
}

// ---- Numbers --------------------------------------------------------------------------------------------------------

const trueMinus = (text) => text.replace("-", "−");

/** Three significant digits, two of very small ones; a true minus, and no zero with a sign. */
function number(value) {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size < 1e-9) return "0";
  if (size >= 1e6 || size < 1e-5) return trueMinus(value.toExponential(1));
  return trueMinus(String(size >= 100 ? Math.round(value) : Number(value.toPrecision(size < 0.01 ? 2 : 3))));
}

/** The sign is told by + and −, not by colour alone. */
function signed(value) {
  const text = number(value);
  return value > 0 && text !== "0" ? `+${text}` : text;
}

/** At most one decimal. */
function percent(share) {
  if (!Number.isFinite(share)) return "–";
  const value = 100 * share;
  if (value !== 0 && Math.abs(value) < 0.05) return "< 0.1\u00a0%";
  if (value > 99.95 && value < 100) return "> 99.9\u00a0%";
  return `${trueMinus(String(Number(value.toFixed(1))))}\u00a0%`;
}

const wholePercent = (share) =>
  share >= 0.095 && share <= 0.995 ? `${Math.round(100 * share)}\u00a0%` : percent(share);

// ---- Words ----------------------------------------------------------------------------------------------------------

const cut = (text, length = 28) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);
/** The words of a removal, the same everywhere: positive where the class loses. */
const COSTS = "its removal costs";
const capital = (text) => text[0].toUpperCase() + text.slice(1);
const count = (n, one, many = `${one}s`) => `${n} ${n === 1 ? one : many}`;

/** An index list of what is largest first, by a weight. */
function ranked(values, weight = Math.abs) {
  return [...values.keys()]
    .filter((i) => Number.isFinite(values[i]))
    .sort((a, b) => weight(values[b]) - weight(values[a]));
}

const clamp = (value, low, high) => Math.max(low, Math.min(high, value));

/** 1, 1.5, 2, 3, 4, 5, 6, 8 times a power of ten: the end of a scale that holds `value`. */
function niceEnd(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].find((step) => step * power >= value * 0.9999) * power;
}
