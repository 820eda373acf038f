// The keyboard: one table from key to action, and when keys belong to somebody else.

const ACTIONS = {
  a: ["judge", "a"],
  arrowleft: ["judge", "a"],
  b: ["judge", "b"],
  arrowright: ["judge", "b"],
  t: ["judge", "tie"],
  x: ["judge", "both_bad"],
  s: ["askSkip"],
  1: ["toggleStrength", 1],
  2: ["toggleStrength", 2],
  3: ["toggleStrength", 3],
  u: ["undo"],
  r: ["writeNote"],
  g: ["toggleGuidelines"],
  "?": ["openHelp"],
  arrowdown: ["scrollBoth", 90],
  arrowup: ["scrollBoth", -90],
};
const REPEATABLE = new Set(["scrollBoth"]);

/** Calls ``actions[name](argument)`` for each shortcut. */
export function listen(root, actions) {
  document.addEventListener("keydown", (event) => {
    // Inside a shadow root event.target is the host: only the path tells what has the focus.
    const focused = event.composedPath()[0];
    if (event.defaultPrevented || event.isComposing || root.querySelector("dialog[open]")) return;
    if (isField(focused)) {
      if (event.key === "Escape" || (event.key === "Enter" && (event.ctrlKey || event.metaKey))) {
        event.preventDefault();
        focused.blur();
      }
      return;
    }
    const key = event.key.toLowerCase();
    if (key === "enter" && event.repeat && focused?.closest?.("button")) return event.preventDefault(); // one press, one verdict
    if ((event.ctrlKey || event.metaKey) && key === "z" && !event.shiftKey && !event.altKey) return run(["undo"], event, actions);
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (key.startsWith("arrow") && (focused?.closest?.(".text") || focused?.matches?.("pre"))) {
      if (key === "arrowup" || key === "arrowdown") return; // the focused text scrolls by itself
    }
    if (Object.hasOwn(ACTIONS, key)) run(ACTIONS[key], event, actions);
  });
}

function run([name, argument], event, actions) {
  if (event.repeat && !REPEATABLE.has(name)) return; // a key held down is one press
  if (actions[name](argument) !== false) event.preventDefault();
}

function isField(element) {
  return element instanceof HTMLElement && (element.matches("input, textarea, select") || element.isContentEditable);
}
