"""A learner that keeps its imports between jobs, for whoever runs many short ones: about five seconds of a core less for each."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from annotate_app.launcher import NICENESS
from annotate_app.rounds import learner_environment


@contextmanager
def warm_learner(python: str = sys.executable) -> Iterator[list[str]]:
    """The launcher command that runs jobs in forks of one warm process, or on their own where that process is gone."""
    with tempfile.TemporaryDirectory(prefix="nashloop-warm-") as directory:
        path = os.path.join(directory, "socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(path)
            listener.listen()
            process = subprocess.Popen(
                [python, "-m", "online_learner", "warm", "--listen", str(listener.fileno())],
                stdin=subprocess.PIPE,  # its end tells the process that we are gone, also after kill -9
                pass_fds=[listener.fileno()],
                env=learner_environment(),
                start_new_session=True,  # Ctrl-C is for us: running jobs are ended in order
            )
        with suppress(OSError):  # it may have ended already; jobs then run on their own
            os.setpriority(os.PRIO_PROCESS, process.pid, NICENESS)
        try:
            yield [python, "-m", "online_learner", "run", "--warm", path]
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate()
