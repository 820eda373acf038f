// The labelling page: an island in an empty Gradio column. Pairs are leased ahead, a verdict paints the next pair at once and
// is sent in the background; one request per verdict, whose answer brings the pair after next.

import { listen } from "./keys.js";
import { ApiError, Sender, call, serverNow } from "./sender.js";
import { MARKUP, describe, paintAway, paintPair, paintProgress, paintTools } from "./view.js";

const AHEAD = 2; // pairs held besides the one shown
const POLL_MS = 5_000;
const RENEW_MS = 4 * 60_000;
const TOAST_MS = 6_000;
const REFRESH_EVERY = 10; // judgments between looks at the server's count
const WIDE = matchMedia("(min-width: 1180px)");

const sheet = fetch(new URL("./labelling.css", import.meta.url)).then((response) => response.text());
waitForHost().then(start);

function waitForHost() {
  return new Promise((resolve) => {
    const look = () => {
      const host = document.getElementById("island-host");
      if (host) observer.disconnect(), resolve(host);
    };
    const observer = new MutationObserver(look);
    observer.observe(document.documentElement, { childList: true, subtree: true });
    look();
  });
}

async function start(host) {
  const root = host.shadowRoot ?? host.attachShadow({ mode: "open" });
  const styles = new CSSStyleSheet();
  styles.replaceSync(await sheet);
  root.adoptedStyleSheets = [styles];
  root.innerHTML = MARKUP;
  followTheme(host);
  await new Labelling(root).open();
}

/** Gradio says light or dark by a class on the body; not every browser can see that from inside a shadow root. */
function followTheme(host) {
  const copy = () => (host.dataset.theme = document.body.classList.contains("dark") ? "dark" : "light");
  new MutationObserver(copy).observe(document.body, { attributes: true, attributeFilter: ["class"] });
  copy();
}

class Labelling {
  constructor(root) {
    this.root = root;
    this.find = (id) => root.getElementById(id);
    this.pairs = []; // the first is shown
    this.history = []; // own verdicts of this visit, newest last
    this.strength = null;
    this.shownAt = null;
    this.asked = 0; // pairs that verdicts on their way asked for
    this.progress = { done_today: 0, done_total: 0, remaining: 0, median_seconds: null, preparing: false };
    this.filling = null;
    this.undoing = false;
  }

  async open() {
    this.find("campaign").textContent = document.title;
    const me = await this.#untilReached(() => call("GET", "/me"));
    this.sender = new Sender({
      storageKey: `nashloop.unsent.${me.annotator_id}`,
      onSaved: (...saved) => this.#saved(...saved),
      onRefused: (body, error) => this.#refused(body, error),
      onChange: () => this.#paintSaving(),
    });
    this.find("console-link").hidden = me.role === "annotator";
    this.find("sign-out").title = `Signed in as ${me.name}`;
    this.#wire();
    this.#loadGuidelines();
    await this.sender.flushed(); // verdicts from before a reload, or their pairs would be offered again
    await Promise.all([this.#fill(), this.#loadProgress()]);
    setInterval(() => this.#tick(), POLL_MS);
    setInterval(() => this.#renew(), RENEW_MS);
  }

  // Verdicts

  get current() {
    return this.pairs[0] ?? null;
  }

  judge(verdict, reasons = []) {
    const pair = this.current;
    if (!pair || this.undoing) return;
    const decided = verdict === "a" || verdict === "b";
    const missing = Math.max(0, AHEAD + 1 - (this.pairs.length - 1) - this.asked);
    const body = {
      lease_id: pair.lease_id,
      verdict,
      strength: decided ? this.strength : null,
      rationale: this.find("note").value.trim() || null,
      reasons,
      shown_at: this.shownAt?.toISOString() ?? null,
      next: missing,
    };
    this.asked += missing;
    this.history.push({ pair, body });
    this.pairs.shift();
    this.#count(verdict, 1);
    this.find("toast").classList.remove("shown");
    this.#show(`${describe(body)}. `);
    this.sender.push(body);
  }

  #saved(body, answer, status) {
    this.asked -= body.next;
    this.#add(answer.next);
    // Sent before, its answer lost: pairs leased for that answer are ours and nobody else's, so ask for them.
    if (status === 200 || !this.current) this.#fill();
    if (this.history.length % REFRESH_EVERY === 0) this.#loadProgress();
  }

  #refused(body, error) {
    this.asked -= body.next;
    this.history = this.history.filter((entry) => entry.body.lease_id !== body.lease_id);
    const kind = {
      404: "That verdict was not counted: its pair is no longer open.",
      409: "That pair was answered before, perhaps in another tab. The first answer stands.",
      410: "That pair had waited too long and went to somebody else; this verdict was not counted. On with the next.",
    };
    this.#toast(kind[error.status] ?? `A verdict was not accepted: ${error.message}`);
    this.#fill();
    this.#loadProgress();
  }

  async undo() {
    if (this.undoing) return;
    this.undoing = true;
    try {
      const last = this.history.at(-1) ?? (await this.#lastStored());
      if (!last) this.#toast("There is nothing to undo.");
      else await this.#takeBack(last);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      this.#toast(error.message);
    } finally {
      this.undoing = false;
    }
  }

  async #takeBack(last) {
    let pair = last.pair;
    if (this.sender.takeBack(last.body.lease_id)) this.asked -= last.body.next;
    else {
      if (!(await this.sender.flushed())) return this.#toast("Undo waits until your last verdict is saved.");
      if (last.pair && this.history.at(-1) !== last) return; // it was refused meanwhile, which has been said
      pair = (await call("POST", `/judgments/${last.body.lease_id}/withdraw`)).answer.lease;
    }
    this.history.pop();
    this.pairs.unshift(pair);
    this.#count(last.body.verdict, -1);
    this.#show();
    this.find("note").value = last.body.rationale ?? "";
    if (last.body.rationale) this.#openNote();
    this.strength = last.body.strength;
    this.#paintTools();
    this.#toast(`Taken back. You had said: ${describe(last.body)}.`);
  }

  /** After a reload the visit's history is gone, but the server remembers. */
  async #lastStored() {
    const [judgment] = (await call("GET", "/me/judgments?limit=1")).answer.judgments;
    return judgment && { pair: null, body: { ...judgment, lease_id: judgment.id, next: 0 } };
  }

  // Pairs

  #add(leases) {
    const known = new Set([...this.pairs, ...this.history.map((entry) => entry.pair)].map((pair) => pair?.lease_id));
    const had = this.current;
    this.pairs.push(...leases.filter((lease) => !known.has(lease.lease_id)));
    if (!had && this.current) this.#show();
  }

