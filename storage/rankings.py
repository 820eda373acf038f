"""Rankings of several responses: annotators and the API name responses by the letters shown, the tables by their ids. Pure."""

from collections.abc import Sequence

from storage.errors import UserError
from storage.records import Verdict

LETTERS = "abcde"
Groups = tuple[tuple[str, ...], ...]  # best first; those of one group are tied


def check_ranking(ranking: Groups, num_shown: int) -> None:
    """UserError unless every letter that was shown is named once."""
    shown = LETTERS[:num_shown]
    named = [letter for group in ranking for letter in group]
    if sorted(named) != list(shown) or not all(ranking):
        raise UserError(f"ranking {[list(group) for group in ranking]} must name each of {', '.join(shown)} once, best first.")


def ids_ranked(ranking: Groups, shown_ids: Sequence[str]) -> Groups:
    """The ranking in response ids instead of letters; a is the first of ``shown_ids``. Tied ids in the order shown."""
    by_letter = dict(zip(LETTERS, shown_ids, strict=False))
    return tuple(tuple(by_letter[letter] for letter in sorted(group)) for group in ranking)


def letters_ranked(ranking: Groups, shown_ids: Sequence[str]) -> Groups:
    """The ranking in letters instead of response ids."""
    letters = dict(zip(shown_ids, LETTERS, strict=False))
    return tuple(tuple(letters[response_id] for response_id in group) for group in ranking)


def verdict_of_first_two(ranking: Groups) -> Verdict:
    """What a ranking in letters says of a and b, the two responses shown first."""
    place = {letter: k for k, group in enumerate(ranking) for letter in group}
    return "tie" if place["a"] == place["b"] else "a" if place["a"] < place["b"] else "b"
