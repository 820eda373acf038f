// How two long texts are read: scrolled in step, differences marked, as they were written, to their end. Marks are CSS highlights,
// so that the texts' elements stay as the server made them.

import { t } from "./texts.js";

const IN_STEP = "nashloop.in_step";
const MOST_CELLS = 4_000_000; // of the table of common words; beyond it only words that the other text lacks are marked
const LEAST_COMMON = 0.3; // of the shorter text's words; texts that share less are not marked all over
const CHUNK = 100_000; // characters of a cut text that a press shows
const SIDES = ["a", "b"];
// Controls and characters that reorder text: written out, as the server does.
const CONTROLS = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/g;

export class Reading {
  constructor(root, find) {
    Object.assign(this, { root, find, raw: false, differences: false, pair: null });
    this.inStep = localStorage.getItem(IN_STEP) !== "no";
    for (const side of SIDES) find(`text-${side}`).addEventListener("scroll", () => this.#scrolled(side), { passive: true });
    for (const name of ["raw", "differences", "in-step"]) find(name).addEventListener("click", () => this.toggle(name));
    new ResizeObserver(() => SIDES.forEach((side) => this.#sayMore(side))).observe(find("pair"));
  }

  /** After a pair was painted. */
  show(pair) {
    this.pair = pair;
    for (const side of SIDES) this.#paint(side);
    this.#paintButtons();
  }

  /** Turns a way of reading on or off; returns what to say about it. */
  toggle(name) {
    if (!this.pair) return "";
    if (name === "in-step") localStorage.setItem(IN_STEP, (this.inStep = !this.inStep) ? "yes" : "no");
    else this[name] = !this[name];
    this.show(this.pair);
    return this.differences && name === "differences" ? this.find("differences").title : "";
  }

  #paint(side) {
    const box = this.find(`text-${side}`);
    const { text, html, truncated } = this.pair[`response_${side}`];
    if (this.raw) box.replaceChildren(written(text.slice(0, CHUNK)));
    else if (box.querySelector(".raw")) box.innerHTML = html; // made inert by the server
    const shown = this.raw ? CHUNK : truncated ? Array.from(box.textContent).length : Infinity;
    if (text.length > shown) box.append(this.#rest(side, text, shown));
    for (const code of box.querySelectorAll("pre, table, math[display=block]")) if (code.scrollWidth > code.clientWidth) code.tabIndex = 0;
    for (const code of box.querySelectorAll("pre:not(.raw) > code")) addCopy(code);
    this.#sayMore(side);
  }

  /** A button that shows the next part of a text that was cut. */
  #rest(side, text, from) {
    const button = Object.assign(document.createElement("button"), { type: "button", className: "chip rest" });
    button.textContent = t("reading.rest", { number: (text.length - from).toLocaleString() });
    button.addEventListener("click", () => {
      button.before(written(text.slice(from, from + CHUNK)));
      if (text.length > from + CHUNK) button.replaceWith(this.#rest(side, text, from + CHUNK));
      else button.remove();
      this.#sayMore(side);
    });
    return button;
  }

  #paintButtons() {
    for (const [name, pressed] of [["raw", this.raw], ["differences", this.differences], ["in-step", this.inStep]]) {
      this.find(name).setAttribute("aria-pressed", String(pressed));
    }
    const ranges = this.differences ? differing(this.find("text-a"), this.find("text-b")) : [];
    this.find("differences").title = ranges ? "" : t("reading.all_differ");
    this.find("differences").classList.toggle("unlike", !ranges);
    CSS.highlights?.set("nashloop-differs", new Highlight(...(ranges ?? [])));
  }

  /** The other text follows in proportion, once for every movement of the reader's. */
  #scrolled(side) {
    this.#sayMore(side);
    const [box, other] = [this.find(`text-${side}`), this.find(`text-${side === "a" ? "b" : "a"}`)];
    if (this.following === box) return (this.following = null);
    const [own, room] = [box.scrollHeight - box.clientHeight, other.scrollHeight - other.clientHeight];
    if (!this.inStep || own <= 0 || room <= 0) return;
    const place = Math.round((box.scrollTop / own) * room);
    if (Math.abs(place - other.scrollTop) < 1) return;
    this.following = other;
    other.scrollTop = place;
  }

  #sayMore(side) {
    const box = this.find(`text-${side}`);
    box.classList.toggle("goes-on", box.scrollHeight - box.clientHeight - box.scrollTop > 12);
  }
}

