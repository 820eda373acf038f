"""Worlds for trying out pair selection without a language model: features of responses, and who prefers which.

The structures are those of worlds.py: one utility, classes that beat each other in a circle, two tastes. Prompts differ widely
in how much their responses differ.
Shapes: Q prompts of K responses with d features; P = K (K - 1) / 2 pairs of a prompt.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.special import expit, logit

from annotate_app.worlds import CYCLE_LOGIT

RESPONSES = 4
FIRST, SECOND = np.array(list(combinations(range(RESPONSES), 2))).T
UTILITY_SCALE = 2.0  # standard deviation of utilities in logits where the spread of the prompt is 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SelectionWorld:
    """``features`` (Q, P, D) of pairs, antisymmetric in the two responses, and true log odds (Q, P) that the first wins."""

    features: np.ndarray
    logits: np.ndarray


def transitive(num_prompts: int, people: np.random.Generator, prompts: np.random.Generator) -> SelectionWorld:
    """One linear utility over 16 features."""
    responses, tastes = _responses(num_prompts, prompts), _tastes(people)
    return SelectionWorld(features=_differences(responses), logits=_differences(responses) @ tastes[0])


def crowd(num_prompts: int, people: np.random.Generator, prompts: np.random.Generator) -> SelectionWorld:
    """Two thirds of the answers by one utility, one third by another that agrees with it by half."""
    responses, tastes = _responses(num_prompts, prompts), _tastes(people)
    chance = expit(_differences(responses) @ tastes.T) @ np.array([2 / 3, 1 / 3])
    return SelectionWorld(features=_differences(responses), logits=logit(chance.clip(1e-9, 1 - 1e-9)))


def cyclic(num_prompts: int, people: np.random.Generator, prompts: np.random.Generator) -> SelectionWorld:
    """Three classes, each beats the next 80:20; the model sees them blurred, beside five features that say nothing.

    Most prompts have responses of one or two classes: the shares are Dirichlet(1/2). Pair features: differences, and all
    products a_i b_j - a_j b_i, in which a circle is linear.
    """
    shares = prompts.dirichlet([0.5] * 3, size=num_prompts).cumsum(1)
    classes = (prompts.random((num_prompts, RESPONSES, 1)) > shares[:, None, :2]).sum(2)
    blurred = np.eye(3)[classes] + 0.15 * prompts.normal(size=(num_prompts, RESPONSES, 3))
    responses = np.concatenate([blurred, 0.5 * prompts.normal(size=(num_prompts, RESPONSES, 5))], axis=2)
    one, other = responses[:, FIRST], responses[:, SECOND]
    i, j = np.triu_indices(responses.shape[2], 1)
    products = one[..., i] * other[..., j] - one[..., j] * other[..., i]
    beats = np.array([0.0, CYCLE_LOGIT, -CYCLE_LOGIT])
    return SelectionWorld(
        features=np.concatenate([one - other, products], axis=2),
        logits=beats[(classes[:, SECOND] - classes[:, FIRST]) % 3],
    )


def _responses(num_prompts: int, prompts: np.random.Generator, width: int = 16) -> np.ndarray:
    """(Q, K, d): the spread of a prompt's responses is log-normal."""
    spread = np.exp(prompts.normal(size=(num_prompts, 1, 1)))
    return spread * prompts.normal(size=(num_prompts, RESPONSES, width)) / np.sqrt(width)


def _tastes(people: np.random.Generator, width: int = 16) -> np.ndarray:
    """(2, d) weights; the second has a correlation of one half with the first."""
    weights = people.normal(size=(2, width))
    weights *= UTILITY_SCALE * np.sqrt(width) / np.linalg.norm(weights, axis=1, keepdims=True)
    return np.stack([weights[0], 0.5 * weights[0] + np.sqrt(0.75) * weights[1]])


def _differences(responses: np.ndarray) -> np.ndarray:
    return responses[:, FIRST] - responses[:, SECOND]


MakeWorld = Callable[[int, np.random.Generator, np.random.Generator], SelectionWorld]
SELECTION_WORLDS: dict[str, MakeWorld] = {"transitive": transitive, "cyclic": cyclic, "crowd": crowd}
