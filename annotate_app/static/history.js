// One's own judgments and figures: a dialog that lists them, newest first, and corrects one by a new judgment in its place.

import { call } from "./sender.js";
import { t } from "./texts.js";
import { describe } from "./view.js";

const PAGE = 20;
const VERDICTS = ["a", "tie", "both_bad", "b", "skip"];

/** Opens the dialog; resolves when it is closed, to whether anything was corrected. */
export async function openHistory(root, sinceMidnight) {
  const dialog = document.createElement("dialog");
  dialog.id = "history";
  dialog.setAttribute("aria-labelledby", "history-name");
  dialog.innerHTML = `
    <div class="history-head"><h2 id="history-name">${t("history.name")}</h2><button type="button" class="plain" data-close aria-label="${t("history.close")}">✕</button></div>
    <div class="figures" id="figures"></div>
    <form class="history-find" role="search">
      <input type="search" aria-label="${t("history.search")}" placeholder="${t("history.search")}" maxlength="200">
      <select aria-label="${t("history.verdict")}"><option value="">${t("history.all")}</option>${VERDICTS.map((v) => `<option value="${v}">${t(`verdict.${v}`)}</option>`).join("")}</select>
    </form>
    <p class="unseen" role="status" id="history-said"></p>
    <ol class="past" id="past"></ol>
    <button type="button" class="plain" id="history-more" hidden>${t("history.more")}</button>`;
  root.querySelector(".page").append(dialog);
  const history = new History(dialog);
  dialog.showModal();
  const closed = new Promise((resolve) => dialog.addEventListener("close", () => (dialog.remove(), resolve(history.corrected))));
  await Promise.all([history.load(), history.loadFigures(sinceMidnight)]);
  return closed;
}

class History {
  constructor(dialog) {
    this.dialog = dialog;
    this.find = (selector) => dialog.querySelector(selector);
    this.corrected = false;
    this.before = null;
    this.find("[data-close]").addEventListener("click", () => dialog.close());
    this.find("#history-more").addEventListener("click", () => this.load({ more: true }));
    this.find("form").addEventListener("submit", (event) => event.preventDefault());
    this.find("form").addEventListener("input", () => {
      clearTimeout(this.typing);
      this.typing = setTimeout(() => this.load(), 250);
    });
  }

