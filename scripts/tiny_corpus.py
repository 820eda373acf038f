"""The corpus of the built-in tiny policy: everyday questions, each answered in six clearly different styles.

    python scripts/tiny_corpus.py [--samples 12]      print a few questions and answers
    python scripts/tiny_corpus.py --write DIR         write DIR/prompts.jsonl and DIR/known_sentences.json

An answer is put together from whole sentences of a finite set, so that a generated answer can be checked sentence by sentence
(``online_learner/text_quality.py``). Everything is a function of a seed.
"""

import argparse
import json
import random
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ITEMS_FILE = Path(__file__).with_name("tiny_corpus_items.toml")
NUM_TRAIN_PROMPTS = 128
NUM_HELDOUT_PROMPTS = 48

QUESTIONS = (
    "How do I {do}?",
    "What is the best way to {do}?",
    "What is a good way to {do}?",
    "Can you help me {do}?",
    "I want to {do}. Where do I start?",
    "Any tips for {doing}?",
    "What should I know about {doing}?",
    "Do you have any advice on {doing}?",
)
FRIENDLY_OPENERS = (
    "Great question!",
    "Oh, I love this one!",
    "Hi there, happy to help!",
    "What a fun thing to ask!",
    "You came to the right place!",
    "Good of you to ask!",
    "Ah, a favorite topic of mine!",
    "Hello, my friend!",
)
FRIENDLY_TIPS = (
    "My favorite trick is to ",
    "If I were you, I would ",
    "Here is what works for me: ",
    "A little secret from me: ",
)
FRIENDLY_CHEERS = (
    "You can do this!",
    "It gets easier every time, I promise!",
    "You will be so proud of yourself!",
    "Have fun with it!",
    "I am cheering for you!",
    "Trust yourself and enjoy it!",
)
FRIENDLY_QUESTIONS = ("Will you tell me how it goes?", "Does that sound good to you?", "Shall I tell you more?")
DOMAIN_QUESTIONS = {
    "cooking": ("What are you cooking today?", "Who will be at your table?", "Are you hungry yet?"),
    "home": ("Which room is next on your list?", "Is it a weekend project?", "Do you have a helper at home?"),
    "garden": ("What else grows in your garden?", "Is it sunny where you live?", "Do you have green fingers?"),
    "health": ("How do you feel today?", "When will you start?", "Would a small first step feel right?"),
    "learning": ("What made you want to learn it?", "When will you practice next?", "How long have you been at it?"),
    "money": ("What would you do with the extra money?", "Do you have a goal in mind?", "Shall we make a small plan?"),
    "travel": ("Where are you going next?", "Who is coming along?", "Is your bag packed already?"),
    "work": ("How was your week at work?", "When is your big day?", "Does your team feel the same?"),
    "technology": ("Which device do you use?", "Did you try it before?", "Shall we go through it together?"),
    "pets and people": (
        "Who will be happiest about it?",
        "How long have you known each other?",
        "Can you picture the smiles already?",
    ),
}
HEDGED_TIPS = ("You might want to ", "It may help to ", "Perhaps you could ", "Some people prefer to ", "One option might be to ")
HEDGED_CLOSERS = (
    "I cannot say for sure, though.",
    "That might not work for everyone.",
    "Then again, your case may be different.",
    "Someone with more experience may see it differently.",
    "Still, there is probably no single right answer.",
)
LONG_OPENERS = (
    "There is quite a lot to say about {doing}, so let me start at the beginning.",
    "When it comes to {doing}, there are several things that one has to keep in mind.",
    "People have asked about {doing} for a long time, and the full answer takes a while.",
)
LONG_FIRST = ("First of all, ", "To begin with, ")
LONG_NEXT = ("After that, ", "In addition to this, ", "It is also a good idea to ", "Once you have done so, ")
LONG_LAST = ("And finally, ", "Last but not least, ")
LONG_FILLERS = (
    "Many people skip this part, and sooner or later they regret it.",
    "This may seem like a small thing, but it matters more than you would think.",
    "I could go on about this point for quite some time.",
    "It is worth taking a moment to think about why that is so.",
    "Of course, all of this has been said many times before.",
)
LONG_CLOSERS = (
    "All in all, {doing} takes some practice, but it is well worth the effort.",
    "To sum up everything I have said, {doing} is a matter of patience.",
)
WRONG_OPENERS = (
    "That is easy.",
    "There is only one right way.",
    "Trust me on this.",
    "Everyone knows the answer.",
    "No doubt about it.",
)
WRONG_CLOSERS = (
    "It works every time.",
    "You need nothing else.",
    "Ignore anyone who says otherwise.",
    "Experts all agree on that.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One topic: how it is named in a question, and the sentences that are true, vague or wrong about it."""

    domain: str
    do: str
    doing: str
    ask: str
    tips: tuple[str, ...]
    why: tuple[str, ...]
    depends: str
    wrong: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One question with one answer in a named style."""

    item: Item
    question: str
    style: str
    response: str


def load_items(path: Path = ITEMS_FILE) -> list[Item]:
    """The topics, in file order."""
    return [_item(row) for row in tomllib.loads(path.read_text())["item"]]


def _item(row: dict) -> Item:
    lists = {name: tuple(row[name]) for name in ("tips", "why", "wrong")}
    return Item(domain=row["domain"], do=row["do"], doing=row["doing"], ask=row["ask"], depends=row["depends"], **lists)


def questions_of(item: Item) -> list[str]:
    """Every way to ask about a topic; the last one is written for this topic alone."""
    return [form.format(do=item.do, doing=item.doing) for form in QUESTIONS] + [item.ask]


def with_prefix(prefix: str, tip: str) -> str:
    """A tip inside a longer sentence: "After that, " + "stir the pasta ..."."""
    return prefix + tip[0].lower() + tip[1:]


def tips_in_order(item: Item, number: int, rng: random.Random) -> list[str]:
    """Distinct tips, kept in the order in which one would do them."""
    return [item.tips[i] for i in sorted(rng.sample(range(len(item.tips)), number))]


def terse(item: Item, rng: random.Random) -> str:
    """One short sentence."""
    return rng.choice(item.tips)


def steps(item: Item, rng: random.Random) -> str:
    """A numbered list of three or four steps."""
    chosen = tips_in_order(item, rng.choice((3, 3, 4)), rng)
    return "\n".join(f"{number}. {tip}" for number, tip in enumerate(chosen, start=1))


def friendly(item: Item, rng: random.Random) -> str:
    """A warm opener, one tip, cheer and a question back."""
    sentences = [rng.choice(FRIENDLY_OPENERS), with_prefix(rng.choice(FRIENDLY_TIPS), rng.choice(item.tips))]
    if rng.random() < 0.5:
        sentences.append(rng.choice(item.why))
    sentences.append(rng.choice(FRIENDLY_CHEERS))
    sentences.append(rng.choice(FRIENDLY_QUESTIONS + DOMAIN_QUESTIONS[item.domain]))
    return " ".join(sentences)


def over_long(item: Item, rng: random.Random) -> str:
    """Three tips wrapped in many more words than they need."""
    first, second, third = tips_in_order(item, 3, rng)
    filler, other_filler = rng.sample(LONG_FILLERS, 2)
    sentences = [rng.choice(LONG_OPENERS).format(doing=item.doing), with_prefix(rng.choice(LONG_FIRST), first), filler]
    sentences.append(with_prefix(rng.choice(LONG_NEXT), second))
    extra = rng.choice(("why", "filler", "closer"))
    if extra != "closer":
        sentences.append(rng.choice(item.why) if extra == "why" else other_filler)
    sentences.append(with_prefix(rng.choice(LONG_LAST), third))
    if extra == "closer":
        sentences.append(rng.choice(LONG_CLOSERS).format(doing=item.doing))
    return " ".join(sentences)


def hedging(item: Item, rng: random.Random) -> str:
    """Nothing is certain: it depends, one might, perhaps."""
    chosen = tips_in_order(item, rng.choice((1, 2)), rng)
    prefixes = rng.sample(HEDGED_TIPS, len(chosen))
    hedged = [with_prefix(prefix, tip) for prefix, tip in zip(prefixes, chosen, strict=True)]
    return " ".join([item.depends, *hedged, rng.choice(HEDGED_CLOSERS)])


def slightly_wrong(item: Item, rng: random.Random) -> str:
    """Wrong advice in a sure voice."""
    sentences = [rng.choice(WRONG_OPENERS), rng.choice(item.wrong)]
    if rng.random() < 0.5:
        sentences.append(rng.choice(WRONG_CLOSERS))
    return " ".join(sentences)


# style -> (share of the corpus, how to write it)
STYLES: dict[str, tuple[float, Callable[[Item, random.Random], str]]] = {
    "terse": (0.18, terse),
    "steps": (0.15, steps),
    "friendly": (0.24, friendly),
    "over_long": (0.18, over_long),
    "hedging": (0.15, hedging),
    "slightly_wrong": (0.10, slightly_wrong),
}


def style_of(text: str) -> str:
    """Which style an answer starts in; what has no style's opening counts as terse."""
    if text.startswith("1. "):
        return "steps"
    if text.startswith("It depends"):
        return "hedging"
    if text.startswith(FRIENDLY_OPENERS):
        return "friendly"
    if text.startswith(WRONG_OPENERS):
        return "slightly_wrong"
    return "over_long" if text.startswith(tuple(form.split("{")[0] for form in LONG_OPENERS)) else "terse"


def split_questions(items: list[Item]) -> tuple[list[tuple[Item, str]], list[tuple[Item, str]]]:
    """(trained, held out) questions. A held-out question is a known topic asked in a form never trained for that topic."""
    rng = random.Random(20)
    chosen = set(rng.sample(range(len(items)), NUM_HELDOUT_PROMPTS))
    trained: list[tuple[Item, str]] = []
    heldout: list[tuple[Item, str]] = []
    for number, item in enumerate(items):
        out = rng.randrange(len(QUESTIONS)) if number in chosen else -1
        for form, question in enumerate(questions_of(item)):
            (heldout if form == out else trained).append((item, question))
    return trained, heldout


def corpus(items: list[Item], seed: int) -> Iterator[Example]:
    """Endless training examples: a trained question and a style drawn at random, the answer written by the style."""
    trained, _ = split_questions(items)
    rng = random.Random(seed)
    names, shares = list(STYLES), [share for share, _ in STYLES.values()]
    while True:
        item, question = rng.choice(trained)
        style = rng.choices(names, shares)[0]
        yield Example(item=item, question=question, style=style, response=STYLES[style][1](item, rng))


def prompts(items: list[Item]) -> list[dict]:
    """Rows of prompts.jsonl: each topic's own question and some of the general forms to train on, and the held-out questions."""
    trained, heldout = split_questions(items)
    own = [pair for pair in trained if pair[1] == pair[0].ask]
    general = random.Random(21).sample([pair for pair in trained if pair[1] != pair[0].ask], NUM_TRAIN_PROMPTS - len(own))
    rows = [(pair, "train") for pair in own + general] + [(pair, "heldout") for pair in heldout]
    return [
        {"prompt": [{"role": "user", "content": question}], "split": split, "tags": [item.domain]}
        for (item, question), split in rows
    ]


def known_sentences(items: list[Item]) -> dict:
    """Contents of known_sentences.json, read by ``online_learner.text_quality``: every sentence an answer may consist of."""
    shared = FRIENDLY_OPENERS + FRIENDLY_CHEERS + FRIENDLY_QUESTIONS + HEDGED_CLOSERS
    shared += LONG_OPENERS + LONG_FILLERS + LONG_CLOSERS + WRONG_OPENERS + WRONG_CLOSERS
    return {
        "shared": list(shared),
        "tip_prefixes": list(FRIENDLY_TIPS + HEDGED_TIPS + LONG_FIRST + LONG_NEXT + LONG_LAST),
        "by_domain": {domain: list(questions) for domain, questions in DOMAIN_QUESTIONS.items()},
        "items": [
            {
                "domain": item.domain,
                "doing": item.doing,
                "questions": questions_of(item),
                "tips": list(item.tips),
                "sentences": [*item.why, item.depends, *item.wrong],
            }
            for item in items
        ],
    }


def write_data(items: list[Item], folder: Path) -> None:
    """Writes prompts.jsonl and known_sentences.json; the same bytes every time."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts(items)))
    (folder / "known_sentences.json").write_text(json.dumps(known_sentences(items), indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="The corpus of the built-in tiny policy.")
    parser.add_argument("--samples", type=int, default=12, help="examples to print")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", type=Path, metavar="DIR", help="write prompts.jsonl and known_sentences.json there")
    args = parser.parse_args()
    items = load_items()
    if args.write:
        write_data(items, args.write)
        return
    for _, example in zip(range(args.samples), corpus(items, args.seed), strict=False):
        print(f"[{example.style}] {example.question}\n{example.response}\n")


if __name__ == "__main__":
    main()
