"""A learner process that has imported everything and forks itself for each job, so that short jobs do not pay seconds of imports.

The server is single-threaded and touches neither tensors nor CUDA, so that a fork of it is a learner as if just started. A client
stands for its job towards whoever launched it: it ends with the job's exit code, and the job ends if the client is killed.
"""

import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from storage.errors import UserError

MAX_REQUEST = 65_536


def serve(listener: socket.socket, run: Callable[[Path], int]) -> int:
    """Fork for every client until standard input closes, which means that whoever started this process is gone."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks: they answer their clients themselves
    import peft  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401  # of the built-in policy; most of it is shared by others

    import online_learner.round  # noqa: F401

    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if listener not in ready:
            return 0
        client, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _work(client, run)
        client.close()


def run_in_warm_process(path: str, job_dir: Path) -> int | None:
    """Have the server at ``path`` run a job; its exit code, None where no server answers."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        try:
            connection.connect(path)
        except OSError:
            return None
        socket.send_fds(connection, [os.fsencode(job_dir.resolve())], [sys.stdout.fileno(), sys.stderr.fileno()])
        answer = connection.recv(1)
    return answer[0] if answer else 1  # it died without an answer


def _work(client: socket.socket, run: Callable[[Path], int]) -> None:
    """In the fork: run the job with the client's output, tell it the exit code, end. Never returns."""
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        request, outputs, _, _ = socket.recv_fds(client, MAX_REQUEST, 2)
        for target, source in zip((1, 2), outputs, strict=True):
            os.dup2(source, target)
            os.close(source)
        threading.Thread(target=_end_with, args=[client], daemon=True).start()
        code = run(Path(os.fsdecode(request)))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        client.send(bytes([code]))
        os._exit(code)


def _end_with(client: socket.socket) -> None:
    """A client says nothing more: when its end closes it was killed, and so is the job."""
    client.recv(1)
    os._exit(128 + signal.SIGTERM)