  async load({ more = false } = {}) {
    const query = new URLSearchParams({ limit: PAGE });
    if (more) query.set("before", this.before);
    if (this.find("select").value) query.set("verdict", this.find("select").value);
    if (this.find("input").value.trim()) query.set("q", this.find("input").value.trim());
    const list = this.find("#past");
    try {
      const { answer } = await call("GET", `/me/judgments?${query}`);
      if (!more) list.replaceChildren();
      list.append(...answer.judgments.map((judgment) => this.#line(judgment)));
      this.before = answer.next_before;
      this.find("#history-more").hidden = this.before === null;
      if (!list.children.length) list.innerHTML = `<li class="nothing">${t("history.nothing")}</li>`;
    } catch (error) {
      this.find("#history-said").className = "trouble";
      this.find("#history-said").textContent = error.message;
    }
  }

  async loadFigures(sinceMidnight) {
    const { answer } = await call("GET", `/me/stats?since=${encodeURIComponent(sinceMidnight)}`);
    this.find("#figures").innerHTML = figures(answer);
  }

  #line(judgment) {
    const item = document.createElement("li");
    const details = document.createElement("details");
    const summary = document.createElement("summary");
    const prompt = document.createElement("span");
    prompt.className = "asked";
    prompt.dir = "auto";
    prompt.textContent = judgment.prompt.at(-1)?.content ?? "";
    const said = Object.assign(document.createElement("span"), { className: "said", textContent: describe(judgment) });
    const when = Object.assign(document.createElement("time"), { dateTime: judgment.submitted_at, textContent: shortTime(judgment.submitted_at) });
    summary.append(said, prompt, when);
    details.append(summary);
    details.addEventListener("toggle", () => details.open && details.children.length === 1 && details.append(this.#opened(judgment, item)));
    item.append(details);
    return item;
  }

  #opened(judgment, item) {
    const box = document.createElement("div");
    box.className = "past-pair";
    const corrected = judgment.corrections ? `<p class="line">${t("history.corrected", { number: judgment.corrections })}</p>` : "";
    // The server made every html from Markdown with raw HTML off and an allow-list.
    box.innerHTML = `
      <div class="text prompt-text" dir="auto">${judgment.prompt_html}</div>
      <div class="past-cards">${judgment.responses.map(({ label, html }) => `<section><h3><span class="letter">${label.toUpperCase()}</span></h3><div class="text" dir="auto" tabindex="0" role="group" aria-label="${t("pair.response_text", { side: label.toUpperCase() })}">${html}</div></section>`).join("")}</div>
      ${corrected}`;
    if (judgment.rationale) box.append(Object.assign(document.createElement("blockquote"), { textContent: judgment.rationale, dir: "auto" }));
    if (judgment.kind === "pair") box.append(this.#verdicts(judgment, item));
    return box;
  }

  #verdicts(judgment, item) {
    const row = document.createElement("div");
    row.className = "verdicts";
    row.setAttribute("role", "group");
    row.setAttribute("aria-label", t("history.correct"));
    for (const verdict of ["a", "tie", "both_bad", "b"]) {
      const button = Object.assign(document.createElement("button"), { type: "button", className: "verdict", textContent: t(`verdict.${verdict}`) });
      button.dataset.verdict = verdict;
      button.setAttribute("aria-pressed", String(verdict === judgment.verdict));
      button.addEventListener("click", () => verdict !== judgment.verdict && this.#correct(judgment, verdict, item));
      row.append(button);
    }
    return row;
  }

  async #correct(judgment, verdict, item) {
    const { aspects, reasons, rationale } = judgment;
    const kept = judgment.verdict === "skip" ? {} : { aspects, reasons };
    try {
      const { answer } = await call("POST", `/judgments/${judgment.id}/correct`, { verdict, rationale, ...kept });
      this.corrected = true;
      const line = this.#line({ ...judgment, ...answer.judgment, corrections: judgment.corrections + 1 });
      item.replaceWith(line);
      line.querySelector("details").open = true;
      line.querySelector("summary").focus();
      this.#say(t("history.done", { what: describe(answer.judgment) }));
    } catch (error) {
      this.#say(error.message);
    }
  }

  #say(text) {
    const line = this.find("#history-said");
    line.className = "history-said";
    line.textContent = text;
  }
}

/** Figures about oneself, with the pace of the last hours as bars; no comparison with anybody. */
function figures(stats) {
  const percent = (share) => `${Math.round(100 * share)} %`;
  const parts = [
    [stats.today, t("figures.today")],
    [stats.total, t("figures.total")],
    [stats.seconds_median === null ? "–" : stats.seconds_median.toFixed(stats.seconds_median < 10 ? 1 : 0), t("figures.seconds")],
    [percent(stats.verdict_shares.tie + stats.verdict_shares.both_bad), t("figures.ties")],
  ];
  if (stats.repeats) parts.push([`${stats.repeats.consistent}/${stats.repeats.n}`, t("figures.repeats")]);
  return parts.map(([number, word]) => `<div><b>${number}</b><span>${word}</span></div>`).join("") + bars(stats.per_hour);
}

function bars(perHour) {
  const most = Math.max(1, ...perHour.map(([, number]) => number));
  const told = perHour.map(([hour, number]) => `${new Date(hour).getHours()}:00 ${number}`).join(", ");
  const each = perHour.map(([, number], i) => `<rect x="${i * 14}" y="${40 - (36 * number) / most}" width="10" height="${(36 * number) / most + 1}" rx="2"/>`).join("");
  return `<figure><svg viewBox="0 0 ${perHour.length * 14} 42" role="img" aria-label="${t("figures.hours")}: ${told}">${each}</svg><figcaption>${t("figures.hours")}</figcaption></figure>`;
}

function shortTime(iso) {
  const time = new Date(iso);
  const today = time.toDateString() === new Date().toDateString();
  return time.toLocaleString(document.documentElement.lang || undefined, today ? { timeStyle: "short" } : { dateStyle: "short", timeStyle: "short" });
}
