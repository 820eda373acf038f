"""Imports: the formats, what is refused and how, the same file twice, and real files where they are there."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.duckdb_store import open_store
from storage.errors import UserError
from storage.import_judgments import JUDGMENT_FORMATS
from storage.imports import PROMPT_FORMATS, import_file, import_judgments, import_prompts
from storage.records import Annotator, Message
from tests.storage.builders import START, fill

DATA = Path(__file__).parents[2].parent / "shared" / "data"
real_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data at {DATA}")


@pytest.fixture
def store():
    store = open_store()
    yield store
    store.close()


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


# Prompts


@pytest.mark.parametrize(
    ("row", "content"),
    [
        ({"prompt": "Hello?"}, ["Hello?"]),
        ({"prompt": [user("Hello?"), assistant("Hi."), user("Bye?")]}, ["Hello?", "Hi.", "Bye?"]),
        ({"messages": [user("Hello?"), assistant("Hi.")]}, ["Hello?"]),
        ({"turns": ["Hello?", "And then?"]}, ["Hello?"]),
        ({"instruction": "Translate.", "input": "Hund"}, ["Translate.\n\nHund"]),
        ({"instruction": "Sing."}, ["Sing."]),
        ({"question": "Why?"}, ["Why?"]),
        ({"text": "Once upon a time"}, ["Once upon a time"]),
    ],
)
def test_prompts_are_read_in_every_form(store, tmp_path, row, content):
    result = import_prompts(store, write(tmp_path / "prompts.jsonl", [row]))
    assert result["format"] in PROMPT_FORMATS
    [prompt] = store.list_prompts()
    assert [message.content for message in prompt.messages] == content
    assert prompt.messages[0] == Message(role="user", content=content[0])
    assert (prompt.split, prompt.source) == ("train", "prompts")


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_prompts_come_from_every_kind_of_file(store, tmp_path, suffix):
    path = tmp_path / f"some{suffix}"
    rows = [{"prompt": 'Say "hi",\nthen go', "split": "train"}, {"prompt": "Größe?", "split": "test"}]
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif suffix == ".csv":
        path.write_text('prompt,split\r\n"Say ""hi"",\nthen go",train\r\nGröße?,test\r\n', newline="")
    else:
        path.write_text(json.dumps(rows) if suffix == ".json" else "\n".join(map(json.dumps, rows)) + "\n\n")
    assert import_prompts(store, path)["prompts"] == 2
    assert [(p.messages[0].content, p.split) for p in store.list_prompts()] == [
        ('Say "hi",\nthen go', "train"),
        ("Größe?", "heldout"),
    ]


def test_every_fourth_prompt_is_held_out_where_the_file_does_not_say(store, tmp_path):
    import_prompts(store, write(tmp_path / "p.jsonl", [{"prompt": f"Question {i}?"} for i in range(12)]))
    assert [p.split for p in store.list_prompts()] == ["train", "train", "train", "heldout"] * 3


def test_the_same_prompts_again_add_nothing(store, tmp_path):
    path = write(tmp_path / "p.jsonl", [{"prompt": "One?"}, {"prompt": "Two?"}, {"prompt": "One?"}])
    assert import_prompts(store, path)["prompts"] == 2
    assert import_prompts(store, path)["prompts"] == 0
    assert len(store.list_events(kind_prefix="prompts.imported")) == 1


# Judgments

PAIR = {"prompt": "Why?", "response_a": "Because.", "response_b": "No idea.", "label": "a"}


def the_judgment(store):
    [row] = store.query("SELECT * FROM standing_judgments").to_pylist()
    return row


def test_pairs_keep_sides_models_annotator_and_turns(store, tmp_path):
    turns = [assistant("Hm."), user("Really?")]
    row = PAIR | {
        "label": "b", "strength": 2.0, "annotator_id": "expert_3", "model_a": "m1", "model_b": "m2", "source": "mt",
        "context_a": turns, "context_b": None, "prompt_group": "g7", "license": "MIT", "pair_id": "p1",
    }  # fmt: skip
    result = import_judgments(store, write(tmp_path / "j.jsonl", [row]))
    assert result == {"format": "pairs", "rows": 1, "judgments": 1, "known": 0, "taken_back": 0, "bad_rows": []}
    kept = the_judgment(store)
    assert (kept["response_a"], kept["response_b"], kept["verdict"], kept["strength"]) == ("Because.", "No idea.", "b", 2)
    assert (kept["context_a"], kept["context_b"]) == (turns, None)
    assert (kept["model_a"], kept["model_b"], kept["annotator"], kept["annotator_kind"]) == (
        "m1",
        "m2",
        "mt/expert_3",
        "imported",
    )
    assert (kept["split"], kept["source"], kept["tags"]) == ("imported", "mt", ["group:g7", "license:MIT"])


def test_a_trl_pair_is_chosen_against_rejected(store, tmp_path):
    rows = [{"prompt": f"Why {i}?", "chosen": "Good.", "rejected": [assistant("Bad.")]} for i in range(64)]
    import_judgments(store, write(tmp_path / "j.jsonl", rows))
    made = store.query("SELECT * FROM standing_judgments").to_pylist()
    winners = [row["response_a"] if row["verdict"] == "a" else row["response_b"] for row in made]
    assert winners == ["Good."] * 64
    assert 12 < sum(row["verdict"] == "a" for row in made) < 52  # the side is drawn: mean 32, sd 4, 5 sd


@pytest.mark.parametrize(
    "row",
    [
        {"chosen": [user("Why?"), assistant("Good.")], "rejected": [user("Why?"), assistant("Bad.")]},
        {"chosen": "\n\nHuman: Why?\n\nAssistant: Good.", "rejected": "\n\nHuman: Why?\n\nAssistant: Bad."},
        {"prompt": [user("Why?")], "chosen": [assistant("Good.")], "rejected": [assistant("Bad.")]},
        {"conversation_a": [user("Why?"), assistant("Good.")], "conversation_b": [user("Why?"), assistant("Bad.")],
         "winner": "model_a", "model_a": "x", "model_b": "y", "judge": "j", "tstamp": 1700000000.5},
        {"context": [user("Why?")], "response1": "Bad.", "response2": "Good.", "overall_preference": 2},
        PAIR | {"response_a": "Good.", "response_b": "Bad."},
    ],
)  # fmt: skip
def test_other_formats_say_the_same(store, tmp_path, row):
    import_judgments(store, write(tmp_path / "j.jsonl", [row]))
    kept = the_judgment(store)
    assert kept["messages"] == [user("Why?")]
    sides = {"a": kept["response_a"], "b": kept["response_b"]}
    assert sides.pop(kept["verdict"]) == "Good."
    assert list(sides.values()) == ["Bad."]
    assert (kept["context_a"], kept["context_b"]) == (None, None)


def test_arena_battles_keep_time_and_both_bad(store, tmp_path):
    row = {
        "conversation_a": [user("Why?"), assistant("x"), user("So?"), assistant("y")], "winner": "tie (bothbad)",
        "conversation_b": [user("Why?"), assistant("z"), user("So?"), assistant("w")], "tstamp": 1700000000.5,
    }  # fmt: skip
    import_judgments(store, write(tmp_path / "j.jsonl", [row]))
    kept = the_judgment(store)
    assert kept["verdict"] == "both_bad"
    assert kept["submitted_at"] == datetime.fromtimestamp(1700000000.5, UTC)
    assert (kept["messages"], kept["context_a"]) == ([user("Why?")], [assistant("x"), user("So?")])


def test_one_pair_judged_in_both_orders_is_one_task(store, tmp_path):
    swapped = PAIR | {"response_a": PAIR["response_b"], "response_b": PAIR["response_a"], "label": "b", "annotator_id": "other"}
    import_judgments(store, write(tmp_path / "j.jsonl", [PAIR, swapped]))
    made = store.list_judgments()
    assert len({j.task_id for j in made}) == 1
    assert {(j.response_a_id, j.response_b_id) for j in made} == {
        (made[0].response_a_id, made[0].response_b_id),
        (made[0].response_b_id, made[0].response_a_id),
    }


def test_equal_rows_are_judgments_of_their_own_and_importing_again_adds_nothing(store, tmp_path):
    path = write(tmp_path / "j.jsonl", [PAIR, PAIR, PAIR | {"label": "tie"}])
    assert import_judgments(store, path)["judgments"] == 3
    again = import_judgments(store, path)
    assert (again["judgments"], again["known"]) == (0, 3)
    assert store.count_judgments() == 3


def test_imported_pairs_are_not_handed_to_annotators_nor_answered_by_policies(store, tmp_path):
    import_judgments(store, write(tmp_path / "j.jsonl", [PAIR, PAIR | {"label": "skip", "response_a": "Other."}]))
    store.add_annotator(Annotator(id="ann0", handle="Ann", kind="human", created_at=START))
    assert store.lease("ann0", 5) == []
    assert store.open_tasks() == []
    assert store.list_prompts("train") == store.list_prompts("heldout") == []
    import_prompts(store, write(tmp_path / "p.jsonl", [{"prompt": "Why?"}]))
    assert len(store.list_prompts("train")) == 1  # the same words as a prompt of its own


def test_imported_people_are_not_ours_of_the_same_name(store, tmp_path):
    fill(store, num_annotators=1)
    store.add_annotator(Annotator(id="x", handle="src/Ann", kind="human", created_at=START))
    import_judgments(store, write(tmp_path / "j.jsonl", [PAIR | {"source": "src", "annotator_id": "Ann"}]))
    kept = the_judgment(store)
    assert kept["annotator"].startswith("src/Ann (imported ")
    assert kept["annotator_id"] != "x"


# Bad files


BAD_PAIRS = [
    (PAIR | {"label": "c"}, "label is 'c', expected one of a, b, tie, both_bad, skip"),
    (PAIR | {"label": None}, "label is None"),
    (PAIR | {"response_b": None}, "response_b is missing or not text"),
    (PAIR | {"prompt": ""}, "prompt is empty"),
    (PAIR | {"prompt": [{"role": "robot", "content": "x"}]}, "prompt has the role 'robot'"),
    (PAIR | {"prompt": ["x"]}, "prompt has the message 'x', expected role and content"),
    (PAIR | {"strength": 7}, "strength is 7, expected 0, 1, 2, 3 or nothing"),
    (PAIR | {"submitted_at": "yesterday"}, "the time 'yesterday' cannot be read"),
]


@pytest.mark.parametrize(("row", "why"), BAD_PAIRS)
def test_a_bad_row_is_named_and_nothing_is_imported(store, tmp_path, row, why):
    path = write(tmp_path / "j.jsonl", [PAIR, row, PAIR | {"label": "b"}])
    with pytest.raises(UserError) as refused:
        import_judgments(store, path)
    assert "j.jsonl: 1 of 3 rows cannot be imported, so nothing was." in str(refused.value)
    assert f"row 2: {why}" in str(refused.value)
    assert "--skip-bad" in str(refused.value)
    assert (store.count_judgments(), store.list_prompts(), store.list_events()) == (0, [], [])
    result = import_judgments(store, path, skip_bad=True)
    assert (result["judgments"], len(result["bad_rows"])) == (2, 1)
    assert result["bad_rows"][0].startswith(f"row 2: {why}")


def test_many_bad_rows_are_counted_and_ten_are_shown(store, tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "Fine?"}\n' + "{broken\n" * 13 + "[1]\n")
    with pytest.raises(UserError) as refused:
        import_prompts(store, path)
    text = str(refused.value)
    assert "14 of 15 rows" in text and "and 4 more" in text
    assert "row 2: not JSON:" in text and "row 11: not JSON:" in text and "row 12:" not in text
    assert import_prompts(store, path, skip_bad=True)["prompts"] == 1


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("x.jsonl", "", "holds no rows"),
        ("x.csv", "prompt\n", "holds no rows"),
        ("x.jsonl", '{"colour": "red"}\n', "has the columns colour"),
        ("x.xlsx", "x", "'.xlsx' are not read"),
        ("x.parquet", "x", "not readable as Parquet"),
        ("x.jsonl", b"\xff\xfe", "not UTF-8"),
    ],
)
@pytest.mark.parametrize("what", ["prompts", "judgments"])
def test_files_that_say_nothing_are_refused(store, tmp_path, what, name, content, why):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=why.replace(".", r"\.")):
        import_file(store, what, tmp_path / name)
    with pytest.raises(UserError, match="does not exist"):
        import_file(store, what, tmp_path / "missing.jsonl")


def test_a_format_is_recognised_by_its_columns():
    for name, (columns, _) in JUDGMENT_FORMATS.items():
        assert next(other for other, (needed, _) in JUDGMENT_FORMATS.items() if needed <= columns) == name


# Real files


@real_data
def test_the_real_pairs_are_imported_in_seconds(store, tmp_path):
    started = time.monotonic()
    result = import_judgments(store, DATA / "train" / "pairs.parquet")
    assert time.monotonic() - started < 10
    assert (result["judgments"], result["bad_rows"]) == (4060, [])
    rows = pq.read_table(DATA / "train" / "pairs.parquet").to_pylist()
    kept = store.query("SELECT * FROM standing_judgments ORDER BY seq").to_pylist()
    for row, judgment in zip(rows, kept, strict=True):
        assert [judgment[name] for name in ("messages", "response_a", "response_b", "verdict", "context_a", "context_b")] == [
            row[name] for name in ("prompt", "response_a", "response_b", "label", "context_a", "context_b")
        ]
    assert import_judgments(store, DATA / "train" / "pairs.parquet")["judgments"] == 0


@real_data
@pytest.mark.parametrize(
    ("name", "count"),
    [("hh_first_turn_train", 1279), ("hh_first_turn_dev", 166), ("mt_bench_dev", 56), ("self_instruct_seeds", 164)],
)
def test_the_real_prompts_are_imported(store, name, count):
    assert import_prompts(store, DATA / "prompts" / f"{name}.jsonl")["prompts"] == count
