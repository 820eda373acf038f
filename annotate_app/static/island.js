// What the console's islands share: an empty Gradio column becomes a shadow root that shows a page of ours, fetched as HTML.
// Every text in such a page was made inert by the server; its style and what is in its <main> are all that is taken.

export async function api(path, headers = {}) {
  const answer = await fetch(`/api/v1${path}`, { headers: { accept: "application/json, text/html;q=.9", ...headers } });
  if (answer.ok || answer.status === 304) return answer;
  const said = await answer.json().catch(() => null);
  throw new Error(said?.error?.message ?? `The app answered ${answer.status}. Reload the page.`);
}

export function pageOf(text) {
  const page = new DOMParser().parseFromString(text, "text/html");
  const main = page.querySelector("main");
  const place = document.createElement("div"); // the console has a main of its own
  place.className = main.className;
  place.append(...main.childNodes);
  return { style: page.querySelector("style").textContent, place };
}

// A shadow root's sheet cannot register properties; report.css animates this one (console.css, too).
CSS.registerProperty({ name: "--fade", syntax: "<length>", inherits: false, initialValue: "0px" });

// Calls make(root, host) once for the element of this id; Gradio draws it late, may draw it anew, and switches light and dark.
export function attach(id, make) {
  const look = () => {
    const host = document.getElementById(id);
    if (!host) return;
    if (!host.shadowRoot) make(host.attachShadow({ mode: "open" }), host);
    const scheme = document.querySelector(".dark") ? "dark" : "light";
    if (host.style.colorScheme !== scheme) host.style.colorScheme = scheme;
  };
  new MutationObserver(look).observe(document.documentElement, { childList: true, subtree: true, attributeFilter: ["class"] });
  look();
}
