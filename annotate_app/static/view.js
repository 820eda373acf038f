// What the labelling page looks like: its markup, and functions that paint. No requests, no state of its own.

import { shortcutsOf } from "./keys.js";
import { LANGUAGES, t } from "./texts.js";

export const SKIP_REASONS = ["unclear_prompt", "no_expertise", "language", "broken_text", "harmful", "other"];
export const FLAG_REASONS = ["harmful", "personal_data", "broken", "wrong_pair", "other"];
// A verdict with its strength, as the scale of seven offers them; the place is the digit.
export const SCALE = [["a", 3], ["a", 2], ["a", 1], ["tie", null], ["b", 1], ["b", 2], ["b", 3]];

const key = (name) => `<kbd aria-hidden="true">${name}</kbd>`;
const plain = (id, text, hint = "", more = "") => `<button type="button" class="plain" id="${id}" ${more}>${text}${hint && ` ${key(hint)}`}</button>`;

const card = (side) => `
  <section class="card" aria-labelledby="name-${side}" data-side="${side}">
    <h2 id="name-${side}"><span class="letter">${side.toUpperCase()}</span><span class="word">${t("pair.response", { side: side.toUpperCase() })}</span></h2>
    <div class="text" id="text-${side}" role="region" tabindex="0" aria-label="${t("pair.response_text", { side: side.toUpperCase() })}" dir="auto"></div>
    <ul class="marks" id="marks-${side}" aria-label="${t("mark.list", { side: side.toUpperCase() })}" hidden></ul>
  </section>`;

const verdict = (name, short, hint) => `
  <button type="button" class="verdict" data-verdict="${name}" aria-label="${t(`verdict.${name}`)}" aria-keyshortcuts="${hint[0]}">
    <span class="long">${t(`verdict.${name}`)}</span><span class="short">${short}</span>${key(hint)}</button>`;

const step = ([side, strength], place) => {
  const name = strength ? t(`scale.${side}${strength}`) : t("verdict.tie");
  const word = strength ? t(`strength.${strength}`) : name;
  return `<button type="button" class="verdict step" data-step="${place + 1}" data-verdict="${side}" aria-label="${name}" aria-keyshortcuts="${place + 1}">
    <span class="side" aria-hidden="true">${strength ? side.toUpperCase() : "="}</span><span class="long">${word}</span>${key(place + 1)}</button>`;
};

const verdicts = (campaign) =>
  campaign.ask_strength
    ? `<div class="verdicts scale" role="group" aria-label="${t("scale.name")}">${SCALE.map(step).join("")}${verdict("both_bad", t("verdict.both_bad.short"), "X")}</div>`
    : `<div class="verdicts">${verdict("a", "A", "A ←")}${verdict("tie", t("verdict.tie"), "T")}${verdict("both_bad", t("verdict.both_bad.short"), "X")}${verdict("b", "B", "B →")}</div>`;

const strengths = () => `
  <div class="strength" role="group" aria-label="${t("bar.strength")}">
    <span class="ask" aria-hidden="true">${t("bar.ask_strength")}</span>
    ${[1, 2, 3].map((n) => `<button type="button" class="chip" data-strength="${n}" aria-pressed="false" aria-keyshortcuts="${n}">${key(n)}<span>${capital(t(`strength.${n}`))}</span></button>`).join("")}
  </div>`;

const header = (campaign) => `
  <header>
    <h1 id="campaign"></h1>
    <div class="stats" id="stats" role="group" aria-label="${t("head.progress")}"></div>
    <p class="saving" id="saving" role="status"></p>
    <nav aria-label="${t("head.page")}">
      ${plain("guidelines-toggle", t("head.guidelines"), "G", 'aria-expanded="false" aria-controls="guidelines"')}
      ${campaign.live ? plain("live-open", t("live.open"), "P") : ""}
      ${plain("history-open", t("head.history"), "H", 'aria-haspopup="dialog"')}
      <button type="button" class="plain" id="help-open" aria-label="${t("head.keys")}">${key("?")}</button>
      <a class="plain" id="console-link" href="/console/" hidden>${t("head.console")}</a>
      <a class="plain" href="/sign-out" id="sign-out">${t("head.sign_out")}</a>
    </nav>
    <div class="done" aria-hidden="true"><div id="done-bar"></div></div>
  </header>`;

