// What the labelling page looks like: its markup, and functions that paint. No requests, no state of its own.

export const VERDICTS = { a: "A is better", b: "B is better", tie: "Tie", both_bad: "Both bad", skip: "Skipped" };
export const STRENGTHS = { 1: "slightly", 2: "clearly", 3: "much" };
export const SKIP_REASONS = [
  ["unclear_prompt", "I do not understand the prompt"],
  ["no_expertise", "I lack the knowledge to judge"],
  ["language", "It is in a language I do not read"],
  ["broken_text", "A response is broken or empty"],
  ["harmful", "The content is upsetting or harmful"],
  ["other", "Something else"],
];
const HELP = [
  ["A", "←", "A is better"],
  ["B", "→", "B is better"],
  ["T", "", "Tie: equally good"],
  ["X", "", "Both bad: you would want neither"],
  ["1", "2 3", "Before A or B: slightly, clearly, much better"],
  ["S", "", "Skip, with a reason"],
  ["R", "", "Write why; Esc or Ctrl+Enter leaves the field"],
  ["U", "Ctrl+Z", "Undo the last verdict"],
  ["↓", "↑", "Scroll both responses"],
  ["G", "", "Show or hide the guidelines"],
  ["?", "", "This list"],
];

const key = (name) => `<kbd aria-hidden="true">${name}</kbd>`;
const card = (side) => `
  <section class="card" aria-labelledby="name-${side}">
    <h2 id="name-${side}"><span class="letter">${side.toUpperCase()}</span><span class="word">Response ${side.toUpperCase()}</span></h2>
    <div class="text" id="text-${side}" role="region" tabindex="0" aria-label="Text of response ${side.toUpperCase()}" dir="auto"></div>
  </section>`;
const verdict = (name, shown, short, hint) => `
  <button type="button" class="verdict" data-verdict="${name}" aria-label="${shown}" aria-keyshortcuts="${hint[0]}">
    <span class="long">${shown}</span><span class="short">${short}</span>${key(hint)}</button>`;

export const MARKUP = `
<div class="page" data-state="loading">
  <header>
    <h1 id="campaign"></h1>
    <div class="stats" id="stats" aria-label="Your progress"></div>
    <p class="saving" id="saving" role="status"></p>
    <nav aria-label="Page">
      <button type="button" class="plain" id="guidelines-toggle" aria-expanded="false" aria-controls="guidelines">Guidelines ${key("G")}</button>
      <button type="button" class="plain" id="help-open" aria-label="Keyboard shortcuts">${key("?")}</button>
      <a class="plain" id="console-link" href="/console/" hidden>Console</a>
      <a class="plain" href="/sign-out" id="sign-out">Sign out</a>
    </nav>
    <div class="done" aria-hidden="true"><div id="done-bar"></div></div>
  </header>
  <div class="body">
    <main>
      <div class="pair" id="pair">
        <section class="prompt" aria-labelledby="prompt-name">
          <h2 id="prompt-name">Prompt</h2>
          <div class="text" id="text-prompt" role="region" tabindex="0" aria-label="Text of the prompt" dir="auto"></div>
        </section>
        <div class="cards">${card("a")}${card("b")}</div>
      </div>
      <div class="away" id="away" role="status"></div>
      <p class="toast" id="toast" role="status"></p>
      <form class="bar" id="bar" aria-label="Your verdict">
        <div class="tools">
          <button type="button" class="plain undo" id="undo" aria-keyshortcuts="U">${key("U")}<span id="undo-label">Undo</span></button>
          <div class="strength" role="group" aria-label="How much better, optional">
            <span class="ask" aria-hidden="true">How much better?</span>
            ${Object.entries(STRENGTHS).map(([n, word]) => `<button type="button" class="chip" data-strength="${n}" aria-pressed="false" aria-keyshortcuts="${n}">${key(n)}${word[0].toUpperCase()}${word.slice(1)}</button>`).join("")}
          </div>
          <button type="button" class="plain note-open" id="note-open" aria-expanded="false" aria-controls="note">Note</button>
          <label class="note" for="note">${key("R")}<span class="unseen">Why? Optional</span><textarea id="note" rows="1" maxlength="20000" placeholder="Why? (optional)"></textarea></label>
          <button type="button" class="plain" id="skip" aria-keyshortcuts="S" aria-haspopup="dialog">Skip ${key("S")}</button>
        </div>
        <div class="verdicts">
          ${verdict("a", "A is better", "A", "A ←")}
          ${verdict("tie", "Tie", "Tie", "T")}
          ${verdict("both_bad", "Both bad", "Both bad", "X")}
          ${verdict("b", "B is better", "B", "B →")}
        </div>
      </form>
    </main>
    <aside id="guidelines" aria-label="Guidelines" hidden>
      <div class="aside-head"><h2>Guidelines</h2><button type="button" class="plain" id="guidelines-close" aria-label="Close the guidelines">✕</button></div>
      <div class="text" id="guidelines-text"></div>
    </aside>
  </div>
  <p class="unseen" id="announce" aria-live="polite"></p>
  <dialog id="help" aria-labelledby="help-name">
    <h2 id="help-name">Keyboard</h2>
    <dl>${HELP.map(([one, more, what]) => `<div><dt>${key(one)}${more.split(" ").filter(Boolean).map(key).join("")}<span class="unseen">${one} ${more}</span></dt><dd>${what}</dd></div>`).join("")}</dl>
    <button type="button" class="primary" id="help-close">Got it</button>
  </dialog>
  <dialog id="skip-menu" aria-labelledby="skip-name">
    <h2 id="skip-name">Why skip this pair?</h2>
    <div class="reasons">
      ${SKIP_REASONS.map(([name, shown], i) => `<button type="button" data-reason="${name}">${key(i + 1)}${shown}</button>`).join("")}
    </div>
    <div class="foot"><button type="button" class="primary" id="skip-plain" autofocus>Skip without a reason ${key("S")}</button>
    <button type="button" class="plain" id="skip-cancel">Back ${key("Esc")}</button></div>
  </dialog>
</div>`;

