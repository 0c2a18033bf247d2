// The page of a graph: what it is built of, the one way in which anything is chosen, and what is then drawn anew.

const GRAPH_KEYS = [
  ["← and →", "from the chosen box to its strongest source, its strongest target"],
  ["↑ and ↓", "the box above and below in its block"],
  ["click", "choose a box; once more, none"],
  ["click, drag on the picture", "select a patch, a box of patches: what is at work there?"],
  ["p", "pin the chosen box, or unpin it"],
  ["t", "features at several patches together, or one by one"],
  ["+ and −", "more boxes, fewer boxes"],
  ["Space (held)", "lift the map and see the picture (with the picture in focus)"],
  ["Esc", "choose nothing"],
  ["Ctrl + Z, Ctrl + Shift + Z", "undo, redo; so do the browser's Back and Forward"],
  ["?", "this list"],
];

class GraphBrowser extends Screen {
  /** `options`: {page} where there is an address; `keys`: who hears them. */
  constructor(root, facts, tensors, crops, options) {
    super(root, facts, options);
    Object.assign(this, { crops, state: firstGraphChoices(facts), help: keysDialog(GRAPH_KEYS), cache: new Map() });
    root.classList.add("graph-page");
    this.units = new UnitTable(tensors);
    this.graphs = facts.pictures.map((_, place) => new Graph(tensors, place, facts, this.units));
    this.tools = new Tools(this, this.help);
    this.parts();
    root.append(...this.top(), this.layout, this.notes(), this.help, this.live);
    options.keys.addEventListener("keydown", (event) => this.key(event), { signal: this.life.signal });
    options.keys.addEventListener("keyup", ({ key }) => key === " " && this.lift(false), { signal: this.life.signal });
    this.followTheme();
  }

  lift(up) {
    for (const stage of [this.stage, this.stageBeside]) stage?.lift(up);
  }

  parts() {
    const { tip, grid, facts } = this;
    const pick = (node, keepsFocus) => this.pick(node, keepsFocus);
    this.boards = this.graphs.map((_, place) => new GraphBoard(this, place, { pick: (node) => this.pick(node, place) }));
    const stage = (place, label) => new Stage(grid, tip, { select: (tokens, add) => this.select(tokens, add, this.state[place]), tell: (token) => this.tellToken(token, place) }, label);
    this.stage = stage("picture", "the picture with its patches: arrow keys move over them, Shift adds");
    this.stageBeside = this.graphs.length > 1 ? stage("beside", "the picture beside it, with its patches") : null;
    this.legend = element("div", { class: "legend" });
    this.pictureNote = element("p", { class: "note" });
    this.account = new Account(this);
    const events = { pick, pin: (key) => this.pin(key), group: (name) => this.group(name), ungroup: (group) => this.ungroup(group) };
    this.card = new NodeCard(this, events);
    this.into = new EdgeList(this, "in", events);
    this.outOf = new EdgeList(this, "out", events);
    this.groups = new Groups(this, events);
    const source = (part, caption) => ({
      table: () => part.table(),
      name: () => "graph",
      caption: () => `${caption()} ${facts.pictures[this.state.picture].name}, ${facts.model}. ${facts.made}`,
    });
    this.picturePanel = panel("picture", "Where in the picture?", { source: { ...source(this, () => `${capital(this.named())}:`), drawing: () => stageDrawing(this.stage) } }, this.pictureNote, element("div", { class: "stages" }, this.stage.root, this.stageBeside?.root ?? null), this.legend);
    this.controls = this.sliders();
    this.graphPanel = panel("graph", "Through which features?", { term: bracket(tip.term("attribution graph")), source: source({ table: () => this.edgeTable() }, () => "Attribution graph of") }, this.controls, ...this.boards.map(({ root }) => root));
    this.cardPanel = panel("about-node", "The answer", { extra: [this.card.views], source: source(this.card, () => `${capital(this.named())} in`) }, this.card.root);
    this.inPanel = panel("into", "What goes into it?", { term: bracket(tip.term("edge", "edges")), source: source(this.into, () => `Edges into ${this.named()} in`) }, this.into.root);
    this.outPanel = panel("out", "What comes of it?", { source: source(this.outOf, () => `Edges from ${this.named()} in`) }, this.outOf.root);
    this.groupPanel = panel("groups", "Pinned, and groups", {}, this.groups.root);
    if (this.graphs.length > 1) {
      this.difference = new Difference(this, events);
      this.differencePanel = panel("difference", "What differs between the two?", { source: source(this.difference, () => "Influence of nodes in") }, this.difference.root);
    }
    this.layout = element(
      "div",
      { class: "graph-layout" },
      element("div", { class: "right" }, this.picturePanel, this.cardPanel, this.groupPanel),
      element("div", { class: "right" }, this.graphPanel, element("div", { class: "edge-pair" }, this.inPanel, this.outPanel), this.differencePanel ?? null),
    );
  }

