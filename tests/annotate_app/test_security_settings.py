"""The operator's settings: refused with key, value and remedy; a start that would let strangers listen in is refused."""

import subprocess
import sys
from pathlib import Path

import pytest

from annotate_app.security_settings import SecuritySettings, check_exposure, is_loopback, read_security
from storage.errors import UserError

ROOT = Path(__file__).parents[2]
BEHIND_TLS = SecuritySettings(public_url="https://label.example")


def test_settings_are_read_from_the_data_directory(tmp_path):
    assert read_security(tmp_path) == SecuritySettings()
    (tmp_path / "settings.toml").write_text(
        '[security]\npublic_url = "https://label.example"\nlock_minutes = 1\n'
        '[security.oidc]\nissuer = "https://huggingface.co/"\nclient_id = "c"\n'
    )
    found = read_security(tmp_path)
    assert (found.public_url, found.lock_minutes) == ("https://label.example", 1)
    assert found.oidc is not None and found.oidc.issuer == "https://huggingface.co"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[security]\nsesion_days = 3", "security.sesion_days = 3 is refused"),
        ("[security]\nlock_minutes = -1", "security.lock_minutes = -1 is refused"),
        ('[security]\npublic_url = "label.example"', "security.public_url = 'label.example' is refused"),
        ('[security.oidc]\nissuer = "http://idp.example"\nclient_id = "c"', "must begin with https://"),
        ("[security", "not readable as TOML"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value(tmp_path, text, said):
    (tmp_path / "settings.toml").write_text(text)
    with pytest.raises(UserError) as refused:
        read_security(tmp_path)
    assert said in str(refused.value) and "orrect" in str(refused.value)


@pytest.mark.parametrize(
    ("host", "security", "allow_http", "passes"),
    [
        ("127.0.0.1", SecuritySettings(), False, True),
        ("::1", SecuritySettings(), False, True),
        ("localhost", SecuritySettings(), False, True),
        ("0.0.0.0", SecuritySettings(), False, False),
        ("::", SecuritySettings(), False, False),
        ("192.168.1.5", SecuritySettings(), False, False),
        ("example.org", SecuritySettings(), False, False),
        ("0.0.0.0", SecuritySettings(public_url="http://label.example"), False, False),
        ("0.0.0.0", BEHIND_TLS, False, True),
        ("0.0.0.0", SecuritySettings(), True, True),
    ],
)
def test_other_machines_are_let_in_only_behind_tls_or_when_told(host, security, allow_http, passes):
    if passes:
        check_exposure(host, security, allow_http=allow_http)
    else:
        with pytest.raises(UserError, match="--allow-http in a network you trust"):
            check_exposure(host, security, allow_http=allow_http)


def test_only_this_machine_is_loopback():
    assert [host for host in ("127.0.0.1", "127.8.0.1", "::1", "localhost", "0.0.0.0", "10.0.0.1", "x") if is_loopback(host)] == [
        "127.0.0.1", "127.8.0.1", "::1", "localhost",
    ]  # fmt: skip


def test_nashloop_up_refuses_before_anything_is_made(tmp_path):
    command = [sys.executable, "-m", "annotate_app.cli", "up", "--host", "0.0.0.0", "--data", str(tmp_path / "data")]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 2
    assert "lets other machines in over plain HTTP" in ran.stderr and "Traceback" not in ran.stderr
    assert not (tmp_path / "data").exists()
