// Talking to /api/v1: one function for calls, and a queue that sends verdicts one after another until each is acknowledged.
// A verdict's lease id makes it idempotent on the server, so sending it again is always safe.

const REQUEST_MS = 15_000;
const RETRY_MS = [1_000, 2_000, 4_000, 8_000, 15_000];

let clockOffsetMs = 0; // server minus browser, where they differ by more than the Date header's second

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** The JSON answer, with its status; ApiError with status 0 where the server was not reached. */
export async function call(method, path, body) {
  let response;
  try {
    response = await fetch(`/api/v1${path}`, {
      method,
      headers: { "X-Nashloop": "1", ...(body && { "Content-Type": "application/json" }) },
      body: body && JSON.stringify(body),
      signal: AbortSignal.timeout(REQUEST_MS),
    });
  } catch (error) {
    throw new ApiError(0, `Nashloop cannot be reached (${error.message}).`);
  }
  noteClock(response.headers.get("date"));
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new ApiError(response.status, answer.error?.message ?? `The server answered ${response.status}.`);
  return { status: response.status, answer };
}

/** Posts and yields the lines of the answer as they come; ApiError where it refuses. */
export async function* lines(path, body, signal) {
  let response;
  try {
    const headers = { "X-Nashloop": "1", "Content-Type": "application/json" };
    response = await fetch(`/api/v1${path}`, { method: "POST", headers, body: JSON.stringify(body), signal });
  } catch (error) {
    throw new ApiError(0, `Nashloop cannot be reached (${error.message}).`);
  }
  if (!response.ok) {
    const answer = await response.json().catch(() => ({}));
    throw new ApiError(response.status, answer.error?.message ?? `The server answered ${response.status}.`);
  }
  let rest = "";
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read().catch((error) => Promise.reject(new ApiError(0, `Nashloop cannot be reached (${error.message}).`)));
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) yield JSON.parse(line);
  }
}

/** Now, by the server's clock: times of judgments must not depend on an annotator's computer. */
export function serverNow() {
  return new Date(Date.now() + clockOffsetMs);
}

function noteClock(date) {
  const offset = Date.parse(date ?? "") - Date.now();
  if (Number.isFinite(offset)) clockOffsetMs = Math.abs(offset) > 2_000 ? offset : 0;
}

export class Sender {
  /**
   * unsent verdicts survive a reload of the tab under ``storageKey``.
   * onSaved(body, answer, status) · onRefused(body, error) · onChange() after every change of what is unsent or why.
   */
  constructor({ storageKey, onSaved, onRefused, onChange }) {
    this.storageKey = storageKey;
    this.handlers = { onSaved, onRefused, onChange };
    this.unsent = JSON.parse(sessionStorage.getItem(storageKey) ?? "[]");
    this.problem = null; // the last ApiError, while it lasts
    this.sending = false;
    this.attempts = 0; // of the first in the queue
    this.timer = null;
    this.waiting = [];
    if (this.unsent.length) this.attempts = 1; // the page before may have sent it: it cannot be taken back unsent
  }

  push(body) {
    this.unsent.push(body);
    this.#changed();
    this.kick();
  }

  /** Removes a verdict that was never sent; false if it may have reached the server. */
  takeBack(leaseId) {
    const at = this.unsent.findIndex((body) => body.lease_id === leaseId);
    if (at < 0 || (at === 0 && (this.sending || this.attempts > 0))) return false;
    this.unsent.splice(at, 1);
    this.#changed();
    return true;
  }

  /** Resolves to true when all is sent, to false when something is in the way. */
  flushed() {
    if (!this.unsent.length) return Promise.resolve(true);
    this.kick();
    return new Promise((resolve) => this.waiting.push(resolve));
  }

  /** Try now rather than when the pause ends. */
  kick() {
    clearTimeout(this.timer);
    if (!this.sending) this.#sendAll();
  }

  async #sendAll() {
    this.sending = true;
    while (this.unsent.length) {
      const body = this.unsent[0];
      try {
        const { status, answer } = await call("POST", "/judgments", body);
        this.#settle(() => this.handlers.onSaved(body, answer, status));
      } catch (error) {
        if (!(error instanceof ApiError)) throw error;
        if (isPassing(error)) {
          this.#retryLater(error);
          return;
        }
        this.#settle(() => this.handlers.onRefused(body, error));
      }
    }
    this.sending = false;
    this.#resolve(true);
  }

  #settle(tell) {
    this.unsent.shift();
    this.attempts = 0;
    this.problem = null;
    this.#changed();
    tell();
  }

  #retryLater(error) {
    this.problem = error;
    this.sending = false;
    this.timer = setTimeout(() => this.kick(), RETRY_MS[Math.min(this.attempts, RETRY_MS.length - 1)]);
    this.attempts += 1;
    this.#resolve(false);
    this.handlers.onChange();
  }

  #changed() {
    sessionStorage.setItem(this.storageKey, JSON.stringify(this.unsent));
    this.handlers.onChange();
  }

  #resolve(value) {
    for (const resolve of this.waiting.splice(0)) resolve(value);
  }
}

/** Whether trying again may help: no connection, a busy or restarting server, or a sign-in that ran out. */
function isPassing(error) {
  return error.status === 0 || error.status === 401 || error.status === 403 || error.status === 429 || error.status >= 500;
}
