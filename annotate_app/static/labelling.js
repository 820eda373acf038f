// The labelling page: an island in an empty Gradio column. Pairs are leased ahead, a verdict paints the next pair at once and
// is sent in the background; one request per verdict, whose answer brings the pair after next.

import { Extras } from "./extras.js";
import { openHistory } from "./history.js";
import { listen } from "./keys.js";
import { Live } from "./live.js";
import { ask, askEdit } from "./menus.js";
import { Ranking } from "./ranking.js";
import { Reading } from "./reading.js";
import { ApiError, Sender, call, serverNow } from "./sender.js";
import { giveFeedback, introduce } from "./training.js";
import { chooseLanguage, loadTexts, t } from "./texts.js";
import { FLAG_REASONS, SCALE, SKIP_REASONS, describe, markup, paintAway, paintPair, paintProgress, paintTools } from "./view.js";

const SHEETS = ["labelling.css", "reading.css", "extras.css", "history.css", "modes.css", "live.css"];
const AHEAD = 2; // pairs held besides the one shown
const POLL_MS = 5_000;
const RENEW_MS = 4 * 60_000;
const PAUSE_MS = 3 * 60_000; // without a verdict for so long, one has rested
const TOAST_MS = 6_000;
const REFRESH_EVERY = 10; // judgments between looks at the server's count
const PLAIN = { aspects: [], reason_tags: [], min_rationale: 0, ask_strength: false, allow_edits: true }; // nothing extra is asked
const USUAL_STRENGTH = 2; // "clearly": what A or B says where strength is asked and none was given
const WIDE = matchMedia("(min-width: 1180px)");

const sheets = SHEETS.map((name) => fetch(new URL(`./${name}`, import.meta.url)).then((response) => response.text()));
const asked = Promise.all(["/campaign", "/live"].map((path) => call("GET", path))).then(
  ([campaign, live]) => ({ ...campaign.answer, live: live.answer.on }),
  () => null, // signed out, or not reached: open() tells
);
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
  root.adoptedStyleSheets = (await Promise.all(sheets)).map((text) => {
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(text);
    return sheet;
  });
  const campaign = { ...PLAIN, ...(await asked) };
  const { language, direction } = await loadTexts(campaign.language);
  host.lang = language;
  host.dir = direction;
  root.innerHTML = markup(campaign);
  root.getElementById("language").value = language;
  followTheme(host);
  await new Labelling(root, campaign).open();
}

/** Gradio says light or dark by a class on the body; not every browser can see that from inside a shadow root. */
function followTheme(host) {
  const copy = () => (host.dataset.theme = document.body.classList.contains("dark") ? "dark" : "light");
  new MutationObserver(copy).observe(document.body, { attributes: true, attributeFilter: ["class"] });
  copy();
}

/** When the person's day began. */
function midnight() {
  const start = new Date();
  start.setHours(0, 0, 0, 0);
  return start.toISOString();
}