  // ---- The top ------------------------------------------------------------------------------------------------------

  top() {
    const { facts } = this;
    const { model, weights } = facts.provenance;
    this.heading = element("h1", {}, facts.title);
    this.answer = element("p", { class: "then" });
    const lines = [model, `weights ${weights}`, facts.unit_kind === "neuron" ? "the MLPs' own neurons" : "features of transcoders", `${facts.grid.join(" × ")} patches`];
    this.sentence = element("p", { class: "lead-sentence" });
    const warning = facts.warning ? [element("p", { class: "warning", role: "alert" }, `⚠ ${facts.warning}`)] : [];
    return [
      element("header", { class: "top" }, element("div", { class: "result" }, this.heading, this.answer), element("div", { class: "tools" }, ...this.tools.roots())),
      element("p", { class: "about" }, ...lines.map((line) => element("span", {}, line))),
      ...warning,
      this.pictureButtons(),
      this.sentence,
    ];
  }

  pictureButtons() {
    const { facts } = this;
    this.thumbnails = facts.pictures.map((picture, i) =>
      element(
        "button",
        { type: "button", title: picture.name, "aria-label": `picture ${picture.name}`, onclick: () => this.choose({ picture: i }) },
        element("img", { src: picture.uri, alt: "" }),
        element("span", {}, picture.answer.length ? `${this.className(picture.answer[0][0])} ${wholePercent(picture.answer[0][1])}` : picture.name),
      ),
    );
    this.besideButton = button("", () => this.choose({ beside: this.state.beside === null ? this.other() : null }));
    const box = element("div", { class: "thumbnails", role: "group", "aria-label": "pictures" }, ...this.thumbnails, this.besideButton);
    box.hidden = facts.pictures.length < 2;
    return box;
  }

  other() {
    return this.state.picture === 0 ? 1 : 0;
  }

  sliders() {
    const slider = (label, name, most) => {
      const output = element("output", {});
      // Evenly in the logarithm: between 10 and 20 lies as much as between 100 and 200.
      const input = element("input", { type: "range", min: 0, max: 100, step: 1, name, "aria-label": label, oninput: () => this.choose({ [name]: Math.round(2 * (most() / 2) ** (input.value / 100)) }, { replace: true }) });
      return { root: element("label", { class: "slider" }, element("span", {}, label), input, output), input, output, most };
    };
    this.nodeSlider = slider("boxes", "nodes", () => Math.max(3, this.at().pool.length));
    this.edgeSlider = slider("lines", "edges", () => Math.max(3, Math.min(20000, this.at().merged.edges.length)));
    this.togetherButtons = segmented("patches of one feature", [["true", "patches together"], ["false", "one by one"]], (value) => this.choose({ together: value === "true", node: null }));
    this.hideBoxes = HIDEABLE.map((kind) => {
      const input = element("input", { type: "checkbox", name: kind, onchange: () => this.choose({ hidden: input.checked ? this.state.hidden.filter((one) => one !== kind) : [...this.state.hidden, kind] }) });
      return { kind, input, root: element("label", { class: `kind ${kind}` }, input, element("i", {}), KIND_WORDS[kind]) };
    });
    return element("div", { class: "graph-controls" }, this.nodeSlider.root, this.edgeSlider.root, this.togetherButtons, ...this.hideBoxes.map(({ root }) => root));
  }

