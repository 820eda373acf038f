// The console's Markdown tables: those wider than their place can be scrolled by keyboard, too, and say what they are.

const settle = () => {
  for (const box of document.querySelectorAll(".sheet .prose, .prose.sheet")) {
    const wide = box.scrollWidth > box.clientWidth;
    if (wide === box.hasAttribute("tabindex")) continue;
    if (wide) {
      box.tabIndex = 0;
      box.setAttribute("role", "region");
      box.setAttribute("aria-label", "Table, scrolls sideways");
    } else for (const name of ["tabindex", "role", "aria-label"]) box.removeAttribute(name);
  }
};

let asked = false;
const soon = () => {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = false;
    settle();
  });
};
new MutationObserver(soon).observe(document.documentElement, { childList: true, subtree: true });
addEventListener("resize", soon);