class Labelling {
  constructor(root, campaign) {
    this.root = root;
    this.campaign = campaign;
    this.find = (id) => root.getElementById(id);
    this.extras = new Extras(root, this.find, campaign);
    this.reading = new Reading(root, this.find);
    this.live = campaign.live ? new Live(this.find, this) : null;
    this.ranking = new Ranking(root, this.find, (groups) => this.judge(undefined, { ranking: groups }));
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
    this.find("sign-out").title = t("head.signed_in", { name: me.name });
    this.#wire();
    this.#loadGuidelines();
    await this.sender.flushed(); // verdicts from before a reload, or their pairs would be offered again
    await Promise.all([this.#fill(), this.#loadProgress()]);
    setInterval(() => this.#tick(), POLL_MS);
    setInterval(() => this.#renew(), RENEW_MS);
  }

  // Verdicts

  get current() {
    return this.live?.busy ? null : (this.pairs[0] ?? null);
  }

  /** Judges the pair shown. ``more``: fields beside those gathered on the bar. */
  judge(verdict, more = {}) {
    const pair = this.current;
    if (!pair || this.undoing || this.inTraining) return;
    if (this.extras.lacking(verdict)) return this.#askWhy(verdict, more);
    const decided = verdict === "a" || verdict === "b";
    const ranked = pair.kind === "ranking";
    this.inTraining = pair.kind === "training"; // it stays in view until its answer has been told
    const missing = this.inTraining ? 0 : Math.max(0, AHEAD + 1 - (this.pairs.length - 1) - this.asked);
    const usual = this.campaign.ask_strength ? USUAL_STRENGTH : null;
    const body = {
      lease_id: pair.lease_id,
      verdict,
      strength: decided ? (this.strength ?? usual) : null,
      ...(ranked ? { rationale: this.extras.fields(verdict).rationale } : this.extras.fields(verdict)),
      shown_at: this.shownAt?.toISOString() ?? null,
      next: missing,
      ...more,
    };
    this.asked += missing;
    if (!this.inTraining) this.#goOn(pair, body);
    this.sender.push(body);
    this.#remindOfBreak();
  }

  #goOn(pair, body) {
    this.history.push({ pair, body });
    this.pairs.shift();
    this.#count(body.verdict, 1);
    this.find("toast").classList.remove("shown");
    if (this.live?.owns(pair)) this.live.goOn(pair, body);
    else this.#show(`${describe(body)}. `);
  }

  /** Gently, after a verdict and never between: work without a pause has been long enough. */
  #remindOfBreak() {
    const now = Date.now();
    if (now - (this.lastVerdict ?? 0) > PAUSE_MS) this.workingSince = now;
    this.lastVerdict = now;
    const minutes = Math.floor((now - this.workingSince) / 60_000);
    if (!this.campaign.break_minutes || minutes < this.campaign.break_minutes) return;
    this.workingSince = now;
    this.#toast(t("break.name", { number: minutes }));
  }

  /** One of seven: A much better, ..., a tie, ..., B much better. */
  judgeOnScale(place) {
    const [verdict, strength] = SCALE[place - 1];
    this.judge(verdict, { strength });
  }

  /** The verdict waits until its reason is long enough. */
  #askWhy(verdict, more) {
    this.waiting = [verdict, more];
    this.#toast(t("need.rationale", { number: this.extras.lacking(verdict) }));
    this.writeNote();
  }

  /** Ctrl+Enter or Esc in the reason: a verdict that waited for it goes on. */
  leftNote() {
    const waiting = this.waiting;
    this.waiting = null;
    if (waiting) this.judge(...waiting);
  }

  #saved(body, answer, status) {
    this.asked -= body.next;
    this.#add(answer.next);
    if (this.inTraining) this.#learn(answer);
    // Sent before, its answer lost: pairs leased for that answer are ours and nobody else's, so ask for them.
    if (status === 200 || !this.current) this.#fill();
    if (this.history.length % REFRESH_EVERY === 0) this.#loadProgress();
  }

