"""What the server says to annotators, in their language: the labelling page's own files, one for each language.

A new language is ``static/texts/XX.json``, ``guidelines.XX.md`` beside it, and its name in ``static/texts.js``.
"""

import json
from functools import cache
from pathlib import Path

TEXTS = Path(__file__).with_name("static") / "texts"
LANGUAGES = tuple(sorted(path.stem for path in TEXTS.glob("*.json")))
ROLE_NAMES = {"user": "User", "assistant": "Assistant", "system": "Instructions to the assistant"}

SIGN_IN_OPERATOR = (
    "<p class='small'>You run this Nashloop? <code>nashloop users invite researcher</code> prints a link for yourself, "
    "<code>nashloop users add NAME</code> one for somebody new.</p>"
)


def choose_language(accepted: str, of_campaign: str | None = None) -> str:
    """The campaign's language, else the first of an Accept-Language header that there is, else English."""
    wanted = [of_campaign or "", *(part.split(";")[0].strip() for part in accepted.split(","))]
    return next((name.split("-")[0] for name in wanted if name.split("-")[0] in LANGUAGES), "en")


def sentence(key: str, language: str, **values: str) -> str:
    """A sentence with its {names} filled in; KeyError for an unknown key."""
    return _sentences(language)[key].format(**values)


@cache
def guidelines(language: str) -> str:
    """The built-in guidelines, Markdown."""
    return (TEXTS / f"guidelines.{language if language in LANGUAGES else 'en'}.md").read_text()


@cache
def _sentences(language: str) -> dict[str, str]:
    return json.loads((TEXTS / f"{language}.json").read_text())
