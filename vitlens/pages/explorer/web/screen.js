// What every page has: one state with undo, parts that are drawn only when they change, a theme, and the tools at the top.

class Screen {
  /** `options`: {page} where there is an address; more where there is Python. */
  constructor(root, facts, options) {
    Object.assign(this, { root, facts, options, done: {} });
    // What listens to the window stops when a notebook throws the output away.
    this.life = new AbortController();
    this.grid = new Grid(facts.grid, facts.prefix);
    root.classList.add("vitlens");
    root.replaceChildren();
    this.tip = new Tip(root);
    this.past = new Past((state) => this.choose(state, { keep: false }), options.page);
    this.live = element("div", { class: "unseen", role: "status", "aria-live": "polite" });
  }

  className(index, long = false) {
    return this.facts.class_names[index]?.[long ? 1 : 0] ?? `class ${index}`;
  }

  /** Draws only what something that it shows was changed of. */
  once(name, key, draw) {
    const text = JSON.stringify(key);
    if (this.done[name] === text) return;
    this.done[name] = text;
    draw();
  }

  /** Undo and redo, by keys that are no letters of a text; whether the event was one of them. */
  undoes(event, typing) {
    if (!(event.ctrlKey || event.metaKey) || event.key.toLowerCase() !== "z" || typing) return false;
    event.preventDefault();
    this.past.go(event.shiftKey ? 1 : -1);
    return true;
  }

  followTheme() {
    const wish = matchMedia("(prefers-color-scheme: dark)");
    wish.addEventListener("change", () => this.setTheme(!wish.matches), { signal: this.life.signal });
    // JupyterLab has a theme of its own.
    const { jpThemeLight } = document.body.dataset;
    this.setTheme(jpThemeLight ? jpThemeLight === "true" : !wish.matches);
  }

  setTheme(light) {
    this.root.dataset.theme = light ? "light" : "dark";
    this.tools.setTheme(light);
  }
}

/** The dialog that lists keys and clicks: pairs of what is pressed and what it does. */
function keysDialog(keys) {
  const dialog = element(
    "dialog",
    { class: "help", "aria-label": "keys" },
    element("h2", {}, "Keys and clicks"),
    element("dl", {}, ...keys.map(([pressed, what]) => element("div", {}, element("dt", {}, pressed), element("dd", {}, what)))),
    button("close", () => dialog.close()),
  );
  return dialog;
}

/** The buttons that every page has at its top; `help` is the dialog of keys. */
class Tools {
  constructor(view, help) {
    this.view = view;
    this.undo = button("↶", () => view.past.go(-1), { "aria-label": "undo", title: "undo (Ctrl + Z)" });
    this.redo = button("↷", () => view.past.go(1), { "aria-label": "redo", title: "redo (Ctrl + Shift + Z)" });
    // All choices are in the address; a frame in a notebook has none.
    this.copied = view.options.page ? button("copy link", () => this.copyLink(), { title: "the address has all choices" }) : null;
    this.keys = button("?", () => help.showModal(), { "aria-label": "keys and clicks", title: "keys and clicks (?)" });
    this.theme = button("", () => view.setTheme(view.root.dataset.theme === "dark"), { class: "theme" });
  }

  roots() {
    return [this.undo, this.redo, this.copied, this.keys, this.theme].filter(Boolean);
  }

  async copyLink() {
    try {
      await navigator.clipboard.writeText(location.href);
      this.copied.textContent = "copied";
    } catch {
      this.copied.textContent = "copy the address";
    }
    setTimeout(() => (this.copied.textContent = "copy link"), 2000);
  }

  draw() {
    this.undo.disabled = !this.view.past.can(-1);
    this.redo.disabled = !this.view.past.can(1);
  }

  setTheme(light) {
    this.theme.textContent = light ? "☾" : "☀";
    const label = light ? "change to dark" : "change to light";
    this.theme.setAttribute("aria-label", label);
    this.theme.title = label;
  }
}
