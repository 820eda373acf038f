"""Labels that an ensemble votes against: by hand, and on planted labels of which a quarter are the wrong way round."""

import math
from dataclasses import replace

import pyarrow as pa
import pytest
import torch

from online_learner.preference_models.bradley_terry import BRADLEY_TERRY
from online_learner.preference_models.fit import fit_candidates, prepare
from online_learner.preference_models.heads import fit_heads
from online_learner.preference_models.likelihood import Observations, threshold_indices, thresholds
from online_learner.preference_models.reward_voting import label_strengths, mapped_answers, vote_margins
from storage.contract.schemas import JUDGMENTS

NUM_PROMPTS, NUM_FEATURES, NUM_LABELS = 200, 16, 600


def observations(verdicts: list[int], levels: list[int | None], num_levels: int) -> Observations:
    rows = [threshold_indices(v, level, num_levels) for v, level in zip(verdicts, levels, strict=True)]
    low, high = (torch.tensor(column) for column in zip(*rows, strict=True))
    zeros = torch.zeros(len(verdicts), dtype=torch.long)
    return Observations(
        row_a=zeros,
        row_b=zeros,
        low=low,
        high=high,
        verdict=torch.tensor(verdicts),
        annotator=zeros,
        prompt=zeros,
        annotators=(),
        strengths=tuple(range(1, num_levels + 1)),
        has_ties=True,
        position_bias=False,
    )


def test_the_strength_of_a_label_is_the_ensembles_vote_for_it():
    mean, spread = label_strengths(torch.tensor([[2.0, -1.0, 3.0], [0.0, -3.0, 1.0]]), torch.tensor([1, -1, 0]))
    assert mean.tolist() == [1, 2, 0]
    assert spread.tolist() == pytest.approx([2**0.5, 2**0.5, 0])


def test_a_flipped_answer_is_its_mirror_image_and_only_the_lowest_fifth_is_flipped():
    data = observations([1, -1, 1, 1, 0], [1, 0, None, 0, None], num_levels=2)
    strength = torch.tensor([-2.0, -1.0, 1.0, 1.0, 0.0])
    low, high = mapped_answers("flip", data, strength, 3, torch.Generator())
    edges = thresholds(torch.zeros(1, 2), True)[0]
    assert (low.shape, bool((low == low[0]).all())) == ((3, 5), True)
    # the first, "a much", now says "b much"; nothing else moved
    assert edges[low[0, 0]] == -edges[data.high[0]] and edges[high[0, 0]] == -edges[data.low[0]]
    assert low[0, 1:].tolist() == data.low[1:].tolist() and high[0, 1:].tolist() == data.high[1:].tolist()


def test_softening_turns_what_the_heads_vote_against_in_its_share_of_the_fits():
    data = observations([1, 1], [None, None], num_levels=1)
    low, _ = mapped_answers("soften", data, torch.tensor([-0.1, 0.1]), 4000, torch.Generator().manual_seed(0))
    turned = (low != data.low).float().mean(0)
    assert turned.tolist() == [pytest.approx(0.4, abs=0.03), 0.0]  # 4 standard errors of 4000 coins


def planted(seed: int) -> tuple[dict[str, torch.Tensor], torch.Tensor, pa.Table, torch.Tensor]:
    """Features, the true direction, judgments of which a quarter is turned, and which."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(NUM_FEATURES, generator=generator)
    direction *= 2 / direction.norm()
    features = torch.randn(4 * NUM_PROMPTS, NUM_FEATURES, generator=generator)
    prompt = torch.randint(NUM_PROMPTS, (NUM_LABELS,), generator=generator)
    first = torch.randint(4, (NUM_LABELS,), generator=generator)
    second = 4 * prompt + (first + torch.randint(1, 4, (NUM_LABELS,), generator=generator)) % 4
    first = 4 * prompt + first
    chance = torch.sigmoid((features[first] - features[second]) @ direction)
    won = torch.rand(NUM_LABELS, generator=generator) < chance
    turned = torch.rand(NUM_LABELS, generator=generator) < 0.25
    columns = {
        "prompt_id": [f"p{i}" for i in prompt.tolist()],
        "response_a_id": [f"r{i}" for i in first.tolist()],
        "response_b_id": [f"r{i}" for i in second.tolist()],
        "verdict": ["a" if w else "b" for w in (won ^ turned).tolist()],
    }
    arrays = {field.name: pa.array(columns.get(field.name, [None] * NUM_LABELS), field.type) for field in JUDGMENTS}
    return {f"r{i}": row for i, row in enumerate(features)}, direction, pa.table(arrays, schema=JUDGMENTS), turned


@pytest.mark.parametrize("kind", ["margin", "flip_margin", "soften_margin"])
def test_a_margin_moves_no_label_but_flip_and_soften_do(kind):
    data = observations([1, -1], [None, None], num_levels=1)
    low, _ = mapped_answers(kind, data, torch.tensor([-3.0, 1.0]), 200, torch.Generator().manual_seed(0))
    assert (bool((low[:, 0] != data.low[0]).any()), bool((low[:, 1] != data.low[1]).any())) == (kind != "margin", False)
    votes = vote_margins(kind, torch.tensor([[-2.0, -4.0], [-4.0, 2.0]]), data.verdict)
    assert votes is not None and votes.tolist() == [-3, -1]  # whoever won: the strength of a label is its sign times this
    assert vote_margins("flip", votes[None], data.verdict) is None


def test_the_fit_with_a_margin_is_the_vote_plus_the_truth():
    """One pair that a wins in 3 of 4 judgments, a vote of .7: minimising -log sigma(+-(u - .7)) gives u = .7 + log 3."""
    data = replace(
        observations([1, 1, 1, -1], [None] * 4, num_levels=1), has_ties=False, strengths=(), row_b=torch.ones(4).long()
    )
    fits = fit_heads(
        BRADLEY_TERRY,
        torch.tensor([[1.0], [0.0]]),
        data,
        torch.full((1, 4), 1e4),  # so that nothing is left of the priors
        torch.zeros(1, 1),
        torch.Generator().manual_seed(0),
        offset=torch.full((4,), 0.7),
    )
    assert float(fits.model.weights) == pytest.approx(0.7 + math.log(3), abs=0.01)


@pytest.mark.parametrize("kind", ["flip", "soften", "flip_margin"])
def test_with_a_quarter_of_the_labels_turned_the_map_brings_the_fit_nearer_the_truth(kind):
    for seed in (0, 1):
        features, direction, judgments, _ = planted(seed)
        fresh = torch.randn(3000, 2, NUM_FEATURES, generator=torch.Generator().manual_seed(9))
        truth = torch.sigmoid((fresh[:, 0] - fresh[:, 1]) @ direction)
        losses = {}
        for label_map in ("none", kind):
            data = prepare(features, judgments, seed=0, label_map=label_map)
            fitted = fit_candidates(data, ["bradley_terry"], 8)["bradley_terry"]
            logit = fitted.logits(fresh)[:, 0, 1]
            expected = truth * torch.nn.functional.logsigmoid(logit) + (1 - truth) * torch.nn.functional.logsigmoid(-logit)
            losses[label_map] = -float(expected.mean())
        assert losses[kind] < losses["none"] - 0.02  # nats, on pairs that nobody judged
