"""Options that a data directory keeps, and the app's log: requests carry an id into it and into their answer."""

import json
import logging
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from annotate_app.logs import REQUEST_ID, set_up_logging
from annotate_app.up_settings import resolved
from storage.errors import UserError


@pytest.fixture
def command(tmp_path):
    """A command with three options that tells what it resolved."""
    app = typer.Typer()

    @app.command()
    def up(context: typer.Context, host: str = "127.0.0.1", port: int = 7860, device: str = "auto") -> None:
        print(json.dumps(resolved(context, tmp_path)))

    def run(*words: str, settings: str | None = None) -> dict:
        if settings is not None:
            (tmp_path / "settings.toml").write_text(settings)
        outcome = CliRunner().invoke(app, list(words))
        if outcome.exception is not None:
            raise outcome.exception
        return json.loads(outcome.stdout)

    return run


def test_what_is_given_wins_over_what_is_kept_and_that_over_defaults(command):
    assert command() == {"host": "127.0.0.1", "port": 7860, "device": "auto"}
    kept = '[up]\nport = 9000\ndevice = "cpu"\n'
    assert command(settings=kept) == {"host": "127.0.0.1", "port": 9000, "device": "cpu"}
    assert command("--port", "7860", settings=kept)["port"] == 7860  # the default, but given


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[up]\nport = 99999999", "up.port = 99999999 is refused"),
        ('[up]\ndevice = "tpu"', "up.device = 'tpu' is refused"),
        ("[up]\nprot = 8000", "up.prot"),
        ("[server]\nport = 1", r"\[server\] is unknown. Tables: \[up\], \[security\], \[jobs\]"),
    ],
)
def test_mistakes_in_the_file_are_named(command, text, words):
    with pytest.raises(UserError, match=words):
        command(settings=text)


def test_a_request_has_an_id_that_a_proxy_may_give(client):
    first, second = (client.get("/healthz").headers["x-request-id"] for _ in range(2))
    assert len(first) == 16 and first != second
    assert client.get("/healthz", headers={"X-Request-Id": "from-the-proxy-1"}).headers["x-request-id"] == "from-the-proxy-1"
    odd = client.get("/healthz", headers={"X-Request-Id": "<script>"}).headers["x-request-id"]
    assert "<" not in odd


def test_log_lines_are_json_with_the_request_they_are_about():
    code = (
        "import logging; from annotate_app.logs import *; set_up_logging('json'); REQUEST_ID.set('abc12345');"
        "logging.getLogger('x').info('said %s', 'once')\n"
        "try: 1 / 0\nexcept ZeroDivisionError: logging.getLogger('x').exception('broke')"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    said, broke = map(json.loads, ran.stderr.splitlines())
    assert (said["message"], said["level"], said["logger"], said["request_id"]) == ("said once", "info", "x", "abc12345")
    assert "ZeroDivisionError" in broke["exception"] and said["at"].endswith("+00:00")


def test_plain_lines_name_the_request_too(capsys):
    before = logging.getLogger().handlers[:], logging.getLogger().level
    try:
        set_up_logging("text")
        token = REQUEST_ID.set("abc12345")
        logging.getLogger("x").warning("slow")
        REQUEST_ID.reset(token)
        assert capsys.readouterr().err.rstrip().endswith("WARNING x: slow (request abc12345)")
    finally:
        logging.getLogger().handlers[:], logging.getLogger().level = before
