"""What a report is made of: sections of words, tables, pictures and responses side by side. Plain text only; HTML comes later."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Tone = Literal["good", "bad", "open"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One line of the summary: the question, the answer in a word or two, and why."""

    question: str
    short: str
    why: str
    tone: Tone


@dataclass(frozen=True, slots=True)
class Words:
    """A paragraph."""

    text: str


@dataclass(frozen=True, slots=True)
class Points:
    """A list of (what, sentence); ``what`` may be empty."""

    items: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under a header; the first column names the row. ``told``: the last holds sentences."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    told: bool = False


@dataclass(frozen=True, slots=True)
class Picture:
    """An SVG of ours, what it shows in one sentence, and the same numbers as a table."""

    svg: str
    caption: str
    numbers: Table


@dataclass(frozen=True, slots=True)
class SideBySide:
    """Texts of people or models, Markdown, each under a name; ``prompt`` is what they answer."""

    prompt: str
    texts: Sequence[tuple[str, str]]


Block = Words | Points | Table | Picture | SideBySide


@dataclass(frozen=True, slots=True)
class Section:
    """A heading with what is under it; ``name`` is its address in the page."""

    name: str
    title: str
    blocks: Sequence[Block]
