// What is chosen, and what follows from it: controls, keyboard, address, and what every panel then shows.

const SKELETON = `
  <header>
    <h1></h1><dl class="facts"></dl>
    <button type="button" class="theme"></button>
  </header>
  <div class="layout">
    <aside>
      <div class="thumbnails"></div>
      <div class="picture"></div>
      <div class="controls"></div>
      <p class="hint">Click a patch or a chip; hovering the picture previews.
        ← → block, ↑ ↓ head, Shift + arrows move the patch.</p>
    </aside>
    <main><p class="status" role="status">drawing …</p>
      <div class="maps"></div><div class="boards"></div><div class="curves"></div><div class="effects"></div>
    </main>
  </div>
  <footer></footer>`;

class ExplorerView {
  constructor(root, facts, options) {
    Object.assign(this, { root, facts, options });
    this.nPrefix = facts.prefix.length;
    this.nTokens = this.nPrefix + facts.grid[0] * facts.grid[1];
    this.state = {
      picture: 0,
      token: 0,
      block: facts.blocks.length - 1,
      head: null,
      quantity: "probability",
      marked: [],
    };
    this.preview = null;
    this.drawn = {};
    root.classList.add("vitlens-explorer");
    root.tabIndex = -1;
    root.innerHTML = SKELETON;
    this.find = (selector) => root.querySelector(selector);
    this.buildHeader();
    this.buildControls();
    this.buildMaps();
  }

  // ---- What is built once -------------------------------------------------------------------------------------------

  buildHeader() {
    const { facts } = this;
    this.find("h1").textContent = facts.title;
    const [rows, columns] = facts.grid;
    if (facts.warning) {
      this.find("header").after(element("p", { class: "warning", role: "alert" }, `⚠ ${facts.warning}`));
    }
    const lines = {
      ...facts.provenance,
      blocks: facts.blocks.length === facts.n_layers ? facts.n_layers : `${facts.blocks.length} of ${facts.n_layers}`,
      heads: facts.n_heads,
      patches: `${rows} × ${columns}`,
      "prefix tokens": facts.prefix.join(", ") || "none",
      pooling: facts.pooling,
    };
    const fact = (name, value) => element("div", {}, element("dt", {}, name), element("dd", {}, value));
    this.file = element("output", {});
    this.find(".facts").append(
      ...Object.entries(lines).map(([name, value]) => fact(name, String(value))),
      fact("picture", this.file),
    );
    const wish = matchMedia("(prefers-color-scheme: dark)");
    this.find(".theme").addEventListener("click", () => this.setTheme(this.root.dataset.theme === "dark"));
    wish.addEventListener("change", () => this.setTheme(!wish.matches));
    // JupyterLab has a theme of its own.
    this.setTheme(document.body.dataset.jpThemeLight ? document.body.dataset.jpThemeLight === "true" : !wish.matches);
    if (facts.pictures.length < 2) return;
    this.thumbnails = facts.pictures.map((picture, i) =>
      element(
        "button",
        { type: "button", title: picture.name, onclick: () => this.choose({ picture: i }) },
        element("img", { src: picture.uri, alt: picture.name, loading: "lazy" }),
      ),
    );
    this.find(".thumbnails").append(...this.thumbnails);
  }

  setTheme(light) {
    this.root.dataset.theme = light ? "light" : "dark";
    this.find(".theme").textContent = light ? "dark" : "light";
    this.draw(true);
  }

  buildControls() {
    const { facts } = this;
    const select = (change) => element("select", { onchange: ({ target }) => change(target.value) });
    const slider = (last, change) =>
      element("input", { type: "range", min: 0, max: last, oninput: ({ target }) => change(Number(target.value)) });
    const index = (value) => (value === "" ? null : Number(value));
    const controls = {
      class: select((value) => this.choose({ class: index(value) })),
      "minus class": select((value) => this.choose({ baseline: index(value) })),
      block: slider(facts.blocks.length - 1, (value) => this.choose({ block: value })),
      head: select((value) => this.choose({ head: index(value) })),
      "lens shows": select((value) => this.choose({ quantity: value })),
    };
    controls.head.append(
      new Option("all heads", ""),
      ...Array.from({ length: facts.n_heads }, (_, h) => new Option(`H${h}`, h)),
    );
    controls["lens shows"].append(...QUANTITIES.map((quantity) => new Option(quantity, quantity)));
    this.blockLabel = element("output", {});
    for (const [name, control] of Object.entries(controls)) {
      control.name = name;
      this.find(".controls").append(
        element("label", {}, element("span", {}, name), control, name === "block" ? this.blockLabel : ""),
      );
    }
    this.controls = controls;
    if (!this.options.ablate) return;
    const [zero, mean] = [
      ["zero", "ablate marked"],
      ["mean", "… by mean over pictures"],
    ].map(([replacement, label]) =>
      element("button", { type: "button", onclick: () => this.options.ablate(replacement) }, label),
    );
    this.marks = element("output", {});
    this.find(".controls").append(
      element(
        "div",
        { class: "live" },
        zero,
        mean,
        this.marks,
        element("button", { type: "button", onclick: () => this.choose({ marked: [] }) }, "clear"),
      ),
    );
  }

