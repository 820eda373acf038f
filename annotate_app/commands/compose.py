"""Wiring: from a data directory to an open store, a round service and the app around them. Commands own what they open."""

import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from annotate_app.bootstrap import BUILT_IN, model_location, model_name
from annotate_app.context import AppContext
from annotate_app.databases import open_database
from annotate_app.job_settings import read_job_commands
from annotate_app.rounds import RoundService
from annotate_app.security_settings import read_security
from annotate_app.server import check_data
from storage.errors import UserError
from storage.store import Store

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt", "spiece.model")


@contextmanager
def open_context(
    data_dir: Path,
    *,
    create: bool = False,
    database: str | None = None,
    prompts: Path | None = None,
    seed: int | None = None,
    stop_jobs: bool = False,
    **rounds_options: Any,
) -> Iterator[AppContext]:
    """Open everything a data directory holds; closed again at the end of the block.

    ``database``: a PostgreSQL address, None for the one the directory was made with. ``prompts``: a file to import first.
    ``seed`` fixes which side of a pair is shown first. Jobs go on after the block unless ``stop_jobs``. A directory that was new
    when a UserError ended the block before any job is removed again.
    ``rounds_options`` are those of RoundService: model, device, queue.
    """
    from storage.imports import import_prompts

    if not create:
        check_data(data_dir)
    security, commands = read_security(data_dir), read_job_commands(data_dir)
    new = _make_directory(data_dir)
    try:
        opened = open_database(data_dir, database, rng=None if seed is None else random.Random(seed))
    except UserError:
        if new:
            shutil.rmtree(data_dir)
        raise
    store = opened.store
    refused = False
    try:
        if prompts is not None:
            import_prompts(store, prompts)
        rounds = RoundService(store, data_dir, lock=opened.lock, **{"command": commands, **rounds_options})
        try:
            yield AppContext(
                store=store, rounds=rounds, data_dir=data_dir, session_secret=opened.session_secret, security=security
            )
        finally:
            rounds.close(stop_jobs=stop_jobs)
    except UserError:
        refused = new and not store.list_rounds()
        raise
    finally:
        store.close()
        if refused:
            shutil.rmtree(data_dir)


@contextmanager
def with_live_prompts(context: AppContext, policy_server: str, device: str) -> Iterator[AppContext]:
    """The context with a policy server for live prompts, which ends with the block; unchanged where it is off.

    ``policy_server``: auto (a process of ours), off, or the URL of one that somebody else keeps.
    """
    if policy_server == "off":
        yield context
        return
    from annotate_app.live import LiveService
    from annotate_app.policy_server import LocalServer, RemoteServer

    if policy_server == "auto":
        [base] = [policy for policy in context.store.list_policies() if policy.number == 0]
        log = context.data_dir / "logs" / "policy-server.log"
        source = LocalServer(model_location(base.base_model), log=log, device=device)
    else:
        source = RemoteServer(policy_server)
    live = LiveService(context.store, context.data_dir, source)
    context.rounds.ask_before_serving(live.admit)
    live.start()
    try:
        yield replace(context, live=live)
    finally:
        live.close()


def check_model(model: str | None) -> None:
    """Refuse a model directory that cannot be loaded before anything is written; hub ids are looked up by the learner."""
    path = Path(model_location(model_name(model or BUILT_IN)))
    if not path.is_absolute():
        return
    if not (path / "config.json").is_file():
        raise UserError(
            f"The model directory {path} has no config.json. Name the folder of a Hugging Face causal language model."
        )
    if not any((path / name).is_file() for name in TOKENIZER_FILES):
        raise UserError(
            f"The model directory {path} has no tokenizer (such as tokenizer.json). Save the tokenizer beside the model."
        )


def take_up_jobs(context: AppContext) -> None:
    """Adopt, register or mark the jobs that an earlier app left; UserError where nothing was ever started."""
    if not context.store.list_policies():
        directory = context.data_dir
        raise UserError(
            f"{directory} has no policy yet. Run `nashloop up --data {directory}`, which samples the first responses."
        )
    context.rounds.ensure_started()


@contextmanager
def admin_token(store: Store) -> Iterator[str]:
    """Secret of an admin token that is worthless after the block."""
    from annotate_app.auth import issue_token

    token, secret = issue_token(store, name="command line", scope="admin")
    try:
        yield secret
    finally:
        store.append_event(actor="system", kind="token.revoked", subject=token.id)


def build_api(context: AppContext) -> Any:
    """The same routes as the app without its pages, which take seconds to build."""
    from annotate_app.web import build_app

    return build_app(context, pages=False)


def _make_directory(data_dir: Path) -> bool:
    """True if the directory was not there."""
    new = not data_dir.exists()
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"Cannot create the data directory {data_dir}: {error.strerror}. Name another with --data.") from error
    return new
