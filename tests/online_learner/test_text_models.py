import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizer, LlamaConfig, LlamaModel

from online_learner.feature_cache import FeatureCache, model_hash
from online_learner.features import TokenisedText, read_features, reads_both_ways
from online_learner.pairs_file import Pair, Side, judgments_table
from online_learner.preference_models.backbone import TunedBody, Tuning, tune
from online_learner.preference_models.bradley_terry import BRADLEY_TERRY
from online_learner.preference_models.fit import prepare
from online_learner.preference_models.general_preference import bt_gpm
from online_learner.preference_models.plackett_luce import PLACKETT_LUCE
from online_learner.preference_models.text_fit import Encoder, fit_text_model, load_text_preference, read_pairs
from online_learner.preference_models.text_models import TextModel, cross_encoder, few_shot, gated
from online_learner.preference_models.text_rows import Pasts, RowMaker
from online_learner.prompts import prompt_token_ids
from storage.errors import UserError

GOOD, BAD, OTHER = ["good", "great", "fine"], ["bad", "poor", "awful"], ["cat", "dog", "sky", "tree", "runs", "sleeps"]
MARKS = ["preferred", "rejected", "other", "response", ":"]
CYCLE = (["good", "great"], ["bad", "poor"], ["cat", "dog"])  # each class beats the next, the last the first


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> BertTokenizer:
    directory = tmp_path_factory.mktemp("words")
    (directory / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *MARKS, *GOOD, *BAD, *OTHER]))
    return BertTokenizer.from_pretrained(directory)


def bert(tokenizer: BertTokenizer, width: int = 64) -> BertModel:
    torch.manual_seed(0)
    shape = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=128, initializer_range=0.2, **shape)
    return BertModel(config).eval()


def llama(tokenizer: BertTokenizer) -> LlamaModel:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaModel(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=128, initializer_range=0.2, **shape)).eval()


def pair(
    first: str, second: str, verdict: str, *, group: str = "0", annotator: str | None = None, prompt: str = "cat dog"
) -> Pair:
    turns = (("user", prompt),)
    sides = {"a": Side(turns=turns, response=first), "b": Side(turns=turns, response=second)}
    return Pair(**sides, verdict=verdict, strength=None, annotator=annotator, source="s", group=group)


def swapped(p: Pair) -> Pair:
    return replace(p, a=p.b, b=p.a, verdict={"a": "b", "b": "a"}.get(p.verdict, p.verdict))


def cyclic_pairs(num: int, seed: int) -> list[Pair]:
    """Two responses of different classes; the class that beats the other always wins."""
    coin, found = random.Random(seed), []
    for i in range(num):
        winner = coin.randrange(3)
        texts = [coin.choice(CYCLE[winner]), coin.choice(CYCLE[(winner + 1) % 3])]
        one = pair(*texts, "a", group=f"{seed}-{i // 2}", prompt=" ".join(coin.choices(OTHER, k=2)))
        found.append(one if coin.random() < 0.5 else swapped(one))
    return found


def tastes(num_annotators: int, num_each: int, seed: int) -> list[Pair]:
    """A word of GOOD against one of BAD: even annotators always take the first kind, odd ones the second."""
    coin, found = random.Random(seed), []
    for annotator in range(num_annotators):
        for i in range(num_each):
            prompt = " ".join(coin.choices(OTHER, k=2))
            verdict = "a" if annotator % 2 == 0 else "b"
            one = pair(coin.choice(GOOD), coin.choice(BAD), verdict, group=f"{seed}-{i}", annotator=str(annotator), prompt=prompt)
            found.append(one if coin.random() < 0.5 else swapped(one))
    return found


def accuracy(fit, pairs: list[Pair], labelled: list[Pair]) -> float:
    logits = fit.fitted.pair_logits(*fit.pair_features(pairs, labelled))
    won = torch.tensor([1.0 if p.verdict == "a" else -1.0 for p in pairs])
    return float((logits * won > 0).float().mean())


