// What a head or an MLP does over a data set: its name, where it looks, its sink, and the pictures in which it writes most.

const AMONG_THESE = "among these";
const READERS = { class: "class token", patch: "patches, on average" };

class DataSetCard {
  /** `pickHead(name)` chooses a head by its name. */
  constructor(grid, pickHead) {
    Object.assign(this, { grid, pickHead });
    this.root = element("div", { class: "data-set" });
  }

  /** `data`: {n_images, heads [block][head], mlps [block], thumbnails}, or null; `head` as the page has it. */
  draw(data, block, head) {
    this.root.hidden = head === null;
    if (head === null) return;
    if (!data) {
      this.root.replaceChildren(
        element("h4", {}, "Over a data set"),
        element("p", { class: "note" }, "Not on this page. To have it: vitlens describe --data FOLDER -o facts.safetensors with this page's model (--model, --checkpoint), then --description facts.safetensors with this page's command."),
      );
      return;
    }
    const own = head === "mlp" ? data.mlps[block] : data.heads[block][head];
    const told = head === "mlp" ? [] : [this.named(own), this.looks(own), this.more(own)];
    this.root.replaceChildren(
      element("h4", {}, `Over the data set (${count(data.n_images, "picture")})`),
      ...told.filter(Boolean),
      element("h4", {}, "Pictures in which it writes most"),
      this.pictures(own.top, data.thumbnails),
    );
  }

  named({ name, sink }) {
    const parts = [name && `${/^[aeiou]/.test(name) ? "An" : "A"} ${name}`, sink && `${name ? "it" : "It"} has ${sink}`].filter(Boolean);
    return parts.length ? element("p", { class: "named-head" }, `${parts.join("; ")}.`) : null;
  }

  /** A row for everything that it looks at, a column for each that looks; a part of a share is indented. */
  looks({ looks }) {
    const readers = Object.keys(looks);
    const rows = [...new Set(readers.flatMap((reader) => Object.keys(looks[reader])))];
    // What is counted in other rows too comes last.
    rows.sort((one, other) => one.startsWith(AMONG_THESE) - other.startsWith(AMONG_THESE));
    const share = (value) =>
      value === undefined
        ? element("td", {})
        : element(
            "td",
            {},
            element("i", { style: `width: ${(60 * clamp(value, 0, 1)).toFixed(1)}px` }),
            element("span", {}, percent(value)),
          );
    return element(
      "table",
      { class: "looks" },
      element(
        "thead",
        {},
        element(
          "tr",
          {},
          element("th", {}, "What it looks at"),
          ...readers.map((reader) => element("th", { scope: "col" }, READERS[reader])),
        ),
      ),
      element(
        "tbody",
        {},
        ...rows.map((row) =>
          element("tr", {}, element("th", { scope: "row" }, row), ...readers.map((reader) => share(looks[reader][row]))),
        ),
      ),
    );
  }

  more({ distance, nearest }) {
    const parts = [element("span", {}, `Mean distance of what patches look at: ${number(distance)} pixels.`)];
    if (nearest)
      parts.push(
        element("span", {}, " Most alike: "),
        button(nearest[0], () => this.pickHead(nearest[0]), { class: "plain" }),
        element("span", {}, ` (cosine of patterns ${number(nearest[1])}).`),
      );
    return element("p", { class: "note" }, ...parts);
  }

  /** The patch that it reads from, where there is one, is framed. */
  pictures(top, thumbnails) {
    const { rows, columns } = this.grid;
    const frame = (row, column) =>
      element("i", {
        style: `left: ${(100 * column) / columns}%; top: ${(100 * row) / rows}%; width: ${100 / columns}%; height: ${100 / rows}%`,
      });
    return element(
      "ol",
      { class: "tops" },
      ...top.map(([image, value, row, column]) =>
        element(
          "li",
          {},
          element(
            "span",
            { class: "top-picture" },
            element("img", { src: thumbnails[image], alt: `picture ${image} of the data set` }),
            row === null ? null : frame(row, column),
          ),
          element("small", {}, `picture ${image}: ${number(value)}`),
        ),
      ),
    );
  }
}
