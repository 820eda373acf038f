import math

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from online_learner.logps import TokenisedResponse, length_sorted_batches, response_logps, token_logps

SHAPE = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=50, max_position_embeddings=64, **SHAPE)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(20)  # far from uniform, so that a shifted token would show
    return model


def sequences(count: int = 40) -> list[TokenisedResponse]:
    generator = torch.Generator().manual_seed(1)

    def ids(longest: int) -> tuple[int, ...]:
        length = int(torch.randint(1, longest + 1, (1,), generator=generator))
        return tuple(torch.randint(3, 50, (length,), generator=generator).tolist())

    return [TokenisedResponse(ids(12), ids(20)) for _ in range(count)]


def test_token_logps_are_the_log_of_the_softmax():
    logits = torch.tensor([[[math.log(1.0), math.log(3.0)], [math.log(9.0), math.log(1.0)]]])
    found = token_logps(logits, torch.tensor([[1, 0]]))
    torch.testing.assert_close(found, torch.tensor([[math.log(0.75), math.log(0.9)]]))  # 3 / (1 + 3) and 9 / (9 + 1)


def test_response_logps_equal_the_loss_of_transformers(model):
    """transformers' loss is the mean negative log-probability of the tokens whose label is not -100."""
    for sequence in sequences(5):
        ids = torch.tensor([[*sequence.prompt_ids, *sequence.response_ids]])
        labels = ids.clone()
        labels[0, : len(sequence.prompt_ids)] = -100
        loss = model(input_ids=ids, labels=labels).loss
        with torch.no_grad():
            found = response_logps(model, [sequence])
        assert found.item() == pytest.approx(-loss.item() * len(sequence.response_ids), rel=1e-5)


def test_the_company_in_a_batch_changes_nothing(model):
    """Lengths from 2 to 32 in batches of 16: right padding must be masked out of attention and of the sum."""
    batch = sequences()
    with torch.no_grad():
        together = response_logps(model, batch)
        alone = torch.cat([response_logps(model, [sequence]) for sequence in batch])
    torch.testing.assert_close(together, alone, rtol=0, atol=2e-4)


def test_left_padding_without_positions_would_have_been_noticed(model):
    """The same prompt behind pad tokens that are read as text has another log-probability: the test above can fail."""
    sequence = sequences(1)[0]
    padded = TokenisedResponse((0, 0, 0, 0, *sequence.prompt_ids), sequence.response_ids)
    with torch.no_grad():
        plain, shifted = response_logps(model, [sequence, padded])
    assert abs(plain - shifted) > 0.01


def test_the_end_token_counts(model):
    """log P(y, end) = log P(y) + log P(end | y)."""
    prompt, response, end = (5, 6, 7), (8, 9), 2
    with torch.no_grad():
        without, whole = response_logps(model, [TokenisedResponse(prompt, response), TokenisedResponse(prompt, (*response, end))])
        last = model(input_ids=torch.tensor([[*prompt, *response]])).logits[0, -1].log_softmax(-1)[end]
    assert (whole - without).item() == pytest.approx(last.item(), abs=1e-5)


def test_gradients_reach_the_weights(model):
    total = response_logps(model, sequences(3)).sum()
    (gradient,) = torch.autograd.grad(total, [model.model.layers[0].self_attn.q_proj.weight])
    assert gradient.abs().max() > 0


def test_batches_hold_every_sequence_once_and_similar_lengths_together():
    batch = sequences()
    found = list(length_sorted_batches(batch))
    assert sorted(i for rows in found for i in rows) == list(range(len(batch)))
    longest = [max(batch[i].length for i in rows) for rows in found]
    shortest = [min(batch[i].length for i in rows) for rows in found]
    assert all(a <= b for a, b in zip(longest, shortest[1:], strict=False))


def test_no_sequences_give_no_numbers(model):
    assert response_logps(model, []).shape == (0,)
