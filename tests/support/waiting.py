"""The one way in which tests wait for other processes and threads: until a claim is true, with one generous deadline.

A fixed sleep is no wait: it is too short on a machine ten times slower, and wasted on all others.  What must be true at
once is asserted; what becomes true is waited for here; what must never become true is looked at once its opposite
would be there too (a later message, an end of the stream).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Protocol, TypeVar

import pytest

PATIENCE_SECONDS: Final = 180.0
"""Far more than a busy machine with slow disks takes; a test that fails may take that long."""
PAUSE_SECONDS: Final = 0.05

Found = TypeVar("Found")


class Told(Protocol):
    """Whoever can say what happened: a site, a pair of brokers."""

    def logs(self) -> str: ...


def wait_until(
    claim: Callable[[], Found],
    what: str,
    *told: Told,
    timeout_s: float = PATIENCE_SECONDS,
    pause_s: float = PAUSE_SECONDS,
) -> Found:
    """Ask until the answer is true, and return it; fails the test, with the logs of `told`, when the time is over."""
    deadline = time.monotonic() + timeout_s
    while True:
        # The time is looked at before: a claim that was asked late enough has the last word.
        is_over = time.monotonic() > deadline
        if found := claim():
            return found
        if is_over:
            logs = "\n".join(one.logs() for one in told)
            pytest.fail(f"not within {timeout_s:g} s: {what}\n{logs}")
        time.sleep(pause_s)