def test_a_cross_encoder_learns_a_cycle_that_utilities_cannot(tokenizer):
    encoder = Encoder.of(bert(tokenizer), tokenizer)
    train, unseen = cyclic_pairs(240, 1), cyclic_pairs(200, 2)
    tuning = Tuning(epochs=5, learning_rate=3e-3)
    fit, losses, _ = fit_text_model(cross_encoder(), encoder, train, seed=0, tuning=tuning, num_heads=2, num_folds=2)
    assert accuracy(fit, unseen, []) > 0.9
    assert losses.mean() < 0.3
    # Three classes in a cycle: utilities order at most two of the three kinds of pair right, so accuracy is at most 2/3.
    model = TextModel(family=BRADLEY_TERRY, reads="responses")
    utilities, worse, _ = fit_text_model(model, encoder, train, seed=0, num_heads=2, num_folds=2)
    assert accuracy(utilities, unseen, []) < 0.75
    assert worse.mean() > 0.6


@pytest.mark.parametrize("make", [bert, llama])
def test_places_exchanged_change_the_sign_and_nothing_else(tokenizer, make):
    encoder = Encoder.of(make(tokenizer), tokenizer)
    pairs = cyclic_pairs(60, 3)
    fit, *_ = fit_text_model(cross_encoder(), encoder, pairs, seed=0, num_heads=2)
    logits = fit.fitted.pair_logits(*fit.pair_features(pairs))
    exchanged = fit.fitted.pair_logits(*fit.pair_features([swapped(p) for p in pairs]))
    assert torch.equal(logits, -exchanged)
    assert logits.abs().max() > 0.01


def test_encoders_look_both_ways_and_decoders_do_not(tokenizer):
    assert reads_both_ways(bert(tokenizer))
    assert not reads_both_ways(llama(tokenizer))


def test_a_trained_backbone_beats_the_frozen_one(tokenizer):
    encoder = Encoder.of(llama(tokenizer), tokenizer)
    train = cyclic_pairs(240, 4)
    tuning = Tuning(epochs=5, learning_rate=5e-3)
    fit, losses, _ = fit_text_model(cross_encoder(), encoder, train, seed=0, tuning=tuning, num_heads=2, num_folds=2)
    _, frozen, _ = fit_text_model(cross_encoder(), encoder, train, seed=0, num_heads=2, num_folds=2)
    assert losses.mean() < frozen.mean() - 0.05
    assert fit.fitted.report["epochs"] > 0


