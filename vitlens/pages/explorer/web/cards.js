// Cards: what is known of one patch (or several), of one head, of one MLP.

/** A crop of the picture around a patch, in which the patch is framed. */
function crop(grid, token, around = 1) {
  if (token < grid.nPrefix)
    return element("span", { class: "crop prefix", "aria-hidden": "true" }, grid.name(token).replace(" token", ""));
  const [row, column] = grid.place(token);
  const [rows, columns] = [Math.min(grid.rows, 2 * around + 1), Math.min(grid.columns, 2 * around + 1)];
  const [top, left] = [clamp(row - around, 0, grid.rows - rows), clamp(column - around, 0, grid.columns - columns)];
  const place = (at, n, shown) => (n === shown ? 0 : (100 * at) / (n - shown));
  const style =
    `background-size: ${(100 * grid.columns) / columns}% ${(100 * grid.rows) / rows}%; ` +
    `background-position: ${place(left, grid.columns, columns)}% ${place(top, grid.rows, rows)}%; ` +
    `--x: ${(100 * (column - left)) / columns}%; --y: ${(100 * (row - top)) / rows}%; --w: ${100 / columns}%; --h: ${100 / rows}%`;
  return element("span", { class: "crop", style, "aria-hidden": "true" });
}

class PatchCard {
  /** `events`: pick(token), pickClass(index). */
  constructor(grid, events) {
    Object.assign(this, { grid, events });
    this.root = element("div", { class: "card patch-card", "data-card": "patch" });
    this.rows = [];
  }

  /** `at` as layers have it. */
  draw(at) {
    const { measured, state, subject, grid, names } = at;
    const head = oneHead(state);
    const others = (values, leaveOut) => {
      const out = new Set(leaveOut);
      return ranked(values, (value) => value)
        .filter((token) => !out.has(token))
        .slice(0, 5)
        .map((token) => [token, values[token]]);
    };
    const from = measured.attention("from", state.block, head, subject);
    const to = measured.attention("to", state.block, head, subject);
    const lists = [
      [
        `${names.Subject} ${subject.length > 1 ? "look at, on average" : "looks at"} (${names.head})`,
        others(from, []),
        percent,
        "from",
      ],
      [
        `Who ${subject.length > 1 ? "else looks at them, summed" : "looks at it"} (${names.head})`,
        others(to, subject.length > 1 ? subject : []),
        percent,
        "to",
      ],
    ];
    if (measured.tensors.cosines)
      lists.push([
        `Streams like ${subject.length > 1 ? "theirs" : "its own"} after block ${names.block} (cosine)`,
        others(measured.cosines(state.block, subject), subject),
        number,
        "similar",
      ]);
    this.rows = lists;
    const lost = measured.lost(at.choice)?.patches;
    const patches = subject.filter((token) => token >= grid.nPrefix);
    const all = measured.writesOfAll(at.choice);
    const facts = [];
    if (all)
      facts.push([
        `written from here for ${names.choice}, by all heads of all blocks`,
        signed(
          patches.concat(subject.filter((token) => token < grid.nPrefix)).reduce((sum, token) => sum + all[token], 0),
        ),
      ]);
    if (lost && patches.length) {
      const sum = patches.reduce((total, token) => total + lost[token - grid.nPrefix], 0);
      facts.push([
        COSTS,
        `${patches.length > 1 ? "≈ " : ""}${signed(sum)} logits${patches.length > 1 ? ` (${SUM_OF_SINGLE})` : ""}`,
      ]);
    }
    const hatched = patches.filter((token) => measured.outliers[token - grid.nPrefix]).length;
    if (hatched) facts.push(["artefact tokens", `${hatched} of ${patches.length}`]);
    this.root.replaceChildren(
      element("h3", {}, names.Subject),
      this.crops(subject),
      this.reading(at),
      element(
        "dl",
        { class: "facts" },
        ...facts.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))),
      ),
      ...lists.map(([title, found, show, kind]) => this.list(title, found, show, kind)),
    );
  }

  crops(subject) {
    const shown = subject.length > 12 ? subject.slice(0, 11) : subject;
    const more = subject.length - shown.length;
    return element(
      "div",
      { class: "crops large" },
      ...shown.map((token) => crop(this.grid, token)),
      more ? element("span", {}, `+ ${more}`) : null,
    );
  }

  /** What it would answer; of several tokens nothing that one could add up, so only how often each class comes first. */
  reading({ measured, state, subject, names }) {
    const tops = subject.map((token) => measured.top(state.block, token));
    if (!tops[0]?.length) return "";
    const entries =
      subject.length === 1
        ? tops[0]
            .slice(0, 4)
            .map(({ index, probability, logit }) => [
              index,
              Number.isNaN(probability) ? `logit ${number(logit)}` : percent(probability),
            ])
        : tally(tops.map(([first]) => first.index))
            .slice(0, 4)
            .map(([index, n]) => [index, `${n} of ${subject.length}`]);
    return element(
      "div",
      { class: "reads" },
      element("h4", {}, `After block ${names.block} ${subject.length > 1 ? "they read" : "it reads"} as`),
      element(
        "ul",
        {},
        ...entries.map(([index, text]) =>
          element(
            "li",
            { "data-class": index },
            button(cut(names.short(index), 30), () => this.events.pickClass(index), { class: "plain" }),
            element("output", {}, text),
          ),
        ),
      ),
    );
  }

  list(title, found, show, kind) {
    const entries = found.map(([token, value]) =>
      element(
        "li",
        {},
        element(
          "button",
          {
            type: "button",
            class: "plain",
            "data-token": token,
            "data-value": value,
            "aria-label": `${this.grid.name(token)}: ${show(value)}`,
            onclick: (event) => this.events.pick(token, event.shiftKey),
          },
          crop(this.grid, token),
          element("span", {}, show(value)),
          element("small", {}, token < this.grid.nPrefix ? "" : this.grid.name(token).slice(6)),
        ),
      ),
    );
    return element(
      "div",
      { class: "list", "data-list": kind },
      element("h4", {}, title),
      element("ol", { class: "crops" }, ...entries),
    );
  }

  table() {
    return [
      ["list", "token", "value"],
      ...this.rows.flatMap(([title, found]) => found.map(([token, value]) => [title, this.grid.name(token), value])),
    ];
  }
}

