// What the model answers while a feature has 0, 1, 2, … times the activation that it has.

const MOST_CLASSES = 6;

class Doses {
  /** `events`: pick(feature); `ask(feature, doses)` runs the model where there is Python, else null. */
  constructor(view, events, ask) {
    Object.assign(this, { view, events, ask, answers: new Map(), waits: null });
    this.body = element("div", { class: "card" });
    this.own = element("input", { type: "number", step: "any", value: "8", "aria-label": "one more dose" });
    this.root = element("div", { class: "doses" }, this.body);
  }

  key(at) {
    return `${at.state.picture} ${at.feature}`;
  }

  draw(at) {
    this.at = at;
    const { facts, features, feature, state } = at;
    if (facts.missing.doses) return void this.body.replaceChildren(element("p", { class: "note" }, `${capital(facts.missing.doses)}.`));
    const found = this.answers.get(this.key(at)) ?? features.doses(state.picture, feature);
    const isActive = features.map(state.picture, feature).some((value) => value !== 0);
    this.body.replaceChildren(
      ...(found ? this.answer(found, at) : [this.others(at, isActive)]),
      this.ask && isActive ? this.live(at) : null ?? "",
    );
  }

  /** A row for each class that leads at some dose, a column for each dose. */
  answer({ doses, classes, logits, rest }, at) {
    const { view } = this;
    const { output } = at.facts;
    const share = (dose, i) =>
      output === "softmax" ? Math.exp(logits[dose][i] - rest[dose]) : output === "sigmoid" ? 1 / (1 + Math.exp(-logits[dose][i])) : NaN;
    const most = (i) => Math.max(...doses.map((_, dose) => (output === "identity" ? -i : share(dose, i))));
    const rows = [...classes.keys()].sort((one, other) => most(other) - most(one)).slice(0, MOST_CLASSES);
    const before = doses.indexOf(1);
    const order = rows.sort((one, other) => share(before, other) - share(before, one) || one - other);
    const cell = (dose, i) => {
      const written = output === "identity" || output === "embedding" ? number(logits[dose][i]) : percent(share(dose, i));
      return element(
        "td",
        {
          class: dose === before ? "now" : null,
          "data-logit": logits[dose][i],
          title: `logit ${number(logits[dose][i])}`,
          style: Number.isNaN(share(dose, i)) ? null : `--share: ${(100 * share(dose, i)).toFixed(1)}%`,
        },
        written,
      );
    };
    this.rows = order.map((i) => [view.className(classes[i]), ...doses.map((_, dose) => logits[dose][i])]);
    return [
      element("p", { class: "note" }, output === "softmax" || output === "sigmoid" ? "Probability of each class. The column 1 × is the model's own answer." : "The outputs. The column 1 × is the model's own answer."),
      element(
        "div",
        { class: "wide" },
        element(
          "table",
          {},
          element(
            "thead",
            {},
            element("tr", {}, element("th", { scope: "col" }, "dose"), ...doses.map((dose) => element("th", { scope: "col", class: dose === 1 ? "now" : null }, doseName(dose)))),
          ),
          element(
            "tbody",
            {},
            ...order.map((i) => element("tr", { "data-class": classes[i] }, element("th", { scope: "row", title: view.className(classes[i], true) }, view.className(classes[i])), ...doses.map((_, dose) => cell(dose, i)))),
          ),
        ),
      ),
      element("p", { class: "told" }, this.told(doses, classes, order, before, share)),
    ];
  }

  /** The largest change, in words. */
  told(doses, classes, order, before, share) {
    let best = null;
    doses.forEach((dose, at) => {
      for (const i of order) {
        const moved = share(at, i) - share(before, i);
        if (Number.isFinite(moved) && (!best || Math.abs(moved) > Math.abs(best.moved))) best = { dose, at, i, moved };
      }
    });
    if (!best || Math.abs(best.moved) < 0.005) return order.length && best ? "No dose changes any of these by a per cent." : "";
    const [from, to] = [share(before, best.i), share(best.at, best.i)].map(percent);
    return `Most changes at ${doseName(best.dose)}: “${cut(this.view.className(classes[best.i]), 40)}” goes from ${from} to ${to}.`;
  }

  others({ facts, state, feature }, isActive) {
    const { labels } = this.view;
    const steered = facts.pictures[state.picture]?.doses?.features ?? [];
    return element(
      "div",
      {},
      element("p", { class: "note" }, isActive ? `The page has no doses of feature ${feature} in this picture.` : `Feature ${feature} is not active in this picture, so no dose of it changes anything.`),
      steered.length
        ? element(
            "p",
            { class: "steered" },
            "It has those of: ",
            ...steered.map((id) => button(cut(featureName(id, labels.get(id)), 28), () => this.events.pick(id), { "data-feature": id })),
          )
        : null,
    );
  }

  /** In a notebook the model runs again. */
  live(at) {
    const run = () => {
      const own = Number(this.own.value);
      const doses = [...new Set([...at.facts.doses, ...(Number.isFinite(own) && this.own.value !== "" ? [own] : [])])].sort((one, other) => one - other);
      this.waits = this.key(at);
      this.ask(at.feature, doses);
      this.body.append(element("p", { class: "note", role: "status" }, "the model runs …"));
    };
    return element("p", { class: "live" }, "One more dose: ", this.own, button("run the model", run, { class: "run" }));
  }

  /** `steered`: {feature, picture, doses, logits [dose][class]} or {error}, from Python. */
  setAnswer(steered) {
    if (!steered || !this.at) return;
    if (steered.error) return void this.body.append(element("p", { class: "note", role: "alert" }, steered.error));
    const { feature, picture, doses, logits } = steered;
    const largestOf = logits[0].map((_, index) => Math.max(...logits.map((row) => row[index])));
    const classes = ranked(largestOf, (value) => value).slice(0, 12);
    const rest = logits.map((row) => {
      const most = Math.max(...row);
      return most + Math.log(row.reduce((sum, value) => sum + Math.exp(value - most), 0));
    });
    this.answers.set(`${picture} ${feature}`, { doses, classes, logits: logits.map((row) => classes.map((index) => row[index])), rest });
    this.draw(this.at);
  }

  table() {
    return [["class (logit)", ...(this.answers.get(this.key(this.at))?.doses ?? this.at.facts.doses).map(doseName)], ...(this.rows ?? [])];
  }
}

const doseName = (dose) => `${number(dose)} ×`;