@pytest.mark.parametrize("reads", ["responses", "ordered_pairs"])
def test_a_trained_backbone_is_saved_without_pickle_and_leaves_the_encoder_alone(tokenizer, tmp_path, reads):
    body = llama(tokenizer)
    before = model_hash(body)
    encoder = Encoder.of(body, tokenizer)
    family = bt_gpm(1) if reads == "responses" else cross_encoder().family
    tuning = Tuning(epochs=1, learning_rate=1e-2)
    rows = read_pairs(TextModel(family=family, reads=reads), encoder, cyclic_pairs(40, 4), Pasts([], {}), seed=0)
    data = prepare(
        {str(i): row for i, row in enumerate(read_features(body, rows.texts_at(0)))},
        judgments_table(cyclic_pairs(40, 4), [(str(a), str(b)) for a, b in rows.rows]),
        seed=0,
        position_bias=False,
    )
    trained = TunedBody(body, encoder.layer, tuning, 0)
    ridge = family.ridges[0]
    tune(trained, rows.texts_at, family, data, torch.ones(2, 40), ridge, tuning, epochs=1)
    assert model_hash(body) == before
    moved = trained.features(rows.texts_at(0)).detach()
    assert (moved - read_features(body, rows.texts_at(0))).abs().max() > 1e-3
    trained.save(tmp_path)
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".safetensors", ".json"}
    again = TunedBody(body, encoder.layer, tuning, 0, tmp_path).features(rows.texts_at(0)).detach()
    torch.testing.assert_close(again, moved, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("tuning", [None, Tuning(epochs=2, learning_rate=1e-2)])
def test_a_model_of_text_says_the_same_after_saving_and_loading(tokenizer, tmp_path, tuning):
    encoder = Encoder.of(llama(tokenizer), tokenizer)
    train, unseen = tastes(4, 8, 1), tastes(4, 5, 2)
    fit, *_ = fit_text_model(few_shot(2), encoder, train, seed=0, tuning=tuning, num_heads=2, num_folds=2)
    fit.save(tmp_path)
    loaded = load_text_preference(tmp_path, encoder)
    again, expected = (f.fitted.pair_logits(*f.pair_features(unseen, train)) for f in (loaded, fit))
    assert expected.abs().max() > 1e-4
    torch.testing.assert_close(again, expected, rtol=1e-5, atol=1e-6)


def test_training_the_backbone_is_undone_where_it_does_not_help_unseen_prompts(tokenizer):
    """Coin-flip verdicts: the epoch with the likeliest held-out answers is taken, which is close to a coin."""
    coin = random.Random(0)
    noise = [replace(p, verdict=coin.choice("ab")) for p in cyclic_pairs(60, 6)]
    encoder = Encoder.of(llama(tokenizer), tokenizer)
    tuning = Tuning(epochs=2, learning_rate=5e-3)
    fit, losses, _ = fit_text_model(cross_encoder(), encoder, noise, seed=0, tuning=tuning, num_heads=2, num_folds=2)
    scores = fit.fitted.report["log_prob_by_epoch"]
    assert fit.fitted.report["epochs"] == scores.index(max(scores))
    assert losses.mean() < 0.75  # a coin has .693


@pytest.mark.slow
def test_annotators_pasts_tell_opposite_tastes_apart_on_unseen_prompts(tokenizer):
    encoder = Encoder.of(bert(tokenizer), tokenizer)
    train, unseen = tastes(20, 12, 1), tastes(20, 10, 2)
    tuning = Tuning(epochs=8, learning_rate=3e-3, alpha=16)
    fit, losses, _ = fit_text_model(few_shot(4), encoder, train, seed=0, tuning=tuning, num_heads=2, num_folds=2)
    assert losses.mean() < 0.2
    assert accuracy(fit, unseen, train) > 0.9
    # Half of the annotators want the opposite of the other half: without a past nothing beats a coin, log loss .693.
    plain, alone, _ = fit_text_model(cross_encoder(), encoder, train, seed=0, num_heads=2, num_folds=2)
    assert alone.mean() > 0.66
    assert accuracy(plain, unseen, train) < 0.65


def test_a_past_never_holds_the_judged_prompt_or_another_fold():
    labelled = [pair("good", "bad", "a", group=str(g), annotator=name) for g in range(8) for name in ("x", "y")]
    fold_of = {str(g): g % 2 for g in range(8)}
    judged = labelled[0]  # prompt 0 of annotator x, in fold 0 with prompts 2, 4 and 6
    coin = random.Random(0)
    drawn = [Pasts(labelled, fold_of).draw(judged, 4, coin) for _ in range(20)]
    assert all(sorted(p.group for p in past) == ["2", "4", "6"] for past in drawn)
    assert all(p.annotator == "x" for past in drawn for p in past)
    assert len({tuple(p.group for p in past) for past in drawn}) > 1  # in random order
    assert Pasts(labelled, {}).draw(replace(judged, annotator=None), 4, coin) == []
    assert len(Pasts(labelled, {}).draw(judged, 4, coin)) == 4


def test_long_texts_keep_the_beginning_of_both_responses(tokenizer):
    long = pair("good " * 80, "bad " * 80, "a", prompt="sky " * 80)
    maker = RowMaker(tokenizer, 100, mean=True)
    past = [pair("fine " * 50, "awful " * 50, "b", prompt="tree " * 50)] * 3
    words = tokenizer.convert_ids_to_tokens(maker.ordered(long, "b", past).ids)
    assert len(words) <= 100
    assert words[0] == "[CLS]"
    assert {"good", "bad", "sky", "fine", "awful", "tree"} <= set(words)
    assert words[-1] == "bad"  # the one scored stands last
    assert words.index("awful") < words.index("fine")  # verdict b: the preferred one first
    alone = maker.ordered(long, "b")
    assert alone.num_pooled == alone.ids.count(tokenizer.convert_tokens_to_ids("bad")) > words.count("bad")
    assert alone.length == 80


def test_features_are_read_once_and_again_for_other_weights(tokenizer, tmp_path: Path):
    body = llama(tokenizer)
    texts = [TokenisedText([3, 4, 5 + i], 2, 2) for i in range(5)]
    first = read_features(body, texts, cache=FeatureCache(body, 2, tmp_path))
    kept = FeatureCache(body, 2, tmp_path)
    assert len(kept.rows) == 5
    passes: list[int] = []
    handle = body.layers[0].register_forward_hook(lambda *_: passes.append(1))
    torch.testing.assert_close(read_features(body, texts, cache=kept), first, rtol=0, atol=0)
    assert not passes
    read_features(body, [*texts, TokenisedText([9, 9], 1, 1)], cache=kept)
    assert len(passes) == 1
    handle.remove()
    with torch.no_grad():
        body.layers[0].mlp.up_proj.weight += 0.01
    assert not FeatureCache(body, 2, tmp_path).rows


def test_a_broken_cache_file_counts_as_empty(tokenizer, tmp_path):
    body = llama(tokenizer)
    cache = FeatureCache(body, 2, tmp_path)
    assert cache.path is not None
    cache.path.parent.mkdir(parents=True)
    cache.path.write_bytes(b"half a file")
    assert not FeatureCache(body, 2, tmp_path).rows


def test_a_directory_without_a_text_model_is_refused(tokenizer, tmp_path):
    with pytest.raises(UserError, match="holds no preference model"):
        load_text_preference(tmp_path, Encoder.of(llama(tokenizer), tokenizer))


def test_a_gated_model_reads_each_prompt_beside_its_responses_and_is_saved(tokenizer, tmp_path):
    encoder = Encoder.of(llama(tokenizer), tokenizer)
    pairs = cyclic_pairs(60, 7)
    fit, *_ = fit_text_model(gated(), encoder, pairs, seed=0, num_heads=2)
    a, b = fit.pair_features(pairs)
    width = a.shape[1] // 2
    assert torch.equal(a[:, width:], b[:, width:])  # one prompt
    assert not torch.equal(a[:, :width], b[:, :width])
    plain = read_features(encoder.body, [TokenisedText(prompt_token_ids(tokenizer, pairs[0].a.messages), 1, 0)])
    assert torch.allclose(a[0, width:], plain[0], atol=1e-6)
    fit.save(tmp_path)
    again = load_text_preference(tmp_path, encoder)
    assert torch.equal(again.fitted.pair_logits(*again.pair_features(pairs)), fit.fitted.pair_logits(a, b))


def test_a_gated_model_is_not_fitted_with_a_trained_backbone(tokenizer):
    encoder = Encoder.of(llama(tokenizer), tokenizer)
    with pytest.raises(UserError, match="bt_gpm_gated reads prompts apart"):
        fit_text_model(gated(), encoder, cyclic_pairs(40, 7), seed=0, tuning=Tuning())


@pytest.mark.parametrize("model", [TextModel(family=PLACKETT_LUCE, reads="responses"), cross_encoder()])
def test_pairs_of_one_ranking_weigh_as_one_also_where_texts_are_read(tokenizer, model):
    """Twenty rankings of three; in the last two responses have one text, so that it is read as three pairs."""
    encoder, coin, pairs = Encoder.of(llama(tokenizer), tokenizer), random.Random(0), []
    for i in range(20):
        texts = ["good", coin.choice(OTHER), "bad"] if i < 19 else ["good", "good", "bad"]
        pairs += [replace(pair(texts[a], texts[b], "a", group=str(i)), ranking=f"r{i}") for a, b in ((0, 1), (0, 2), (1, 2))]
    _, _, data = fit_text_model(model, encoder, pairs, seed=0, num_heads=2)
    assert data.observations.rankings is not None and data.observations.rankings.sizes.tolist() == [3] * 19
    assert data.observations.weight.tolist() == pytest.approx([2 / 3] * 57 + [1] * 3)
