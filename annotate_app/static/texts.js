// Sentences in the reader's language: one flat JSON file per language under texts/. A new language is a file, and its line here.

export const LANGUAGES = { en: "English", de: "Deutsch", es: "Español" };
const CHOSEN = "nashloop.language";

let sentences = {};

/** Loads the language that the person chose, else the campaign's, else the browser's; returns it with its direction. */
export async function loadTexts(ofCampaign) {
  const wanted = [localStorage.getItem(CHOSEN), ofCampaign, ...navigator.languages].filter(Boolean).map((name) => name.split("-")[0]);
  const language = wanted.find((name) => Object.hasOwn(LANGUAGES, name)) ?? "en";
  sentences = await (await fetch(new URL(`./texts/${language}.json`, import.meta.url))).json();
  return { language, direction: sentences._dir };
}

/** The language of choice from now on; the page is loaded anew. Verdicts not sent yet wait in the session. */
export function chooseLanguage(language) {
  localStorage.setItem(CHOSEN, language);
  location.reload();
}

/** A sentence by its key, with {names} filled in. A number picks between "key.one" and "key" where both exist. */
export function t(key, values = {}) {
  const text = (values.number === 1 && sentences[`${key}.one`]) || sentences[key];
  if (text === undefined) throw new Error(`no sentence ${key}`);
  return text.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}
