"""The suite of every generation backend, and what only the transformers one can be asked."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from online_learner.generation.registry import GENERATION_BACKENDS
from online_learner.generation.transformers_backend import draw as draw_tokens
from online_learner.logps import TokenisedResponse, response_logps
from storage.contract.settings import GenerationSettings

SHAPE = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 20}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(max_position_embeddings=64, **SHAPE)),
    "sliding": lambda: MistralForCausalLM(
        MistralConfig(max_position_embeddings=64, sliding_window=6, num_key_value_heads=1, **SHAPE)
    ),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=64, vocab_size=20)),
}
PROMPTS = [(5, 6, 7), (8, 9, 10, 11, 12, 13, 14, 15, 16), (17, 18)]
ENDS = (2, 3)


@pytest.fixture(params=MODELS, scope="module")
def model(request):
    torch.manual_seed(0)
    model = MODELS[request.param]().eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.mul_(8)  # far from uniform
    return model


@pytest.fixture(params=GENERATION_BACKENDS)
def sample(request):
    return GENERATION_BACKENDS[request.param]


def settings(**values: float) -> GenerationSettings:
    return GenerationSettings(**{"max_new_tokens": 12, "batch_size": 64, **values})  # pyright: ignore[reportArgumentType]


def draw(sample, model, *, seed: int = 1, num_responses: int = 8, context: int = 64, **values: float):
    return sample(
        model, PROMPTS, num_responses=num_responses, settings=settings(**values), end_ids=ENDS, context=context, seed=seed
    )


def test_every_prompt_gets_its_responses_in_order(sample, model):
    found = draw(sample, model)
    assert [len(group) for group in found] == [8, 8, 8]
    assert all(1 <= len(response.token_ids) <= 12 for group in found for response in group)
    one = sample(model, PROMPTS[:1], num_responses=2000, settings=settings(max_new_tokens=4), end_ids=ENDS, context=64, seed=3)[0]
    counts = torch.bincount(torch.tensor([response.token_ids[0] for response in one]), minlength=20) / 2000
    expected = model(input_ids=torch.tensor(PROMPTS[:1])).logits[0, -1].softmax(-1)
    assert (counts - expected).abs().max() < 0.045  # 4 standard errors of a share: 4 * sqrt(.25 / 2000)


def test_an_end_token_stops_and_is_kept(sample, model):
    found = [response for group in draw(sample, model, num_responses=32) for response in group]
    stopped = [response for response in found if response.finish_reason == "stop"]
    assert stopped and len(stopped) < len(found)
    for response in found:
        ends = [token in ENDS for token in response.token_ids]
        assert not any(ends[:-1])
        assert ends[-1] == (response.finish_reason == "stop")
        assert response.finish_reason == "stop" or len(response.token_ids) == 12


def test_the_sum_of_log_probabilities_is_what_scoring_finds(sample, model):
    """Left padding and the cache while sampling, right padding and none while scoring: the same numbers."""
    found = draw(sample, model)
    rows = [TokenisedResponse(p, response.token_ids) for p, group in zip(PROMPTS, found, strict=True) for response in group]
    scored = response_logps(model, rows)
    told = torch.tensor([response.sum_logp for group in found for response in group])
    torch.testing.assert_close(told, scored, rtol=0, atol=1e-4)


def test_the_log_probability_is_the_policy_s_own_at_any_temperature(sample, model):
    found = draw(sample, model, temperature=0.5, top_p=0.8)
    rows = [TokenisedResponse(p, response.token_ids) for p, group in zip(PROMPTS, found, strict=True) for response in group]
    told = torch.tensor([response.sum_logp for group in found for response in group])
    torch.testing.assert_close(told, response_logps(model, rows), rtol=0, atol=1e-4)


def test_a_seed_repeats_and_another_does_not(sample, model):
    assert draw(sample, model, seed=7) == draw(sample, model, seed=7)
    assert draw(sample, model, seed=7) != draw(sample, model, seed=8)


def test_batch_size_changes_no_token(sample, model):
    """Every row and step has a draw of its own, so finished rows and other batches do not shift it."""
    tokens = [[[r.token_ids for r in group] for group in draw(sample, model, batch_size=size)] for size in (64, 5)]
    assert tokens[0] == tokens[1]


def test_a_response_stays_inside_the_context(sample, model):
    for prompt, group in zip(PROMPTS, draw(sample, model, context=11), strict=True):
        assert all(len(prompt) + len(response.token_ids) <= 11 for response in group)


def test_a_draw_is_the_inverse_of_the_cumulative_distribution():
    logits = torch.tensor([[0.2, 0.5, 0.3]]).log().expand(6, 3)  # cumulative .2, .7, 1
    uniform = torch.tensor([0.0, 0.19, 0.21, 0.69, 0.71, 0.999])
    assert draw_tokens(logits, uniform, 1.0, 1.0).tolist() == [0, 0, 1, 1, 2, 2]


def test_top_p_keeps_the_most_likely_tokens_only():
    logits = torch.tensor([[0.2, 0.5, 0.3]]).log().expand(3, 3)
    uniform = torch.tensor([0.1, 0.6, 0.99])  # top_p .6 keeps .5 and .3, that is 5/8 and 3/8
    assert draw_tokens(logits, uniform, 1.0, 0.6).tolist() == [1, 1, 2]
    assert draw_tokens(logits, uniform, 1.0, 0.4).tolist() == [1, 1, 1]


def test_a_token_of_probability_zero_is_never_drawn():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf]]).expand(2, 3)
    assert draw_tokens(logits, torch.tensor([0.0, 1.0 - 2**-24]), 1.0, 1.0).tolist() == [1, 1]
