// The campaign page: its form as one record to the server, files with a look at their beginning before they are sent.

const form = document.getElementById("campaign");
const upload = document.getElementById("upload");
const NUMBERS = ["min_rationale", "num_training", "overlap", "responses_per_prompt", "break_minutes", "budget_labels", "check_share", "gate_share", "gate_threshold", "gate_votes"];
const MAYBE = ["overlap_max", "pass_mark", "price_per_label", "round_every_labels", "round_every_hours", "round_below_bits",
  "refit_every_labels"];
const PREVIEW_BYTES = 4_000;

async function send(method, path, body, type) {
  const headers = { "X-Nashloop": "1", ...(type && { "Content-Type": type }) };
  const answer = await fetch(`/api/v1${path}`, { method, headers, body });
  const said = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(said.error?.message ?? `The app answered ${answer.status}. Reload the page.`);
  return said;
}

/** What the form says, as the record that PUT /campaign takes; empty is "not set". */
function record() {
  const value = (name) => form.elements[name].value.trim();
  const number = (name) => (value(name) === "" ? null : Number(value(name)));
  const lines = (name) => value(name).split("\n").map((line) => line.trim()).filter(Boolean);
  const update = { rule: value("rule") };
  for (const label of document.querySelectorAll("[data-setting]:not([hidden])")) {
    const { name, value: said } = label.querySelector("input");
    if (said.trim() && said.trim() !== "auto") update[name] = Number(said);
  }
  return {
    aspects: lines("aspects"),
    reason_tags: lines("reason_tags"),
    ask_strength: form.elements.ask_strength.checked,
    allow_edits: form.elements.allow_edits.checked,
    guidelines: value("guidelines") || null,
    language: value("language") || null,
    currency: value("currency") || "USD",
    gate: value("gate"),
    gate_trains: form.elements.gate_trains.checked,
    ...Object.fromEntries([...NUMBERS, ...MAYBE].map((name) => [name, number(name)])),
    selection: value("selection"),
    update,
  };
}

/** Settings that the chosen rule reads, and its explanation. */
function showRule() {
  const chosen = form.elements.rule.value;
  let reads = "";
  for (const about of document.querySelectorAll("[data-rule]")) {
    about.hidden = about.dataset.rule !== chosen;
    if (!about.hidden) reads = ` ${about.dataset.reads} `;
  }
  for (const label of document.querySelectorAll("[data-setting]")) label.hidden = !reads.includes(` ${label.querySelector("input").name} `);
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const line = document.getElementById("saved");
  line.className = "";
  line.textContent = "Saving …";
  try {
    const before = await send("GET", "/campaign"); // fields that this page does not show stay
    const { round } = before;
    const { update, selection, ...values } = record();
    for (const name of NUMBERS) if (values[name] === null && !["break_minutes", "budget_labels"].includes(name)) values[name] = undefined; // its default
    const kept = { ...round, selection, update: { ...Object.fromEntries(Object.entries(round.update ?? {}).filter(([name]) => !form.elements[name])), ...update } };
    await send("PUT", "/campaign", JSON.stringify({ ...before, ...values, round: kept }), "application/json");
    line.textContent = "Saved. It counts from the next pair on.";
  } catch (error) {
    line.className = "wrong";
    line.textContent = error.message;
  }
});
form.elements.rule.addEventListener("change", showRule);
showRule();

upload.elements.file.addEventListener("change", async () => {
  const [file] = upload.elements.file.files;
  const preview = document.getElementById("preview");
  preview.hidden = !file || file.name.endsWith(".parquet");
  if (!preview.hidden) preview.textContent = await file.slice(0, PREVIEW_BYTES).text();
});

upload.addEventListener("submit", async (event) => {
  event.preventDefault();
  const line = document.getElementById("uploaded");
  const [file] = upload.elements.file.files;
  if (!file) return (line.textContent = "No file is chosen. Choose a JSONL, CSV, TXT or Parquet file first.");
  line.className = "";
  line.textContent = "Importing; labelling goes on.";
  const query = new URLSearchParams({ filename: file.name, skip_bad: upload.elements.skip.value });
  try {
    const said = await send("POST", `/imports/${upload.elements.what.value}?${query}`, file, "application/octet-stream");
    const counts = Object.entries(said).filter(([, value]) => typeof value === "number");
    line.textContent = `Imported: ${counts.map(([name, value]) => `${name.replaceAll("_", " ")} ${value.toLocaleString()}`).join(", ")}.`;
  } catch (error) {
    line.className = "wrong";
    line.textContent = error.message;
  }
});
