"""Every sentence in every language, with the same place holders; none forgotten in the page's code, none left over."""

import json
import re

import pytest

from annotate_app.texts import LANGUAGES, TEXTS, choose_language, guidelines, sentence

STATIC = TEXTS.parent
SCRIPTS = {path.name: path.read_text() for path in STATIC.glob("*.js")}
PAGE = ("labelling.js", "view.js", "menus.js", "extras.js", "history.js", "reading.js", "training.js", "ranking.js", "keys.js")


def sentences(language):
    return json.loads((TEXTS / f"{language}.json").read_text())


def holes(text):
    return sorted(re.findall(r"\{(\w+)\}", text))


def test_there_are_english_and_two_more():
    assert {"en", "de", "es"} <= set(LANGUAGES)
    named = re.search(r"LANGUAGES = (\{.*\})", SCRIPTS["texts.js"])
    assert named and all(f"{language}:" in named[1] for language in LANGUAGES)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_sentence_is_there_with_the_same_place_holders(language):
    english, own = sentences("en"), sentences(language)
    assert list(own) == list(english)
    assert {key: holes(text) for key, text in own.items()} == {key: holes(text) for key, text in english.items()}
    assert all(text.strip() for text in own.values())
    assert guidelines(language).startswith("###")
    if language != "en":  # names and signs may be alike, sentences are not
        assert not [key for key, text in own.items() if text == english[key] and len(text) > 24]


def test_every_sentence_that_the_page_asks_for_is_there():
    asked = {key for name in PAGE for key in re.findall(r'\bt\("([\w.]+)"', SCRIPTS.get(name, ""))}
    asked |= {key for name in PAGE for key in re.findall(r'text: "([\w.]+)"', SCRIPTS.get(name, ""))}
    assert len(asked) > 80 and not asked - set(sentences("en"))


def test_no_sentence_is_left_over():
    code = "\n".join([*SCRIPTS.values(), *(path.read_text() for path in STATIC.parent.rglob("*.py"))])
    composed = tuple(set(re.findall(r"t\(`([a-z_]+\.[a-z_]*)\$\{", code)))  # t(`verdict.${...}`)
    plain = [key.removesuffix(".one") for key in sentences("en") if not key.startswith(("_", "sign_in.", "account."))]
    assert not [key for key in plain if f'"{key}"' not in code and not key.startswith(composed)]


def test_a_language_is_chosen_from_the_campaign_or_the_browser():
    assert choose_language("fr-FR,de;q=0.8,en;q=0.5") == "de"
    assert choose_language("de", of_campaign="es") == "es"
    assert choose_language("") == choose_language("tlh") == "en"
    assert sentence("sign_in.now", "de", name="Ada") == "Sie sind angemeldet als Ada."
