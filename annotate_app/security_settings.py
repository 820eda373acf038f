"""What an operator may say about signing in, uploads and privacy: the table ``[security]`` of DATA/settings.toml."""

import ipaddress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator

from annotate_app.settings_file import SETTINGS_FILE, read_table
from storage.errors import UserError


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class OidcSettings(_Settings):
    """One OpenID Connect provider: Hugging Face, a university, a company."""

    issuer: str = Field(description="where /.well-known/openid-configuration is, such as https://huggingface.co")
    client_id: str
    client_secret_env: str = Field(
        default="NASHLOOP_OIDC_SECRET", description="environment variable that holds the client's secret"
    )
    label: str = Field(default="single sign-on", max_length=60, description="what the button on the sign-in page calls it")
    scope: str = "openid profile email"
    new_people: bool = Field(default=False, description="whether somebody nobody has added may sign in, as an annotator")
    email_domains: tuple[str, ...] = Field(default=(), description="of new people: only those whose verified address ends so")

    @field_validator("issuer")
    @classmethod
    def _is_https(cls, value: str) -> str:
        local = value.startswith(("http://127.0.0.1:", "http://localhost:"))
        if not value.startswith("https://") and not local:
            raise ValueError("must begin with https://")
        return value.rstrip("/")


class SecuritySettings(_Settings):
    """The defaults are for an app on this machine or behind a TLS proxy."""

    public_url: str | None = Field(default=None, pattern=r"^https?://[^/]+$", description="address people open, behind a proxy")
    session_days: float = Field(default=30, gt=0, le=365, description="days after which one signs in again")
    sign_in_failures: int = Field(default=5, ge=1, description="wrong passwords in a row before a name is locked")
    lock_minutes: float = Field(default=15, gt=0, description="how long a name is locked")
    upload_mb: float = Field(default=200, gt=0, description="largest file that is taken, in megabytes")
    forget_after_days: float | None = Field(
        default=None, ge=0, description="days after which somebody who was shut out is forgotten"
    )
    oidc: OidcSettings | None = None


def read_security(data_dir: Path) -> SecuritySettings:
    """The settings of a data directory, defaults where it has none; UserError naming what is wrong and where."""
    return read_table(data_dir, "security", SecuritySettings) or SecuritySettings()


def check_exposure(host: str, security: SecuritySettings, *, allow_http: bool) -> None:
    """UserError where other machines could reach the app over plain HTTP and nobody said that they may."""
    behind_tls = (security.public_url or "").startswith("https://")
    if is_loopback(host) or behind_tls or allow_http:
        return
    raise UserError(
        f"--host {host} lets other machines in over plain HTTP: passwords and labels can be read on the way. Put a TLS proxy "
        f'in front and name it in {SETTINGS_FILE} of the data directory ([security] public_url = "https://..."), or give '
        "--allow-http in a network you trust."
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server bound to this address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
