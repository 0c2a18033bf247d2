// The pictures that are shown whole, each with the map of the chosen feature: where else is it active?

class Elsewhere {
  /** `events`: pick(picture). */
  constructor(view, events) {
    const { facts, grid } = view;
    this.view = view;
    this.items = facts.pictures.map((picture, i) => {
      const canvas = element("canvas", { width: grid.columns, height: grid.rows });
      const frame = element(
        "span",
        { class: "small", "data-map": "true", style: `aspect-ratio: ${picture.width} / ${picture.height}` },
        element("img", { src: picture.uri, alt: "" }),
        canvas,
      );
      lightOf(picture.uri).then((light) => frame.style.setProperty("--light", light));
      const value = element("small", {});
      const root = element("button", { type: "button", title: picture.name, onclick: () => events.pick(i) }, frame, value);
      return { canvas, frame, value, root };
    });
    this.root = element("div", { class: "elsewhere", role: "group", "aria-label": "pictures that are shown whole" }, ...this.items.map(({ root }) => root));
  }

  draw({ features, feature, state, scale, grid }) {
    this.items.forEach(({ canvas, frame, value, root }, i) => {
      const map = features.map(i, feature);
      const most = Math.max(...map);
      paint(canvas, map.subarray(grid.nPrefix), scale);
      frame.dataset.signed = scale.both;
      value.textContent = most > 0 ? number(most) : "–";
      root.setAttribute("aria-pressed", i === state.picture);
      root.setAttribute("aria-label", `${this.view.facts.pictures[i].name}: ${most > 0 ? `largest activation ${number(most)}` : "not active"}`);
    });
  }
}
