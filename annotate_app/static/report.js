// The console's Reports tab: which jobs have a report, and the report itself, fetched as the file that is also downloaded.
// Its style and body go into a shadow root; every text in them was made inert by the server (report_html.py).

import { api, attach, pageOf } from "./island.js";

const STYLE = `
  [hidden] { display: none !important; }
  .bar { display: flex; flex-wrap: wrap; gap: 10px 12px; align-items: end; width: 100%; max-width: 900px; box-sizing: border-box; margin: 0 auto; padding: 4px 24px 0;
    font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; color: var(--text); }
  label { display: grid; gap: 3px; color: var(--muted); font-size: .85rem; flex: 1 1 220px; }
  select, .bar a { font: inherit; min-height: 44px; border: 1px solid var(--line); border-radius: 10px; background: var(--surface); color: var(--text); padding: 9px 12px; }
  select { font-size: 1rem; width: 100%; }
  .bar a { text-decoration: none; font-weight: 600; color: var(--accent); padding: 9px 16px; }
  .note { max-width: 900px; margin: 0 auto; padding: 20px 24px; color: var(--muted); font: 16px/1.6 system-ui, sans-serif; }
  @media (max-width: 640px) { .bar { padding: 0; } .note { padding: 16px 0; } .report { padding-inline: 0 !important; } }
`;

class Reports {
  constructor(root, host) {
    this.root = root;
    this.root.innerHTML = `<style></style><style>${STYLE}</style>
      <div class="bar" hidden><label for="job">Report of<select id="job"></select></label>
      <a id="download">Download as a file</a></div><p class="note" role="status"></p><div id="report"></div>`;
    [this.sheet] = this.root.querySelectorAll("style");
    for (const name of ["bar", "note"]) this[name] = this.root.querySelector(`.${name}`);
    for (const name of ["job", "download", "report"]) this[name] = this.root.getElementById(name);
    this.job.addEventListener("change", () => this.show(this.job.value));
    this.root.addEventListener("click", (event) => this.jump(event));
    new IntersectionObserver((seen) => seen.some((entry) => entry.isIntersecting) && this.refresh()).observe(host);
  }

  // Each time the tab is opened: new jobs appear, and the newest round is shown until somebody chooses another.
  async refresh() {
    try {
      const { reports: jobs } = await (await api("/reports")).json();
      const known = [...this.job.options].map((option) => option.value).join();
      if (jobs.map((job) => job.number).join() === known && jobs.length) return;
      const chosen = this.job.value;
      this.job.replaceChildren(...jobs.map((job) => new Option(`${job.kind} ${job.number}, ${when(job.created_at)}`, job.number)));
      this.bar.hidden = !jobs.length;
      if (!jobs.length) return this.say("No job has finished yet. Start a round in the tab Round; its report appears here.");
      const newest = jobs.find((job) => job.kind === "round") ?? jobs[0];
      this.job.value = jobs.some((job) => `${job.number}` === chosen) ? chosen : newest.number;
      await this.show(this.job.value);
    } catch (error) {
      this.say(error.message);
    }
  }

  async show(number) {
    try {
      const text = await (await api(`/rounds/${Number(number)}/report.html`)).text();
      if (this.job.value !== `${number}`) return; // another was chosen meanwhile
      const { style, place } = pageOf(text);
      this.sheet.textContent = style;
      this.report.replaceChildren(place);
      this.download.href = `/api/v1/rounds/${Number(number)}/report.html?download=true`;
      this.say("");
    } catch (error) {
      this.say(error.message);
    }
  }

  // Addresses within a shadow root are not found by the browser.
  jump(event) {
    const link = event.target.closest?.('a[href^="#"]');
    if (!link) return;
    event.preventDefault();
    this.root.getElementById(link.hash.slice(1))?.scrollIntoView({ block: "start" });
  }

  say(sentence) {
    this.note.textContent = sentence;
    this.note.hidden = !sentence;
    if (sentence) this.report.replaceChildren();
  }
}

const when = (iso) => new Date(iso).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });

attach("report-host", (root, host) => new Reports(root, host));
