import math

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from online_learner.degraded import key_phrases, variants
from online_learner.logps import TokenisedResponse
from online_learner.mirror_descent import all_pairs
from online_learner.policy.adapters import TrainedAdapter
from online_learner.policy.degree_head import last_states
from online_learner.policy.groups import Group, collate
from online_learner.policy.objective import Objective
from online_learner.policy.step import group_logps
from online_learner.policy.train import Schedule, fit
from online_learner.update_rule import RuleSettings
from online_learner.update_rules import get_rule

TEXT = "Rinse the long grain rice. Then cook the rice in water."


def test_key_phrases_are_scored_as_in_rake():
    """Phrases: rinse | long grain rice | cook | rice | water. Degree / count: long 3, grain 3, rice (3 + 1) / 2 = 2, others 1.

    Scores 8 for "long grain rice", 2 for "rice", 1 for the rest in the order of the text.
    """
    found = [TEXT[start:end] for start, end in key_phrases(TEXT)]
    assert found == ["long grain rice", "rice", "Rinse", "cook", "water"]


def test_variants_lose_no_half_and_all_of_their_key_phrases():
    """Half of five rounds to two: "long grain rice" and "rice"."""
    assert variants(TEXT) == [TEXT, "Rinse the . Then cook the in water.", "the . Then the in ."]


@pytest.mark.parametrize("text", ["", "It is.", "Rice"])
def test_a_text_without_enough_key_phrases_has_no_variants(text):
    assert variants(text) == []


def small_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, vocab_size=50,
        max_position_embeddings=64,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval().requires_grad_(False)


def test_the_last_state_is_that_of_the_last_token_whatever_the_padding():
    model = small_model()
    sequences = [TokenisedResponse((3, 4), (5, 6, 7, 2)), TokenisedResponse((8,), (9, 2))]
    with torch.no_grad():
        together = last_states(model, sequences)
        alone = model.model(torch.tensor([[8, 9, 2]])).last_hidden_state[0, -1]
    torch.testing.assert_close(together[1], alone, rtol=0, atol=1e-5)


def test_the_degree_term_starts_at_log_3_and_is_learnt():
    """A head of zeros calls three degrees equally likely. With beta tiny the pair loss stays log 2, so the rest is the term."""
    sequences = {name: TokenisedResponse((3, 4), ids) for name, ids in
                 {"a": (5, 6, 2), "b": (7, 2), "0": (20, 21, 2), "1": (30, 31, 2), "2": (40, 41, 2)}.items()}  # fmt: skip
    weights = torch.zeros(5, 5)
    weights[:2, :2] = all_pairs(1, 2)[0]
    degrees = torch.tensor([0.0, 0.0, 1.0, 2.0, 3.0])
    group = Group(prompt_id="p", response_ids=list(sequences), preferences=torch.full((5, 5), 0.5), weights=weights,
                  members_of={"degraded": degrees})  # fmt: skip
    groups = collate([group], sequences)
    adapter = TrainedAdapter(small_model(), rank=4, alpha=8, parent=None, seed=0)
    with torch.no_grad():
        anchor = group_logps(adapter.model, groups)
    objective = Objective(rule=get_rule("preference_degree"), settings=RuleSettings(beta=1e-6, extra_coef=1.0))
    losses: list[float] = []
    schedule = Schedule(epochs=40, groups_per_step=1, learning_rate=1e-2, seed=0)
    fit(adapter, objective, groups, anchor, schedule, lambda step, num_steps, loss, norm: losses.append(loss))
    assert losses[0] == pytest.approx(math.log(2) + math.log(3), abs=1e-4)
    assert losses[-1] < math.log(2) + 0.7 * math.log(3)
