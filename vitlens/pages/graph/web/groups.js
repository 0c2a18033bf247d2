// What is pinned, and the groups that are made of it.

class Groups {
  /** `events`: pick(key), pin(key), group(name), ungroup(group). */
  constructor(view, events) {
    Object.assign(this, { view, events });
    this.name = element("input", {
      type: "text",
      class: "group-name",
      maxlength: 60,
      placeholder: "name of the group",
      "aria-label": "name of the group",
      autocomplete: "off",
      onkeydown: (event) => {
        event.stopPropagation();
        if (event.key === "Enter") this.make();
        else if (event.key === "Escape") event.target.blur();
      },
    });
    this.chips = element("div", { class: "chosen" });
    this.makes = button("make a group", () => this.make());
    this.form = element("div", { class: "group-form" }, this.name, this.makes);
    this.list = element("ul", { class: "near" });
    this.root = element("div", { class: "groups" }, this.chips, this.form, this.list);
  }

  make() {
    const name = this.name.value.trim();
    if (!name) return void this.name.focus();
    this.name.value = "";
    this.events.group(name);
  }

  draw({ state, merged }) {
    const { facts, grid } = this.view;
    const { pinned, groups } = state;
    this.chips.replaceChildren(
      ...(pinned.length
        ? pinned.map((key) =>
            element(
              "span",
              { class: "choice", "data-pinned": key },
              button(cut(memberName(facts, grid, merged.graph, key), 40), () => this.events.pick(key), { class: "plain" }),
              button("✕", () => this.events.pin(key), { "aria-label": `unpin ${memberName(facts, grid, merged.graph, key)}` }),
            ),
          )
        : [element("span", { class: "note" }, "Nothing is pinned: choose a box and press p, or “pin” on its card.")]),
    );
    this.form.hidden = pinned.length === 0;
    this.list.replaceChildren(
      ...groups.map((group, i) =>
        element(
          "li",
          { "data-group": i },
          button(group.name, () => this.events.pick(`group${i}`), { class: "link" }),
          element("output", {}, percent(merged.byKey.get(`group${i}`)?.influence ?? 0)),
          button("✕", () => this.events.ungroup(group), { "aria-label": `take “${group.name}” apart` }),
        ),
      ),
    );
  }
}
