// What stands at the end: how the numbers add up, how they were computed, what is exact, and the same in Python.

/** The sum of all direct contributions beside the logit. */
function drawAccount(line, { measured, choice, names, state }) {
  const account = state.board === "direct" ? measured.account(choice) : null;
  line.hidden = !account;
  if (!account) return;
  const { heads, groups, sum, logit, residual } = account;
  const kinds = ["MLPs", "embedding and positions", "biases and constant", "heads of other blocks"];
  const parts = groups.map((share, i) => [kinds[i], share]).filter(([, share], i) => i < 3 || share !== 0);
  const told = [["heads", heads], ...parts].map(([kind, share]) => `${kind} ${signed(share)}`);
  Object.assign(line.dataset, { sum, logit, residual });
  line.textContent = `Together: ${told.join(", ")} = ${signed(sum)}, the logit of ${names.choice} (${signed(logit)}). ${speaking(measured, choice)}`;
}

/** What heads and MLPs write for and against the class, each summed by itself. */
function speaking(measured, choice) {
  const values = [...measured.heads(choice), ...(measured.mlps(choice) ?? [])];
  const sum = (sign) => values.reduce((total, value) => total + (sign * value > 0 ? value : 0), 0);
  return `Heads and MLPs that speak for it add up to ${signed(sum(1))}, those against it to ${signed(sum(-1))}.`;
}

function drawNotes(root, view, at) {
  const { facts, measured } = at;
  const { effects, missing } = measured.picture;
  const line = (title, text) => [element("dt", {}, title), element("dd", {}, text)];
  const removed =
    effects &&
    `Patches leave the sequence (${effects.patches}); a head's output, or an MLP's, is set to zero at all tokens (${effects.heads}). ` +
      `At most ${effects.n_runs} runs of the model. Effects of single parts do not add up to that of several (≈).`;
  const largestError = measured.hasNegativeAttention() ? 1 : 0.4;
  const code = python(view, at);
  const copied = element("output", {});
  const copy = button("copy", async () => {
    try {
      await navigator.clipboard.writeText(code);
      copied.value = "copied";
    } catch {
      copied.value = "the browser does not allow it";
    }
  });
  root.replaceChildren(
    element(
      "dl",
      {},
      ...(facts.heads_are
        ? line(
            "Who writes it",
            `Contributions are direct: ${facts.heads_are}. What a part moves for later parts counts where those read it. Norm statistics are frozen.`,
          )
        : []),
      ...(facts.lens_reads
        ? line(
            "When it is decided",
            `${capital(facts.lens_reads)}. Early blocks were never trained to be read: a small probability there says little.`,
          )
        : []),
      ...(removed ? line("What if it is removed", removed) : []),
      ...Object.entries(missing ?? {}).flatMap(([part, why]) => line(`No ${part}`, why)),
      ...line(
        "Precision",
        `Attention is kept in one byte a weight: at most ${largestError} % of its row's largest away. Contributions of patches are kept in one byte, similarities and what stands for all classes in two bytes; the rest is single precision.`,
      ),
      ...Object.entries(facts.provenance).flatMap(([name, value]) => line(name, String(value))),
    ),
    element("h3", {}, "What the words mean"),
    element("dl", {}, ...Object.entries(GLOSSARY).flatMap(([term, meaning]) => line(term, meaning))),
    element("h3", {}, "The same in Python"),
    element("pre", { tabindex: 0, "aria-label": "the same in Python" }, code),
    copy,
    copied,
    element("p", {}, `${facts.made} Nothing on this page needs a network.`),
  );
}

/** The calls that give what is on show. */
function python(view, { state, facts, measured, choice, names }) {
  const name = JSON.stringify(measured.picture.name);
  const block = facts.blocks[state.block];
  const head = typeof state.head === "number" ? state.head : null;
  const baseline = choice.baseline === null ? "" : `, baseline_classes=${choice.baseline}`;
  return [
    "import vitlens",
    `model = ${facts.call}  # the weights of this page: ${facts.provenance.weights}`,
    `images = model.to_images(${name})`,
    `vitlens.heatmap(model, images, ${choice.class})`,
    `vitlens.class_lens(model, images, ${choice.class}, tokens="pooled").at("${state.quantity}")`,
    `vitlens.direct_logit_attribution(model, images, ${choice.class}${baseline}, unit="head_patch")`,
    ...(state.layer === "components"
      ? [
          `pictures = model.to_images(${JSON.stringify(facts.pictures.map((picture) => picture.name))})`,
          `vitlens.similarity.patch_pca(model, pictures, hook="resid_post${block}").colours()`,
        ]
      : []),
    `_, cache = model.run_with_cache(images, names_filter=["pattern", "resid_post"])`,
    `cache["pattern", ${block}]${head === null ? ".mean(dim=1)" : `[:, ${head}]`}`,
    `explorer = vitlens.explore(model, ${name}, classes=${choice.class})`,
  ].join("\n");
}
