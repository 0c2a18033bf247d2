// The keyboard: what each key does, and the page that lists them.

const KEYS = [
  ["1 … 9", "choose what lies on the picture (with the picture or the board in focus)"],
  ["arrows", "move over the picture's patches, or over the board's heads and blocks, where the focus is"],
  ["Shift + arrows", "add what the arrows move over"],
  ["click, drag", "select a patch, a box of patches"],
  ["Shift + click, drag", "add to the selection, or take from it"],
  ["Esc", "select nothing"],
  ["Space (held)", "lift the map and see the picture"],
  ["[ and ]", "the block before and after"],
  ["/", "search"],
  ["Ctrl + Z, Ctrl + Shift + Z", "undo, redo; so do the browser's Back and Forward"],
  ["?", "this list"],
];

class Keyboard {
  constructor(view, target) {
    Object.assign(this, { view, help: keysDialog(KEYS) });
    target.addEventListener("keydown", (event) => this.down(event));
    target.addEventListener("keyup", ({ key }) => key === " " && this.lift(false));
    window.addEventListener("blur", () => this.lift(false), { signal: view.life.signal });
  }

  lift(up) {
    for (const stage of this.view.stages()) stage.lift(up);
  }

  down(event) {
    const { view } = this;
    const typing = event.target.closest?.("input[type=search], select, textarea, dialog");
    if (view.undoes(event, typing) || typing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "?") this.help.showModal();
    else if (event.key === "/") {
      event.preventDefault();
      view.search.input.focus();
    } else if (event.key === "Escape") {
      if (view.state.tokens.length) view.choose({ tokens: [] });
    } else this.inPanel(event);
  }

  /** Keys of the picture and the board act where one of them has the focus; elsewhere arrows scroll. */
  inPanel(event) {
    const { view } = this;
    const stage = view.stages().find(({ frame }) => frame === event.target);
    if (!stage && !event.target.closest?.(".board, .strip, .layers")) return;
    const layer = view.layers()[Number(event.key) - 1];
    const arrow = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    const block = { "[": -1, "]": 1 }[event.key];
    if (layer) view.choose({ layer: layer.name });
    else if (block) view.choose({ block: clamp(view.state.block + block, 0, view.facts.blocks.length - 1) });
    else if (stage && event.key === " ") this.lift(true);
    else if (stage && arrow) stage.move(...arrow, event.shiftKey);
    else return;
    event.preventDefault();
  }
}
