// The panels beside the picture: what it answers, when, who writes it, what if it is removed, head and patch cards, notes.

class Panels {
  constructor(view) {
    this.view = view;
    this.effects = [];
    this.parts();
    const { tip, options } = view;
    const make = (name, question, settings, ...content) =>
      panel(name, question, { id: options.page ? name : null, ...settings }, ...content);
    const source = (part, text) => ({
      table: () => [part].flat().flatMap((each) => each.table()),
      name: () => view.fileName(),
      caption: () => view.caption(text()),
    });
    this.subtitles = Object.fromEntries(
      ["answer", "when", "who", "cause"].map((name) => [name, element("p", { class: "subtitle" })]),
    );
    this.all = {
      answer: make(
        "answer",
        "What does it answer?",
        {
          term: bracket(tip.term("removal curve")),
          source: source(
            [this.answers, this.removal],
            () => "Probability of the class while patches leave in the order of each map (removal curve).",
          ),
        },
        element(
          "div",
          { class: "pair" },
          element("div", {}, this.subtitles.answer, this.answers.root),
          element("div", {}, this.removalText, this.removal.root),
        ),
      ),
      when: make(
        "when",
        "When is it decided?",
        {
          term: bracket(tip.term("class lens")),
          extra: [this.quantity],
          source: source(this.lens, () => "Class lens of the model's own reading after every block."),
        },
        this.subtitles.when,
        this.lens.root,
      ),
      who: make(
        "who",
        "Who writes it?",
        {
          term: this.whoTerm,
          extra: [this.boardKind],
          source: source(this.boardSource, () => "Heads and MLPs of all blocks."),
        },
        this.subtitles.who,
        this.board.root,
        this.account,
      ),
      cause: make(
        "cause",
        "What if it is removed?",
        {
          term: bracket(tip.term("single removal")),
          source: source(
            [this.bars, this.scatter],
            () => "What the removal of each part costs the logit, against what the part writes directly.",
          ),
        },
        this.subtitles.cause,
        element(
          "div",
          { class: "pair" },
          element("div", {}, element("h4", {}, "Strongest effects"), this.barKey, this.bars.root),
          element("div", {}, element("h4", {}, "Cause against direct writing"), this.scatter.root, this.scatterKey),
        ),
        this.liveEffect(),
      ),
      head: make(
        "head",
        "What does this part do?",
        { source: source(this.part, () => "One part of the model.") },
        this.part.root,
      ),
      patch: make(
        "patch",
        "What does this patch hold?",
        {
          source: source(this.patch, () => "Tokens that the selection looks at, that look at it, and that are like it."),
        },
        this.patch.root,
      ),
      ...givenPanels(this, make, source),
    };
    this.notes = element(
      "details",
      { class: "panel notes", "data-panel": "notes", id: options.page ? "notes" : null, tabindex: -1 },
      element("summary", {}, "Notes and limits"),
      (this.noteText = element("div", {})),
    );
  }

  /** The reusable parts, each with what a click on it chooses. */
  parts() {
    const { view } = this;
    const { tip, grid, facts } = view;
    this.answers = new Bars(tip, "answers", ["probability"], {
      pick: ({ index }) => view.choose({ class: index }),
      tell: ({ index, values }) => [view.className(index, true), percent(values[0])],
    });
    const n = grid.rows * grid.columns;
    this.removal = new Lines(tip, "removal", { height: 190, xTitle: `patches removed, of ${n}`, ends: false });
    this.removalText = element("p", { class: "subtitle" });
    this.lens = new Lines(tip, "lens", { height: 210, xTitle: "block", pick: (block) => view.choose({ block }) });
    this.quantity = segmented(
      "which number",
      facts.quantities.map((quantity) => [quantity, quantity]),
      (quantity) => view.choose({ quantity }),
    );
    this.boardKind = segmented(
      "what the board shows",
      [
        ["direct", "direct"],
        ["without", "removal costs"],
        ["attention", "attention to selection"],
      ],
      (board) => view.choose({ board }),
    );
    this.board = new Board(tip, view.labels, facts.n_heads, {
      pick: (block, part) => view.choose({ block, head: part }),
      tell: (block, part) => this.tellPart(block, part),
    });
    this.boardSource = {
      root: this.board.root,
      table: () => {
        const { heads, mlps } = this.board.shown;
        const rows = [...(heads ?? [])].map((value, i) => [view.at().names.cell(i), value]);
        return [
          ["part", "value"],
          ...rows,
          ...[...(mlps ?? [])].map((value, i) => [`MLP of block ${facts.blocks[i]}`, value]),
        ];
      },
    };
    this.account = element("p", { class: "account" });
    this.whoTerm = element("span", { class: "bracket" });
    const choosePart = (part) => {
      if (part.kind === "patch") return view.choose({ tokens: [part.token] });
      return view.choose({ block: part.block, head: part.kind === "mlp" ? "mlp" : part.head });
    };
    const tellRow = ({ name, x, y, told }) => [
      name,
      `${COSTS} ${told}${signed(y)} logits`,
      `written directly ${signed(x)}`,
    ];
    this.bars = new Bars(tip, "effects", [COSTS, "written directly"], { pick: choosePart, tell: tellRow });
    this.scatter = new Scatter(
      tip,
      "scatter",
      { pick: choosePart, tell: tellRow },
      { x: "written directly (logits, square-root scale)", y: `${COSTS} (logits)` },
    );
    this.barKey = element(
      "p",
      { class: "key" },
      element("i", { class: "thick" }),
      `${COSTS} `,
      element("i", { class: "thin" }),
      "written directly",
    );
    this.scatterKey = element(
      "p",
      { class: "key" },
      "● head ■ MLP ▲ patch; on the dashed line a part costs what it writes directly.",
    );
    this.part = new PartCard(grid, {
      pickClass: (index) => view.choose({ class: index }),
      showLayer: (layer) => view.choose({ layer }),
      pickHead: (name) => meanings(view, name)[0]?.run(),
    });
    this.patch = new PatchCard(grid, {
      pick: (token, add) => view.select([token], add),
      pickClass: (index) => view.choose({ class: index }),
    });
  }

