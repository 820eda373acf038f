// The console's Overview, and the newest job in its Round tab: each asks every few seconds, while its tab is open, what is new.

import { api, attach, pageOf } from "./island.js";

const TICK_MS = 3000;

class Live {
  constructor(root, host, path) {
    this.path = path;
    root.innerHTML = `<style></style><style>.note { padding: 16px 0; font: 16px/1.6 system-ui, sans-serif; }</style>
      <p class="note" role="status">Counting…</p><div></div>`;
    [this.sheet, this.note, this.place] = [root.querySelector("style"), root.querySelector(".note"), root.querySelector("div")];
    this.mark = "";
    new IntersectionObserver(([entry]) => entry.isIntersecting && this.tick()).observe(host); // its tab was opened
    setInterval(() => host.checkVisibility() && !document.hidden && this.tick(), TICK_MS);
  }

  async tick() {
    if (this.asking) return;
    this.asking = true;
    try {
      const answer = await api(this.path, this.mark ? { "if-none-match": this.mark } : {});
      if (answer.status !== 304) this.paint(await answer.text(), answer.headers.get("etag"));
      this.note.textContent = "";
    } catch (error) {
      this.note.textContent = error instanceof TypeError ? "The app does not answer; trying again." : error.message;
    }
    this.note.hidden = !this.note.textContent;
    this.asking = false;
  }

  // What is open stays open, and the keyboard stays where it was.
  paint(text, mark) {
    const { style, place } = pageOf(text);
    const opened = [...this.place.querySelectorAll("details")].map((details) => details.open);
    place.querySelectorAll("details").forEach((details, i) => (details.open = opened[i] ?? false));
    const stops = "summary, [tabindex]";
    const focused = [...this.place.querySelectorAll(stops)].indexOf(this.place.getRootNode().activeElement);
    if (this.sheet.textContent !== style) this.sheet.textContent = style;
    this.place.replaceChildren(place);
    place.querySelectorAll(stops)[focused]?.focus({ preventScroll: true });
    this.mark = mark;
  }
}

attach("overview-host", (root, host) => new Live(root, host, "/overview.html"));
attach("now-host", (root, host) => new Live(root, host, "/now.html"));
