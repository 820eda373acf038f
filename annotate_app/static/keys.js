// The keyboard: one table of shortcuts, from which the help is made as well, and when keys belong to somebody else.

/** group: part of the help. keys: as the browser names them, in lower case. show: as the help shows them. text: its sentence. */
const SHORTCUTS = [
  { group: "judge", keys: ["a", "arrowleft"], show: ["A", "←"], text: "key.a", act: ["judge", "a"] },
  { group: "judge", keys: ["b", "arrowright"], show: ["B", "→"], text: "key.b", act: ["judge", "b"] },
  { group: "judge", keys: ["t"], show: ["T"], text: "key.tie", act: ["judge", "tie"] },
  { group: "judge", keys: ["x"], show: ["X"], text: "key.both_bad", act: ["judge", "both_bad"] },
  { group: "judge", keys: ["1", "2", "3"], show: ["1", "2", "3"], text: "key.strength", act: ["toggleStrength"], scale: false },
  { group: "judge", keys: ["1", "2", "3", "4", "5", "6", "7"], show: ["1", "…", "7"], text: "key.scale", act: ["judgeOnScale"], scale: true },
  { group: "judge", keys: ["s"], show: ["S"], text: "key.skip", act: ["askSkip"] },
  { group: "judge", keys: ["u"], show: ["U", "Ctrl+Z"], text: "key.undo", act: ["undo"] },
  { group: "say_more", keys: ["w"], show: ["W"], text: "key.why", act: ["writeNote"] },
  { group: "say_more", keys: ["e"], show: ["E"], text: "key.edit", act: ["askEdit"], needs: "allow_edits" },
  { group: "say_more", keys: ["m"], show: ["M"], text: "key.mark", act: ["mark"] },
  { group: "say_more", keys: ["f"], show: ["F"], text: "key.flag", act: ["askFlag"] },
  { group: "say_more", keys: ["n"], show: ["N"], text: "key.message", act: ["askMessage"] },
  { group: "read", keys: ["arrowdown"], show: ["↓", "↑"], text: "key.scroll", act: ["scrollBoth", 90], repeats: true },
  { group: "read", keys: ["arrowup"], show: [], act: ["scrollBoth", -90], repeats: true },
  { group: "read", keys: ["d"], show: ["D"], text: "key.differences", act: ["read", "differences"] },
  { group: "read", keys: ["r"], show: ["R"], text: "key.raw", act: ["read", "raw"] },
  { group: "page", keys: ["p"], show: ["P"], text: "key.live", act: ["openLive"], needs: "live" },
  { group: "page", keys: ["g"], show: ["G"], text: "key.guidelines", act: ["toggleGuidelines"] },
  { group: "page", keys: ["h"], show: ["H"], text: "key.history", act: ["openHistory"] },
  { group: "page", keys: ["?"], show: ["?"], text: "key.help", act: ["openHelp"] },
];

/** The shortcuts that this campaign has. */
export function shortcutsOf(campaign) {
  return SHORTCUTS.filter(({ scale, needs }) => (scale ?? campaign.ask_strength) === campaign.ask_strength && (!needs || campaign[needs]));
}

/** Calls ``actions[name](argument)`` for each shortcut; digits are the argument where the table gives none. */
export function listen(root, actions, campaign) {
  const byKey = new Map(shortcutsOf(campaign).flatMap((shortcut) => shortcut.keys.map((key) => [key, shortcut])));
  document.addEventListener("keydown", (event) => {
    // Inside a shadow root event.target is the host: only the path tells what has the focus.
    const focused = event.composedPath()[0];
    if (event.defaultPrevented || event.isComposing || root.querySelector("dialog[open]")) return;
    if (isField(focused) && !focused.closest("dialog:not([open])")) return leaveField(event, focused, actions);
    const key = event.key.toLowerCase();
    if (key === "enter" && event.repeat && focused?.closest?.("button")) return event.preventDefault(); // one press, one verdict
    if ((event.ctrlKey || event.metaKey) && key === "z" && !event.shiftKey && !event.altKey) return run(byKey.get("u"), key, event, actions);
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (key.startsWith("arrow") && (focused?.closest?.(".text") || focused?.matches?.("pre"))) {
      if (key === "arrowup" || key === "arrowdown") return; // the focused text scrolls by itself
    }
    if (!event.repeat && !(key === "enter" && focused?.closest?.("button")) && actions.takesKey(key)) return event.preventDefault();
    if (byKey.has(key)) run(byKey.get(key), key, event, actions);
  });
}

function leaveField(event, field, actions) {
  const done = event.key === "Enter" && (event.ctrlKey || event.metaKey);
  if (event.key !== "Escape" && !done) return;
  event.preventDefault();
  field.blur();
  if (done) actions.leftNote();
}

function run({ act: [name, argument], repeats }, key, event, actions) {
  if (event.repeat && !repeats) return; // a key held down is one press
  if (actions[name](argument ?? (/^\d$/.test(key) ? Number(key) : undefined)) !== false) event.preventDefault();
}

function isField(element) {
  return element instanceof HTMLElement && (element.matches("input, textarea, select") || element.isContentEditable);
}
