// What is known of one patch, or of several.

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
