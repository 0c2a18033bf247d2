// The page of features: what it is built of, the one way in which anything is chosen, and what is then drawn anew.

const FEATURE_KEYS = [
  ["/", "search the list"],
  ["↑ and ↓", "the feature before and behind in the list (with the list or its search in focus); j and k anywhere"],
  ["l", "type a label"],
  ["click, drag", "select a patch, a box of patches"],
  ["Shift + click, drag", "add to the selection, or take from it"],
  ["arrows", "move over the picture's patches, with the picture in focus"],
  ["Esc", "select no patch"],
  ["Ctrl + Z, Ctrl + Shift + Z", "undo, redo; so do the browser's Back and Forward"],
  ["?", "this list"],
];

class FeatureBrowser extends Screen {
  /** `options`: {page} where there is an address; {changed, labelled, ask} where there is Python; `keys`: who hears them. */
  constructor(root, facts, features, crops, options) {
    super(root, facts, options);
    Object.assign(this, { features, crops, state: firstChoices(facts), help: keysDialog(FEATURE_KEYS) });
    root.classList.add("features-page");
    this.labels = new Labels(facts.labels, facts.dictionary, Boolean(options.page), () => this.relabelled());
    this.parts();
    this.head = new FeaturesHead(this);
    const panels = [this.cardPanel, element("div", { class: "right" }, ...[this.picturePanel, this.dosePanel].filter(Boolean))];
    root.append(...this.head.roots(), element("div", { class: "features-layout" }, this.listPanel, ...panels), this.notes(), this.help, this.live);
    options.keys.addEventListener("keydown", (event) => this.key(event), { signal: this.life.signal });
    this.list.refresh();
    this.followTheme();
  }

  parts() {
    const { tip, grid, facts } = this;
    const pick = (feature, replace = false) => this.choose({ feature }, { replace });
    const source = (part, caption) => ({
      table: () => part.table(),
      name: () => `feature-${this.state.feature}`,
      caption: () => `${caption()} ${facts.dictionary.source}, ${facts.model}. ${facts.made}`,
    });
    this.list = new FeatureList(this.features, this.labels, (index) => this.className(index), tip, { pick });
    this.card = new DictionaryCard(this, { pick, label: (feature, text) => this.labels.set(feature, text) });
    this.active = new ActiveList(this, { pick });
    this.elsewhere = new Elsewhere(this, { pick: (picture) => this.choose({ picture }) });
    this.doses = new Doses(this, { pick }, this.options.ask);
    this.stage = new Stage(
      grid,
      tip,
      { select: (tokens, add) => this.select(tokens, add), tell: (token) => [grid.name(token), `activation ${number(this.at().values?.[token] ?? 0)}`] },
      "the picture with its patches: arrow keys move over them, Shift adds",
    );
    this.legend = element("div", { class: "legend" });
    this.listPanel = panel("list", "Which features are there?", {}, this.list.root);
    this.cardPanel = panel("feature", "Feature", { extra: [this.card.views], source: source(this.card, () => `Examples of ${this.named()}.`) }, this.card.root);
    if (!facts.pictures.length) return;
    this.pictureNote = element("p", { class: "note" });
    this.picturePanel = panel(
      "picture",
      "Where is it active in a picture?",
      { source: { ...source(this.active, () => `Activation of ${this.named()} in ${facts.pictures[this.state.picture].name}.`), drawing: () => stageDrawing(this.stage) } },
      this.pictureNote,
      this.elsewhere.root,
      element("div", { class: "stage-and-list" }, element("div", {}, this.stage.root, this.legend), this.active.root),
    );
    this.dosePanel = panel("doses", "What does a dose of it change?", { term: bracket(tip.term("dose", "steering")), source: source(this.doses, () => `Answers in ${facts.pictures[this.state.picture].name} at each dose of ${this.named()}.`) }, this.doses.root);
  }

  // ---- Choosing -----------------------------------------------------------------------------------------------------

  start() {
    this.choose(this.options.page ? choicesFromHash(location.hash) : {});
    if (this.options.page)
      window.addEventListener("hashchange", () => this.choose(choicesFromHash(location.hash)), { signal: this.life.signal });
    this.root.dataset.ready = "true";
  }

  /** The one way in which anything is chosen: by the page, the address, the keyboard, Python, or undo. */
  choose(changes, { keep = true, replace = false } = {}) {
    const { n, nTokens } = this.features;
    this.state = nextChoices(this.state, changes, { n, facts: this.facts, nTokens });
    if (keep) this.past.keep(this.state, choicesToHash(this.state), replace);
    this.draw();
    this.live.textContent = this.named();
    this.options.changed?.(this.state);
  }

  /** Selects tokens; adding what is all selected takes it away, and so does a click on what alone is selected. */
  select(tokens, add) {
    const { tokens: before } = this.state;
    const all = tokens.every((token) => before.includes(token)) && (add || before.length === tokens.length);
    this.choose({ tokens: all ? before.filter((token) => !tokens.includes(token)) : add ? [...before, ...tokens] : tokens });
  }

