// The sentences on top: what was found, each part a link to the panel that shows it.

class Sentences {
  /** `follow(panel, layer, choose)` chooses what a part names and brings its panel into view. */
  constructor(follow) {
    this.follow = follow;
    this.root = element("ul", { class: "sentences", "aria-label": "what was found" });
  }

  /** `sentences`: [{kind, parts: [[text, panel or null, what it chooses, if anything], …]}]. */
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
  part([text, panel, choose]) {
    if (!panel && !choose) return [text];
    const [, before, words] = /^([\s.,;:]*)(.*)$/s.exec(text);
    const [name, layer] = (panel ?? "").split(":");
    return [before, link(words, () => this.follow(name, layer, choose), { "data-to": panel })];
  }
}

/** What is said where no sentences are stored: the place of a class, what it lacks to the first, and who writes that. */
function plainSentences(at) {
  const { measured, choice, names } = at;
  const answer = measured.answer()[choice.class];
  if (!Number.isFinite(answer)) {
    const why = measured.picture.missing?.answer;
    return why ? [{ kind: "answer", parts: [[`${why}.`, null]] }] : [];
  }
  const place = measured.place(choice.class);
  const [lead, second] = measured.leading(2);
  const parts = [
    [
      `${capital(names.of(choice.class))} has ${percent(answer)} and is number ${place} of ${measured.facts.n_classes}`,
      "answer",
    ],
  ];
  if (place > 1) parts.push([`; ${names.of(lead)} leads with ${percent(measured.answer()[lead])}`, null]);
  parts.push([". ", null]);
  const sentences = [{ kind: "answer", parts }];
  // Of one class that is not first, what it lacks to the first says more than its logit.
  const other = choice.baseline ?? (place > 1 ? lead : second);
  const pair = choice.baseline === null && place > 1 ? [other, choice.class] : [choice.class, other];
  if (other !== undefined) sentences.push(...differenceSentence(at, { class: pair[0], baseline: pair[1] }));
  if (!measured.stores(choice)) sentences.push({ kind: "when", parts: [[notStored(names), null]] });
  return sentences;
}

/** Which parts make the difference of the logits of two classes; they are of both signs, so none "writes" it alone. */
function differenceSentence({ measured, names }, pair) {
  const largestParts = parted(measured, pair, names).slice(0, 4);
  if (!largestParts.length) return [];
  const difference = `${names.of(pair.class)} − ${names.of(pair.baseline)}`;
  const listed = largestParts.flatMap(({ name, value, choose }, i) => [
    [i ? ", " : "", null],
    [`${name} (${signed(value)})`, "who", choose],
  ]);
  return [
    {
      kind: "who",
      parts: [
        [`Of the difference ${difference}, ${signed(measured.answerLogit(pair))} logits, the largest parts are `, null],
        ...listed,
        [".", null],
      ],
    },
  ];
}

/** Heads, MLPs and, where they are stored, the embedding: what each writes, the largest first. */
function parted(measured, choice, names) {
  const { facts } = measured;
  const heads = [...(measured.heads(choice) ?? [])].map((value, cell) => ({
    name: names.cell(cell),
    value,
    choose: { block: facts.blocks[Math.floor(cell / facts.n_heads)], head: cell % facts.n_heads },
  }));
  const mlps = [...(measured.mlps(choice) ?? [])].map((value, i) => ({
    name: `MLP of block ${facts.blocks[i]}`,
    value,
    choose: { block: facts.blocks[i], head: "mlp" },
  }));
  const embedding = measured.account(choice)?.groups[1];
  const other = embedding === undefined ? [] : [{ name: "the embedding", value: embedding }];
  return [...heads, ...mlps, ...other].sort((one, two) => Math.abs(two.value) - Math.abs(one.value));
}