/** Shows a pair from its top. The server made the HTML from Markdown with raw HTML off and an allow-list. */
export function paintPair(find, pair) {
  for (const [id, html] of [["text-prompt", pair.prompt_html], ["text-a", pair.response_a.html], ["text-b", pair.response_b.html]]) {
    const box = find(id);
    box.innerHTML = html || '<p class="nothing">(empty)</p>';
    box.scrollTop = 0;
  }
  find("pair").scrollTop = 0;
  find("pair").dataset.lease = pair.lease_id;
  if (!matchMedia("(prefers-reduced-motion: reduce)").matches) {
    find("pair").animate([{ opacity: 0.25 }, { opacity: 1 }], { duration: 140, easing: "ease-out" });
  }
}

/** The annotator's own numbers. */
export function paintProgress(find, progress) {
  const parts = [[progress.done_today, "today"], [progress.remaining, "left"]];
  const pace = progress.median_seconds;
  if (pace !== null) parts.push([pace < 10 ? pace.toFixed(1) : Math.round(pace), "s a pair"]);
  find("stats").innerHTML = parts.map(([number, word]) => `<span><b>${number}</b> ${word}</span>`).join("");
  const total = progress.done_total + progress.remaining;
  find("done-bar").style.width = `${total ? (100 * progress.done_total) / total : 0}%`;
}

/** Which strength is chosen, and what undo would take back. */
export function paintTools(find, root, { strength, last }) {
  for (const chip of root.querySelectorAll("[data-strength]")) {
    chip.setAttribute("aria-pressed", String(Number(chip.dataset.strength) === strength));
  }
  find("undo-label").textContent = last ? `Undo: ${describe(last)}` : "Undo";
}

/** A verdict in words: "A is better, clearly". */
export function describe({ verdict, strength }) {
  return VERDICTS[verdict] + (strength ? `, ${STRENGTHS[strength]}` : "");
}

/** Nothing to judge: why, and that the page will fill by itself. */
export function paintAway(find, { preparing, problem, doneToday }) {
  const [title, line] = problem
    ? ["Cannot reach Nashloop", `${problem} Trying again by itself.`]
    : preparing
      ? ["New responses are on their way", "A job is sampling them. Pairs appear here by themselves; you can leave this page open."]
      : ["All caught up", "You have judged every pair that is open for you. New ones appear here by themselves."];
  const today = doneToday && !problem ? `<p class="today">${doneToday} judged today. Thank you.</p>` : "";
  find("away").innerHTML = `<div class="mark" aria-hidden="true">${problem ? "⋯" : preparing ? "◔" : "✓"}</div><h2></h2><p class="line"></p>${today}`;
  find("away").querySelector("h2").textContent = title;
  find("away").querySelector(".line").textContent = line;
}
