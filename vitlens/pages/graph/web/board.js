// One graph as a drawing: a button for each node, edges on a canvas below them. A click changes classes and the canvas alone.

/** Edges of the chosen node that are drawn, however weak. */
const MOST_OF_CHOSEN = 40;

class GraphBoard {
  /** `events`: pick(key), step(key, arrow). `view` has facts, grid and tip. */
  constructor(view, place, events) {
    Object.assign(this, { view, place, events, buttons: new Map() });
    this.canvas = element("canvas", { class: "edges-canvas", "aria-hidden": "true" });
    this.heads = element("div", { class: "board-heads", "aria-hidden": "true" });
    this.layer = element("div", { class: "nodes", role: "group", "aria-label": "nodes of the graph, by block" });
    this.name = button("", () => events.pick(null), { class: "board-name" });
    this.frame = element("div", { class: "board-frame" }, this.canvas, this.heads, this.layer);
    this.root = element("div", { class: "graph-board", "data-graph": place }, this.name, element("div", { class: "wide" }, this.frame));
    const nodeOf = ({ target }) => this.merged?.byKey.get(target.closest?.("[data-key]")?.dataset.key);
    this.layer.addEventListener("click", (event) => nodeOf(event) && events.pick(nodeOf(event).key));
    view.tip.over(this.layer, (event) => (nodeOf(event) ? this.tell(nodeOf(event)) : null));
    this.layer.addEventListener("keydown", (event) => {
      const arrow = { ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down" }[event.key];
      if (!arrow || !nodeOf(event)) return;
      event.preventDefault();
      this.step(nodeOf(event), arrow);
    });
    new ResizeObserver(() => this.shown && this.root.clientWidth !== this.width && this.place_(this.shown)).observe(this.root);
  }

  tell(node) {
    const { facts, grid } = this.view;
    const at = node.tokens.length > 1 ? `at ${grid.names(node.tokens)}` : null;
    return [capital(nodeName(facts, grid, node, true)), at, `influence ${percent(node.influence)}`, "click for its card and edges"];
  }

  /** Arrow keys: to the strongest source or target that is drawn, or to the node above or below. */
  step(node, arrow) {
    const there = ({ key }) => this.layout.places.has(key);
    const along = { left: [node.in, "source"], right: [node.out, "target"] }[arrow];
    let next = along?.[0].map((edge) => edge[along[1]]).find(there);
    if (!along) {
      const column = this.shown.nodes.filter((other) => columnOf(other, this.view.facts.n_layers) === columnOf(node, this.view.facts.n_layers));
      column.sort(standsBefore);
      next = column[column.indexOf(node) + (arrow === "up" ? -1 : 1)];
    }
    if (!next) return;
    this.events.pick(next.key, true);
    this.buttons.get(next.key)?.focus();
  }

  /** `shown`: {nodes, edges} that are drawn. Only when these change are nodes made anew. */
  draw(merged, shown, picture) {
    Object.assign(this, { merged, picture });
    this.root.style.setProperty("--picture", `url("${picture.uri}")`);
    lightOf(picture.uri).then((light) => this.root.style.setProperty("--light", light));
    this.place_(shown);
  }

  place_(shown) {
    this.shown = shown;
    this.width = this.root.clientWidth;
    if (!this.width) return;
    const { facts } = this.view;
    const high = this.view.state.beside === null ? Math.max(380, innerHeight * 0.5) : Math.max(260, innerHeight * 0.34);
    this.layout = layoutOf(shown.nodes, facts.n_layers, this.width - 2, high);
    const { look, columns, places, width, height } = this.layout;
    this.frame.style.width = `${width}px`;
    this.frame.style.height = `${height + 8}px`;
    this.layer.dataset.look = look.name;
    this.heads.style.width = `${width}px`;
    this.heads.replaceChildren(
      ...columns.map(({ x, width: wide, title, n }) =>
        element("span", { style: `left: ${x + wide / 2}px`, class: n ? null : "none" }, title),
      ),
    );
    this.buttons = new Map(shown.nodes.map((node) => [node.key, this.button(node, places.get(node.key), look)]));
    this.layer.replaceChildren(...this.buttons.values());
    this.mark(this.marks ?? { chosen: null, tokens: [], pinned: [] });
  }

  button(node, { x, y }, look) {
    const { facts, grid } = this.view;
    const text = nodeName(facts, grid, node);
    const inside = ["dot", "point"].includes(look.name) ? [] : [this.picture_(node), element("span", { class: "node-name" }, cut(text, look.name === "wide" ? 22 : 40))];
    return element(
      "button",
      {
        type: "button",
        class: "node",
        "data-key": node.key,
        "data-kind": node.number >= 0 ? "unit" : node.kind,
        tabindex: -1,
        style: `left: ${x.toFixed(1)}px; top: ${y.toFixed(1)}px; width: ${look.width}px; height: ${look.height}px; --amount: ${(100 * Math.min(1, Math.sqrt(node.influence))).toFixed(1)}%`,
        "aria-label": `${nodeName(facts, grid, node, true)}: influence ${percent(node.influence)}`,
      },
      ...(look.name === "small" && node.kind !== "logit" ? inside.slice(0, 1) : inside),
    );
  }

  /** Where in the picture a node is: a patch with what is around it, or a small map over the whole picture. */
  picture_(node) {
    const { grid } = this.view;
    if (node.kind === "logit") return null;
    if (node.tokens.length === 1) return crop(grid, node.tokens[0], 1);
    const canvas = element("canvas", { width: grid.columns, height: grid.rows });
    const map = this.merged.influenceMap([node], grid.nTokens);
    const patches = map.subarray(grid.nPrefix);
    paint(canvas, patches, new Scale({ end: largest(patches) || 1 }));
    return element("span", { class: "node-map", "aria-hidden": "true" }, canvas);
  }

  /** What is chosen: its node and neighbours stand out, all else is faint. */
  mark({ chosen, tokens, pinned, current }) {
    this.marks = { chosen, tokens, pinned, current };
    this.root.classList.toggle("current", Boolean(current));
    if (!this.layout) return;
    const node = this.merged.byKey.get(chosen) ?? null;
    const [sources, targets] = [new Set(node?.in.map(({ source }) => source.key)), new Set(node?.out.map(({ target }) => target.key))];
    const pins = new Set(pinned);
    const onTokens = new Set(tokens);
    for (const [key, each] of this.buttons) {
      const isIt = key === chosen;
      const other = this.merged.byKey.get(key);
      const near = sources.has(key) || targets.has(key);
      const faint = node ? !isIt && !near : tokens.length > 0 && !other.tokens.some((token) => onTokens.has(token));
      each.className = `node${isIt ? " picked" : ""}${faint ? " faint" : ""}${pins.has(key) ? " pinned" : ""}`;
      each.setAttribute("aria-pressed", isIt);
      each.tabIndex = isIt || (!node && each === this.layer.firstChild) ? 0 : -1;
    }
    this.drawEdges(node);
  }

  drawEdges(node) {
    const { canvas, layout } = this;
    const ratio = window.devicePixelRatio || 1;
    const [w, h] = [Math.round(layout.width * ratio), Math.round((layout.height + 8) * ratio)];
    if (canvas.width !== w || canvas.height !== h) Object.assign(canvas, { width: w, height: h });
    canvas.style.width = `${layout.width}px`;
    canvas.style.height = `${layout.height + 8}px`;
    const brush = canvas.getContext("2d");
    brush.setTransform(ratio, 0, 0, ratio, 0, 0);
    brush.clearRect(0, 0, layout.width, layout.height + 8);
    const style = getComputedStyle(this.root);
    const colours = { plus: style.getPropertyValue("--plus"), minus: style.getPropertyValue("--minus") };
    const most = this.shown.edges[0]?.flow || 1;
    const there = ({ source, target }) => layout.places.has(source.key) && layout.places.has(target.key);
    const own = node ? [...node.in.filter(there).slice(0, MOST_OF_CHOSEN), ...node.out.filter(there).slice(0, MOST_OF_CHOSEN)] : [];
    const strongest = largest(own.map(({ flow }) => flow)) || 1;
    // The strongest last, so that they lie on top.
    for (const edge of [...this.shown.edges].reverse()) this.edge(brush, edge, edge.flow / most, node ? 0.07 : 0.42, colours);
    for (const edge of own.reverse()) this.edge(brush, edge, edge.flow / strongest, 0.85, colours);
    brush.globalAlpha = 1;
  }

  edge(brush, { source, target, effect }, size, alpha, colours) {
    const { places, look } = this.layout;
    const [from, to] = [places.get(source.key), places.get(target.key)];
    const [x0, y0] = [from.x + look.width, from.y + look.height / 2];
    const [x1, y1] = [to.x, to.y + look.height / 2];
    const bend = Math.max(12, (x1 - x0) * 0.45);
    brush.beginPath();
    brush.moveTo(x0, y0);
    brush.bezierCurveTo(x0 + bend, y0, x1 - bend, y1, x1, y1);
    brush.strokeStyle = effect < 0 ? colours.minus : colours.plus;
    brush.lineWidth = 0.6 + 6 * Math.sqrt(size);
    brush.globalAlpha = alpha;
    brush.stroke();
  }
}
