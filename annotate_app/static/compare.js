// Asking two policies one prompt, on the lineage page: both answers as they come, as plain text. Nothing is kept.

import { ApiError, lines } from "./sender.js";

const form = document.getElementById("ask-both");
const chosen = document.querySelector("#compare form").elements;
const status = document.getElementById("asked");
const column = (side) => document.querySelector(`#answers [data-side="${side}"]`);
let asking = null;

form.elements.text.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  asking?.abort();
  const own = (asking = new AbortController());
  const policies = [Number(chosen.a.value), Number(chosen.b.value)];
  for (const [k, side] of ["a", "b"].entries()) {
    document.querySelector(`#answers [data-name="${side}"]`).textContent = `policy ${policies[k]}`;
    column(side).textContent = "";
    column(side).classList.add("coming");
  }
  document.getElementById("answers").hidden = false;
  status.textContent = "Asking …";
  try {
    for await (const line of lines("/policies/answers", { text: form.elements.text.value.trim(), policies }, own.signal)) {
      column(line.side).append(line.error?.message ?? line.text);
      if (line.done || line.error) column(line.side).classList.remove("coming");
    }
    status.textContent = "Both have answered.";
  } catch (error) {
    if (own.signal.aborted) return;
    if (!(error instanceof ApiError)) throw error;
    status.textContent = error.message;
  }
  for (const side of ["a", "b"]) column(side).classList.remove("coming");
});
