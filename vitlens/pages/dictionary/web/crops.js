// Examples: one small picture of each, cut by the browser around the patch that is framed in it.

/** How much of the picture is seen around the patch. */
const VIEWS = [
  ["close", "close-up"],
  ["whole", "whole picture"],
];
/** Patches on each side of the framed one. */
const CLOSE = 2;

class Crops {
  /** `numbers` of pictures, and `texts`, one for each. */
  constructor(numbers, texts, names) {
    this.texts = new Map(Array.from(numbers, (number, i) => [number, texts[i]]));
    this.names = names;
  }

  name(image) {
    return this.names[image] ?? `picture ${image}`;
  }

  /** The example as an element; a picture that the page has no room for is a grey box. */
  example(grid, { image, token }, view) {
    const text = this.texts.get(image);
    if (!text) return element("span", { class: "crop missing" }, "not kept");
    const isPatch = token >= grid.nPrefix;
    const whole = view === "whole" || !isPatch;
    const found = crop(grid, isPatch ? token : grid.nPrefix, whole ? Math.max(grid.rows, grid.columns) : CLOSE);
    found.style.setProperty("--picture", `url("data:image/webp;base64,${text}")`);
    if (!isPatch) for (const [name, value] of [["--x", "0%"], ["--y", "0%"], ["--w", "100%"], ["--h", "100%"]]) found.style.setProperty(name, value);
    return found;
  }
}

/** A list of examples; `heads` stand above them, one for each. */
function exampleList(crops, grid, examples, view, tip, heads = []) {
  const root = element("ol", { class: `crops examples ${heads.length ? "levels" : ""}` });
  examples.forEach((example, i) => {
    if (!example) return;
    const { image, token, value } = example;
    const item = element(
      "li",
      { "data-image": image, "data-token": token, "data-value": value },
      heads[i] ? element("small", { class: "head" }, heads[i]) : null,
      crops.example(grid, example, view),
      element("small", {}, number(value)),
    );
    tip.over(item, () => [crops.name(image), grid.name(token), `activation ${number(value)}`]);
    root.append(item);
  });
  return root;
}