  // ---- Choosing -----------------------------------------------------------------------------------------------------

  start() {
    this.choose(this.options.page ? graphChoicesFromHash(location.hash) : {});
    if (this.options.page)
      window.addEventListener("hashchange", () => this.choose(graphChoicesFromHash(location.hash)), { signal: this.life.signal });
    this.root.dataset.ready = "true";
  }

  /** The one way in which anything is chosen: by the page, the address, the keyboard, or undo. */
  choose(changes, { keep = true, replace = false } = {}) {
    this.state = nextGraphChoices(this.state, changes, this.facts, this.grid.nTokens);
    if (this.state.node !== null && ![this.state.picture, this.state.beside].some((place) => place !== null && this.merged(place).byKey.has(this.state.node))) this.state.node = null;
    if (keep) this.past.keep(this.state, graphChoicesToHash(this.state), replace);
    this.draw();
    this.live.textContent = this.named();
  }

  /** A node of a picture; the one that is chosen already is let go. */
  pick(node, place = this.state.picture) {
    const { picture, beside } = this.state;
    const same = node === this.state.node && place === picture;
    const moved = typeof place === "number" && place !== picture ? { picture: place, beside: picture === place ? beside : picture } : {};
    this.choose({ ...moved, node: same ? null : node });
  }

  select(tokens, add, place) {
    const { tokens: before, picture } = this.state;
    const all = tokens.every((token) => before.includes(token)) && (add || before.length === tokens.length);
    this.choose({ ...(place === picture ? {} : { picture: place, beside: picture }), node: null, tokens: all ? before.filter((token) => !tokens.includes(token)) : add ? [...before, ...tokens] : tokens });
  }

  pin(key) {
    const { pinned } = this.state;
    this.choose({ pinned: pinned.includes(key) ? pinned.filter((one) => one !== key) : [...pinned, key] });
  }

  group(name) {
    const { pinned, groups } = this.state;
    this.choose({ groups: [...groups, { name, members: pinned }], pinned: [], node: `group${groups.length}` });
  }

  ungroup(group) {
    this.choose({ groups: this.state.groups.filter((one) => one !== group), node: null });
  }

  /** What is chosen, in words. */
  named() {
    const { node, grid, facts, state } = this.at();
    if (node) return nodeName(facts, grid, node, true);
    return state.tokens.length ? grid.names(state.tokens) : "the whole graph";
  }

  // ---- What is shown ------------------------------------------------------------------------------------------------

  /** The graph of a picture as it is drawn now. */
  merged(place) {
    const { together, groups } = this.state;
    const key = JSON.stringify([place, together, groups]);
    if (!this.cache.has(key)) {
      // A few are kept, so that undo and the other picture are at hand.
      if (this.cache.size > 5) this.cache.delete(this.cache.keys().next().value);
      this.cache.set(key, new Merged(this.graphs[place], together, groups));
    }
    return this.cache.get(key);
  }

  /** All that the parts are asked with. */
  at() {
    const { state, facts, grid, units } = this;
    const merged = this.merged(state.picture);
    const beside = state.beside === null ? null : this.merged(state.beside);
    const node = merged.byKey.get(state.node) ?? null;
    return { state, facts, grid, units, merged, beside, node, pool: this.pool(merged), shown: this.shownOf(merged) };
  }

  pool(merged) {
    const hidden = new Set(this.state.hidden);
    return merged.ranking.filter(({ kind }) => !hidden.has(kind));
  }

