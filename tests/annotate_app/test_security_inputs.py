"""Hostile bodies and files: too large, deeply nested, bombs, names that lead elsewhere. Refused with a sentence, never a 5xx."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from annotate_app.auth import issue_signin_link
from annotate_app.rounds import learner_environment
from annotate_app.uploads import safe_name
from storage import import_rows
from storage.errors import UserError
from storage.imports import import_file

OURS = {"X-Nashloop": "1"}
FORMULAS = ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("http://evil.example")')


@pytest.fixture
def rosa(visitor, context):
    visitor.post(issue_signin_link(context.store, context.store.get_user("rosa")))
    visitor.headers.update(OURS)
    return visitor


def import_(browser, name, content, what="prompts"):
    return browser.post(f"/api/v1/imports/{what}", params={"filename": name}, content=content)


def message(answer):
    return answer.json()["error"]["message"]


def test_bodies_are_limited_announced_or_not(rosa, client, visitor):
    much = b'{"lease_id": "' + b"x" * 4_000_000 + b'"}'
    for content in (much, iter([much])):  # with a Content-Length, and in chunks without one
        refused = client.post("/api/v1/judgments", content=content, headers={"content-type": "application/json"})
        assert refused.status_code == 413
        assert message(refused).startswith("This is more than 4 MB")
    assert import_(rosa, "p.jsonl", much).status_code == 422  # a file may be longer: this one is read, and is no prompt
    visitor.cookies.clear()
    assert visitor.post("/sign-in", content=b"x" * 65_000).status_code == 413
    assert visitor.post("/sign-in", content=b"x", headers={"content-length": "-1"}).status_code in (400, 413)


def test_a_file_over_the_limit_is_refused_though_nothing_announced_it(rosa):
    refused = import_(rosa, "p.jsonl", (b"x" * 1_000_000 for _ in range(201)))
    assert refused.status_code == 413
    assert message(refused).startswith("This is more than 200 MB")


def test_names_of_files_lead_nowhere(rosa, context):
    for name in (
        "..",
        "../../evil.jsonl",
        "/etc/passwd.jsonl",
        "a\x00b.jsonl",
        "x" * 5000 + ".jsonl",
        "..\\..\\evil.jsonl",
        "",
        " ",
    ):
        before = {path.name for path in context.data_dir.iterdir()}
        answer = import_(rosa, name, b'{"prompt": "Why?"}\n')
        assert answer.status_code in (200, 422), (name, answer.text)
        assert {path.name for path in context.data_dir.iterdir()} == before
    sources = {prompt.source for prompt in context.store.list_prompts()}
    assert not [source for source in sources if "/" in source or "\x00" in source or len(source) > 120]


def test_a_kept_name_is_the_one_people_know():
    assert safe_name("My prompts-2.v1.jsonl") == "My prompts-2.v1.jsonl"
    assert safe_name("C:\\files\\frågor.csv") == "frågor.csv"
    assert safe_name("/tmp/.hidden.csv") == "hidden.csv"
    assert safe_name("..") == safe_name("") == "file"


def test_deeply_nested_json_is_a_bad_row_and_no_crash(rosa, client):
    deep = b"[" * 100_000 + b"]" * 100_000
    assert import_(rosa, "p.jsonl", b'{"prompt": ' + deep + b"}").status_code == 422
    assert import_(rosa, "p.json", deep).status_code == 422
    answer = client.post("/api/v1/judgments", content=deep, headers={"content-type": "application/json"})
    assert answer.status_code == 400


def test_a_parquet_bomb_is_refused_before_it_unpacks(rosa, tmp_path, monkeypatch):
    monkeypatch.setattr(import_rows, "UNPACKED_LIMIT", 50_000_000)
    path = tmp_path / "bomb.parquet"  # one text of a megabyte, a hundred times: a dictionary makes a small file of it
    pq.write_table(pa.table({"prompt": ["x" * 1_000_000] * 100}), path, compression="zstd")
    assert path.stat().st_size < 100_000
    with pytest.raises(UserError, match=r"unpacks to more than 0\.05 GB"):
        import_file(None, "prompts", path)  # pyright: ignore[reportArgumentType]: the store is never reached
    assert import_(rosa, "bomb.parquet", path.read_bytes()).status_code == 422
    plain = tmp_path / "plain.parquet"  # without a dictionary the file itself says how much it holds
    pq.write_table(pa.table({"prompt": ["y" * 1_000_000] * 100}), plain, compression="zstd", use_dictionary=False)
    assert plain.stat().st_size < 100_000
    with pytest.raises(UserError, match="unpacks to more"):
        import_file(None, "prompts", plain)  # pyright: ignore[reportArgumentType]


def test_files_that_are_not_what_they_say_are_refused_in_a_sentence(rosa):
    for name, content in [
        ("p.parquet", b"PAR1" + b"\xff" * 200 + b"PAR1"), ("p.parquet", b""), ("p.csv", b"\xff\xfe\x00"),
        ("p.csv", b'prompt\n"unclosed'), ("p.csv", b"prompt\n" + b"x" * 200_000), ("p.jsonl", b"\x00" * 50),
        ("p.zip", b"PK\x03\x04"), ("p.pkl", b"\x80\x04."), ("p.json", b"nonsense"),
    ]:  # fmt: skip
        answer = import_(rosa, name, content)
        assert answer.status_code == 422, (name, answer.status_code)
        assert message(answer).endswith((".", "'")) or "--skip-bad" in message(answer)


def test_texts_that_look_like_formulas_are_kept_as_they_are(rosa, context):
    rows = "".join(json.dumps({"prompt": text}) + "\n" for text in FORMULAS if text.strip())
    assert import_(rosa, "p.jsonl", rows.encode()).status_code == 200
    kept = {prompt.messages[0].content for prompt in context.store.list_prompts()}
    assert set(FORMULAS) <= kept


def test_a_job_gets_none_of_the_apps_secrets(monkeypatch):
    monkeypatch.setenv("NASHLOOP_OIDC_SECRET", "s1")
    monkeypatch.setenv("NASHLOOP_DATABASE_URL", "postgresql://u:s2@h/d")
    monkeypatch.setenv("PGPASSWORD", "s3")
    monkeypatch.setenv("HF_TOKEN", "needed to download a model")
    environment = learner_environment()
    assert not {"s1", "s3"} & set(environment.values()) and "s2" not in str(environment)
    assert environment["HF_TOKEN"]
