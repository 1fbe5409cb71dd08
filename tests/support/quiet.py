"""Clocks for limits that are meant for a quiet machine: they know how long the measured waited for a processor.

A test over its limit fails if it would have been over it on a quiet machine too; else it is skipped, with both figures.
Only `make slow` (GRIDMSG_SLOW=1), which is for quiet machines of today, holds the limits themselves.  Elsewhere nobody knows how slow
processor and disk are: there a limit is ten times as long, which still finds what hangs, waits for a timeout, or grows without bound.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import pytest

SLOWNESS = 1.0 if os.environ.get("GRIDMSG_SLOW") == "1" else 10.0


def run_queue_ns(pid: int) -> dict[int, int]:
    """Nanoseconds that each thread of a process was ready to run and did not; empty where the kernel does not tell."""
    found = {}
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError, IndexError, ValueError):
                found[int(task.name)] = int((task / "schedstat").read_text().split()[1])
    return found


class Stopwatch:
    """Starts now.  `pids`: whose waiting counts, this process's besides."""

    def __init__(self, *pids: int) -> None:
        self._pids = (os.getpid(), *pids)
        self._before = [run_queue_ns(pid) for pid in self._pids]
        self.started_at = time.monotonic()

    def waited_seconds(self) -> float:
        """The longest wait of any one thread in each process: threads that waited at once count once."""
        total = 0
        for pid, before in zip(self._pids, self._before, strict=True):
            now = run_queue_ns(pid)
            total += max((ns - before.get(task, 0) for task, ns in now.items()), default=0)
        return total / 1e9

    def judge(self, seconds: float, limit_s: float) -> None:
        """Fail over the limit; skip if only waiting for a processor made it so."""
        limit_s *= SLOWNESS
        if seconds < limit_s:
            return
        waited = self.waited_seconds()
        text = f"{seconds:.3f} s, of which {waited:.3f} s waiting for a processor; at most {limit_s:g} s"
        assert seconds - waited < limit_s, text
        pytest.skip(f"the machine is too busy to tell: {text}")
