"""Model and user text to HTML that cannot do anything but be read.

Two walls: Markdown with raw HTML off, then an allow-list of tags without style, id, class, images or forms. The page's
content security policy is the third.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from html import escape

import nh3
from markdown_it import MarkdownIt

from annotate_app.texts import ROLE_NAMES
from storage.records import Message

TAGS = {"p", "br", "hr", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "li", "blockquote", "pre", "code", "em", "strong", "s"}
TAGS |= {"table", "thead", "tbody", "tr", "th", "td", "a"}
ATTRIBUTES = {"a": {"href"}, "ol": {"start"}}
RENDERED_KEPT = 4096
# Characters that reorder the text around them: shown, not obeyed, or "abc" could be made to read as "cba".
BIDI_CONTROLS = re.compile("[\u202a-\u202e\u2066-\u2069]")
# Controls that browsers drop or draw as nothing; tab and line breaks stay.
OTHER_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")

_markdown = (
    MarkdownIt("commonmark", {"html": False, "breaks": True}).enable(["table", "strikethrough"]).disable(["image", "code"])
)


@lru_cache(maxsize=RENDERED_KEPT)
def render_markdown(text: str) -> str:
    """Sanitised HTML of Markdown text. Line breaks are kept, links open elsewhere and say nothing about us."""
    html = _markdown.render(show_controls(text))
    return nh3.clean(
        html,
        tags=TAGS,
        attributes=ATTRIBUTES,
        url_schemes={"http", "https"},
        link_rel="noopener noreferrer nofollow",
        clean_content_tags={"script", "style"},
        set_tag_attribute_values={"a": {"target": "_blank"}},
    ).strip()


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
