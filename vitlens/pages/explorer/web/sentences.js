// The sentences on top: what was found, each part a link to the panel that shows it.

class Sentences {
  /** `show(panel, layer)` brings a panel into view. */
  constructor(show) {
    this.show = show;
    this.root = element("ul", { class: "sentences", "aria-label": "what was found" });
  }

  /** `sentences`: [{kind, parts: [[text, panel or null], …]}]. */
  draw(sentences) {
    this.root.replaceChildren(
      ...sentences.map(({ kind, parts }) =>
        element(
          "li",
          { class: kind, "data-kind": kind },
          ...(kind === "warning" ? [element("strong", {}, "⚠ ")] : []),
          ...parts.flatMap((part) => this.part(part)),
        ),
      ),
    );
  }

  /** Punctuation before a link is no part of it. */
  part([text, panel]) {
    if (!panel) return [text];
    const [, before, words] = /^([\s.,;:]*)(.*)$/s.exec(text);
    const [name, layer] = panel.split(":");
    return [before, link(words, () => this.show(name, layer), { "data-to": panel })];
  }
}

/** What is said of a class for which no sentences are stored: its place, and what can still be seen of it. */
function plainSentences({ measured, choice, names }) {
  const answer = measured.answer()[choice.class];
  if (!Number.isFinite(answer)) {
    const why = measured.picture.missing?.answer;
    return why ? [{ kind: "answer", parts: [[`${why}.`, null]] }] : [];
  }
  const place = measured.place(choice.class);
  const lead = measured.leading(1)[0];
  const parts = [
    [
      `${names.of(choice.class)} has ${percent(answer)} and is number ${place} of ${measured.facts.n_classes}`,
      "answer",
    ],
  ];
  if (place > 1) parts.push([`; ${names.of(lead)} leads with ${percent(measured.answer()[lead])}`, null]);
  parts.push([". ", null]);
  const sentences = [{ kind: "answer", parts }];
  const heads = measured.heads(choice);
  if (heads) {
    const [first, second] = ranked(heads);
    const name = (cell) => `${names.cell(cell)} (${signed(heads[cell])})`;
    sentences.push({
      kind: "who",
      parts: [
        [`${name(first)} and ${name(second)}`, "who"],
        [` write the most of its logit of ${signed(measured.answerLogit(choice))}.`, null],
      ],
    });
  }
  return sentences;
}
