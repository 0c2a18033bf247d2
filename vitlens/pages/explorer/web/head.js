// The top of the page: the answer, the search, what the page is about, the sentences, and what is chosen, as chips.

/** What one can ask, of heads and patches that there are. */
function exampleOf({ blocks, n_heads, grid }) {
  const [block, head] = [blocks.at(-1), n_heads - 1];
  const patch = grid.map((n) => Math.floor(n / 2)).join(",");
  return `ask about a class, L${block}H${head}, patch ${patch}`;
}

class Head {
  constructor(view) {
    this.view = view;
    const { facts } = view;
    this.answer = element("h1", {}, facts.title);
    this.then = element("p", { class: "then" });
    this.search = new Search((text) => meanings(view, text), exampleOf(facts));
    view.tools = new Tools(view, view.keyboard.help);
    this.beside = this.besideSelect();
    this.top = element(
      "header",
      { class: "top" },
      element("div", { class: "result" }, this.answer, this.then),
      element(
        "div",
        { class: "tools" },
        this.search.root,
        this.beside,
        ...view.tools.roots(),
      ),
    );
    this.file = element("span", {});
    this.line = element("p", { class: "about" });
    this.warning = element("div", { class: "warnings" });
    this.thumbnails = this.pictureButtons();
    this.sentences = new Sentences((...parts) => view.follow(...parts));
    this.chips = element("div", { class: "chosen", role: "group", "aria-label": "what all panels are about" });
  }

  roots() {
    const { top, line, thumbnails, warning, sentences, chips } = this;
    const skip = button("skip to the picture", () => this.view.show("picture"), { class: "skip" });
    return [skip, top, line, warning, thumbnails, sentences.root, chips];
  }

  besideSelect() {
    const { view } = this;
    const { pictures, blocks } = view.facts;
    if (pictures.length < 2 && blocks.length < 2) return null;
    const several = pictures.length > 1;
    const select = element(
      "select",
      {
        name: "beside",
        onchange: ({ target }) => {
          const [what, value] = target.value.split(" ");
          view.choose({ beside: null, against: null, ...(value && { [what]: Number(value) }) });
        },
      },
      element("option", { value: "" }, "nothing"),
      ...(several
        ? pictures.map((picture, i) =>
            element("option", { value: `beside ${i}` }, `${i + 1}${this.told(picture)} (${cut(picture.name, 24)})`),
          )
        : []),
      ...blocks.map((block, i) => element("option", { value: `against ${i}` }, `this picture, block ${block}`)),
    );
    return element("label", { class: "beside" }, "beside it", select);
  }

  pictureButtons() {
    const { view } = this;
    const { pictures } = view.facts;
    if (pictures.length < 2) return element("div", { class: "thumbnails", hidden: true });
    this.buttons = pictures.map((picture, i) =>
      element(
        "button",
        {
          type: "button",
          "aria-label": `picture ${picture.name}${this.told(picture)}`,
          title: picture.name,
          onclick: () => view.choose({ picture: i }),
        },
        element("img", { src: picture.uri, alt: "", loading: "lazy" }),
        ...(picture.answer?.length
          ? [
              element("span", {}, view.className(picture.answer[0][0])),
              element("span", {}, wholePercent(picture.answer[0][1])),
            ]
          : [element("span", {}, picture.name)]),
      ),
    );
    return element("div", { class: "thumbnails", role: "group", "aria-label": "pictures" }, ...this.buttons);
  }

  /** The answer to a picture, in few words. */
  told({ answer }, before = ": ") {
    return answer?.length ? `${before}${this.view.className(answer[0][0])} ${wholePercent(answer[0][1])}` : "";
  }

  draw(at) {
    const { view } = this;
    const { state } = view;
    view.once("answer", [state.picture], () => this.drawAnswer(at));
    view.once("sentences", [state.picture, state.class, state.baseline], () => this.drawSentences(at));
    view.once("chips", [state], () => this.drawChips(at));
    view.tools.draw();
    if (this.beside)
      this.beside.lastChild.value =
        state.beside !== null ? `beside ${state.beside}` : state.against !== null ? `against ${state.against}` : "";
    this.buttons?.forEach((each, i) => each.setAttribute("aria-pressed", i === state.picture));
  }

  drawAnswer({ measured, facts }) {
    const { view } = this;
    const { picture } = measured;
    const answer = measured.answer();
    const [first, ...others] = Number.isFinite(answer[measured.classes[0]]) ? measured.leading(3) : [];
    this.answer.textContent =
      first === undefined ? facts.title : `${view.className(first)} ${wholePercent(answer[first])}`;
    this.then.replaceChildren(
      ...others.flatMap((index, i) => [
        i ? ", " : "then ",
        link(`${cut(view.className(index), 32)} ${wholePercent(answer[index])}`, () => view.choose({ class: index })),
      ]),
    );
    const [rows, columns] = facts.grid;
    const { model, weights } = facts.provenance;
    const seen = [picture.name, picture.file].filter(Boolean).join(", ");
    const blocks =
      facts.blocks.length === facts.n_layers ? facts.n_layers : `${facts.blocks.length} of ${facts.n_layers}`;
    const lines = [
      model,
      `weights ${weights}`,
      seen,
      `${rows} × ${columns} patches`,
      `${blocks} blocks × ${facts.n_heads} heads`,
    ];
    this.line.replaceChildren(...lines.map((line) => element("span", {}, line)));
    this.warning.replaceChildren(
      ...(facts.warning ? [element("p", { class: "warning", role: "alert" }, `⚠ ${facts.warning}`)] : []),
    );
  }

  drawSentences(at) {
    const { measured, choice } = at;
    const stored = choice.baseline === null && measured.picture.sentences?.[choice.class];
    this.sentences.draw(stored || plainSentences(at));
  }

  /** Every choice that differs from "all" can be taken back by its chip. */
  drawChips({ state, names, measured, facts }) {
    const { view } = this;
    const chip = (name, text, clear) =>
      element(
        "span",
        { class: "choice", "data-choice": name },
        element("span", {}, text),
        clear ? button("✕", () => view.choose(clear), { "aria-label": `take back: ${text}` }) : null,
      );
    const first = measured.classes[0];
    const chips = [element("span", { class: "lead" }, "All panels are about:")];
    if (first !== undefined)
      chips.push(chip("class", `class ${names.ofClass}`, state.class === null ? null : { class: null }));
    if (state.baseline !== null) chips.push(chip("baseline", `minus ${names.of(state.baseline)}`, { baseline: null }));
    chips.push(chip("block", `block ${names.block}`, null));
    chips.push(
      state.head === null
        ? chip("head", "all its heads", null)
        : chip("head", state.head === "mlp" ? "its MLP" : `head ${names.head}`, { head: null }),
    );
    chips.push(
      chip(
        "tokens",
        state.tokens.length ? names.subject : `${names.subject} (nothing selected)`,
        state.tokens.length ? { tokens: [] } : null,
      ),
    );
    if (state.beside !== null)
      chips.push(chip("beside", `beside ${cut(facts.pictures[state.beside].name, 30)}`, { beside: null }));
    if (state.against !== null)
      chips.push(chip("against", `beside block ${facts.blocks[state.against]}`, { against: null }));
    this.chips.replaceChildren(...chips);
  }
}
