// The page: what it is built of, the one way in which anything is chosen, and what is then drawn anew.

/** The head that writes most for a class, with its block. */
function strongest(measured, { class: wanted }, facts) {
  const heads = measured.heads({ class: wanted ?? measured.classes[0] ?? null, baseline: null });
  if (!heads) return {};
  const [cell] = ranked(heads, (value) => value);
  return { block: Math.floor(cell / facts.n_heads), head: cell % facts.n_heads };
}

class View extends Screen {
  /** `options`: {page} where there is an address, {changed, ablate} where there is Python, `keys`: who hears the keyboard. */
  constructor(root, facts, options) {
    super(root, facts, options);
    Object.assign(this, { state: firstState(facts), effect: null });
    this.labels = facts.blocks.map(String);
    this.panels = new Panels(this);
    this.keyboard = new Keyboard(this, options.keys);
    this.head = new Head(this);
    this.picture = new PicturePanel(this);
    this.layout = element(
      "div",
      { class: "layout" },
      this.picture.root,
      element("div", { class: "right" }, ...this.panels.roots()),
    );
    root.append(...this.head.roots(), this.layout, this.panels.notes, this.live);
    root.append(this.keyboard.help);
    this.search = this.head.search;
    this.followTheme();
    this.keepInView();
  }

  /** The picture stays while the panels scroll; where it is higher than the window, its lower end does. */
  keepInView() {
    const set = () =>
      this.picture.root.style.setProperty(
        "--stays",
        `${Math.min(8, innerHeight - this.picture.root.offsetHeight - 8)}px`,
      );
    new ResizeObserver(set).observe(this.picture.root);
    window.addEventListener("resize", set, { signal: this.life.signal });
  }

  stages() {
    return [this.picture.stage, ...this.picture.compare.stages];
  }

  /** The layers that this picture has. */
  layers() {
    return this.measured ? LAYERS.filter((layer) => layer.present({ measured: this.measured, facts: this.facts })) : [];
  }

  // ---- Choosing -----------------------------------------------------------------------------------------------------

  async start(pictures, selection) {
    this.pictures = pictures;
    const names = LAYERS.map(({ name }) => name);
    const said = this.options.page ? fromHash(location.hash, this.facts, names) : {};
    await this.choose({ ...fromSelection(selection, this.facts), ...said });
    // The head that Python chose is that of its own picture.
    const elsewhere = "picture" in said && said.picture !== selection.picture;
    if (elsewhere && !("head" in said || "block" in said))
      await this.choose(strongest(this.measured, this.state, this.facts), { replace: true });
    this.headChosen = "head" in said;
    if (this.options.page)
      window.addEventListener("hashchange", () => this.choose(fromHash(location.hash, this.facts, names)));
    this.root.dataset.ready = "true";
  }

  /** The one way in which anything is chosen: by the page, the address, the keyboard, Python, or undo. */
  async choose(changes, { keep = true, replace = false } = {}) {
    const next = changed(this.state, changes, this.facts);
    this.state = next;
    const ownHead = "head" in changes || typeof next.head !== "number";
    if (ownHead) this.headChosen = true;
    const [measured, beside] = await Promise.all([
      this.pictures.get(next.picture),
      next.beside === null ? null : this.pictures.get(next.beside),
    ]);
    if (this.state !== next) return;
    Object.assign(this, { measured, beside });
    // Of another picture another head writes most; one that the reader chose stays.
    if ("picture" in changes && !ownHead && !this.headChosen) Object.assign(next, strongest(measured, next, this.facts));
    if (!this.layers().some(({ name }) => name === next.layer)) next.layer = this.layers()[0].name;
    if (keep) this.past.keep(next, toHash(next, this.facts), replace);
    this.draw();
    this.say();
    this.options.changed?.(toSelection(next, this.facts));
  }

  /** Selects tokens; adding what is all selected takes it away. */
  select(tokens, add) {
    const { tokens: before } = this.state;
    const all = add && tokens.every((token) => before.includes(token));
    const next = all ? before.filter((token) => !tokens.includes(token)) : add ? this.added(tokens) : tokens;
    return this.choose({ tokens: next });
  }

  /** Patches that are added to nothing but prefix tokens begin a set of their own. */
  added(tokens) {
    const { nPrefix } = this.grid;
    const before = this.state.tokens;
    const fresh = tokens.some((token) => token >= nPrefix) && before.every((token) => token < nPrefix);
    return fresh ? tokens : [...before, ...tokens];
  }