  /** The nodes and edges that are drawn: the most influential, what is pinned, and what is chosen. */
  shownOf(merged) {
    const { nodes, edges, hidden, pinned, node } = this.state;
    const key = JSON.stringify([nodes, edges, hidden, pinned, node]);
    merged.shown ??= new Map();
    if (!merged.shown.has(key)) {
      const chosen = new Set(this.pool(merged).slice(0, nodes));
      for (const one of merged.nodes) if (one.kind === "logit" || one.group) chosen.add(one);
      for (const one of [...pinned, node]) if (merged.byKey.has(one)) chosen.add(merged.byKey.get(one));
      const between = [];
      for (const edge of merged.edges) {
        if (between.length >= edges) break;
        if (chosen.has(edge.source) && chosen.has(edge.target)) between.push(edge);
      }
      if (merged.shown.size > 30) merged.shown.clear();
      merged.shown.set(key, { nodes: [...chosen], edges: between });
    }
    return merged.shown.get(key);
  }

  // ---- Drawing ------------------------------------------------------------------------------------------------------

  draw() {
    const at = this.at();
    const { state, facts } = this;
    const { picture, beside, node, tokens } = state;
    this.once("places", [picture, beside], () => {
      this.root.classList.toggle("two", beside !== null);
      this.boards.forEach(({ root }, place) => (root.hidden = place !== picture && place !== beside));
      this.thumbnails.forEach((each, i) => each.setAttribute("aria-pressed", i === picture));
      this.besideButton.textContent = beside === null ? "show two" : "show one";
      if (this.differencePanel) this.differencePanel.hidden = beside === null;
    });
    this.drawPicture(at);
    for (const board of this.boards) {
      if (board.root.hidden) continue;
      const merged = board.place === picture ? at.merged : at.beside;
      const shown = this.shownOf(merged);
      const drawn = shown.nodes.map(({ key }) => key);
      this.once(`board ${board.place}`, [drawn, state.edges, state.groups, beside === null], () => board.draw(merged, shown, facts.pictures[board.place]));
      board.mark({ chosen: node, tokens: board.place === picture ? tokens : [], pinned: state.pinned, current: beside !== null && board.place === picture });
      const [answer] = facts.pictures[board.place].answer;
      board.name.hidden = beside === null;
      board.name.textContent = `${facts.pictures[board.place].name}${answer ? `: ${this.className(answer[0])} ${wholePercent(answer[1])}` : ""}`;
    }
    this.once("controls", [picture, state.nodes, state.edges, state.together, state.hidden, state.groups], () => this.drawControls(at));
    this.once("sentence", [picture, state.together], () => this.drawSentence(at));
    this.once("card", [picture, node, tokens, state.together, state.pinned, state.groups, at.shown.nodes.length], () => {
      this.cardPanel.querySelector("h2").firstChild.data = at.node ? capital(nodeName(facts, this.grid, at.node, true)) : "The whole graph";
      this.account.draw(at);
      this.card.draw(at);
    });
    this.once("edges", [picture, node, state.together, state.groups], () => {
      const name = at.node ? nodeName(facts, this.grid, at.node) : nodeName(facts, this.grid, at.merged.nodes[0]);
      this.inPanel.querySelector("h2").firstChild.data = at.node ? "What goes into it?" : `What goes into “${cut(name, 30)}”?`;
      this.into.draw(at);
      this.outPanel.hidden = !at.node || at.node.kind === "logit";
      this.outOf.draw(at);
    });
    this.once("groups", [picture, state.pinned, state.groups, state.together], () => this.groups.draw(at));
    if (beside !== null) this.once("difference", [picture, beside, node, state.together, state.groups], () => this.difference.draw(at));
    this.tools.draw();
  }

