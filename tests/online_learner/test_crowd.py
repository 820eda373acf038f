"""Planted annotators: flip rates by closed form, and as near the truth as somebody comes who knows every item."""

import math

import pyarrow as pa
import pytest
import torch
from torch import Tensor

from online_learner.preference_models.crowd import NUM_RATES, flip_posterior, scale_posterior
from online_learner.preference_models.fit import fit_preference_models
from online_learner.preference_models.likelihood import interval_log_prob
from storage.contract.schemas import JUDGMENTS

NUM_ITEMS, NUM_ANNOTATORS, LABELS_EACH = 20, 50, 60
FLIPS = torch.linspace(0, 0.4, NUM_ANNOTATORS)
POSITION_BIAS = 0.3
EDGES = (0.0, 1.5, 3.0)  # slightly, clearly, much


def clear_answers(num_right: int, num_wrong: int) -> tuple[Tensor, Tensor]:
    """Log probabilities, seen and flipped, of answers about pairs that nobody can mistake."""
    right = torch.tensor([True] * num_right + [False] * num_wrong)
    seen = torch.where(right, 0.0, -40.0).double()[None]
    return seen, -40.0 - seen


def test_a_flip_rate_is_near_the_share_of_wrong_answers_once_there_are_many():
    seen, flipped = clear_answers(750, 250)
    weights, annotator = torch.ones_like(seen), torch.ones(1000, dtype=torch.long)
    rates = flip_posterior(seen, flipped, weights, annotator, 1)
    assert rates[0].tolist() == pytest.approx([0, 0.25], abs=0.005)


def test_one_annotator_on_a_grid_by_hand():
    # 1 of 2 clear answers wrong: likelihood e (1 - e), every prior a Beta of 2 e; the same sums in plain Python
    seen, flipped = clear_answers(1, 1)
    got = float(flip_posterior(seen, flipped, torch.ones_like(seen), torch.ones(2, dtype=torch.long), 1)[0, 1])
    grid = [(i + 0.5) / (2 * NUM_RATES) for i in range(NUM_RATES)]
    top = bottom = 0.0
    for mean in (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3):
        for size in (2, 5, 10, 20):
            prior = [(2 * e) ** (2 * size * mean - 1) * (1 - 2 * e) ** (size * (1 - 2 * mean) - 1) for e in grid]
            usual = torch.exp(-0.5 * torch.tensor(mean / 0.1, dtype=torch.float64).log() ** 2).item()
            weight = [usual * p / sum(prior) * e * (1 - e) for p, e in zip(prior, grid, strict=True)]
            bottom += sum(weight)
            top += sum(w * e for w, e in zip(weight, grid, strict=True))
    assert got == pytest.approx(top / bottom, abs=1e-7)


def test_no_answers_leave_the_rate_near_what_is_usual():
    nothing = torch.zeros(1, 0).double()
    rate = float(flip_posterior(nothing, nothing, nothing, torch.zeros(0, dtype=torch.long), 1)[0, 1])
    assert 0.05 < rate < 0.2


def test_a_scale_is_found_once_there_are_many_answers():
    # logit 1, and the second annotator answers as if it were 2: shares sigma(1) and sigma(2)
    wins = [round(4000 / (1 + math.exp(-1))), round(4000 / (1 + math.exp(-2)))]
    sign = torch.cat([torch.where(torch.arange(4000) < num, 1.0, -1.0) for num in wins]).double()[None]
    annotator = torch.tensor([1, 2]).repeat_interleave(4000)
    scales = scale_posterior(lambda g: torch.nn.functional.logsigmoid(g * sign), torch.ones_like(sign), annotator, 2)
    assert scales[0].tolist() == pytest.approx([1, 2], rel=0.08)


def planted(seed: int) -> tuple[pa.Table, Tensor]:
    """Judgments with strengths of far apart items, and the rates of somebody who knows the items, the edges and the bias."""
    generator = torch.Generator().manual_seed(seed)
    utility = 3 * torch.randn(NUM_ITEMS, generator=generator)
    num = NUM_ANNOTATORS * LABELS_EACH
    first = torch.randint(NUM_ITEMS, (num,), generator=generator)
    second = (first + torch.randint(1, NUM_ITEMS, (num,), generator=generator)) % NUM_ITEMS
    who = torch.arange(NUM_ANNOTATORS).repeat_interleave(LABELS_EACH)
    logit = utility[first] - utility[second]
    said = torch.where(torch.rand(num, generator=generator) < FLIPS[who], -logit, logit)
    uniform = torch.rand(num, generator=generator).clamp(1e-6, 1 - 1e-6)
    answer = said + POSITION_BIAS + torch.logit(uniform)
    level = torch.bucketize(answer.abs(), torch.tensor(EDGES[1:]))
    columns = {
        "prompt_id": [f"p{i}" for i in torch.randint(40, (num,), generator=generator).tolist()],
        "response_a_id": [f"r{i}" for i in first.tolist()],
        "response_b_id": [f"r{i}" for i in second.tolist()],
        "verdict": ["a" if z > 0 else "b" for z in answer.tolist()],
        "strength": [1 + i for i in level.tolist()],
        "annotator_id": [f"n{i:02d}" for i in who.tolist()],
    }
    arrays = {field.name: pa.array(columns.get(field.name, [None] * num), field.type) for field in JUDGMENTS}
    near, far = torch.tensor(EDGES)[level], torch.tensor([*EDGES[1:], torch.inf])[level]
    low, high = torch.where(answer > 0, near, -far), torch.where(answer > 0, far, -near)
    seen = interval_log_prob(logit + POSITION_BIAS, low, high)[None]
    flipped = interval_log_prob(POSITION_BIAS - logit, low, high)[None]
    known = flip_posterior(seen, flipped, torch.ones_like(seen), who + 1, NUM_ANNOTATORS)[0, 1:]
    return pa.table(arrays, schema=JUDGMENTS), known


def test_fifty_annotators_of_sixty_labels_are_known_as_well_as_by_somebody_who_knows_every_item():
    indicators = {f"r{i}": row for i, row in enumerate(torch.eye(NUM_ITEMS))}
    errors, best_errors, biases = [], [], []
    for seed in (0, 1, 2):
        table, known = planted(seed)
        answers = fit_preference_models(indicators, table, seed=0, models=("bradley_terry",)).answers
        rates = torch.tensor([answers.flip_rates[f"n{i:02d}"] for i in range(NUM_ANNOTATORS)])
        errors.append(float((rates - FLIPS).square().mean().sqrt()))
        best_errors.append(float((known - FLIPS).square().mean().sqrt()))
        biases.append(answers.position_bias)
    # sqrt(mean e (1 - e) / 60) = .049 is what counting the wrong answers would leave, were they known
    assert sum(errors) / 3 < 0.055
    assert sum(errors) / 3 < sum(best_errors) / 3 + 0.005
    assert biases == pytest.approx([POSITION_BIAS] * 3, abs=0.05)
