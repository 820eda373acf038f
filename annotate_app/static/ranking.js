// Three to five responses put in order, best first: with the letter keys, with buttons, or by dragging; ties share a place.

import { t } from "./texts.js";

export class Ranking {
  /** submit: called with the groups of letters, best first, once all are placed. */
  constructor(root, find, submit) {
    Object.assign(this, { root, find, submit });
    this.groups = []; // of letters, best first
    this.letters = [];
    find("rank-submit").addEventListener("click", () => this.finish());
    find("rank-order").addEventListener("pointerdown", (event) => this.#drag(event));
  }

  /** Shows a ranking, or steps aside for a pair. */
  show(pair) {
    const ranking = pair?.kind === "ranking";
    this.find("pair").classList.toggle("ranking", ranking);
    this.find("bar").classList.toggle("ranking", ranking);
    this.letters = ranking ? pair.responses.map(({ label }) => label) : [];
    this.groups = [];
    this.find("ranked").replaceChildren(...(ranking ? pair.responses.map((response) => this.#card(response)) : []));
    this.#paint();
  }

  /** The order as it was before an undo. */
  restore(groups) {
    this.groups = groups;
    this.#paint();
  }

  /** Whether a key was one of ours. */
  takesKey(key) {
    if (!this.letters.length) return false;
    if (this.letters.includes(key)) this.place(key);
    else if (key === "=") this.tie(this.groups.length - 1);
    else if (key === "backspace") this.remove(this.groups.at(-1)?.at(-1));
    else if (key === "enter") this.finish();
    else return ["t", "1", "2", "3", "m", "e", "d", "r", "arrowleft", "arrowright", "a", "b"].includes(key); // mean nothing here
    return true;
  }

  /** Best of those not placed yet; a placed one is taken back. */
  place(letter) {
    if (this.groups.flat().includes(letter)) return this.remove(letter);
    this.groups.push([letter]);
    this.#paint();
  }

  remove(letter) {
    this.groups = this.groups.map((group) => group.filter((other) => other !== letter)).filter((group) => group.length);
    this.#paint();
  }

  /** Joins a place with the one before, or parts it again. */
  tie(place) {
    if (place < 0) return;
    if (this.groups[place].length > 1) this.groups.splice(place, 1, ...this.groups[place].map((letter) => [letter]));
    else if (place > 0) this.groups.splice(place - 1, 2, [...this.groups[place - 1], ...this.groups[place]]);
    this.#paint();
  }

  finish() {
    if (this.groups.flat().length === this.letters.length) this.submit(this.groups.map((group) => [...group]));
    else this.find("announce").textContent = t("rank.missing");
  }

  #card({ label, html }) {
    const card = document.createElement("section");
    card.className = "card";
    card.dataset.letter = label;
    card.setAttribute("aria-label", t("pair.response", { side: label.toUpperCase() }));
    card.innerHTML = `
      <div class="rank-head"><button type="button" class="rank-place" aria-keyshortcuts="${label}"><span class="letter">${label.toUpperCase()}</span><span class="place"></span></button></div>
      <div class="text" role="region" tabindex="0" dir="auto" aria-label="${t("pair.response_text", { side: label.toUpperCase() })}">${html || `<p class="nothing">${t("pair.empty")}</p>`}</div>`;
    card.querySelector("button").addEventListener("click", () => this.place(label));
    return card;
  }

  #paint() {
    const placeOf = (letter) => this.groups.findIndex((group) => group.includes(letter));
    for (const card of this.find("ranked").children) {
      const place = placeOf(card.dataset.letter);
      card.classList.toggle("placed", place >= 0);
      card.querySelector(".place").textContent = place < 0 ? t("rank.place", { number: this.groups.length + 1 }) : t("rank.placed", { number: place + 1 });
    }
    this.find("rank-order").replaceChildren(...this.groups.flatMap((group, place) => this.#chips(group, place)));
    this.find("rank-submit").disabled = !this.letters.length || this.groups.flat().length < this.letters.length;
    if (this.letters.length) this.find("announce").textContent = this.said();
  }

  /** The order in words: "B, then A and C". */
  said() {
    return this.groups.map((group) => group.join(" = ").toUpperCase()).join(" > ");
  }

  #chips(group, place) {
    return group.flatMap((letter, i) => {
      const chip = Object.assign(document.createElement("button"), { type: "button", className: "letter drag", textContent: letter.toUpperCase() });
      chip.dataset.letter = letter;
      chip.setAttribute("aria-label", t("rank.move", { side: letter.toUpperCase() }));
      chip.addEventListener("keydown", (event) => this.#arrow(event, letter));
      if (place === 0 && i === 0) return [chip];
      const tied = i > 0;
      const sign = Object.assign(document.createElement("button"), { type: "button", className: "sign", textContent: tied ? "=" : ">" });
      sign.setAttribute("aria-label", t(tied ? "rank.part" : "rank.join"));
      sign.addEventListener("click", () => this.tie(place));
      return [sign, chip];
    });
  }

  #arrow(event, letter) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    this.#move(letter, this.groups.findIndex((group) => group.includes(letter)) + step);
    this.find("rank-order").querySelector(`[data-letter="${letter}"]`).focus();
  }

  /** A letter alone at another place of the order. */
  #move(letter, place) {
    this.groups = this.groups.map((group) => group.filter((other) => other !== letter)).filter((group) => group.length);
    this.groups.splice(Math.max(0, Math.min(place, this.groups.length)), 0, [letter]);
    this.#paint();
  }

  /** The chip follows the pointer; it lands before the first chip whose middle lies to its right. */
  #drag(event) {
    const chip = event.target.closest(".drag");
    if (!chip) return;
    const { letter } = chip.dataset;
    let moved = false;
    const follow = (at) => {
      moved ||= Math.abs(at.clientX - event.clientX) > 5;
      chip.style.translate = `${at.clientX - event.clientX}px 0`;
    };
    const drop = (at) => {
      removeEventListener("pointermove", follow);
      removeEventListener("pointerup", drop);
      chip.style.translate = "";
      if (!moved) return;
      const others = [...this.find("rank-order").querySelectorAll(".drag")].filter((other) => other !== chip);
      const after = others.filter((other) => other.getBoundingClientRect().x + other.offsetWidth / 2 < at.clientX).map((other) => other.dataset.letter);
      const groups = this.groups.map((group) => group.filter((other) => other !== letter)).filter((group) => group.length);
      this.#move(letter, groups.filter((group) => group.some((other) => after.includes(other))).length);
    };
    addEventListener("pointermove", follow);
    addEventListener("pointerup", drop);
  }
}