  /** What the answer to a training pair was worth, told over the pair; training is not undone. */
  async #learn({ feedback, training }) {
    if (feedback) await giveFeedback(this.root, { feedback, training });
    this.trained = training?.passed === null ? training.done : 0;
    this.pairs.shift();
    if (training?.passed) this.pairs = this.pairs.filter((pair) => pair.kind !== "training"); // leased ahead, not needed any more
    this.inTraining = false;
    if (this.current) this.#show();
    else this.#setState("loading");
    await this.#fill();
  }

  #refused(body, error) {
    this.asked -= body.next;
    if (this.inTraining) this.pairs.shift();
    this.inTraining = false;
    this.history = this.history.filter((entry) => entry.body.lease_id !== body.lease_id);
    const known = [404, 409, 410].includes(error.status);
    this.#toast(known ? t(`refused.${error.status}`) : t("refused.other", { why: error.message }));
    this.#fill();
    this.#loadProgress();
  }

  async undo() {
    if (this.undoing || this.live?.busy) return;
    this.undoing = true;
    try {
      const last = this.history.at(-1) ?? (await this.#lastStored());
      if (!last) this.#toast(t("undo.nothing"));
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
      if (!(await this.sender.flushed())) return this.#toast(t("undo.wait"));
      if (last.pair && this.history.at(-1) !== last) return; // it was refused meanwhile, which has been said
      pair = (await call("POST", `/judgments/${last.body.lease_id}/withdraw`)).answer.lease;
    }
    this.history.pop();
    this.pairs.unshift(pair);
    this.#count(last.body.verdict, -1);
    this.#show();
    this.extras.reset(last.body.verdict === "skip" ? {} : last.body);
    if (last.body.rationale) this.#openNote();
    if (last.body.ranking) this.ranking.restore(last.body.ranking);
    this.strength = last.body.strength;
    this.#paintTools();
    this.#toast(t("undo.done", { what: describe(last.body) }));
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
        this.#toast(t("renew.lost"));
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
    this.waiting = null;
    const pair = this.current;
    this.extras.reset();
    this.#paintTools();
    if (!pair) {
      this.#setState("loading");
      return;
    }
    paintPair(this.find, pair);
    this.extras.show(pair);
    this.#setState("pair");
    this.ranking.show(pair);
    if (pair.kind !== "ranking") this.reading.show(pair);
    this.#paintTraining(pair);
    this.shownAt = document.hidden ? null : serverNow();
    this.find("announce").textContent = said + t("pair.new", { prompt: this.find("text-prompt").textContent.slice(0, 160) });
  }

  async #paintTraining(pair) {
    const strip = this.find("training");
    const training = pair.kind === "training";
    strip.classList.toggle("shown", training);
    if (!training) return;
    if (!this.introduced) {
      this.introduced = true;
      const { answer } = await call("GET", "/me/stats");
      this.trained = answer.training?.passed === false ? 0 : (answer.training?.done ?? 0);
      if (!this.trained) await introduce(this.root, this.campaign);
    }
    strip.textContent = t("training.strip", { done: Math.min(this.trained + 1, this.campaign.num_training), number: this.campaign.num_training });
  }

  #away({ problem = null }) {
    paintAway(this.find, { problem, preparing: this.progress.preparing, doneToday: this.progress.done_today, live: this.live, study: this.progress.study });
    this.find("away-live")?.addEventListener("click", () => this.openLive());
    this.#setState("away");
  }

  #setState(name) {
    if (!this.live?.busy) this.showState(name);
  }

  showState(name) {
    this.root.querySelector(".page").dataset.state = name;
  }

  #paintTools() {
    paintTools(this.find, this.root, { strength: this.strength, last: this.history.at(-1)?.body });
  }

  #paintSaving() {
    const { unsent, problem } = this.sender;
    const line = this.find("saving");
    line.classList.toggle("trouble", Boolean(unsent.length && problem));
    const number = unsent.length;
    if (!number) line.textContent = "";
    else if (!problem) line.textContent = t("save.saving");
    else if (problem.status !== 401) line.textContent = t("save.waiting", { number });
    else {
      const link = Object.assign(document.createElement("a"), { href: "/sign-in", target: "_blank", textContent: t("save.sign_in") });
      line.replaceChildren(`${t("save.signed_out", { number })} `, link);
    }
  }

  #toast(message) {
    const line = this.find("toast");
    line.textContent = message;
    this.find("announce").textContent = message;
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
    try {
      const { answer } = await call("GET", `/me/progress?since=${encodeURIComponent(midnight())}`);
      if (this.sender.unsent.length) return; // counted here, not there yet
      this.progress = answer;
      paintProgress(this.find, answer);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error; // the numbers can wait
    }
  }

  async #loadGuidelines() {
    const { html } = await this.#untilReached(() => call("GET", `/guidelines?language=${this.root.host.lang}`));
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

  takesKey(key) {
    return Boolean(this.live?.takesKey(key)) || (Boolean(this.current) && this.ranking.takesKey(key));
  }

  // What live prompts need of the page

  openLive() {
    if (this.live && !this.live.busy && !this.inTraining && !this.undoing) this.live.open();
  }

  announce(text) {
    this.find("announce").textContent = text;
  }

  /** The pair that was asked for, before those of the queue. */
  take(lease) {
    this.pairs = [lease, ...this.pairs.filter((pair) => pair.lease_id !== lease.lease_id)];
    this.#show();
  }

  goBack() {
    this.#show();
    if (!this.current) this.#fill();
  }

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
    this.root.querySelector(".stage").inert = !panel.hidden && !WIDE.matches; // the panel lies over it
    this.find("guidelines-toggle").setAttribute("aria-expanded", String(!panel.hidden));
    if (WIDE.matches) localStorage.setItem("nashloop.guidelines", panel.hidden ? "closed" : "open");
  }

  openHelp() {
    this.find("help").showModal();
  }

  async openHistory() {
    if (!(await this.sender.flushed())) return this.#toast(t("history.wait"));
    if (await openHistory(this.root, midnight())) this.#loadProgress();
  }

  async askSkip() {
    if (!this.current) return;
    const choices = SKIP_REASONS.map((reason) => [reason, t(`skip.${reason}`)]);
    const answer = await ask(this.root, { id: "skip-menu", name: t("skip.name"), choices, done: ["", t("skip.plain"), "S"] });
    if (answer) this.judge("skip", { reasons: answer.choice ? [answer.choice] : [] });
  }

  /** Where there is no room for a button each. */
  async askMore() {
    if (!this.current) return;
    const acts = { ...(this.live && { openLive: "key.live" }), askFlag: "key.flag", askMessage: "key.message", ...(this.campaign.allow_edits && { askEdit: "key.edit" }), mark: "key.mark" };
    const choices = Object.entries(acts).map(([act, key]) => [act, t(key)]);
    const answer = await ask(this.root, { id: "more-menu", name: t("menu.name"), choices });
    if (answer) this[answer.choice]();
  }

  async askFlag() {
    if (!this.current) return;
    const { lease_id } = this.current;
    const choices = FLAG_REASONS.map((reason) => [reason, t(`flag.${reason}`)]);
    const answer = await ask(this.root, { id: "flag-menu", name: t("flag.name"), line: t("flag.line"), choices, text: t("flag.comment") });
    if (answer) await this.#tell("/flags", { lease_id, reason: answer.choice, comment: answer.text || null }, t("flag.sent"));
  }

  async askMessage() {
    const done = ["send", t("menu.send"), "Ctrl+Enter"];
    const answer = await ask(this.root, { id: "message", name: t("message.name"), line: t("message.line"), text: t("message.text"), done });
    if (answer?.text) await this.#tell("/notes", { text: answer.text, lease_id: this.current?.lease_id ?? null }, t("message.sent"));
  }

  async askEdit() {
    const pair = this.current;
    if (!pair || !this.campaign.allow_edits) return;
    const texts = { a: pair.response_a.text, b: pair.response_b.text };
    const first = this.root.activeElement?.closest(".card")?.dataset.side ?? "a";
    const answer = await askEdit(this.root, texts, first);
    if (answer && pair === this.current) this.judge(answer.side, { edited_text: answer.text });
  }

  read(how) {
    const said = this.reading.toggle(how);
    if (said) this.#toast(said);
  }

  mark() {
    if (this.current) this.#toast(this.extras.mark(this.current));
  }

  async #tell(path, body, thanks) {
    try {
      await call("POST", path, body);
      this.#toast(thanks);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      this.#toast(error.message);
    }
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
      const { verdict, step } = button.dataset;
      // The second click of a double click must not judge a pair that nobody has read.
      button.addEventListener("click", (event) => event.detail < 2 && (step ? this.judgeOnScale(Number(step)) : this.judge(verdict)));
    }
    for (const chip of this.root.querySelectorAll("[data-strength]")) {
      chip.addEventListener("click", () => this.toggleStrength(Number(chip.dataset.strength)));
    }
    on("undo", () => this.undo());
    on("skip", () => this.askSkip());
    on("history-open", () => this.openHistory());
    on("more-open", () => this.askMore());
    on("flag-open", () => this.askFlag());
    on("message-open", () => this.askMessage());
    if (this.campaign.allow_edits) on("edit-open", () => this.askEdit());
    this.find("language").addEventListener("change", (event) => chooseLanguage(event.target.value));
    if (this.live) on("live-open", () => this.openLive());
    on("help-open", () => this.openHelp());
    on("help-close", () => this.find("help").close());
    on("guidelines-toggle", () => this.toggleGuidelines());
    on("guidelines-close", () => this.toggleGuidelines());
    on("note-open", () => this.writeNote());
    this.find("bar").addEventListener("submit", (event) => event.preventDefault());
    listen(this.root, this, this.campaign);
    addEventListener("online", () => this.sender.kick());
    addEventListener("focus", () => this.sender.problem && this.sender.kick());
    addEventListener("beforeunload", (event) => this.sender.unsent.length && event.preventDefault());
    document.addEventListener("visibilitychange", () => !document.hidden && this.#returned());
  }

  #returned() {
    this.shownAt ??= serverNow();
    this.#renew();
    this.#tick();
  }
}
