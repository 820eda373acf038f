"""Serving the app: a listening socket taken early, a clean stop, and ``server.json``, by which commands find the running app."""

import json
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from storage.errors import UserError

DATABASE, URL_FILE, SERVER_FILE = "nashloop.duckdb", "database.url", "server.json"
SHUTDOWN_S = 3  # open pages hold connections; they reconnect by themselves


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningApp:
    """The app that serves a data directory, as its ``server.json`` says; ``token`` has admin scope and dies with the app."""

    url: str
    pid: int
    token: str
    started_at: str


def check_data(data_dir: Path) -> None:
    """UserError if this is not a data directory that was started before."""
    if not (data_dir / DATABASE).exists() and not (data_dir / URL_FILE).exists():
        raise UserError(f"{data_dir} holds no Nashloop data. Run `nashloop up --data {data_dir}` first, or name another --data.")


def find_running(data_dir: Path) -> RunningApp | None:
    """The app that serves this data directory and answers, or None; what a killed app left behind is ignored."""
    files = [data_dir / SERVER_FILE, *sorted(data_dir.glob(_replica_file("*")))]
    return next((running for path in files if (running := _answering(path)) is not None), None)


def _replica_file(pid: int | str) -> str:
    return f"server-{pid}.json"


def _answering(path: Path) -> RunningApp | None:
    import httpx  # here: `nashloop --help` should not wait for it

    try:
        running = RunningApp(**json.loads(path.read_text()))
        os.kill(running.pid, 0)
        httpx.get(running.url + "/healthz", timeout=5, trust_env=False).raise_for_status()
    except (FileNotFoundError, ValueError, TypeError, ProcessLookupError, PermissionError, httpx.HTTPError):
        return None
    return running


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; connections wait in it until the app is ready. UserError if the port is taken or not ours."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        # With the protocol named, asyncio switches Nagle's algorithm off; without, every answer waits 40 ms for an ACK.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except (OSError, OverflowError) as error:
        raise UserError(_why_not(host, port, error)) from error
    return listener


def _why_not(host: str, port: int, error: OSError | OverflowError) -> str:
    if isinstance(error, socket.gaierror):
        return f"{host!r} is not an address of this machine ({error.strerror}). Use --host 127.0.0.1 or 0.0.0.0."
    reason = getattr(error, "strerror", None) or str(error)
    if isinstance(error, OSError) and error.errno == 98:
        return f"Port {port} on {host} is taken{_who_answers(host, port)}. Stop that program or choose another port: --port N."
    return f"Cannot listen on {host} port {port}: {reason}. Choose another address with --host and --port."


def _who_answers(host: str, port: int) -> str:
    import httpx

    with suppress(httpx.HTTPError):
        if httpx.get(address(host, port) + "/healthz", timeout=2, trust_env=False).is_success:
            return " by another Nashloop"
    return " by another program"


def address(host: str, port: int) -> str:
    """URL under which this machine reaches a server bound to ``host``."""
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{name}:{port}"


def serve(app: Any, listener: socket.socket, *, on_ready: Callable[[], None]) -> None:
    """Serve until SIGINT or SIGTERM, in the main thread; calls ``on_ready`` when the first request would be answered."""
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                on_ready()

    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=SHUTDOWN_S, server_header=False)
    with suppress(KeyboardInterrupt):  # uvicorn raises the signal again after its own clean stop
        Server(config).run(sockets=[listener])


def stop_cleanly_on_sigterm() -> None:
    """Let SIGTERM unwind like Ctrl-C, so that the database is closed and server.json removed."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


@contextmanager
def serve_in_background(app: Any, host: str = "127.0.0.1") -> Iterator[str]:
    """Serve on a free port from a thread of this process; yields the URL."""
    import uvicorn

    listener = listen(host, 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="nashloop-web", daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    if not server.started:
        raise RuntimeError("the web server did not start; see the log above")
    try:
        yield address(host, listener.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def announced(data_dir: Path, url: str, token: str) -> Iterator[None]:
    """Keep ``server.json`` (readable by this user only) while the block runs; a further replica has a file of its own."""
    path = data_dir / (SERVER_FILE if _answering(data_dir / SERVER_FILE) is None else _replica_file(os.getpid()))
    running = RunningApp(url=url, pid=os.getpid(), token=token, started_at=datetime.now(UTC).isoformat(timespec="seconds"))
    aside = path.with_suffix(f".{secrets.token_hex(4)}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(asdict(running), file)
    os.replace(aside, path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def run_server(context: Any, host: str, port: int) -> None:
    """Build the whole app for this context and serve it; the one-call form for scripts and tests."""
    from annotate_app.web import build_app

    serve(build_app(context), listen(host, port), on_ready=lambda: None)