  roots() {
    return Object.values(this.all);
  }

  setPicture(picture) {
    this.part.setPicture(picture);
  }

  /** What can be changed where there is Python, and what the last change did. */
  liveEffect() {
    const { view } = this;
    this.effectTitle = element("h4", {});
    this.decision = element("p", { class: "decision" });
    this.effectBars = new Bars(view.tip, "effect", ["change of the logit"], {
      pick: () => {},
      tell: ({ name, values }) => [name, signed(values[0])],
    });
    this.effectRoot = element(
      "div",
      { class: "effect", "data-effect": true, hidden: true },
      this.effectTitle,
      this.decision,
      this.effectBars.root,
    );
    const ask = (replacement) => () => view.options.ablate(replacement);
    const live = view.options.ablate
      ? element(
          "div",
          { class: "live" },
          button("leave the selection out", ask("remove")),
          button("ablate the selection", ask("zero")),
          button("replace it by its mean over the pictures", ask("mean")),
        )
      : null;
    return element("div", {}, ...(live ? [live] : []), this.effectRoot);
  }

  tellPart(block, part) {
    const { view } = this;
    const { measured, choice, names, facts } = view.at();
    const cell = block * facts.n_heads + part;
    const isHead = part !== "mlp";
    const direct = isHead ? measured.heads(choice)?.[cell] : measured.mlps(choice)?.[block];
    const lost = isHead ? measured.lost(choice)?.heads[cell] : measured.lost(choice)?.mlps[block];
    const lines = [isHead ? names.cell(cell) : `MLP of block ${facts.blocks[block]}`];
    if (direct !== undefined) lines.push(`writes ${signed(direct)} for ${names.choice}`);
    if (lost !== undefined) lines.push(`${COSTS} ${signed(lost)} logits`);
    if (this.board.shown?.told && isHead)
      lines.push(`attention to ${names.subject}: ${percent(this.board.shown.heads[cell])}`);
    return lines;
  }

  // ---- Drawing ------------------------------------------------------------------------------------------------------

  draw(at) {
    const { view } = this;
    const { picture, baseline, block, head, tokens, quantity, board } = at.state;
    const about = [picture, at.choice.class, baseline];
    view.once("answers", about, () => this.drawAnswers(at));
    view.once("lens", [...about, block, tokens, quantity], () => drawLens(this, at));
    view.once("board", [...about, block, head, board, board === "attention" ? tokens : null], () => this.drawBoard(at));
    view.once("account", [...about, board], () => drawAccount(this.account, at));
    view.once("causes", [...about, block, head, tokens], () => this.drawCauses(at));
    view.once("part", [...about, block, head], () => this.part.draw(at));
    view.once("patch", [...about, block, head, tokens], () => this.patch.draw(at));
    drawGiven(this, at);
    const onlyPrefix = at.subject.every((token) => token < at.grid.nPrefix);
    this.all.patch.querySelector("h2").textContent = `What does this ${onlyPrefix ? "token" : "patch"} hold?`;
    view.once("notes", [...about, block, head], () => drawNotes(this.noteText, view, at));
    // What an intervention did is about one picture.
    const effect = view.effect?.picture === picture ? view.effect : null;
    view.once("effect", [effect, picture], () => this.drawEffect(effect));
    press(this.quantity, baseline === null ? quantity : "logit", baseline !== null);
  }

