// What may go with a verdict: aspects, reason tags, a rationale of some length, marked text. Gathered before the verdict key.

import { t } from "./texts.js";

const MAX_MARKS = 20;
const QUOTED = 40; // characters of marked text that its chip shows

export class Extras {
  /** find: element by id. campaign: what the researcher asks. */
  constructor(root, find, campaign) {
    Object.assign(this, { root, find, campaign });
    this.aspects = {};
    this.tags = new Set();
    this.marks = [];
    this.#build();
    const note = find("note");
    const wanted = campaign.min_rationale;
    find("note-name").textContent = note.placeholder = wanted ? t("bar.rationale_needed", { number: wanted }) : t("bar.rationale");
    note.addEventListener("input", () => this.#count());
  }

  /** Empty for a new pair, or as an earlier answer had it. */
  reset(answer = {}) {
    this.aspects = { ...answer.aspects };
    this.tags = new Set(answer.reasons);
    this.marks = [...(answer.spans ?? [])];
    this.find("note").value = answer.rationale ?? "";
    this.#paint();
  }

  /** The fields of a judgment. */
  fields(verdict) {
    const skipped = verdict === "skip";
    return {
      aspects: skipped ? {} : { ...this.aspects },
      reasons: skipped ? [] : [...this.tags],
      spans: skipped ? [] : this.marks.map(({ side, start, end, note }) => ({ side, start, end, note })),
      rationale: this.find("note").value.trim() || null,
    };
  }

  /** How many characters a verdict still lacks; a ranking has none of its own (undefined). */
  lacking(verdict) {
    if (verdict && verdict !== "a" && verdict !== "b") return 0;
    return Math.max(0, this.campaign.min_rationale - this.find("note").value.trim().length);
  }

  /** Marks the selected text of a response; returns what to say about it. */
  mark(pair) {
    const selection = this.#selection();
    if (!selection) return t("mark.none");
    const [side, range] = selection;
    if (!side) return t("mark.across");
    if (this.marks.length === MAX_MARKS) return t("mark.full", { number: MAX_MARKS });
    const raw = pair[`response_${side}`].text;
    const place = findInRaw(raw, range.toString(), shareBefore(this.find(`text-${side}`), range));
    if (!place) return t("mark.unplaced");
    this.marks.push({ side, ...place, note: null, range: range.cloneRange() });
    getSelection().removeAllRanges();
    this.#paint();
    return t("mark.done", { side: side.toUpperCase(), text: quote(raw, place) });
  }

  /** Shows the pair's texts, which the chips quote. */
  show(pair) {
    this.pair = pair;
    this.#paint();
  }

  #selection() {
    const boxes = ["a", "b"].map((side) => [side, this.find(`text-${side}`)]);
    const selection = this.root.getSelection?.() ?? getSelection(); // only Chromium sees into a shadow root this way
    if (!selection?.rangeCount || selection.isCollapsed) return null;
    const range = selection.getRangeAt(0);
    const found = boxes.find(([, box]) => box.contains(range.startContainer) && box.contains(range.endContainer));
    return [found?.[0], range];
  }

  #build() {
    const { aspects, reason_tags: tags } = this.campaign;
    const box = this.find("extras");
    box.hidden = !aspects.length && !tags.length;
    const rows = aspects.map((aspect) => {
      const choices = [["a", 1], ["same", 0], ["b", -1]].map(([side, value]) => {
        const told = side === "same" ? t("aspect.equal") : t("aspect.better", { side: side.toUpperCase() });
        const button = chip(t(`aspect.${side}`), () => this.#rate(aspect, value));
        button.setAttribute("aria-label", t("aspect.choice", { aspect, choice: told }));
        Object.assign(button.dataset, { aspect, value });
        return button;
      });
      return group(aspect, choices, "aspect");
    });
    const chips = tags.map((tag) => Object.assign(chip(tag, () => this.#tag(tag)), { tag }));
    for (const button of chips) button.dataset.tag = button.tag;
    if (rows.length) box.append(wrap(t("bar.aspects"), rows, "aspects"));
    if (chips.length) box.append(wrap(t("bar.tags"), chips, "tags"));
  }

  #rate(aspect, value) {
    if (this.aspects[aspect] === value) delete this.aspects[aspect];
    else this.aspects[aspect] = value;
    this.#paint();
  }

  #tag(tag) {
    if (!this.tags.delete(tag)) this.tags.add(tag);
    this.#paint();
  }

  #paint() {
    for (const button of this.root.querySelectorAll("[data-aspect]")) {
      button.setAttribute("aria-pressed", String(this.aspects[button.dataset.aspect] === Number(button.dataset.value)));
    }
    for (const button of this.root.querySelectorAll("[data-tag]")) button.setAttribute("aria-pressed", String(this.tags.has(button.dataset.tag)));
    this.#count();
    this.#paintMarks();
  }