const bar = (campaign) => `
  <form class="bar" id="bar" aria-label="${t("bar.name")}">
    <p class="toast" id="toast" aria-hidden="true"></p>
    <div class="extras" id="extras" hidden></div>
    <div class="tools">
      <button type="button" class="plain undo" id="undo" aria-keyshortcuts="U">${key("U")}<span id="undo-label">${t("bar.undo")}</span></button>
      ${campaign.ask_strength ? "" : strengths()}
      ${plain("note-open", t("bar.note"), "", 'aria-expanded="false" aria-controls="note"').replace("plain", "plain note-open")}
      <label class="note" for="note">${key("W")}<span class="unseen" id="note-name"></span><textarea id="note" rows="1" maxlength="20000"></textarea><output id="note-count" for="note"></output></label>
      <div class="more">
        ${campaign.allow_edits ? plain("edit-open", t("edit.short"), "E", 'aria-haspopup="dialog"') : ""}
        ${plain("flag-open", t("flag.short"), "F", 'aria-haspopup="dialog"')}
        ${plain("message-open", t("message.short"), "N", 'aria-haspopup="dialog"')}
      </div>
      <button type="button" class="plain" id="more-open" aria-haspopup="dialog">${t("bar.more")}</button>
      ${plain("skip", t("bar.skip"), "S", 'aria-keyshortcuts="S" aria-haspopup="dialog"')}
    </div>
    ${verdicts(campaign)}
    <div class="verdicts rank-bar">
      <div id="rank-order" role="group" aria-label="${t("rank.name")}" data-hint="${t("rank.hint")}"></div>
      <button type="button" class="verdict" data-verdict="both_bad">${t("rank.all_bad")} ${key("X")}</button>
      <button type="button" class="primary" id="rank-submit" disabled>${t("rank.submit")} ${key("Enter")}</button>
    </div>
  </form>`;

const live = () => `
  <form class="live" id="live" aria-labelledby="live-name">
    <h2 id="live-name"></h2>
    <div class="text" id="live-chat" role="region" tabindex="0" aria-label="${t("live.chat")}" dir="auto" hidden></div>
    <p class="line" id="live-line" role="status"></p>
    <textarea id="live-text" aria-labelledby="live-name" rows="4" maxlength="8000" dir="auto"></textarea>
    <div class="foot">
      <button type="submit" class="primary" id="live-ask">${t("live.ask")} ${key("Ctrl+Enter")}</button>
      ${plain("live-new", t("live.new"))}
      ${plain("live-close", t("live.close"), "Esc")}
    </div>
  </form>
  <div id="live-strip"><span>${t("live.coming")}</span>${plain("live-stop", t("live.stop"), "Esc")}</div>`;

/** The whole page for a campaign; texts must have been loaded. */
export function markup(campaign) {
  return `
<div class="page" data-state="loading">
  ${header(campaign)}
  <div class="body">
    <div class="stage">
      <p class="strip" id="training"></p>
      ${campaign.live ? live() : ""}
      <div class="pair" id="pair">
        <section class="prompt" aria-labelledby="prompt-name">
          <div class="prompt-head">
            <h2 id="prompt-name">${t("pair.prompt")}</h2>
            <div class="reading" role="group" aria-label="${t("reading.name")}">
              ${plain("differences", t("reading.differences"), "D", 'aria-pressed="false"')}
              ${plain("raw", t("reading.raw"), "R", 'aria-pressed="false"')}
              ${plain("in-step", t("reading.in_step"), "", 'aria-pressed="false"')}
            </div>
          </div>
          <div class="text" id="text-prompt" role="region" tabindex="0" aria-label="${t("pair.prompt_text")}" dir="auto"></div>
        </section>
        <div class="cards">${card("a")}${card("b")}</div>
        <div class="cards" id="ranked"></div>
      </div>
      <div class="away" id="away" role="status"></div>
      ${bar(campaign)}
    </div>
    <aside id="guidelines" aria-label="${t("head.guidelines")}" hidden>
      <div class="aside-head"><h2>${t("head.guidelines")}</h2><button type="button" class="plain" id="guidelines-close" aria-label="${t("guidelines.close")}">✕</button></div>
      <div class="text" id="guidelines-text"></div>
      <label class="language"><span>${t("head.language")}</span><select id="language">${Object.entries(LANGUAGES).map(([code, name]) => `<option value="${code}" lang="${code}">${name}</option>`).join("")}</select></label>
    </aside>
  </div>
  <p class="unseen" id="announce" aria-live="polite"></p>
  ${help(campaign)}
</div>`;
}