/** Words of both boxes that are not in their longest common sequence, as ranges; null where they share hardly any. */
export function differing(boxA, boxB) {
  const [a, b] = [wordsOf(boxA), wordsOf(boxB)];
  const common = commonWords(a.map(({ word }) => word), b.map(({ word }) => word));
  if (common[0].size < LEAST_COMMON * Math.min(a.length, b.length)) return null;
  return [...a.filter((_, i) => !common[0].has(i)), ...b.filter((_, i) => !common[1].has(i))].map(({ range }) => range);
}

/** Places, in each list, of a longest common sequence; with many words, of all words that both have. */
export function commonWords(a, b) {
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start += 1;
  let [endA, endB] = [a.length, b.length];
  while (endA > start && endB > start && a[endA - 1] === b[endB - 1]) (endA -= 1), (endB -= 1);
  const found = [new Set(), new Set()];
  for (let i = 0; i < start; i++) found[0].add(i), found[1].add(i);
  for (let i = endA, j = endB; i < a.length; i++, j++) found[0].add(i), found[1].add(j);
  const [rows, columns] = [endA - start, endB - start];
  if (rows * columns > MOST_CELLS) {
    const [inA, inB] = [new Set(a), new Set(b)];
    a.forEach((word, i) => inB.has(word) && found[0].add(i));
    b.forEach((word, j) => inA.has(word) && found[1].add(j));
    return found;
  }
  const length = new Uint16Array((rows + 1) * (columns + 1)); // of the common sequence of what follows (row, column)
  const at = (i, j) => i * (columns + 1) + j;
  for (let i = rows - 1; i >= 0; i--) {
    for (let j = columns - 1; j >= 0; j--) {
      const same = a[start + i] === b[start + j];
      length[at(i, j)] = same ? length[at(i + 1, j + 1)] + 1 : Math.max(length[at(i + 1, j)], length[at(i, j + 1)]);
    }
  }
  for (let i = 0, j = 0; i < rows && j < columns; ) {
    if (a[start + i] === b[start + j]) found[0].add(start + i++), found[1].add(start + j++);
    else if (length[at(i + 1, j)] >= length[at(i, j + 1)]) i += 1;
    else j += 1;
  }
  return found;
}

function wordsOf(box) {
  const words = [];
  const walker = document.createTreeWalker(box, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    if (walker.currentNode.parentElement.closest("button")) continue;
    for (const { 0: word, index } of walker.currentNode.data.matchAll(/\S+/g)) {
      const range = new StaticRange({
        startContainer: walker.currentNode, startOffset: index, endContainer: walker.currentNode, endOffset: index + word.length,
      });
      words.push({ word, range });
    }
  }
  return words;
}

/** Text exactly as it was written. */
function written(text) {
  const box = Object.assign(document.createElement("pre"), { className: "raw", tabIndex: 0, dir: "auto" });
  box.textContent = text.replace(CONTROLS, (sign) => `[U+${sign.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}]`);
  return box;
}

function addCopy(code) {
  if (code.parentElement.querySelector(".copy")) return;
  const button = Object.assign(document.createElement("button"), { type: "button", className: "copy", textContent: t("reading.copy") });
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = t("reading.copied");
    setTimeout(() => (button.textContent = t("reading.copy")), 1_500);
  });
  code.parentElement.append(button);
}
