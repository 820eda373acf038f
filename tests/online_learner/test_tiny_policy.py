"""The built-in tiny policy: what ships, that it speaks, and that the corpus code reproduces its data."""

import itertools
import json
from collections import Counter
from pathlib import Path

import pytest

import online_learner.text_quality as text_quality_module
from online_learner.text_quality import is_correct, load_known_sentences, on_topic, split_sentences, text_quality
from scripts import tiny_corpus
from storage.errors import UserError

MODEL_DIR = Path(text_quality_module.__file__).parent / "tiny_policy"
EGG = "How do I boil an egg?"
TIP = "Keep the water at a soft boil."


@pytest.fixture(scope="module")
def known():
    found = load_known_sentences(MODEL_DIR)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def shipped():
    """(tokenizer, model) as any user loads them, without network."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR, local_files_only=True)
    return tokenizer, AutoModelForCausalLM.from_pretrained(MODEL_DIR, local_files_only=True).eval()


def shipped_prompts(split: str) -> list[str]:
    rows = [json.loads(line) for line in (MODEL_DIR / "prompts.jsonl").read_text().splitlines()]
    return [row["prompt"][0]["content"] for row in rows if row["split"] == split]


def test_shipped_files_stay_below_eight_megabytes():
    assert sum(path.stat().st_size for path in MODEL_DIR.iterdir()) <= 8_000_000


def test_policy_is_a_llama_of_one_to_four_million_parameters(shipped):
    _, model = shipped
    assert model.config.model_type == "llama"
    assert 1_000_000 <= model.num_parameters() <= 4_000_000


def test_generation_settings_sample_the_policy_itself(shipped):
    settings = shipped[1].generation_config
    assert (settings.do_sample, settings.temperature, settings.top_p, settings.top_k) == (True, 1.0, 1.0, 0)


def test_tokenizer_spells_any_text_and_keeps_padding_apart_from_the_end(shipped):
    tokenizer, model = shipped
    text = "Zażółć gęślą jaźń 42 €, naïve 🙂\n\ttabs"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.pad_token_id != tokenizer.eos_token_id == model.generation_config.eos_token_id


def test_chat_template_marks_roles_and_ends_only_answers(shipped):
    tokenizer, _ = shipped
    chat = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": " Hi? "},
        {"role": "assistant", "content": "Yes."},
    ]
    assert tokenizer.apply_chat_template(chat, tokenize=False) == "<|system|>Be kind.<|user|>Hi?<|assistant|>Yes.<|end|>"
    prompt = tokenizer.apply_chat_template(chat[:2], tokenize=False, add_generation_prompt=True)
    assert prompt == "<|system|>Be kind.<|user|>Hi?<|assistant|>"


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_samples_are_correct_varied_and_on_topic(shipped, known, split):
    import torch

    tokenizer, model = shipped
    questions = list(itertools.islice(itertools.cycle(shipped_prompts(split)), 128))
    chats = [[{"role": "user", "content": question}] for question in questions]
    inputs = tokenizer.apply_chat_template(chats, add_generation_prompt=True, return_dict=True, return_tensors="pt", padding=True)
    torch.manual_seed(0)
    with torch.inference_mode():
        output = model.generate(**inputs)
    responses = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    # Measured .95 and more on 1,536 samples; one standard error of 128 samples is .02.
    assert (text_quality(known, questions, responses) or 0) > 0.88
    assert (on_topic(known, questions, responses) or 0) > 0.93
    assert set(map(tiny_corpus.style_of, responses)) == set(tiny_corpus.STYLES)


def test_sentences_are_split_at_ends_and_list_numbers():
    assert split_sentences("1. Do this.\n2. Do that.") == ["Do this.", "Do that."]
    assert split_sentences("Great question! It costs 2.50 today. Why?") == ["Great question!", "It costs 2.50 today.", "Why?"]
    assert split_sentences(" \n ") == []


@pytest.mark.parametrize(
    ("response", "correct"),
    [
        (TIP, True),
        (f"1. {TIP}\n2. Peel the egg under running water.", True),
        ("Great question! My favorite trick is to keep the water at a soft boil.", True),
        ("There is quite a lot to say about boiling an egg, so let me start at the beginning.", True),
        ("There is quite a lot to say about pruning roses, so let me start at the beginning.", False),
        (f"{TIP} Peel the egg under", False),  # cut off
        ("Keep the water at a soft egg.", False),  # garbled
        ("Rinse the rice until the water runs clear.", False),  # true, but of another topic
        ("", False),
    ],
)
def test_a_response_is_correct_when_every_sentence_is_known_for_its_question(known, response, correct):
    assert is_correct(known, known.topic_of(EGG), response) is correct


def test_text_quality_leaves_unknown_questions_out(known):
    questions = [EGG, EGG, "What is the meaning of life?"]
    assert text_quality(known, questions, [TIP, "Egg egg.", TIP]) == 0.5
    assert text_quality(known, questions[2:], [TIP]) is None


def test_on_topic_follows_the_words_even_where_the_sentence_is_garbled(known):
    garbled, other = "Peel the egg the timer a creamy yolk.", "Rinse the rice until the water runs clear."
    assert on_topic(known, [EGG, EGG, EGG], [garbled, other, ""]) == pytest.approx(1 / 3)


def test_models_without_known_sentences_give_none_and_damaged_ones_say_so(tmp_path):
    assert load_known_sentences(tmp_path) is None
    (tmp_path / "known_sentences.json").write_text('{"items": 3')
    with pytest.raises(UserError, match="damaged"):
        load_known_sentences(tmp_path)


def test_prompt_splits_are_disjoint_and_heldout_questions_never_train():
    train, heldout = shipped_prompts("train"), shipped_prompts("heldout")
    assert len(set(train)) == len(train) == 128
    assert len(set(heldout)) == len(heldout) == 48
    assert not set(train) & set(heldout)
    trained_on = {example.question for example in itertools.islice(tiny_corpus.corpus(tiny_corpus.load_items(), 1), 20_000)}
    assert set(train) <= trained_on
    assert not trained_on & set(heldout)


def test_corpus_code_reproduces_the_shipped_data(tmp_path):
    tiny_corpus.write_data(tiny_corpus.load_items(), tmp_path)
    for name in ("prompts.jsonl", "known_sentences.json"):
        assert (tmp_path / name).read_bytes() == (MODEL_DIR / name).read_bytes()


def test_corpus_is_deterministic_known_and_mixed_as_declared(known):
    items = tiny_corpus.load_items()
    examples = list(itertools.islice(tiny_corpus.corpus(items, 7), 6_000))
    assert examples == list(itertools.islice(tiny_corpus.corpus(items, 7), 6_000))
    assert text_quality(known, [e.question for e in examples], [e.response for e in examples]) == 1.0
    assert all(tiny_corpus.style_of(e.response) == e.style for e in examples)
    counts = Counter(e.style for e in examples)
    for style, (share, _) in tiny_corpus.STYLES.items():
        assert counts[style] / 6_000 == pytest.approx(share, abs=0.025)  # 4 standard errors at .25: 4 sqrt(.25 .75 / 6000)


def test_every_topic_has_enough_sentences_to_differ():
    items = tiny_corpus.load_items()
    assert len(items) == 80
    assert all(len(set(item.tips)) == 7 and len(set(item.why)) == len(set(item.wrong)) == 2 for item in items)
    assert len({question for item in items for question in tiny_corpus.questions_of(item)}) == 720
