"""Bad input on the command line: one sentence that says what, which value and what to do; exit code 2; nothing left behind."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from annotate_app.cli import main

ROOT = Path(__file__).parents[2]


@pytest.fixture
def nashloop(tmp_path, monkeypatch, capsys):
    """The command line's entry point, run in an empty directory: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["nashloop", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        printed = capsys.readouterr()
        return int(left.value.code or 0), printed.out, printed.err

    return run


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def refused(result: tuple[int, str, str]) -> str:
    """The sentence of a refusal, after checking that it is one and that nothing else was printed."""
    code, out, err = result
    assert code == 2, err
    assert out == ""
    assert "Traceback" not in err
    return err


BAD_INPUT = [
    (["round", "start", "--set", "update.foo=1"], "unknown setting 'update.foo' (value 1)"),
    (["round", "start", "--set", "update.epochs=0"], "update.epochs = 0 is refused"),
    (["round", "start", "--set", "update.step_size"], "is not NAME=VALUE"),
    (["round", "start", "--set", "seed=1", "--set", "seed.x=1"], "seed is a value, not a group of settings"),
    (["round", "start", "--settings", "no.toml"], "Cannot read no.toml: No such file"),
    (["round", "start", "--kind", "rest"], "--kind 'rest' is unknown. Use round, generate, evaluate or fit."),
    (["round", "start", "--promote", "never"], "--promote 'never' is unknown. Use gate or manual."),
    (["round", "start", "--policy", "3"], "--policy 3 does not go with a round"),
    (["round", "start", "--no-wait"], "--no-wait needs a running app"),
    (["round", "list"], "nashloop-data holds no Nashloop data. Run `nashloop up --data nashloop-data` first"),
    (["round", "list", "--data", "elsewhere"], "elsewhere holds no Nashloop data"),
    (["export", "trl", "--out", "x.xls"], "--out x.xls ends in '.xls': use .jsonl, .parquet or .csv."),
    (["export", "trl", "--out", "no/x.jsonl"], "the folder no does not exist"),
    (["export", "trl", "--out", "x.jsonl"], "nashloop-data holds no Nashloop data"),
    (["import", "prompts", "no.jsonl"], "Cannot read no.jsonl: No such file"),
    (["simulate", "--world", "flat"], "--world 'flat' is unknown. Worlds: transitive, cyclic, crowd."),
    (["simulate", "--plot", "curves.svg"], "--plot curves.svg is refused: name a .png file"),
    (["simulate", "--selection", "best"], "--selection 'best' is unknown. Rules: mix, random"),
    (["simulate", "--prompts", "no.jsonl"], "The prompts file no.jsonl does not exist"),
    (["simulate", "--set", "update.foo=1"], "unknown setting 'update.foo'"),
    (["simulate", "--set", "seed=1"], "--set seed=1 would be ignored: every round has a seed of its own. Use --seed."),
    (["round", "start", "--set", "kind=fit"], "kind = 'fit' is not a setting here"),
    (["up", "--device", "tpu"], "--device 'tpu' is unknown. Use auto, cpu or cuda."),
    (["up", "--allow-http", "--host", "no.such.host.invalid"], "'no.such.host.invalid' is not an address of this machine"),
    (["users", "invite", "Ada"], "nashloop-data holds no Nashloop data"),
    (["backup"], "nashloop-data holds no Nashloop data"),
    (["doctor"], "nashloop-data holds no Nashloop data"),
]


@pytest.mark.parametrize(("arguments", "sentence"), BAD_INPUT, ids=[" ".join(arguments) for arguments, _ in BAD_INPUT])
def test_bad_input_is_refused_in_a_sentence_and_leaves_nothing(arguments, sentence, nashloop, tmp_path):
    text = refused(nashloop(*arguments))
    assert text.startswith("error: ")
    assert sentence in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [["--colour"], ["up", "--bogus"], ["round", "start", "--bogus"], ["simulate", "--rounds", "x"]]
)
def test_unknown_options_are_refused_with_exit_code_2(arguments, nashloop, tmp_path):
    refused(nashloop(*arguments))
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_settings_file_names_its_line(nashloop, tmp_path):
    (tmp_path / "s.toml").write_text("[update]\nepochs = = 3\n")
    text = refused(nashloop("round", "start", "--settings", "s.toml"))
    assert "s.toml is not valid TOML" in text
    assert "line 2" in text


def test_a_simulation_refuses_a_directory_that_holds_something(nashloop, tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "thesis.txt").write_text("mine")
    assert "--data kept is not empty" in refused(nashloop("simulate", "--data", "kept"))
    assert (tmp_path / "kept" / "thesis.txt").read_text() == "mine"


def test_a_taken_port_is_named_with_the_way_out_and_no_data_directory_is_made(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "annotate_app.cli", "up", "--port", str(port), "--data", "d"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False)
    text = refused((ran.returncode, ran.stdout, ran.stderr))
    assert f"Port {port} on 127.0.0.1 is taken by another program" in text
    assert "--port N" in text
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("command", ["up", "simulate"])
def test_a_missing_model_directory_is_named(command, nashloop, tmp_path):
    text = refused(nashloop(command, "--model", "./no-such-model"))
    assert "The model directory ./no-such-model does not exist" in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("files", "sentence"), [([], "has no config.json"), (["config.json", "model.safetensors"], "has no tokenizer")]
)
@pytest.mark.parametrize("command", ["up", "simulate"])
def test_an_incomplete_model_directory_is_refused_before_anything_is_written(command, files, sentence, nashloop, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    for name in files:
        (model / name).write_text("{}")
    assert sentence in refused(nashloop(command, "--model", "./model"))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_another_model_without_prompts_is_told_how_to_give_them_and_nothing_is_left(nashloop, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (model / name).write_text("{}")
    for command in (["simulate", "--data", "d"], ["up", "--data", "d", "--port", str(free_port())]):
        assert "Give a file with --prompts FILE" in refused(nashloop(*command, "--model", "./model"))
        assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [('{"prompt": "Why?", "chosen": 7, "rejected": "x"}\n', "row 1"), ("", "holds no rows"), ('{"colour": "red"}\n', "colour")],
)
def test_a_bad_file_of_judgments_is_refused_and_leaves_no_data_directory(content, sentence, nashloop, tmp_path):
    (tmp_path / "pairs.jsonl").write_text(content)
    assert sentence in refused(nashloop("import", "judgments", "pairs.jsonl"))
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.jsonl"]


def test_the_command_line_loads_nothing_heavy_before_it_knows_the_command():
    heavy = ("torch", "gradio", "duckdb", "fastapi", "httpx", "pyarrow", "numpy")
    code = f"import sys, annotate_app.cli; print([m for m in {heavy!r} if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


COMMANDS = """up, simulate, import prompts, import judgments, export, round start, round watch, round list,
round show, round cancel, round resume, round promote, round rollback, users add, users invite, users list, users disable,
tokens create, tokens list, tokens revoke, backup, restore, doctor, rules"""


@pytest.mark.parametrize("command", [name.strip() for name in COMMANDS.split(",")])
def test_every_command_has_help(command, nashloop):
    code, out, _ = nashloop(*command.split(), "--help")
    assert code == 0
    assert f"{command} [OPTIONS]" in out
