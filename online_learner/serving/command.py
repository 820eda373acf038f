"""``python -m online_learner serve``: the policy server as a process."""

import argparse
import contextlib
import os
import sys
import threading
from pathlib import Path

KEY_VARIABLE = "NASHLOOP_POLICY_KEY"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, metavar="DIR", help="base model: a directory or hub id")
    parser.add_argument("--revision", help="of a hub id")
    parser.add_argument("--served-model-name", metavar="NAME", help="name of the base policy (default: as --model)")
    parser.add_argument("--adapter", action="append", default=[], metavar="NAME=DIR", help="load this adapter at start")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (default: 8000)")
    parser.add_argument("--listen", type=int, metavar="FD", help="an open, listening socket, instead of host and port")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--end-with-stdin", action="store_true", help="stop when standard input closes: with the parent process")


def run(args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM. The key that clients must send is in $NASHLOOP_POLICY_KEY, if there is one."""
    import socket

    import uvicorn

    from online_learner.policy.base_model import load_base_model
    from online_learner.serving.engine import Engine
    from online_learner.serving.routes import build_server
    from online_learner.serving.versions import Versions

    base = load_base_model(args.model, revision=args.revision, device=args.device)
    versions = Versions(base, args.served_model_name or args.model)
    for named in args.adapter:
        name, _, directory = named.partition("=")
        versions.load(name, Path(directory))
    engine = Engine(versions)
    app = build_server(engine, base, os.environ.get(KEY_VARIABLE))
    config = uvicorn.Config(
        app, host=args.host, port=args.port, log_level="warning", access_log=False, timeout_graceful_shutdown=5
    )
    server = uvicorn.Server(config)
    if args.end_with_stdin:
        threading.Thread(target=_stop_at_end_of_input, args=[server], daemon=True).start()
    sockets = None if args.listen is None else [socket.socket(fileno=args.listen)]
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=sockets)
    engine.close()
    return 0


def _stop_at_end_of_input(server: object) -> None:
    sys.stdin.buffer.read()
    server.should_exit = True  # pyright: ignore[reportAttributeAccessIssue]