  buildMaps() {
    const events = {
      pick: (token, event) => (event.shiftKey && this.options.ablate ? this.mark(token) : this.choose({ token })),
      hover: (token, map) => this.hover(token, map),
    };
    const names = ["row", "column", "contributions", "lens", "cosines"];
    this.picture = new TokenMap(this.facts, "picture", events);
    this.find(".picture").append(this.picture.root);
    this.maps = Object.fromEntries(names.map((name) => [name, new TokenMap(this.facts, name, events)]));
    this.find(".maps").append(...Object.values(this.maps).map((map) => map.root));
  }

  buildCharts(Plotly) {
    const { looks } = this.facts;
    const pick = (block, head) => this.choose({ block, head });
    this.charts = {
      heads: new Board(Plotly, looks, "heads", pick),
      token: new Board(Plotly, looks, "token", pick),
      trajectory: new Trajectory(
        Plotly,
        looks,
        "trajectory",
        "The token's stream read as if it were the last one; dotted: as the model itself reads it.",
      ),
      effect: new EffectBars(Plotly, looks, "effect"),
    };
    this.top = element("div", { class: "scroll" });
    this.topHeading = element("h3", {});
    this.find(".boards").append(this.charts.heads.root, this.charts.token.root);
    this.find(".curves").append(
      this.charts.trajectory.root,
      element("section", { class: "panel top" }, this.topHeading, this.top),
    );
    this.find(".effects").append(this.charts.effect.root);
    this.find(".status").remove();
    this.draw(true);
    new ResizeObserver(() => Object.values(this.charts).forEach((chart) => chart.resize())).observe(this.root);
  }

  // ---- What changes -------------------------------------------------------------------------------------------------

  async start(pictures, selection) {
    this.pictures = pictures;
    await this.choose({
      ...fromSelection(selection, this.facts),
      ...(this.options.hash ? fromHash(location.hash, this.facts) : {}),
    });
    if (this.options.hash)
      window.addEventListener("hashchange", () => this.choose(fromHash(location.hash, this.facts)));
    this.options.keys.addEventListener("keydown", (event) => this.key(event));
  }

  /** The one way in which anything is chosen: by the page, the address, the keyboard, or Python. */
  async choose(changes) {
    const next = { ...this.state, ...changes };
    const { classes } = this.facts.pictures[next.picture];
    if (!classes.includes(next.class)) next.class = classes[0];
    if (!classes.includes(next.baseline) || next.baseline === next.class) next.baseline = null;
    this.state = next;
    this.preview = null;
    const measured = await this.pictures.get(next.picture);
    if (this.state !== next) return;
    this.measured = measured;
    this.draw();
    if (this.options.hash) history.replaceState(null, "", toHash(next, this.facts));
    this.options.changed?.(this.toSelection());
  }

  mark(token) {
    const { marked } = this.state;
    this.choose({ marked: marked.includes(token) ? marked.filter((other) => other !== token) : [...marked, token] });
  }

  hover(token, map) {
    if (map === this.picture) {
      this.preview = token;
      this.drawMaps();
    }
    const { marked } = this.state;
    for (const each of [this.picture, ...Object.values(this.maps)]) {
      each.outline({ selected: this.state.token, hovered: token, marked });
      each.tell(token);
    }
    this.picture.hovered.value = token === null ? "" : this.picture.label(token);
  }