  drawSentence({ merged, facts }) {
    const { picture } = merged.graph;
    const best = merged.ranking.filter(({ unit }) => unit >= 0).slice(0, 3);
    const ends = merged.ends();
    this.heading.textContent = picture.title;
    this.answer.textContent = picture.answer.length ? `the model answers ${picture.answer.map(([index, share]) => `${this.className(index)} ${wholePercent(share)}`).join(", ")}` : "";
    this.sentence.replaceChildren(
      "Most influential: ",
      ...best.flatMap((node, i) => [i ? ", " : "", link(nodeName(facts, this.grid, node, true), () => this.pick(node.key)), ` (${percent(node.influence)})`]),
      `. Followed back to the end, ${percent(ends.embed)} comes from what is on the patches, ${percent(ends.pos_embed)} from where they lie` +
        `${ends.error > 0.0005 ? `, ${percent(ends.error)} from what transcoders miss` : ""}; ${percent(ends.left_out)} is left out of the graph.`,
    );
  }

  drawControls({ merged, pool, shown }) {
    const { state } = this;
    const place = (value, most) => clamp((100 * Math.log(Math.max(2, value) / 2)) / Math.log(Math.max(3, most) / 2), 0, 100);
    this.nodeSlider.input.value = place(state.nodes, this.nodeSlider.most());
    this.edgeSlider.input.value = place(state.edges, this.edgeSlider.most());
    this.nodeSlider.output.value = `${shown.nodes.length} of ${pool.length}`;
    this.edgeSlider.output.value = `${shown.edges.length.toLocaleString("en")} of ${merged.edges.length.toLocaleString("en")}`;
    press(this.togetherButtons, state.together);
    for (const { kind, input, root } of this.hideBoxes) {
      input.checked = !state.hidden.includes(kind);
      root.hidden = !merged.nodes.some((node) => node.kind === kind);
    }
  }

  /** What lies on a picture: the activation of the chosen unit, or influence by place. */
  onPicture({ grid, units }, merged) {
    const node = merged.byKey.get(this.state.node) ?? null;
    const shown = this.shownOf(merged);
    if (node && node.unit >= 0) {
      const values = merged.graph.map(node.unit);
      const best = units.examples(node.unit)?.[0]?.value ?? 0;
      const note = best > largest(values) ? "activation; the scale ends at the largest of the data set" : "activation in this picture";
      return { values, scale: new Scale({ end: Math.max(best, largest(values)) || 1, note }), outlined: node.tokens };
    }
    const nodes = node && node.kind !== "logit" ? [node] : shown.nodes.filter(({ unit, group }) => unit >= 0 || group);
    const values = merged.influenceMap(nodes, grid.nTokens);
    const note = node && node.kind !== "logit" ? "influence by place" : `influence of the ${this.facts.unit_kind}s that are drawn, by place`;
    const scale = new Scale({ end: largest(values.subarray(grid.nPrefix)) || 1, show: percent, note });
    return { values, scale, outlined: [...new Set(nodes.flatMap(({ tokens }) => tokens))] };
  }

  tellToken(token, place) {
    const { values, scale } = (place === "beside" ? this.stageBeside : this.stage).shown;
    return [this.grid.name(token), `${scale.note.split(/[;,]/)[0]}: ${scale.show(values[token])}`];
  }

  drawPicture(at) {
    const { state, facts } = this;
    this.once("picture", [state.picture], () => this.setPicture(this.root, this.stage, facts.pictures[state.picture]));
    if (this.stageBeside) {
      this.stageBeside.root.hidden = !at.beside;
      if (at.beside) this.once("picture beside", [state.beside], () => this.setPicture(this.stageBeside.root, this.stageBeside, facts.pictures[state.beside]));
    }
    this.once("stage", [state.picture, state.beside, state.node, state.tokens, state.together, state.nodes, state.hidden, state.pinned, state.groups], () => {
      const here = this.onPicture(at, at.merged);
      const there = at.beside ? this.onPicture(at, at.beside) : null;
      // One scale for both, so that they can be compared.
      const scale = there && there.scale.end > here.scale.end ? there.scale : here.scale;
      const draw = (stage, { values, outlined }, tokens) =>
        stage.draw({ values, scale, opacity: 85, threshold: 0, outliers: [], selected: tokens.length ? tokens : outlined, absent: null });
      draw(this.stage, here, state.tokens);
      if (there) draw(this.stageBeside, there, []);
      this.pictureNote.textContent = at.node
        ? `${capital(nodeName(facts, this.grid, at.node, true))}. Outlined: where it is a node of the graph.`
        : state.tokens.length
          ? "Boxes that are at work at the selected patches stand out."
          : "Outlined: where the boxes that are drawn are at work.";
      this.legend.replaceChildren(ramp(scale), element("small", {}, `${capital(scale.note)}; ${scale.named()}.`));
    });
  }