/** How often each number comes: [[number, times], …], the most frequent first. */
function tally(numbers) {
  const times = new Map();
  for (const each of numbers) times.set(each, (times.get(each) ?? 0) + 1);
  return [...times].sort((one, other) => other[1] - one[1]);
}

class PartCard {
  /** `events`: pickClass(index), showLayer(name). */
  constructor(grid, events) {
    Object.assign(this, { grid, events, facts: [] });
    this.small = { writes: this.smallMap("writes"), from: this.smallMap("from") };
    this.heading = element("h3", {});
    this.list = element("dl", { class: "facts" });
    this.classes = element("div", { class: "reads" });
    this.note = element("p", { class: "note" });
    this.root = element(
      "div",
      { class: "card part-card", "data-card": "part" },
      this.heading,
      element("div", { class: "small-maps" }, this.small.writes.root, this.small.from.root),
      this.list,
      this.classes,
      this.note,
    );
  }

  smallMap(layer) {
    const image = element("img", { alt: "" });
    const canvas = element("canvas", { width: this.grid.columns, height: this.grid.rows });
    const frame = element("span", { class: "small", "data-map": "true" }, image, canvas);
    const label = element("span", {});
    return {
      image,
      canvas,
      frame,
      label,
      root: element("button", { type: "button", onclick: () => this.events.showLayer(layer) }, frame, label),
    };
  }

  setPicture({ uri, width, height }) {
    for (const { image, frame } of Object.values(this.small)) {
      if (image.getAttribute("src") !== uri) image.src = uri;
      frame.style.aspectRatio = `${width} / ${height}`;
    }
  }

