import logging
from types import SimpleNamespace

import pytest
import torch
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from online_learner.features import extract_features, load_encoder
from online_learner.prompts import prompt_token_ids, render_prompt
from storage.errors import UserError


class Letters:
    """A tokenizer of single characters: 2 begins a text, then one number per letter."""

    chat_template = None
    eos_token_id = 1

    def __init__(self, padding_side: str = "right") -> None:
        self.padding_side = padding_side

    def __call__(self, text: str, add_special_tokens: bool = True, **_: object) -> dict[str, list[int]]:
        return {"input_ids": [2] * add_special_tokens + [3 + ord(c) % 60 for c in text]}


class Templated(Letters):
    chat_template = "given"

    def apply_chat_template(self, messages, tokenize, add_generation_prompt):
        if messages[0]["role"] == "system":
            raise ValueError("system role not supported")
        return "".join(f"<{m['role']}>{m['content']}" for m in messages) + "<assistant>" * add_generation_prompt


def llama(max_position_embeddings: int = 64) -> LlamaForCausalLM:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 4, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=70, max_position_embeddings=max_position_embeddings, **shape)).eval()


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


PROMPTS = [user("Why?"), user("A much longer question"), user("So"), user("Hm")]
RESPONSES = ["Because.", "x", "A rather long answer, with words.", ""]


def test_features_are_the_mean_of_the_middle_layer_and_the_log_length():
    model = llama()
    ids = torch.tensor([prompt_token_ids(Letters(), PROMPTS[0]) + Letters()(RESPONSES[0], False)["input_ids"]])
    states = model(input_ids=ids, output_hidden_states=True).hidden_states
    expected = states[3][0, -len(RESPONSES[0]) :].mean(0)  # 4 blocks: the middle is block 4 // 2 + 1 = 3
    row = extract_features(model, Letters(), PROMPTS[:1], RESPONSES[:1])[0]
    torch.testing.assert_close(row[:-1], expected, rtol=1e-4, atol=1e-6)
    assert row[-1].item() == pytest.approx(torch.log(torch.tensor(1.0 + 8)).item())  # "Because." has 8 letters


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(side):
    model = llama()
    together = extract_features(model, Letters(side), PROMPTS, RESPONSES)
    alone = [extract_features(model, Letters(side), [p], [r]) for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_other_responses_in_any_order_change_nothing():
    model = llama()
    forward = extract_features(model, Letters(), PROMPTS, RESPONSES)
    backward = extract_features(model, Letters(), PROMPTS[::-1], RESPONSES[::-1])
    torch.testing.assert_close(forward, backward.flip(0), rtol=1e-5, atol=1e-6)


def test_an_empty_response_is_its_prompts_last_token():
    model = llama()
    ids = torch.tensor([prompt_token_ids(Letters(), PROMPTS[3])])
    last = model(input_ids=ids, output_hidden_states=True).hidden_states[3][0, -1]
    row = extract_features(model, Letters(), PROMPTS[3:], RESPONSES[3:])[0]
    torch.testing.assert_close(row, torch.cat([last, torch.zeros(1)]), rtol=1e-4, atol=1e-6)


def test_long_contexts_lose_their_beginning_and_are_counted(caplog):
    model = llama(max_position_embeddings=24)
    with caplog.at_level(logging.WARNING):
        long = extract_features(model, Letters(), [user("y" * 90 + "z" * 20), user("z")], ["abcd", "b"])
    assert "1 of 2 texts were longer than 24 tokens" in caplog.text
    ids = torch.tensor([Letters()("z" * 20 + "abcd", False)["input_ids"]])
    expected = model(input_ids=ids, output_hidden_states=True).hidden_states[3][0, -4:].mean(0)
    torch.testing.assert_close(long[0, :-1], expected, rtol=1e-4, atol=1e-6)


def test_an_encoder_without_a_language_model_head_works():
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = BertModel(BertConfig(vocab_size=70, max_position_embeddings=64, **shape)).eval()
    together = extract_features(model, Letters(), PROMPTS, RESPONSES)
    assert together.shape == (4, 17)
    alone = [extract_features(model, Letters(), [p], [r]) for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_a_layer_that_does_not_exist_is_refused():
    with pytest.raises(UserError, match="blocks 1 to 4"):
        extract_features(llama(), Letters(), PROMPTS, RESPONSES, layer=5)


def test_a_directory_without_a_model_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no Hugging Face model with a tokenizer"):
        load_encoder(tmp_path)


def test_prompts_without_a_template_stand_as_they_are():
    assert render_prompt(SimpleNamespace(chat_template=None), user("Once upon")) == "Once upon"
    assert prompt_token_ids(Letters(), user("A")) == [2, 3 + ord("A") % 60]


def test_prompts_with_a_template_open_the_assistants_turn():
    assert render_prompt(Templated(), user("Hi")) == "<user>Hi<assistant>"
    assert prompt_token_ids(Templated(), user("Hi"))[0] != 2  # the template writes special tokens itself


def test_a_prompt_the_template_refuses_is_a_users_error():
    with pytest.raises(UserError, match="roles \\['system'\\]"):
        render_prompt(Templated(), [{"role": "system", "content": "Be brief."}])
