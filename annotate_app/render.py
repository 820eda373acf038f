"""Model and user text to HTML that cannot do anything but be read.

Two walls: Markdown with raw HTML off, then an allow-list of tags without style, id, class, images or forms. The page's
content security policy is the third.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from html import escape
from typing import Any

import nh3
from markdown_it import MarkdownIt

from annotate_app.formulas import CLOSE, OPEN, add_formulas, insert_formulas
from annotate_app.texts import ROLE_NAMES
from storage.records import Message

TAGS = {"p", "br", "hr", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "li", "blockquote", "pre", "code", "em", "strong", "s"}
TAGS |= {"table", "thead", "tbody", "tr", "th", "td", "a"}
ATTRIBUTES = {"a": {"href"}, "ol": {"start"}, "pre": {"data-language"}}
MARKDOWN_LIMIT = 60_000  # characters; a longer text is shown as it is, so that parsing it keeps nobody waiting
SHOWN_LIMIT = 200_000  # characters of a text that the page shows at once
RENDERED_KEPT = 4096
# Characters that reorder the text around them: shown, not obeyed, or "abc" could be made to read as "cba".
BIDI_CONTROLS = re.compile("[\u202a-\u202e\u2066-\u2069]")
# Controls that browsers drop or draw as nothing; tab and line breaks stay.
OTHER_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
HELD_CHARACTERS = re.compile(f"[{OPEN}{CLOSE}]")  # the place holders of formulas; nobody else may write them

_markdown = (
    MarkdownIt("commonmark", {"html": False, "breaks": True}).enable(["table", "strikethrough"]).disable(["image", "code"])
)
add_formulas(_markdown)


def _fence(renderer: Any, tokens: Any, index: int, options: Any, env: Any) -> str:
    """Code in its box; the language is told beside it."""
    language = escape(tokens[index].info.strip().split(" ")[0][:30])
    told = f' data-language="{language}"' if language else ""
    return f"<pre{told}><code>{escape(tokens[index].content)}</code></pre>\n"


_markdown.add_render_rule("fence", _fence)


@lru_cache(maxsize=RENDERED_KEPT)
def render_markdown(text: str) -> str:
    """Sanitised HTML of Markdown text, with formulas as MathML. Line breaks are kept, links open elsewhere and say nothing
    about us. A very long text is not read as Markdown, and is cut at SHOWN_LIMIT characters.
    """
    shown = show_controls(text[:SHOWN_LIMIT])
    if len(text) > MARKDOWN_LIMIT:
        return f"<pre>{escape(shown)}</pre>"
    env: dict[str, Any] = {}
    html = _markdown.render(HELD_CHARACTERS.sub("", shown), env)
    clean = nh3.clean(
        html,
        tags=TAGS,
        attributes=ATTRIBUTES,
        url_schemes={"http", "https"},
        link_rel="noopener noreferrer nofollow",
        clean_content_tags={"script", "style"},
        set_tag_attribute_values={"a": {"target": "_blank"}},
    )
    return insert_formulas(clean, env.get("formulas", [])).strip()


def is_cut(text: str) -> bool:
    """Whether ``render_markdown`` shows only the beginning."""
    return len(text) > SHOWN_LIMIT


def show_controls(text: str) -> str:
    """Text in which characters that hide or reorder other text are written out, as in ``[U+202E]``."""
    return OTHER_CONTROLS.sub(_written_out, BIDI_CONTROLS.sub(_written_out, text))


def _written_out(match: re.Match[str]) -> str:
    return f"[U+{ord(match.group()):04X}]"


def render_prompt(prompt: Sequence[Message]) -> str:
    """The conversation so far as HTML: a single question as it stands, several turns each with who speaks."""
    if len(prompt) == 1 and prompt[0].role == "user":
        return render_markdown(prompt[0].content)
    return "".join(_turn(message) for message in prompt)


def _turn(message: Message) -> str:
    kind = message.role if message.role in ROLE_NAMES else "other"
    name = ROLE_NAMES.get(message.role) or escape(show_controls(message.role))
    return f'<section class="turn turn-{kind}"><div class="who">{name}</div>{render_markdown(message.content)}</section>'