  relabelled() {
    this.list.find();
    this.done = {};
    this.draw();
    this.options.labelled?.(this.labels.asObject());
  }

  /** The chosen feature, with its label. */
  named() {
    return featureName(this.state.feature, this.labels.get(this.state.feature));
  }

  // ---- Drawing ------------------------------------------------------------------------------------------------------

  /** All that the parts are asked with. */
  at() {
    const { state, features, facts, grid } = this;
    const { feature, picture } = state;
    const values = facts.pictures.length ? features.once(`map ${picture} ${feature}`, () => features.map(picture, feature)) : null;
    const negative = values?.some((value) => value < 0) ?? false;
    const end = features.largest[feature] || largest(values ?? [1]) || 1;
    const note = "activation; the scale ends at this feature's largest over all pictures";
    return { state, features, facts, grid, feature, values, shown: facts.pictures[picture], scale: new Scale({ end, signed: negative, note }) };
  }

  draw() {
    const at = this.at();
    const { feature, picture, tokens } = this.state;
    // First, since it asks for its size, which is known until something else is drawn.
    if (this.picturePanel) this.drawPicture(at);
    this.once("list", [feature, picture], () => this.list.draw(feature, picture));
    this.once("card", [feature], () => {
      this.cardPanel.querySelector("h2").firstChild.data = `Feature ${feature}`;
      this.card.draw(at);
    });
    this.tools.draw();
    if (!this.picturePanel) return;
    this.once("elsewhere", [feature, picture], () => this.elsewhere.draw(at));
    this.once("active", [feature, picture, tokens], () => this.active.draw(at));
    this.once("doses", [feature, picture], () => this.doses.draw(at));
  }

  drawPicture(at) {
    const { feature, picture, tokens } = this.state;
    const absent = at.values.some((value) => value !== 0) ? null : `Feature ${feature} is not active in this picture.`;
    this.stage.draw({ values: at.values, scale: at.scale, opacity: 85, threshold: 0, outliers: [], selected: tokens, absent: null });
    this.stage.absent.hidden = !absent;
    this.stage.absent.textContent = absent ?? "";
    this.once("picture", [picture], () => {
      this.stage.setPicture(at.shown);
      this.root.style.setProperty("--picture", `url("${at.shown.uri}")`);
      lightOf(at.shown.uri).then((light) => this.root.style.setProperty("--light", light));
      const [index, probability] = at.shown.answer[0] ?? [];
      this.pictureNote.textContent =
        `${at.shown.name}${index === undefined ? "" : `; the model answers “${cut(this.className(index), 40)}”, ${wholePercent(probability)}`}. ` +
        "Click a patch to see what is active there; click a small picture to make it large.";
    });
    this.once("legend", [feature, at.scale.both], () => this.legend.replaceChildren(ramp(at.scale), element("small", {}, `${capital(at.scale.note)}; ${at.scale.named()}.`)));
  }

  // ---- Keys, notes ---------------------------------------------------------------------------------------------------

  key(event) {
    const typing = event.target.closest?.("input, select, textarea, dialog");
    if (this.undoes(event, typing) || typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const arrow = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (event.key === "?") this.help.showModal();
    else if (event.key === "/") this.list.input.focus();
    else if (event.key === "l") this.card.name.focus();
    else if (event.key === "j" || event.key === "k") this.list.step(event.key === "j" ? 1 : -1);
    else if (event.key === "Escape" && this.state.tokens.length) this.choose({ tokens: [] });
    else if (arrow && event.target === this.stage.frame) this.stage.move(...arrow, event.shiftKey);
    else return;
    event.preventDefault();
  }

  notes() {
    const { facts } = this;
    const { dictionary, provenance } = facts;
    const line = (title, text) => [element("dt", {}, title), element("dd", {}, text)];
    const words = ["dictionary feature", "density", "largest activation", "locality", "classes raised", "decoder direction", "dose", "worth", "token", "patch", "logit"];
    return element(
      "details",
      { class: "panel notes", "data-panel": "notes" },
      element("summary", {}, "Notes and limits"),
      element(
        "dl",
        {},
        ...line("Examples", `Each of the ${facts.n_images.toLocaleString("en")} pictures counts once for a feature, with the token on which it is strongest there. The pictures from strong to weak are drawn from all in which the feature is active.`),
        ...line("Pictures", "Each example is cut from one small copy of its picture, which all features share. Where the page has no room for a copy, the example says so."),
        ...line("Labels", "They stay in this browser, where it allows that. Save them to a file to keep them: the button writes one that this page and feature_labels= read."),
        ...line("Dictionary", `${dictionary.source}; it reads ${dictionary.reads}${dictionary.hook_out ? ` and predicts what is ${dictionary.writes}` : ""}; tokens: ${dictionary.tokens}.`),
        ...Object.entries(provenance).flatMap(([name, value]) => line(name, String(value))),
      ),
      element("h3", {}, "What the words mean"),
      element("dl", {}, ...words.flatMap((word) => line(word, GLOSSARY[word]))),
      element("p", {}, `${facts.made} Nothing on this page needs a network.`),
    );
  }
}
