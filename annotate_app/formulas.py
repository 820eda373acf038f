"""LaTeX in Markdown to MathML: $..$, $$..$$, \\(..\\) and \\[..\\]. What does not parse stays as it was written.

The converter passes text through as it is, so its output is not trusted: it is read as XML and built anew from an allow-list
of elements with hardly any attributes.
"""

import re
from html import escape
from xml.etree import ElementTree

from latex2mathml.converter import convert
from markdown_it import MarkdownIt
from markdown_it.rules_inline import StateInline

MAX_FORMULA = 1_000  # characters; a longer one is more likely to be something else
MAX_TRIED = 12_000  # characters of a text that the converter is given, formulas or not: it takes some 12 microseconds for each
# Private-use characters around a number stand for a formula until the HTML around it has been sanitised.
OPEN, CLOSE = "\ue000", "\ue001"
HELD = re.compile(f"{OPEN}(\\d+){CLOSE}")

# Opening, closing, and whether it is a line of its own.
DELIMITERS = (("$$", "$$", True), ("\\[", "\\]", True), ("\\(", "\\)", False), ("$", "$", False))

ELEMENTS = {"math", "mrow", "mi", "mn", "mo", "mtext", "mspace", "mfrac", "msqrt", "mroot", "msub", "msup", "msubsup", "munder"}
ELEMENTS |= {"mover", "munderover", "mtable", "mtr", "mtd", "mstyle", "mpadded", "mphantom", "menclose", "mfenced"}
ATTRIBUTES = {
    "display",
    "stretchy",
    "fence",
    "separator",
    "accent",
    "linethickness",
    "columnalign",
    "mathvariant",
    "displaystyle",
}
VALUE = re.compile(r"[\w .%-]{1,40}")


def add_formulas(markdown: MarkdownIt) -> None:
    """Formulas become numbered place holders; ``env["formulas"]`` collects their MathML."""
    markdown.inline.ruler.before("escape", "formula", _rule)
    markdown.add_render_rule("formula", lambda renderer, tokens, index, options, env: tokens[index].content)


def insert_formulas(html: str, formulas: list[str]) -> str:
    """Sanitised HTML with its place holders filled."""
    return HELD.sub(lambda match: formulas[int(match[1])] if int(match[1]) < len(formulas) else "", html)


def formula_html(latex: str, *, block: bool) -> str | None:
    """MathML of LaTeX, or None where it does not parse."""
    try:
        root = ElementTree.fromstring(convert(latex, display="block" if block else "inline"))
    except Exception:  # the converter raises whatever its parser stumbles over, on text that nobody checked
        return None
    return _built(root)


def _built(element: ElementTree.Element) -> str:
    """The element from the allow-list; others are replaced by what they hold."""
    name = element.tag.rpartition("}")[2]
    inner = escape(element.text or "") + "".join(_built(child) + escape(child.tail or "") for child in element)
    if name not in ELEMENTS:
        return inner
    kept = {key: value for key, value in element.attrib.items() if key in ATTRIBUTES and VALUE.fullmatch(value)}
    attributes = "".join(f' {key}="{escape(value)}"' for key, value in kept.items())
    return f"<{name}{attributes}>{inner}</{name}>"


def _rule(state: StateInline, silent: bool) -> bool:
    for opening, closing, block in DELIMITERS:
        if state.src.startswith(opening, state.pos):
            end = _end(state.src, state.pos + len(opening), closing)
            return end is not None and _take(state, opening, closing, end, block, silent)
    return False


def _end(source: str, start: int, closing: str) -> int | None:
    """Where a formula ends. A single dollar hugs its formula and no digit follows it: prices are no formulas."""
    end = source.find(closing, start, start + MAX_FORMULA)
    while end != -1 and source[end - 1] == "\\" and closing.startswith("$"):
        end = source.find(closing, end + 1, start + MAX_FORMULA)
    if end <= start:
        return None
    if closing == "$":
        after = source[end + 1 : end + 2]
        if source[start].isspace() or source[end - 1].isspace() or after.isdigit():
            return None
    return end


def _take(state: StateInline, opening: str, closing: str, end: int, block: bool, silent: bool) -> bool:
    latex = state.src[state.pos + len(opening) : end]
    formulas: list[str] = state.env.setdefault("formulas", [])
    tried = state.env["tried"] = state.env.get("tried", 0) + len(latex)
    html = formula_html(latex, block=block) if tried <= MAX_TRIED else None
    if html is None:
        return False
    if not silent:
        formulas.append(html)
        state.push("formula", "", 0).content = f"{OPEN}{len(formulas) - 1}{CLOSE}"
    state.pos = end + len(closing)
    return True
