// The training round: what it is, and after each of its pairs whether the answer was right and why.

import { t } from "./texts.js";

/** Once, before the first training pair. */
export function introduce(root, { num_training: number, pass_mark: mark }) {
  return tell(root, "training-intro", `
    <h2 id="training-intro-name">${t("training.intro")}</h2>
    <p class="line">${t("training.intro_line", { number, needed: Math.ceil(mark * number) })}</p>`, t("training.begin"));
}

/** What a training pair's answer was worth; with the last one, whether the round was passed. */
export async function giveFeedback(root, { feedback, training }) {
  const { right, expected, explanation } = feedback;
  const box = `
    <div class="outcome ${right ? "right" : "wrong"}"><span class="sign" aria-hidden="true">${right ? "✓" : "✗"}</span>
      <h2 id="feedback-name">${t(right ? "training.right" : "training.wrong")}</h2></div>
    ${right ? "" : `<p class="expected">${t("training.expected", { what: t(`verdict.${expected}`) })}</p>`}
    <p class="explanation" dir="auto"></p>
    <p class="line">${t("training.so_far", { done: training.done, number: training.total, right: training.right })}</p>`;
  await tell(root, "feedback", box, t("training.go_on"), explanation ?? "");
  if (training.passed === null) return;
  const passed = training.passed ? "passed" : "failed";
  await tell(root, "training-end", `
    <div class="outcome ${training.passed ? "right" : "wrong"}"><span class="sign" aria-hidden="true">${training.passed ? "✓" : "↻"}</span>
      <h2 id="training-end-name">${t(`training.${passed}`)}</h2></div>
    <p class="line">${t(`training.${passed}_line`, { right: training.right, number: training.total })}</p>`, t(`training.${passed}_button`));
}

/** A dialog with one button; resolves when it is closed. */
function tell(root, id, content, button, explanation = "") {
  const dialog = document.createElement("dialog");
  dialog.id = id;
  dialog.setAttribute("aria-labelledby", `${id}-name`);
  dialog.innerHTML = `${content}<button type="button" class="primary" autofocus>${button} <kbd aria-hidden="true">Enter</kbd></button>`;
  if (explanation) dialog.querySelector(".explanation").textContent = explanation;
  else dialog.querySelector(".explanation")?.remove();
  root.querySelector(".page").append(dialog);
  dialog.querySelector(".primary").addEventListener("click", () => dialog.close());
  const closed = new Promise((resolve) => dialog.addEventListener("close", () => (dialog.remove(), resolve())));
  dialog.showModal();
  return closed;
}