  /** Lease what is missing, pairs already held first; one call at a time. */
  #fill() {
    this.filling ??= this.#lease().finally(() => (this.filling = null));
    return this.filling;
  }

  async #lease() {
    try {
      const { answer } = await call("POST", "/leases", { count: AHEAD + 1, resume: true });
      this.#add(answer.leases);
      if (!this.current) await this.#loadProgress();
      if (!this.current) this.#away({});
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (!this.current) this.#away({ problem: error.message });
    }
  }

  /** Keep what is held; drop what went to somebody else while this tab slept. */
  async #renew() {
    const ids = this.pairs.map((pair) => pair.lease_id);
    if (!ids.length) return;
    try {
      const held = new Set((await call("POST", "/leases/renew", { lease_ids: ids })).answer.lease_ids);
      const shown = this.current;
      this.pairs = this.pairs.filter((pair) => held.has(pair.lease_id) || !ids.includes(pair.lease_id));
      if (shown !== this.current) {
        this.#show();
        this.#toast("That pair went to somebody else while you were away. Here is another.");
      }
      if (this.pairs.length < AHEAD + 1) this.#fill();
    } catch (error) {
      if (!(error instanceof ApiError)) throw error; // not reached: the next verdict or renewal will say so
    }
  }

  #tick() {
    if (!this.current && !this.sender.unsent.length) this.#fill();
  }

  // Painting

  #show(said = "") {
    this.strength = null;
    this.find("note").value = "";
    const pair = this.current;
    this.#paintTools();
    if (!pair) {
      this.#setState("loading");
      return;
    }
    paintPair(this.find, pair);
    this.#setState("pair");
    this.shownAt = document.hidden ? null : serverNow();
    this.find("announce").textContent = `${said}New pair. Prompt: ${this.find("text-prompt").textContent.slice(0, 160)}`;
  }

  #away({ problem = null }) {
    paintAway(this.find, { problem, preparing: this.progress.preparing, doneToday: this.progress.done_today });
    this.#setState("away");
  }

  #setState(name) {
    this.root.querySelector(".page").dataset.state = name;
  }

  #paintTools() {
    paintTools(this.find, this.root, { strength: this.strength, last: this.history.at(-1)?.body });
  }

  #paintSaving() {
    const { unsent, problem } = this.sender;
    const number = unsent.length === 1 ? "1 verdict" : `${unsent.length} verdicts`;
    const line = this.find("saving");
    line.classList.toggle("trouble", Boolean(unsent.length && problem));
    if (!unsent.length) line.textContent = "";
    else if (!problem) line.textContent = "Saving …";
    else if (problem.status === 401) line.innerHTML = `${number} not saved yet: you were signed out. <a href="/sign-in" target="_blank">Sign in again</a>`;
    else line.textContent = `${number} not saved yet. Trying again …`;
  }

  #toast(message) {
    const line = this.find("toast");
    line.textContent = message;
    line.classList.add("shown");
    clearTimeout(this.toastTimer);
    this.toastTimer = setTimeout(() => line.classList.remove("shown"), TOAST_MS);
  }

  #count(verdict, by) {
    const { progress } = this;
    progress.remaining = Math.max(0, progress.remaining - by);
    if (verdict !== "skip") {
      progress.done_today = Math.max(0, progress.done_today + by);
      progress.done_total = Math.max(0, progress.done_total + by);
    }
    paintProgress(this.find, progress);
  }

  async #loadProgress() {
    const midnight = new Date();
    midnight.setHours(0, 0, 0, 0);
    try {
      const { answer } = await call("GET", `/me/progress?since=${encodeURIComponent(midnight.toISOString())}`);
      if (this.sender.unsent.length) return; // counted here, not there yet
      this.progress = answer;
      paintProgress(this.find, answer);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error; // the numbers can wait
    }
  }

  async #loadGuidelines() {
    const { html } = await this.#untilReached(() => call("GET", "/guidelines"));
    this.find("guidelines-text").innerHTML = html;
    if (WIDE.matches && localStorage.getItem("nashloop.guidelines") !== "closed") this.toggleGuidelines();
  }

  async #untilReached(request) {
    for (;;) {
      try {
        return (await request()).answer;
      } catch (error) {
        if (!(error instanceof ApiError)) throw error;
        if (error.status === 401) return location.assign("/sign-in"), new Promise(() => {});
        this.#away({ problem: error.message });
        await new Promise((resolve) => setTimeout(resolve, POLL_MS));
      }
    }
  }

  // Everything that can be pressed

  toggleStrength(number) {
    if (!this.current) return;
    this.strength = this.strength === number ? null : number;
    this.#paintTools();
  }

  writeNote() {
    if (!this.current) return;
    this.#openNote();
    this.find("note").focus();
  }

  #openNote() {
    this.find("bar").classList.add("noting");
    this.find("note-open").setAttribute("aria-expanded", "true");
  }

  toggleGuidelines() {
    const panel = this.find("guidelines");
    panel.hidden = !panel.hidden;
    this.find("guidelines-toggle").setAttribute("aria-expanded", String(!panel.hidden));
    if (WIDE.matches) localStorage.setItem("nashloop.guidelines", panel.hidden ? "closed" : "open");
  }

  openHelp() {
    this.find("help").showModal();
  }

  askSkip() {
    if (this.current) this.find("skip-menu").showModal();
  }

  skip(reason) {
    this.find("skip-menu").close();
    this.judge("skip", reason ? [reason] : []);
  }

  scrollBoth(pixels) {
    if (!this.current) return false;
    const boxes = [this.find("text-a"), this.find("text-b")].filter((box) => box.scrollHeight > box.clientHeight + 1);
    for (const box of boxes) box.scrollBy({ top: pixels });
    if (!boxes.length) this.find("pair").scrollBy({ top: pixels });
  }

  #wire() {
    const on = (id, act) => this.find(id).addEventListener("click", act);
    for (const button of this.root.querySelectorAll("[data-verdict]")) {
      // The second click of a double click must not judge a pair that nobody has read.
      button.addEventListener("click", (event) => event.detail < 2 && this.judge(button.dataset.verdict));
    }
    for (const chip of this.root.querySelectorAll("[data-strength]")) {
      chip.addEventListener("click", () => this.toggleStrength(Number(chip.dataset.strength)));
    }
    for (const button of this.root.querySelectorAll("[data-reason]")) {
      button.addEventListener("click", () => this.skip(button.dataset.reason));
    }
    on("undo", () => this.undo());
    on("skip", () => this.askSkip());
    on("skip-plain", () => this.skip(null));
    on("skip-cancel", () => this.find("skip-menu").close());
    on("help-open", () => this.openHelp());
    on("help-close", () => this.find("help").close());
    on("guidelines-toggle", () => this.toggleGuidelines());
    on("guidelines-close", () => this.toggleGuidelines());
    on("note-open", () => this.writeNote());
    this.find("bar").addEventListener("submit", (event) => event.preventDefault());
    this.find("skip-menu").addEventListener("keydown", (event) => this.#skipKey(event));
    listen(this.root, this);
    addEventListener("online", () => this.sender.kick());
    addEventListener("focus", () => this.sender.problem && this.sender.kick());
    addEventListener("beforeunload", (event) => this.sender.unsent.length && event.preventDefault());
    document.addEventListener("visibilitychange", () => !document.hidden && this.#returned());
  }

  #skipKey(event) {
    const reasons = this.root.querySelectorAll("[data-reason]");
    if (event.repeat) return;
    if (event.key.toLowerCase() === "s") this.skip(null);
    else if (reasons[Number(event.key) - 1]) this.skip(reasons[Number(event.key) - 1].dataset.reason);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  #returned() {
    this.shownAt ??= serverNow();
    this.#renew();
    this.#tick();
  }
}