function help(campaign) {
  const shortcuts = shortcutsOf(campaign).filter(({ show }) => show.length);
  const line = ({ show, text }) => `<div><dt>${show.map(key).join("")}<span class="unseen">${show.join(" ")}</span></dt><dd>${t(text)}</dd></div>`;
  const part = (group) => `<h3>${t(`help.${group}`)}</h3><dl>${shortcuts.filter((s) => s.group === group).map(line).join("")}</dl>`;
  return `
  <dialog id="help" aria-labelledby="help-name">
    <h2 id="help-name">${t("help.name")}</h2>
    <div class="keys">${[...new Set(shortcuts.map((s) => s.group))].map((group) => `<section>${part(group)}</section>`).join("")}</div>
    <button type="button" class="primary" id="help-close">${t("help.close")}</button>
  </dialog>`;
}

/** Shows a pair from its top. The server made the HTML from Markdown with raw HTML off and an allow-list. */
export function paintPair(find, pair) {
  for (const [id, html] of [["text-prompt", pair.prompt_html], ["text-a", pair.response_a.html], ["text-b", pair.response_b.html]]) {
    const box = find(id);
    box.innerHTML = html || `<p class="nothing">${t("pair.empty")}</p>`;
    box.scrollTop = 0;
  }
  for (const role of ["user", "assistant", "system"]) {
    for (const who of find("text-prompt").querySelectorAll(`.turn-${role} > .who`)) who.textContent = t(`role.${role}`);
  }
  const asked = find("text-prompt").querySelector(".turn:last-of-type"); // of a conversation, what was said last
  if (asked) find("text-prompt").scrollTop = asked.offsetTop;
  find("pair").scrollTop = 0;
  find("pair").dataset.lease = pair.lease_id;
  if (!matchMedia("(prefers-reduced-motion: reduce)").matches) {
    find("pair").animate([{ opacity: 0.25 }, { opacity: 1 }], { duration: 140, easing: "ease-out" });
  }
}

/** The annotator's own numbers. */
export function paintProgress(find, progress) {
  const parts = [[progress.done_today, t("head.today")], [progress.remaining, t("head.left")]];
  const pace = progress.median_seconds;
  if (pace !== null) parts.push([pace < 10 ? pace.toFixed(1) : Math.round(pace), t("head.pace")]);
  find("stats").innerHTML = parts.map(([number, word]) => `<span><b>${number}</b> ${word}</span>`).join("");
  const total = progress.done_total + progress.remaining;
  find("done-bar").style.width = `${total ? (100 * progress.done_total) / total : 0}%`;
}

/** Which strength is chosen, and what undo would take back. */
export function paintTools(find, root, { strength, last }) {
  for (const chip of root.querySelectorAll("[data-strength]")) {
    chip.setAttribute("aria-pressed", String(Number(chip.dataset.strength) === strength));
  }
  find("undo-label").textContent = last ? t("bar.undo_this", { what: describe(last) }) : t("bar.undo");
}

/** A verdict in words: "A is better, clearly". */
export function describe({ verdict, strength, ranking }) {
  if (ranking) return t("verdict.ranked", { what: ranking.map((group) => group.join(" = ").toUpperCase()).join(" > ") });
  return t(`verdict.${verdict}`) + (strength ? `, ${t(`strength.${strength}`)}` : "");
}

/** Nothing to judge: why, and that the page will fill by itself. */
export function paintAway(find, { preparing, problem, doneToday, live, study }) {
  const kind = problem ? "problem" : preparing ? "preparing" : "done";
  const today = doneToday && !problem ? `<p class="today">${t("away.today", { number: doneToday })}</p>` : "";
  const own = live && !problem ? `<button type="button" class="primary" id="away-live">${t("live.open")} ${key("P")}</button>` : "";
  const code = study && !problem ? `<p><a class="primary" href="/completion">${t("crowd.code")}</a></p>` : "";
  find("away").innerHTML = `<div class="mark" aria-hidden="true">${{ problem: "⋯", preparing: "◔", done: "✓" }[kind]}</div><h2></h2><p class="line"></p>${today}${code}${own}`;
  find("away").querySelector("h2").textContent = t(`away.${kind}`);
  const over = kind === "done" && study && study.done >= study.labels;
  find("away").querySelector(".line").textContent = over ? t("crowd.done", { number: study.labels }) : t(`away.${kind}_line`, { why: problem });
}

function capital(word) {
  return word[0].toUpperCase() + word.slice(1);
}