  /** What a sentence names is chosen, and its panel shown; the sentence counts blocks as the model does. */
  follow(name, layer, choose) {
    const { block, head, tokens, layer: own } = choose ?? {};
    const place = this.facts.blocks.indexOf(block);
    const changes = {
      ...(place >= 0 && { block: place }),
      ...(head !== undefined && { head }),
      ...(tokens && { tokens }),
      ...((own ?? layer) && { layer: own ?? layer }),
    };
    if (Object.keys(changes).length) this.choose(changes);
    if (name) this.show(name);
  }

  /** Brings a panel into view and lets it flash. */
  show(name) {
    const found = this.root.querySelector(`[data-panel="${CSS.escape(name)}"]`);
    if (!found) return;
    if (found.tagName === "DETAILS") found.open = true;
    found.scrollIntoView({
      block: "nearest",
      behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth",
    });
    found.classList.remove("flash");
    void found.offsetWidth;
    found.classList.add("flash");
    found.focus({ preventScroll: true });
  }

  setEffect(effect) {
    this.effect = effect;
    if (this.measured) this.draw();
  }

  // ---- Names --------------------------------------------------------------------------------------------------------

  /** All that layers and cards are asked with, for a picture. */
  at(measured = this.measured, state = this.state) {
    const { facts, grid } = this;
    const readers =
      facts.pooling === "token" && grid.nPrefix
        ? [0]
        : Array.from({ length: grid.rows * grid.columns }, (_, i) => grid.nPrefix + i);
    const subject = state.tokens.length ? state.tokens : readers;
    const choice = { class: state.class ?? measured.classes[0] ?? null, baseline: state.baseline };
    return { measured, state, facts, grid, choice, subject, readers, names: this.names(subject, readers, choice, state) };
  }

  /** What is asked of the map beside it: another picture, or the same after another block; null where there is none. */
  two() {
    if (this.beside) return this.at(this.beside);
    return this.state.against === null ? null : this.at(this.measured, { ...this.state, block: this.state.against });
  }

  names(subject, readers, choice, state) {
    const { facts, grid } = this;
    const block = facts.blocks[state.block];
    const head = oneHead(state);
    const text = grid.names(subject);
    const of = (index) => (index === null ? "no class" : `“${cut(this.className(index), 40)}”`);
    return {
      of,
      short: (index) => this.className(index),
      choice: of(choice.class) + (state.baseline === null ? "" : ` − ${of(state.baseline)}`),
      ofClass: of(choice.class),
      block,
      head: head === null ? `block ${block}, mean of its heads` : `L${block}H${head}`,
      heads: head === null ? `all heads of block ${block}` : `L${block}H${head}`,
      add: head === null ? "add" : "adds",
      subject: text,
      Subject: capital(text),
      looks: subject.length > 1 ? "look on average" : "looks",
      readers: grid.names(readers),
      quantity: state.quantity,
      otherPicture: facts.pictures.at(-1).name,
      listed: this.measured.classes.map((index) => cut(this.className(index), 24)).join(", "),
      cell: (i) => `L${facts.blocks[Math.floor(i / facts.n_heads)]}H${i % facts.n_heads}`,
    };
  }

  /** What a saved file is called after: the picture, the class, the part on show. */
  fileName() {
    const { measured, choice, names, state } = this.at();
    const part = state.head === "mlp" ? `MLP${names.block}` : state.head === null ? `L${names.block}` : names.head;
    const words = [measured.picture.name.replace(/\.\w{2,5}$/, ""), choice.class === null ? "" : this.className(choice.class), part];
    return words.map((text) => text.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 32)).filter(Boolean).join("-");
  }

  /** What stands below an exported panel. */
  caption(what) {
    const { facts, measured } = this;
    const { names } = this.at();
    const told = what.replace(/ A click[^.]*\./g, "");
    return `${told} Model ${facts.model} (${facts.provenance.weights}); picture ${measured.picture.name}; class ${names.choice}. ${facts.made}`;
  }

  // ---- Drawing ------------------------------------------------------------------------------------------------------

  draw() {
    const at = this.at();
    const two = this.two();
    this.root.classList.toggle("comparing", Boolean(two));
    this.once("picture", [this.state.picture], () => {
      this.root.style.setProperty("--picture", `url("${at.measured.picture.uri}")`);
      lightOf(at.measured.picture.uri).then((light) => this.root.style.setProperty("--light", light));
      this.picture.setPicture(at.measured.picture);
      this.panels.setPicture(at.measured.picture);
    });
    this.head.draw(at);
    this.picture.draw(at, two);
    this.panels.draw(at);
  }

  /** Says to those who do not see it what is on show now. */
  say() {
    const { names, state } = this.at();
    this.live.textContent = `${layerOf(state.layer).label}; ${names.choice}; ${names.heads}; ${names.subject}`;
  }
}
