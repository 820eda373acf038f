// Live prompts: the annotator writes, two responses of the policy stream side by side, the pair is judged like any other, and the
// conversation goes on with the better one. While this is ``busy`` the queue waits underneath; nothing of it is lost.

import { ApiError, lines } from "./sender.js";
import { t } from "./texts.js";
import { describe } from "./view.js";

export class Live {
  /** ``page``: sender, announce(text), showState(name), goBack(), take(lease). */
  constructor(find, page) {
    this.find = find;
    this.page = page;
    this.busy = false;
    this.own = new Set(); // leases that came from here
    this.thread = null; // {after, html} of the conversation that goes on
    this.request = null; // the last question, so that asking it again after a lost answer finds its pair
    this.stopping = null;
    find("live").addEventListener("submit", (event) => (event.preventDefault(), this.ask()));
    find("live-text").addEventListener("keydown", (event) => this.#typed(event));
    find("live-new").addEventListener("click", () => this.open());
    find("live-close").addEventListener("click", () => this.close());
    find("live-stop").addEventListener("click", () => this.stop());
  }

  /** Begin a conversation. */
  open(line = t("live.line")) {
    this.thread = null;
    this.#write(line);
  }

  /** After the verdict on a live pair: go on with the better response, or begin anew where there is none. */
  goOn(pair, body) {
    const side = { a: "a", b: "b", tie: "a" }[body.verdict];
    if (body.verdict === "skip") return this.close();
    const said = t("live.judged", { what: describe(body) });
    if (!side) return this.open(`${said} ${t("live.anew")}`);
    this.thread = { after: pair.lease_id, messages: pair.prompt, html: chatOf(pair, side, body.edited_text) };
    this.#write(`${said} ${t("live.go_on", { side: side.toUpperCase() })}`);
  }

  owns(pair) {
    return this.own.has(pair.lease_id);
  }

  /** Back to the queue. */
  close() {
    this.stopping?.abort();
    this.busy = false;
    this.page.goBack();
  }

  stop() {
    this.stopping?.abort();
  }

  takesKey(key) {
    if (key !== "escape" || !this.busy) return false;
    if (this.stopping) this.stop();
    else this.close();
    return true;
  }

  async ask() {
    const text = this.find("live-text").value.trim();
    if (!text || this.stopping) return this.find("live-text").focus();
    const after = this.thread?.after ?? null;
    if (this.request?.text !== text || this.request.after !== after) this.request = { text, after, request_id: randomId() };
    this.stopping = new AbortController();
    try {
      if (!(await this.page.sender.flushed())) throw new ApiError(0, t("undo.wait"));
      const lease = await this.#stream(this.request, this.stopping.signal);
      this.stopping = this.request = null;
      this.find("live-text").value = "";
      this.busy = false;
      this.own.add(lease.lease_id);
      this.page.take(lease);
    } catch (error) {
      const stopped = this.stopping?.signal.aborted;
      this.stopping = null;
      if (!this.busy) return; // left for the queue
      if (!stopped && !(error instanceof ApiError)) throw error;
      this.#write(stopped ? t("live.stopped") : error.message);
    }
  }

  async #stream(request, signal) {
    this.#paintAsked(request.text);
    for await (const line of lines("/live/turns", request, signal)) {
      if (line.error) throw new ApiError(200, line.error.message);
      if (line.lease) return line.lease;
      this.find(`text-${line.side}`).firstElementChild.append(line.text);
      if (line.done) this.find(`text-${line.side}`).firstElementChild.classList.remove("coming");
    }
    throw new ApiError(0, t("live.broken"));
  }

  #paintAsked(text) {
    const asked = Object.assign(document.createElement("p"), { className: "asked", textContent: text });
    this.find("text-prompt").innerHTML = this.thread?.html ?? "";
    this.find("text-prompt").append(asked);
    this.find("text-prompt").scrollTop = asked.offsetTop;
    for (const side of ["a", "b"]) this.find(`text-${side}`).innerHTML = '<p class="streamed coming"></p>';
    this.find("pair").classList.remove("ranking");
    this.find("pair").removeAttribute("data-lease");
    this.page.showState("streaming");
    this.page.announce(t("live.coming"));
    this.find("live-stop").focus({ preventScroll: true });
  }

  #write(line) {
    this.busy = true;
    this.find("live-chat").innerHTML = this.thread?.html ?? "";
    nameSpeakers(this.find("live-chat"));
    this.find("live-chat").hidden = this.find("live-new").hidden = !this.thread;
    this.find("live-name").textContent = t(this.thread ? "live.next" : "live.name");
    this.find("live-line").textContent = line;
    this.page.showState("writing");
    this.find("live-chat").scrollTop = this.find("live-chat").scrollHeight;
    this.find("live-text").focus();
  }

  #typed(event) {
    const sends = event.key === "Enter" && (event.ctrlKey || event.metaKey);
    if ((event.key !== "Escape" && !sends) || event.isComposing) return;
    event.preventDefault();
    event.stopPropagation();
    if (sends) this.ask();
    else this.close();
  }
}

/** The conversation with its better response, as the server rendered both; an edited text as it was written. */
function chatOf(pair, side, edited) {
  const before = pair.prompt.length > 1 ? pair.prompt_html : turn("user", pair.prompt_html);
  return before + turn("assistant", edited ? escaped(edited) : pair[`response_${side}`].html);
}

const turn = (role, html) => `<section class="turn turn-${role}"><div class="who"></div>${html}</section>`;

function escaped(text) {
  const box = Object.assign(document.createElement("p"), { className: "streamed", textContent: text });
  return box.outerHTML;
}

function nameSpeakers(box) {
  for (const role of ["user", "assistant", "system"]) {
    for (const who of box.querySelectorAll(`.turn-${role} > .who`)) who.textContent = t(`role.${role}`);
  }
}

/** crypto.randomUUID is missing where the page came over plain HTTP from another machine. */
function randomId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