  draw(at) {
    const { measured, state, choice, names, readers, facts } = at;
    const { block, head } = state;
    const isHead = head !== "mlp" && head !== null;
    this.heading.textContent =
      head === "mlp" ? `MLP of block ${names.block}` : isHead ? names.head : `All heads of block ${names.block}`;
    for (const [name, label] of [
      ["writes", "what it writes, by patch"],
      ["from", `where ${names.readers} looks`],
    ]) {
      const { canvas, frame, label: text, root } = this.small[name];
      root.hidden = head === "mlp" || !layerOf(name).present(at);
      if (root.hidden) continue;
      const own = { ...at, subject: readers };
      const layer = layerOf(name);
      const values = layer.values(own, block);
      text.textContent = label;
      frame.dataset.signed = Boolean(values) && layer.scale(own).both;
      root.setAttribute("aria-label", `${label}: lay it over the picture`);
      if (values) paint(canvas, values.subarray(this.grid.nPrefix), layer.scale(own));
      canvas.hidden = !values;
    }
    const known = this.known(at, isHead, block, head);
    this.facts = known;
    this.list.replaceChildren(
      ...known.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))),
    );
    this.drawClasses(at, isHead, block, head);
    this.note.textContent = isHead ? this.sink(at, block, head) : "";
    this.note.hidden = !this.note.textContent;
  }

  known({ measured, choice, facts, state, names }, isHead, block, head) {
    const known = [];
    const heads = measured.heads(choice);
    const mlps = measured.mlps(choice);
    const lost = measured.lost(choice);
    const cell = block * facts.n_heads + head;
    if (isHead && heads) {
      const order = ranked(heads);
      known.push(
        [`writes for ${names.choice}`, signed(heads[cell])],
        ["rank among heads", `${1 + order.indexOf(cell)} of ${heads.length} heads`],
      );
    } else if (head === "mlp" && mlps) known.push([`writes for ${names.choice}`, signed(mlps[block])]);
    else if (heads)
      known.push([
        `write for ${names.choice}`,
        signed(
          heads.subarray(block * facts.n_heads, (block + 1) * facts.n_heads).reduce((sum, value) => sum + value, 0),
        ),
      ]);
    if (lost && head !== null) {
      const kind = isHead ? "heads" : "mlps";
      const estimated = measured.picture.effects?.[kind] === "estimated";
      known.push([COSTS, `${estimated ? "≈ " : ""}${signed(lost[kind][isHead ? cell : block])} logits`]);
      const row = measured.nPatches + (isHead ? cell : measured.nBlocks * facts.n_heads + block);
      const without = measured.without(row, choice.class);
      if (without)
        known.push([
          "the answer is then",
          without.first === choice.class
            ? `the same, ${percent(without.probability)}`
            : `${cut(names.short(without.first), 26)}; ${names.ofClass} has ${percent(without.probability)}`,
        ]);
    }
    return known;
  }

  drawClasses({ measured, names, facts }, isHead, block, head) {
    const found = isHead
      ? measured.classesOf("all_heads", block * facts.n_heads + head)
      : head === "mlp"
        ? measured.classesOf("all_mlps", block)
        : null;
    this.classes.hidden = !found;
    if (!found) return;
    const list = (title, pairs) =>
      element(
        "div",
        {},
        element("h4", {}, title),
        element(
          "ul",
          {},
          ...pairs.map(([index, value]) =>
            element(
              "li",
              {},
              button(cut(names.short(index), 24), () => this.events.pickClass(index), { class: "plain" }),
              element("output", {}, signed(value)),
            ),
          ),
        ),
      );
    this.classes.replaceChildren(list("raises most", found.raised), list("lowers most", found.lowered));
  }

  /** Heads that look at artefact tokens do so in place of the picture. */
  sink({ measured, readers, grid, names }, block, head) {
    const values = measured.attention("from", block, head, readers);
    let hatched = 0;
    measured.outliers.forEach((is, patch) => (hatched += is ? values[grid.nPrefix + patch] : 0));
    const prefix = values.subarray(0, grid.nPrefix).reduce((sum, value) => sum + value, 0);
    const told = [];
    if (hatched >= 0.2)
      told.push(`${percent(hatched)} of what ${names.readers} looks at are artefact tokens (hatched).`);
    if (prefix >= 0.5)
      told.push(`${percent(prefix)} of what ${names.readers} looks at are prefix tokens, not the picture.`);
    return told.join(" ");
  }

  table() {
    return [["of", "value"], ...this.facts];
  }
}