  #count() {
    const wanted = this.campaign.min_rationale;
    const number = this.find("note").value.trim().length;
    this.find("note-count").textContent = wanted ? t("bar.rationale_count", { number, wanted }) : "";
    this.find("note-count").classList.toggle("enough", number >= wanted);
  }

  #paintMarks() {
    for (const side of ["a", "b"]) {
      const list = this.find(`marks-${side}`);
      const own = this.marks.filter((mark) => mark.side === side);
      list.hidden = !own.length;
      list.replaceChildren(...own.map((mark) => this.#markLine(mark)));
    }
    // Underlined where it stands, without touching the text's elements.
    CSS.highlights?.set("nashloop-mark", new Highlight(...this.marks.map((mark) => mark.range).filter(Boolean)));
  }

  #markLine(mark) {
    const item = document.createElement("li");
    const text = quote(this.pair?.[`response_${mark.side}`].text ?? "", mark);
    const quoted = document.createElement("q");
    quoted.textContent = text;
    const note = Object.assign(document.createElement("input"), { value: mark.note ?? "", maxLength: 500 });
    note.setAttribute("aria-label", t("mark.note"));
    note.placeholder = t("mark.note");
    note.addEventListener("input", () => (mark.note = note.value.trim() || null));
    const remove = chip("✕", () => ((this.marks = this.marks.filter((other) => other !== mark)), this.#paintMarks()));
    remove.className = "plain";
    remove.setAttribute("aria-label", t("mark.remove", { text }));
    item.append(quoted, note, remove);
    return item;
  }
}

/** Where selected words are in a text whose Markdown signs the reader does not see: {start, end} in characters, or null. */
export function findInRaw(raw, selected, share) {
  const words = selected.trim().split(/\s+/).filter(Boolean);
  if (!words.length) return null;
  const pattern = words.map((word) => [...word].map(escaped).join("[*_`~\\\\]*")).join("[\\s*_`~#>|\\\\-]*");
  let best = null;
  for (const match of raw.matchAll(new RegExp(pattern, "gu"))) {
    const distance = Math.abs(match.index - share * raw.length);
    if (!best || distance < best.distance) best = { start: match.index, end: match.index + match[0].length, distance };
  }
  if (!best) return null;
  return { start: characters(raw, best.start), end: characters(raw, best.end) };
}

/** Offsets count characters as other languages do, not UTF-16 units. */
function characters(text, unit) {
  return [...text.slice(0, unit)].length;
}

function quote(raw, { start, end }) {
  const all = [...raw].slice(start, end);
  return all.length > QUOTED ? `${all.slice(0, QUOTED).join("")}…` : all.join("");
}

function escaped(character) {
  return character.replace(/[.*+?^${}()|[\]\\/-]/, "\\$&");
}

/** Which share of a box's text comes before a range. */
function shareBefore(box, range) {
  const before = document.createRange();
  before.selectNodeContents(box);
  before.setEnd(range.startContainer, range.startOffset);
  return before.toString().length / Math.max(1, box.textContent.length);
}

function chip(text, act) {
  const button = Object.assign(document.createElement("button"), { type: "button", className: "chip", textContent: text });
  button.setAttribute("aria-pressed", "false");
  button.addEventListener("click", act);
  return button;
}

function group(name, children, className) {
  const box = Object.assign(document.createElement("div"), { className });
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", name);
  const word = Object.assign(document.createElement("span"), { className: "ask", textContent: name });
  word.setAttribute("aria-hidden", "true");
  box.append(word, ...children);
  return box;
}

function wrap(name, children, className) {
  const box = group(name, children, className);
  if (className === "aspects") box.firstChild.remove(); // each row says its aspect
  return box;
}