  setPicture(root, stage, shown) {
    stage.setPicture(shown);
    stage.heading.textContent = this.graphs.length > 1 ? shown.name : "";
    root.style.setProperty("--picture", `url("${shown.uri}")`);
    lightOf(shown.uri).then((light) => root.style.setProperty("--light", light));
  }

  // ---- Keys, tables, notes ------------------------------------------------------------------------------------------

  key(event) {
    const typing = event.target.closest?.("input:not([type=range], [type=checkbox]), select, textarea, dialog");
    if (this.undoes(event, typing) || typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const { state } = this;
    const arrow = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (event.key === "?") this.help.showModal();
    else if (event.key === "p" && this.at().node && !this.at().node.group && this.at().node.kind !== "logit") this.pin(state.node);
    else if (event.key === "t") this.choose({ together: !state.together, node: null });
    else if (event.key === "+" || event.key === "-") this.choose({ nodes: Math.round(state.nodes * (event.key === "+" ? 1.25 : 0.8)) });
    else if (event.key === "Escape" && (state.node !== null || state.tokens.length)) this.choose({ node: null, tokens: [] });
    else if (event.key === " " && event.target.matches?.(".frame")) this.lift(true);
    else if (arrow && event.target === this.stage.frame) this.stage.move(...arrow, event.shiftKey);
    else return;
    event.preventDefault();
  }

  edgeTable() {
    const { shown, facts, grid } = this.at();
    const name = (node) => nodeName(facts, grid, node, true);
    return [["source", "target", "influence", "effect"], ...shown.edges.map(({ source, target, flow, effect }) => [name(source), name(target), flow, effect])];
  }

  /** The map on the picture. */
  table() {
    const { values } = this.stage.shown;
    return [["token", "value"], ...Array.from(values, (value, token) => [this.grid.name(token), value])];
  }

  notes() {
    const { facts } = this;
    const line = (title, text) => [element("dt", {}, title), element("dd", {}, text)];
    const words = ["attribution graph", "node", "edge", "effect", "influence", "share", "through heads", "what MLPs add besides", "left out", "classes raised", "patch", "token", "logit"];
    return element(
      "details",
      { class: "panel notes", "data-panel": "notes" },
      element("summary", {}, "Notes and limits"),
      element(
        "dl",
        {},
        ...line("Frozen", "Attention patterns, scales of norms and gates are those of this picture's run. Why a head looks where it looks is not part of the graph."),
        ...line("Edges", "The page holds the most influential edges, and the strongest into each node; sums below the lists say what the others are."),
        ...line("Together", "A feature at several patches is one box; its edges are the sums of those of its patches. “One by one” shows each patch."),
        ...(facts.heads.length ? line("Heads", "It is said of the most influential edges through which heads they lead; of others nothing is said.") : []),
        ...(facts.n_images ? line("Examples", `Each of the ${facts.n_images.toLocaleString("en")} pictures counts once for a ${facts.unit_kind}, with the token on which it is strongest there.`) : []),
        ...Object.entries(facts.provenance).flatMap(([name, value]) => line(name, String(value))),
      ),
      element("h3", {}, "What the words mean"),
      element("dl", {}, ...words.flatMap((word) => line(word, GLOSSARY[word]))),
      element("p", {}, `${facts.made} Nothing on this page needs a network.`),
    );
  }
}
