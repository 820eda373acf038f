"""Twenty items with planted preferences, known to the last digit: which preference model is chosen and how near it comes."""

import pyarrow as pa
import pytest
import torch
from torch import Tensor

from online_learner.preference_models.fit import fit_preference_models
from online_learner.preference_models.fitted import FittedPreference
from storage.contract.schemas import JUDGMENTS

NUM_ITEMS, NUM_PROMPTS = 20, 40


def planted_logits(cyclic_scale: float, seed: int) -> Tensor:
    """(20, 20): standard normal utilities and one skew-symmetric block of standard normal coordinates."""
    generator = torch.Generator().manual_seed(seed)
    utility = torch.randn(NUM_ITEMS, generator=generator)
    a, b = torch.randn(2, NUM_ITEMS, 1, generator=generator)
    return utility[:, None] - utility + cyclic_scale * (a @ b.T - b @ a.T)


def oracle_log_loss(logits: Tensor) -> float:
    """Expected log loss of the truth on a random pair."""
    p = torch.sigmoid(logits[tuple(torch.triu_indices(NUM_ITEMS, NUM_ITEMS, 1))])
    return float(-(p * p.log() + (1 - p) * (1 - p).log()).mean())


def fitted_to(logits: Tensor, num_labels: int, seed: int) -> FittedPreference:
    """Fit random pairs with drawn verdicts; features are indicators of the items."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(NUM_ITEMS, (num_labels,), generator=generator)
    second = (first + torch.randint(1, NUM_ITEMS, (num_labels,), generator=generator)) % NUM_ITEMS
    won = torch.rand(num_labels, generator=generator) < torch.sigmoid(logits[first, second])
    prompt = torch.randint(NUM_PROMPTS, (num_labels,), generator=generator)
    columns = {
        "prompt_id": [f"p{i}" for i in prompt.tolist()],
        "response_a_id": [f"r{i}" for i in first.tolist()],
        "response_b_id": [f"r{i}" for i in second.tolist()],
        "verdict": ["a" if w else "b" for w in won.tolist()],
    }
    table = {field.name: pa.array(columns.get(field.name, [None] * num_labels), field.type) for field in JUDGMENTS}
    indicators = {f"r{i}": row for i, row in enumerate(torch.eye(NUM_ITEMS))}
    return fit_preference_models(indicators, pa.table(table, schema=JUDGMENTS), seed=0)


@pytest.mark.parametrize("seed", [0, 1])
def test_four_hundred_transitive_labels_keep_bradley_terry(seed):
    assert fitted_to(planted_logits(0.0, seed), 400, seed + 10).report["selected"] == "bradley_terry"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_ten_thousand_labels_of_a_cycle_bring_bt_gpm_within_a_hundredth_of_the_oracle(seed):
    logits = planted_logits(1.0, seed)
    report = fitted_to(logits, 10_000, seed + 10).report
    oracle, losses = oracle_log_loss(logits), {name: row["log_loss"] for name, row in report["models"].items()}
    assert report["selected"] == "bt_gpm"
    assert losses["bt_gpm"] == pytest.approx(oracle, abs=0.01)  # held-out, so chance may take it below
    assert losses["bradley_terry"] > oracle + 0.08