  key(event) {
    const arrow = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!arrow || event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.("select, input")) return;
    event.preventDefault();
    const [x, y] = arrow;
    const within = (value, last) => Math.max(0, Math.min(last, value));
    if (event.shiftKey) {
      const [rows, columns] = this.facts.grid;
      const patch = Math.max(0, this.state.token - this.nPrefix);
      const [row, column] = [
        within(Math.floor(patch / columns) + y, rows - 1),
        within((patch % columns) + x, columns - 1),
      ];
      this.choose({ token: this.nPrefix + row * columns + column });
    } else {
      const head = within((this.state.head ?? -1) + 1 + y, this.facts.n_heads) - 1;
      this.choose({ block: within(this.state.block + x, this.facts.blocks.length - 1), head: head < 0 ? null : head });
    }
  }

  // ---- Drawing ------------------------------------------------------------------------------------------------------

  choice() {
    return { class: this.state.class, baseline: this.state.baseline };
  }

  className(index, long = false) {
    return this.facts.class_names[index]?.[long ? 1 : 0] ?? `class ${index}`;
  }

  choiceName() {
    const { class: wanted, baseline } = this.state;
    return `“${cut(this.className(wanted))}”` + (baseline === null ? "" : ` − “${cut(this.className(baseline))}”`);
  }

  draw(everything = false) {
    if (!this.measured) return;
    if (everything) this.drawn = {};
    this.drawControls();
    this.drawMaps();
    this.once("account", [this.state.picture, this.choice()], () => this.drawAccount());
    if (this.charts) this.drawCharts(everything);
  }

  drawCharts(everything) {
    const { picture, token, block, head, quantity } = this.state;
    const choice = this.choice();
    const { blocks } = this.facts;
    const at = this.picture.name(token);
    this.once("heads", [picture, choice, block, head], () =>
      this.charts.heads.draw(
        `What each head writes for ${this.choiceName()}, all tokens`,
        this.measured.board(choice),
        blocks,
        { block, head },
      ),
    );
    this.once("token", [picture, choice, block, head, token], () =>
      this.charts.token.draw(`… and what it writes from ${at} alone`, this.measured.board(choice, token), blocks, {
        block,
        head,
      }),
    );
    this.once("trajectory", [picture, choice, block, token, quantity], () => this.drawTrajectory(at));
    this.once("top", [picture, token], () => this.drawTop(at));
    // What an intervention did is about one picture.
    const effect = this.effect?.picture === picture ? this.effect : null;
    this.once("effect", [effect], () => this.charts.effect.draw(effect));
  }

  /** Draws only what something that it shows was changed of. */
  once(name, key, draw) {
    const text = JSON.stringify(key);
    if (this.drawn[name] === text) return;
    this.drawn[name] = text;
    draw();
  }

  drawControls() {
    const { state, controls, facts } = this;
    const picture = facts.pictures[state.picture];
    this.once("classes", state.picture, () => {
      const options = () =>
        picture.classes.map((index) => {
          const option = new Option(`${cut(this.className(index), 40)} (${index})`, index);
          option.title = this.className(index, true);
          return option;
        });
      controls.class.replaceChildren(...options());
      controls["minus class"].replaceChildren(new Option("nothing", ""), ...options());
      for (const map of [this.picture, ...Object.values(this.maps)]) map.setPicture(picture);
      this.picture.image.alt = picture.name;
    });
    controls.class.value = state.class;
    controls["minus class"].value = state.baseline ?? "";
    controls.block.value = state.block;
    this.blockLabel.value = `L${facts.blocks[state.block]}`;
    controls.head.value = state.head ?? "";
    controls["lens shows"].value = state.quantity;
    controls["lens shows"].disabled = state.baseline !== null;
    this.thumbnails?.forEach((thumbnail, i) => thumbnail.setAttribute("aria-pressed", i === state.picture));
    this.picture.heading.textContent = picture.name;
    this.file.value = picture.file ?? "given as numbers";
    if (this.marks) this.marks.value = `${state.marked.length || "no"} marked (Shift + click)`;
  }

  drawMaps() {
    const { state, measured, maps } = this;
    if (!measured) return;
    const token = this.preview ?? state.token;
    const { block, head } = state;
    const at = this.picture.name(token);
    const label = `L${this.facts.blocks[block]}` + (head === null ? "" : `H${head}`);
    const mean = head === null ? `${label}, mean of heads` : label;
    for (const [name, title] of [
      ["row", `What ${at} attends to (${mean})`],
      ["column", `Who attends to ${at} (${mean})`],
    ]) {
      const attention = measured.attention(name, block, head, token);
      maps[name].draw(title, attention, attention.values.some((value) => value < 0) ? "signed" : "fromZero", {
        selected: token,
      });
    }
    const through = head === null ? `all heads of ${label}` : label;
    maps.contributions.draw(
      `Written for ${this.choiceName()} through ${through}`,
      measured.contributions(block, head, this.choice()),
      "signed",
      { selected: token, ranked: "magnitude", show: signed },
    );
    this.drawLensMap(token, block);
    maps.cosines.draw(
      `Streams like that of ${at} after L${this.facts.blocks[block]} (cosine)`,
      measured.cosines(block, token),
      "span",
      { selected: token, leaveOut: token, show: (cosine) => cosine.toFixed(4).replace("-", "−") },
    );
    for (const map of [this.picture, ...Object.values(maps)])
      map.outline({ selected: state.token, marked: state.marked });
  }

  drawLensMap(token, block) {
    const quantity = this.lensQuantity();
    const [scale, ranked] = {
      probability: ["fromZero", "largest"],
      logit: ["signed", "largest"],
      rank: ["rank", "smallest"],
    }[quantity];
    this.maps.lens.draw(
      `Lens after L${this.facts.blocks[block]}: ${quantity} of ${this.choiceName()}`,
      this.measured.lensMap(quantity, block, this.choice()),
      scale,
      { selected: token, ranked, show: quantity === "rank" ? String : number },
    );
  }

  /** A difference is one of logits. */
  lensQuantity() {
    return this.state.baseline === null ? this.state.quantity : "logit";
  }

  drawTrajectory(at) {
    const { measured, facts, state } = this;
    const quantity = this.lensQuantity();
    const { classes } = measured;
    const curve = (index, token) => facts.blocks.map((_, block) => measured.lens(quantity, index, block, token));
    const less = (values, other) => values.map((value, i) => value - other[i]);
    const colour = (index) => facts.looks.lines[classes.indexOf(index) % facts.looks.lines.length];
    const curves =
      state.baseline === null
        ? classes.map((index) => ({
            name: this.className(index),
            values: curve(index, state.token),
            colour: colour(index),
            width: index === state.class ? 4 : 1.5,
            dash: "solid",
          }))
        : [
            {
              name: this.choiceName(),
              values: less(curve(state.class, state.token), curve(state.baseline, state.token)),
              colour: colour(state.class),
              width: 4,
              dash: "solid",
            },
          ];
    const reading =
      state.baseline === null ? curve(state.class, null) : less(curve(state.class, null), curve(state.baseline, null));
    curves.push({ name: "as the model reads", values: reading, colour: colour(state.class), width: 2, dash: "dot" });
    this.charts.trajectory.draw(`Class lens of ${at}: ${quantity}`, curves, quantity, facts.blocks, state.block);
  }

  drawTop(at) {
    this.topHeading.textContent = `First classes of ${at} after every block`;
    const rows = this.facts.blocks.map((label, block) =>
      element(
        "tr",
        {},
        element("th", {}, `L${label}`),
        ...this.measured.top(block, this.state.token).map(({ index, logit, probability }) =>
          element(
            "td",
            {
              title: `${this.className(index, true)} (${index}): logit ${number(logit)}`,
              "data-class": index,
              "data-logit": logit,
            },
            element("span", {}, cut(this.className(index), 22)),
            element("span", { class: "share" }, Number.isNaN(probability) ? number(logit) : percent(probability)),
          ),
        ),
      ),
    );
    this.top.replaceChildren(element("table", {}, element("tbody", {}, ...rows)));
  }

  drawAccount() {
    const { facts } = this;
    const { heads, groups, sum, logit, residual } = this.measured.account(this.choice());
    const names = ["MLPs", "embedding and positions", "biases and constant", "heads of other blocks"];
    const parts = [
      `heads ${signed(heads)}`,
      ...groups
        .map((share, i) => [share, i])
        .filter(([share, i]) => i < 3 || share !== 0)
        .map(([share, i]) => `${names[i]} ${signed(share)}`),
    ];
    const residualText = residual.toExponential(1).replace(/-/g, "−");
    const line = (text, attributes = {}) => element("p", attributes, text);
    this.find("footer").replaceChildren(
      line(
        `${this.choiceName()}: ${parts.join(", ")}; sum ${signed(sum)} = logit ${signed(logit)} (residual ${residualText}).`,
        { class: "account", "data-sum": sum, "data-logit": logit, "data-residual": residual },
      ),
      line(
        `Contributions are exact and direct: ${this.facts.heads_are}; what a head moves for later heads counts where those read it.`,
      ),
      line(`Lens: ${this.facts.lens_reads}.`),
      line(
        `Attention is kept in one byte a weight, as a root of its row's largest weight; ± is the largest error of that. ` +
          `Cosines are kept in two bytes; lens and contributions are single precision.`,
      ),
      line(`${facts.made} Nothing on this page needs a network.`),
    );
  }

  setEffect(effect) {
    this.effect = effect;
    this.draw();
  }

  toSelection() {
    return toSelection(this.state, this.facts);
  }
}
