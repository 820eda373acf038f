from typing import Any

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from online_learner.logps import TokenisedResponse, padded_logps, response_logps
from online_learner.policy import packed_logps as subject
from online_learner.policy.adapters import TrainedAdapter
from online_learner.policy.packed_logps import can_pack, packed_logps
from online_learner.policy.packing import TOKENS_PER_PACK, pack, packs

VOCAB = 40
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "llama, shared keys": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, num_key_value_heads=2, tie_word_embeddings=True)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_positions=64, n_embd=16, n_layer=2, n_head=2)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SHAPE, num_key_value_heads=2, sliding_window=None)),
    "experts": lambda: Qwen3MoeForCausalLM(
        Qwen3MoeConfig(**SHAPE, num_key_value_heads=2, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=8)
    ),
}


def frozen(name: str):
    """A model far from uniform, so that a token that sees the wrong others would show."""
    torch.manual_seed(0)
    model = MODELS[name]().eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.mul_(12)
    return model


def responses() -> list[TokenisedResponse]:
    """Seven prompts of one to twelve tokens with one to four responses each, in a mixed order; one response is a single token."""
    generator = torch.Generator().manual_seed(1)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(VOCAB, (length,), generator=generator).tolist())

    found = [
        TokenisedResponse(prompt, ids(1 + 3 * k)) for p in range(1, 8) for prompt in [ids(12 // p)] for k in range(1 + p % 4)
    ]
    return [found[i] for i in torch.randperm(len(found), generator=generator).tolist()]


@pytest.mark.parametrize("name", MODELS)
def test_a_pack_gives_the_log_probabilities_of_each_response_alone(name):
    model, batch = frozen(name), responses()
    with torch.no_grad():
        alone = torch.cat([padded_logps(model, [sequence]) for sequence in batch])
        torch.testing.assert_close(packed_logps(model, batch), alone, rtol=1e-5, atol=1e-3)
    assert can_pack(model, padded_logps)


@pytest.mark.parametrize("name", ["llama, shared keys", "gpt2", "experts"])
def test_a_pack_gives_the_gradients_of_the_plain_computation(name):
    """Of a weighted sum of log-probabilities in the LoRA weights, against padded batches and autograd through whole logits."""
    adapter = TrainedAdapter(frozen(name), rank=4, alpha=8, parent=None, seed=0)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(parameter.numel()))
    batch = responses()
    weights = torch.linspace(-1, 1, len(batch))
    plain = torch.autograd.grad((weights * padded_logps(adapter.model, batch)).sum(), adapter.parameters(), allow_unused=True)
    packed = torch.autograd.grad((weights * packed_logps(adapter.model, batch)).sum(), adapter.parameters(), allow_unused=True)
    scale = max(float(gradient.abs().max()) for gradient in plain if gradient is not None)
    for expected, found in zip(plain, packed, strict=True):
        assert (expected is None) == (found is None)
        if expected is not None and found is not None:
            torch.testing.assert_close(found, expected, rtol=0, atol=2e-5 * scale)


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_the_gradient_of_the_head_is_that_of_the_log_softmax_however_many_rows_at_once(rows, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    states, weight = torch.randn(50, 6, generator=generator), torch.randn(30, 6, generator=generator)
    ids, outer = torch.randint(30, (50,), generator=generator), torch.randn(50, generator=generator)
    monkeypatch.setattr(subject, "LOGITS_AT_ONCE", rows * 30)
    states.requires_grad_()
    found = subject._HeadLogps.apply(states, weight, None, ids)
    expected = (states @ weight.T).log_softmax(-1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(found, expected)
    (own,), (plain,) = (torch.autograd.grad((outer * value).sum(), [states]) for value in (found, expected))
    torch.testing.assert_close(own, plain)


def test_a_prompt_is_read_once_for_all_its_responses():
    """Prompt of 3 and responses of 2, 5 and 1: 3 + (2 - 1) + (5 - 1) + (1 - 1) tokens are read and 8 are predicted."""
    packed = pack([((7, 8, 9), (1, 2)), ((7, 8, 9), (3, 4, 5, 6, 7)), ((7, 8, 9), (1,))])
    assert packed.ids.tolist() == [7, 8, 9, 1, 3, 4, 5, 6]
    assert packed.positions.tolist() == [0, 1, 2, 3, 3, 4, 5, 6]
    assert packed.predicted_from.tolist() == [2, 3, 2, 4, 5, 6, 7, 2]
    assert packed.predicted_ids.tolist() == [1, 2, 3, 4, 5, 6, 7, 1]


def test_packs_hold_every_response_once_and_keep_to_their_size():
    """What is longer than a pack stands alone; a prompt that stays together is counted once."""
    batch = [((i // 3,) * 50, (1,) * (30 + i)) for i in range(60)] + [((99,), (1,) * (TOKENS_PER_PACK + 5))]
    found = list(packs(batch))
    assert sorted(row for rows in found for row in rows) == list(range(61))
    for rows in found:
        prompts = {batch[row][0] for row in rows}
        tokens = sum(map(len, prompts)) + sum(len(batch[row][1]) for row in rows)
        assert tokens <= TOKENS_PER_PACK or len(rows) == 1
    assert len(found) < 8  # 61 responses of 30 to 89 tokens and 20 prompts of 50: about 4600 tokens, and the long one


def test_an_empty_response_has_probability_one():
    model = frozen("llama")
    with torch.no_grad():
        found = response_logps(model, [TokenisedResponse((1, 2), ()), TokenisedResponse((1, 2), (3,))])
    assert found[0] == 0 and found[1] < 0


def test_models_that_a_pack_would_mix_up_are_padded():
    """A window shorter than the text, and a head that training changes; both still give right values by padded batches."""
    torch.manual_seed(0)
    windowed = MistralForCausalLM(MistralConfig(**SHAPE, num_key_value_heads=2, sliding_window=4)).eval().requires_grad_(False)
    trained = MODELS["llama"]()
    for model in (windowed, trained):
        assert not can_pack(model, padded_logps)
        with torch.no_grad():
            batch = responses()
            alone = torch.cat([padded_logps(model, [sequence]) for sequence in batch])
            torch.testing.assert_close(response_logps(model, batch), alone, rtol=1e-5, atol=1e-3)


def test_a_model_whose_positions_do_not_follow_the_pack_is_found_out(monkeypatch):
    """The trial on a few tokens, not a list of names, decides: the same model with its positions ignored is refused."""
    model = frozen("llama")
    plain = model.model.forward
    monkeypatch.setattr(model.model, "forward", lambda position_ids=None, **given: plain(**given))
    assert not can_pack(model, padded_logps)
