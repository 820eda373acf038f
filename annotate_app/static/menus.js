// Dialogs that ask one thing: a reason, a text, an edit. Each resolves to the answer, or to null when it is left.

import { t } from "./texts.js";

const key = (name) => `<kbd aria-hidden="true">${name}</kbd>`;

/**
 * choices: [[value, sentence], ...], picked by click or digit; picking answers at once.
 * text: the name of an optional text field. done: [value, sentence, letter] of a button that answers without a choice.
 */
export function ask(root, { id, name, line = "", choices = [], text = null, done = null }) {
  const { dialog, answered } = open(root, id, `
    <h2 id="${id}-name">${name}</h2>${line && `<p class="line">${line}</p>`}
    ${text ? `<label class="field"><span>${text}</span><textarea rows="3" maxlength="20000"></textarea></label>` : ""}
    <div class="reasons">${choices.map(([value, sentence], i) => `<button type="button" data-value="${value}">${key(i + 1)}${sentence}</button>`).join("")}</div>
    <div class="foot">
      ${done ? `<button type="button" class="primary" data-value="${done[0]}">${done[1]}${done[2] ? ` ${key(done[2])}` : ""}</button>` : ""}
      <button type="button" class="plain" data-leave>${t("menu.back")} ${key("Esc")}</button>
    </div>`);
  const field = dialog.querySelector("textarea");
  const answer = (value) => answered({ choice: value, text: field?.value.trim() ?? "" });
  for (const button of dialog.querySelectorAll("[data-value]")) button.addEventListener("click", () => answer(button.dataset.value));
  dialog.addEventListener("keydown", (event) => {
    if (event.repeat || event.ctrlKey || event.metaKey ? event.key !== "Enter" : event.composedPath()[0] === field) return;
    const picked = choices[Number(event.key) - 1];
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && done) answer(done[0]);
    else if (picked) answer(picked[0]);
    else if (done?.[2] && event.key.toLowerCase() === done[2].toLowerCase()) answer(done[0]);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  (done && !field ? dialog.querySelector(".primary") : field ?? dialog.querySelector("[data-value]")).focus();
  return dialog.finished;
}

/** The better response and how it should read: {side, text}. ``texts`` are the responses by side. */
export function askEdit(root, texts, first) {
  const { dialog, answered } = open(root, "edit", `
    <h2 id="edit-name">${t("edit.name")}</h2><p class="line">${t("edit.line")}</p>
    <div class="sides" role="group" aria-label="${t("edit.which")}">
      ${["a", "b"].map((side) => `<button type="button" class="chip" data-side="${side}" aria-pressed="false">${t(`verdict.${side}`)}</button>`).join("")}
    </div>
    <label class="field"><span class="unseen">${t("edit.text")}</span><textarea rows="12" maxlength="20000" dir="auto"></textarea></label>
    <p class="trouble" role="alert"></p>
    <div class="foot"><button type="button" class="primary" id="edit-save"></button>
      <button type="button" class="plain" data-leave>${t("menu.back")} ${key("Esc")}</button></div>`);
  const field = dialog.querySelector("textarea");
  const drafts = { ...texts };
  let side = first;
  const show = (next) => {
    drafts[side] = side === next ? drafts[side] : field.value;
    side = next;
    field.value = drafts[side];
    for (const button of dialog.querySelectorAll("[data-side]")) button.setAttribute("aria-pressed", String(button.dataset.side === side));
    dialog.querySelector("#edit-save").textContent = t("edit.save", { what: t(`verdict.${side}`) });
  };
  const save = () => {
    if (field.value.trim() === texts[side].trim()) dialog.querySelector(".trouble").textContent = t("edit.unchanged");
    else answered({ side, text: field.value });
  };
  for (const button of dialog.querySelectorAll("[data-side]")) button.addEventListener("click", () => show(button.dataset.side));
  dialog.querySelector("#edit-save").addEventListener("click", save);
  dialog.addEventListener("keydown", (event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && save());
  show(side);
  field.focus();
  field.setSelectionRange(0, 0);
  return dialog.finished;
}

function open(root, id, content) {
  const dialog = document.createElement("dialog");
  dialog.id = id;
  dialog.setAttribute("aria-labelledby", `${id}-name`);
  dialog.innerHTML = content;
  root.querySelector(".page").append(dialog);
  const back = root.activeElement;
  let answer = null;
  const answered = (value) => ((answer = value), dialog.close());
  for (const button of dialog.querySelectorAll("[data-leave]")) button.addEventListener("click", () => dialog.close());
  dialog.finished = new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      back?.focus();
      resolve(answer);
    });
  });
  dialog.showModal();
  return { dialog, answered };
}
