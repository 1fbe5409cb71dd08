"""A child of `gridmsg up` ends with it: its input is a pipe from there, and the pipe ends with the supervisor.

Tests: tests/unit/broker/test_up.py.
"""

from __future__ import annotations

import os
import signal
import threading

SUPERVISED = "GRIDMSG_SUPERVISED"
"""Set for children of a supervisor; not inherited further."""


def end_with_supervisor() -> None:
    """Ask this process to stop (SIGTERM) once its input ends, if a supervisor started it."""
    if os.environ.pop(SUPERVISED, None) is None:
        return

    def watch() -> None:
        while True:
            try:
                if not os.read(0, 4096):
                    break
            except OSError:
                break
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="supervisor-watch", daemon=True).start()
