"""What every part of the app is given: the store, the round service and the few facts about this installation."""

from dataclasses import dataclass, field
from pathlib import Path

from annotate_app.live import LiveService
from annotate_app.rounds import RoundService
from annotate_app.security_settings import SecuritySettings
from storage.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class AppContext:
    """Built once by the composition root (or a test) and passed to everything; there are no globals."""

    store: Store
    rounds: RoundService
    data_dir: Path
    session_secret: str
    live: LiveService | None = None  # None: live prompts are switched off
    campaign: str = "Nashloop"  # title shown to annotators
    security: SecuritySettings = field(default_factory=SecuritySettings)