  drawAnswers(at) {
    const { measured, choice, names } = at;
    const answer = measured.answer();
    this.all.answer.hidden = !measured.leading(1).length;
    const first = measured.leading(6);
    const shown = first.includes(choice.class) || choice.class === null ? first : [...first.slice(0, 5), choice.class];
    this.answers.draw({
      rows: shown.map((index) => ({
        name: at.names.short(index),
        index,
        values: [answer[index]],
        chosen: index === choice.class,
      })),
      scale: new Scale({ end: 1, root: 1, show: percent }),
    });
    this.subtitles.answer.textContent =
      measured.picture.output === "sigmoid"
        ? "Each output is a yes or no of its own. A click asks about one."
        : "The most probable classes. A click asks about one.";
    drawRemoval(this, at);
  }

  drawBoard(at) {
    const { measured, choice, names, state, subject, facts } = at;
    const lost = measured.lost(choice);
    const has = { direct: measured.heads(choice), without: lost, attention: true };
    const kind = has[state.board] ? state.board : has.direct ? "direct" : "attention";
    press(this.boardKind, kind);
    const term = { direct: "direct logit attribution", without: "single removal", attention: "attention" }[kind];
    this.whoTerm.replaceChildren("(", this.view.tip.term(term), ")");
    for (const each of this.boardKind.children) each.hidden = !has[each.dataset.value];
    const { direct, lost: most } = measured.ends();
    const logit = (end) => new Scale({ end, signed: true, show: signed });
    const shown = {
      direct: () => ({ heads: measured.heads(choice), mlps: measured.mlps(choice), scale: logit(direct) }),
      without: () => ({ heads: lost.heads, mlps: lost.mlps, scale: logit(most) }),
      attention: () => ({
        heads: attentionTo(at),
        mlps: null,
        scale: new Scale({ end: 1, root: 3, show: percent }),
        told: true,
      }),
    }[kind]();
    this.board.draw({ ...shown, block: state.block, part: state.head });
    const effects = measured.picture.effects ?? {};
    const how = effects.heads === "estimated" ? "estimated (attribution patching)" : "exact (one run without each)";
    this.subtitles.who.textContent = {
      direct: `What each head and MLP adds to the logit of ${names.choice} on the direct way; colours end at ±${number(direct)}, square-root scale; ${this.board.blanks()} A click chooses block and head.`,
      without: `What the removal of each head and MLP costs the logit of ${names.choice}, ${how}; colours end at ±${number(most)}, square-root scale; ${this.board.blanks()}`,
      attention: `How much of the attention of ${names.readers} each head gives to ${names.subject}, in per cent; cube-root scale.`,
    }[kind];
  }

  drawCauses(at) {
    const { measured, choice, names, state, grid } = at;
    const lost = measured.lost(choice);
    const missing =
      measured.picture.missing?.effects ??
      measured.picture.missing?.answer ??
      (measured.tensors.effect_logits ? notStored(names) : "Single removals were not measured for this page.");
    const [texts, ...pairs] = [this.subtitles.cause, ...this.all.cause.querySelectorAll(".pair")];
    for (const pair of pairs) pair.hidden = !lost;
    if (!lost) return void (texts.textContent = missing);
    const points = causePoints(at, lost);
    const scale = new Scale({ end: measured.ends().lost, signed: true, show: signed });
    const chosen = (point) =>
      point.kind === "patch"
        ? state.tokens.length === 1 && state.tokens[0] === point.token
        : point.block === state.block && (point.kind === "mlp" ? state.head === "mlp" : state.head === point.head);
    for (const point of points) point.chosen = chosen(point);
    const strongest = ranked(points.map(({ y }) => y))
      .slice(0, 8)
      .map((i) => points[i]);
    const even = new Scale({ end: scale.end, signed: true, root: 1, show: signed });
    this.bars.draw({ rows: strongest.map((point) => ({ ...point, values: [point.y, point.x] })), scale: even, axis: "logits" });
    this.scatter.draw({ points, scale });
    const { effects } = measured.picture;
    texts.textContent = `What the removal of one patch, head or MLP costs the logit of ${names.choice}: ${howRemoved(effects)}.`;
  }

  drawEffect(effect) {
    this.effectRoot.hidden = !effect;
    if (!effect) return;
    this.effectTitle.textContent = effect.title;
    const told = (pairs) => pairs.map(([index, share]) => `${this.view.className(index)} ${percent(share)}`).join(", ");
    this.decision.textContent = effect.before
      ? `The answer before: ${told(effect.before)}; after${effect.at ? ` the change at ${effect.at}` : ""}: ${told(effect.after)}.`
      : "";
    // The scale of all removals, so that a small effect looks small.
    const end = Math.max(niceEnd(largest(effect.shift)), this.view.measured.ends().lost);
    this.effectBars.draw({
      rows: effect.cells.map((name, i) => ({ name, values: [effect.shift[i]] })),
      scale: new Scale({ end, signed: true, root: 1, show: signed }),
      axis: "logits",
    });
  }
}
