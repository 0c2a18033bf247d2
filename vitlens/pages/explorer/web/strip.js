// Small multiples: the layer on show after every block, one scale for all; a click chooses the block.

class Strip {
  /** `pick(i)` is called with the place of the map that was clicked. */
  constructor(grid, labels, pick) {
    Object.assign(this, { grid, labels });
    this.maps = labels.map((label, i) => {
      const image = element("img", { alt: "", draggable: "false" });
      const canvas = element("canvas", { width: grid.columns, height: grid.rows });
      const frame = element("span", { class: "small" }, image, canvas);
      return { image, canvas, frame, root: button("", () => pick(i), { "data-place": i }) };
    });
    for (const [i, { root, frame }] of this.maps.entries()) root.append(frame, element("span", {}, labels[i]));
    const columns = [12, 10, 9, 8].find((n) => labels.length % n === 0) ?? 12;
    this.root = element(
      "div",
      {
        class: "strip",
        style: `--n: ${Math.min(labels.length, columns)}`,
        role: "group",
        "aria-label": "the same map after every block",
      },
      ...this.maps.map(({ root }) => root),
    );
  }

  setPicture({ uri, width, height }) {
    for (const { image, frame } of this.maps) {
      if (image.getAttribute("src") !== uri) image.src = uri;
      frame.style.aspectRatio = `${width} / ${height}`;
    }
  }

  /** `values(i)` per token, or null: then there is nothing to show. */
  draw(values, scale, chosen, paintOptions) {
    this.maps.forEach(({ canvas, frame, root }, i) => {
      const found = values?.(i);
      canvas.hidden = !found;
      frame.dataset.map = Boolean(found);
      frame.dataset.signed = Boolean(found) && scale.both;
      if (found) paint(canvas, found.subarray(this.grid.nPrefix), scale, paintOptions);
      root.setAttribute("aria-pressed", i === chosen);
      root.setAttribute("aria-label", `block ${this.labels[i]}`);
    });
    this.root.classList.toggle("idle", !values);
  }
}
