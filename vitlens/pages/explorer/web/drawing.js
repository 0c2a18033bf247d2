// A part of the page as a drawing: its text, pictures, bars and charts where they stand, so that it can be saved whole.

/** Controls belong to the page, not to its picture. */
const NOT_DRAWN = ".extra, .live, .segmented, .bracket, .tip, select, input, [hidden], .unseen";

/** `root` as an SVG that needs neither the page's style nor its files. */
function drawingOf(root) {
  const frame = root.getBoundingClientRect();
  const drawing = drawn("svg", { width: Math.ceil(frame.width), height: Math.ceil(frame.height) });
  drawNode(root, drawing, frame);
  return drawing;
}

function drawNode(node, drawing, frame) {
  if (node.nodeType === Node.TEXT_NODE) return void drawText(node, drawing, frame);
  if (node.nodeType !== Node.ELEMENT_NODE || node.matches(NOT_DRAWN)) return;
  const style = getComputedStyle(node);
  if (style.display === "none" || style.visibility === "hidden") return;
  const { left, top, width, height } = node.getBoundingClientRect();
  const box = { x: left - frame.left, y: top - frame.top, width, height };
  if (node instanceof SVGSVGElement) return void drawing.append(styledCopy(node, box));
  if (node instanceof HTMLImageElement)
    return void drawing.append(
      drawn("image", { href: node.src, ...box, preserveAspectRatio: "none", style: `filter: ${style.filter}` }),
    );
  if (node instanceof HTMLCanvasElement)
    return void drawing.append(
      drawn("image", { href: node.toDataURL(), ...box, preserveAspectRatio: "none", style: "image-rendering: pixelated" }),
    );
  if (node.matches(".crop:not(.prefix)")) return void drawing.append(...cropDrawing(node, style, box));
  // Short marks, such as keys and bars, are boxes of colour or frames.
  if (node.tagName === "I")
    drawing.append(
      drawn("rect", {
        ...box,
        style: `fill: ${style.backgroundColor}; opacity: ${style.opacity}; stroke: ${style.borderTopColor}; stroke-width: ${style.borderTopWidth}`,
      }),
    );
  for (const child of node.childNodes) drawNode(child, drawing, frame);
}

/** Line by line, as the page breaks them; what a click does is of no use on paper. */
function drawText(node, drawing, frame) {
  const style = getComputedStyle(node.parentElement);
  const range = document.createRange();
  const hints = [...node.data.matchAll(/ A click[^.]*\./g)];
  const isHint = (at) => hints.some(({ 0: text, index }) => at >= index && at < index + text.length);
  let line = null;
  const write = () => {
    if (!line) return;
    const size = parseFloat(style.fontSize);
    drawing.append(
      drawn(
        "text",
        {
          x: line.left - frame.left,
          y: (line.top + line.bottom) / 2 + 0.35 * size - frame.top,
          style: `fill: ${style.color}; font-size: ${style.fontSize}; font-weight: ${style.fontWeight}; font-family: ${style.fontFamily}`,
        },
        line.words.join(" "),
      ),
    );
  };
  for (const { 0: word, index } of node.data.matchAll(/[^ \n\t]+/g)) {
    if (isHint(index)) continue;
    range.setStart(node, index);
    range.setEnd(node, index + word.length);
    const [box] = range.getClientRects();
    if (!box) continue;
    if (line && Math.abs(box.top - line.top) < 3) line.words.push(word);
    else {
      write();
      line = { left: box.left, top: box.top, bottom: box.bottom, words: [word] };
    }
  }
  write();
}

/** A crop is a background that is moved and enlarged, with a frame around its patch. */
function cropDrawing(node, style, { x, y, width, height }) {
  const [wide, high] = style.backgroundSize.split(" ").map((part) => parseFloat(part) / 100);
  const [right, down] = style.backgroundPosition.split(" ").map((part) => parseFloat(part) / 100);
  const href = /^url\("(.*)"\)$/.exec(style.backgroundImage)?.[1] ?? "";
  const inner = drawn("svg", { x, y, width, height, viewBox: `0 0 ${width} ${height}` });
  inner.append(
    drawn("image", {
      href,
      x: right * width * (1 - wide),
      y: down * height * (1 - high),
      width: width * wide,
      height: height * high,
      preserveAspectRatio: "none",
    }),
  );
  const share = (name) => parseFloat(node.style.getPropertyValue(name)) / 100;
  const patch = drawn("rect", {
    x: x + share("--x") * width,
    y: y + share("--y") * height,
    width: share("--w") * width,
    height: share("--h") * height,
    style: `fill: none; stroke: ${PINK}; stroke-width: 1.5`,
  });
  return [inner, patch];
}

const KEPT_STYLES = [
  "fill",
  "fill-opacity",
  "stroke",
  "stroke-width",
  "stroke-dasharray",
  "stroke-opacity",
  "opacity",
  "font-size",
  "font-weight",
  "font-family",
  "text-anchor",
];

/** A chart with its styles written in, which can only be read while it is on the page. */
function styledCopy(original, place = {}) {
  const copy = original.cloneNode(true);
  const [from, to] = [original, copy].map((root) => [root, ...root.querySelectorAll("*")]);
  from.forEach((each, i) => {
    const style = getComputedStyle(each);
    for (const name of KEPT_STYLES)
      if (style.getPropertyValue(name)) to[i].style.setProperty(name, style.getPropertyValue(name));
    for (const name of ["class", "tabindex", "role", "aria-label"]) to[i].removeAttribute(name);
  });
  for (const [name, value] of Object.entries(place)) copy.setAttribute(name, value);
  return copy;
}
