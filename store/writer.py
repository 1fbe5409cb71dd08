"""Who runs the journal's steps: two threads in production, the test itself under test.

The writer thread calls `step` whenever it was woken or the time that the last step asked for has passed; the
aside thread runs what may take long (checkpoints, new segments) so that commits go on.  Neither knows what
the steps do; a step never raises.  Tests: tests/unit/store/test_journal_traps.py.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol, final

Step = Callable[[], float | None]
"""Do what is to be done; return the seconds after which to be called again unasked, or None."""


class Writer(Protocol):
    """Runs steps and aside jobs until stopped."""

    def start(self, step: Step) -> None:
        """Begin to call `step`."""
        ...

    def wake(self, within_seconds: float = 0.0) -> None:
        """Have `step` called soon, or after so many seconds at the latest."""
        ...

    def run_aside(self, job: Callable[[], None]) -> None:
        """Have a job run once, in order, beside the steps."""
        ...

    def yield_now(self) -> None:
        """Let other threads go on; called by jobs that compute for long."""
        ...

    def stop(self) -> None:
        """Return when the step and the jobs that run have ended; nothing is called afterwards."""
        ...


@final
class ThreadWriter:
    """One thread for steps, one for jobs; both daemons, so that a hung disk cannot hold the process."""

    __slots__ = (
        "_aside",
        "_condition",
        "_is_stopping",
        "_is_woken",
        "_jobs",
        "_rest",
        "_step",
        "_thread",
        "_within_seconds",
    )

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._is_woken = False
        self._within_seconds = 0.0
        self._is_stopping = False
        # Never set: waiting for it lets the others go on.
        self._rest = threading.Event()
        self._step: Step = _nothing
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._aside = threading.Thread(target=self._run_jobs, name="store-aside", daemon=True)

    def start(self, step: Step) -> None:
        """Start both threads."""
        self._step = step
        self._thread.start()
        self._aside.start()

    def wake(self, within_seconds: float = 0.0) -> None:
        """Notify the writer thread."""
        with self._condition:
            if within_seconds:
                self._within_seconds = within_seconds
            else:
                self._is_woken = True
            self._condition.notify()

    def run_aside(self, job: Callable[[], None]) -> None:
        """Queue the job for the aside thread."""
        self._jobs.put(job)

    def yield_now(self) -> None:
        """Give the interpreter away for a moment."""
        self._rest.wait(1e-6)

    def stop(self) -> None:
        """End both threads, jobs queued so far included."""
        with self._condition:
            self._is_stopping = True
            self._condition.notify()
        if self._thread.is_alive():
            self._thread.join()
        self._jobs.put(None)
        if self._aside.is_alive():
            self._aside.join()

    def _run(self) -> None:
        delay: float | None = None
        while True:
            with self._condition:
                if not self._is_woken and not self._is_stopping and not self._within_seconds:
                    self._condition.wait(delay)
                if self._within_seconds and not self._is_woken and not self._is_stopping:
                    self._condition.wait(self._within_seconds)
                if self._is_stopping:
                    return
                self._is_woken = False
                self._within_seconds = 0.0
            delay = self._step()

    def _run_jobs(self) -> None:
        while True:
            job = self._jobs.get()
            if job is None:
                return
            job()


@final
class SteppedWriter:
    """Does nothing by itself: `step` and `run_jobs` are called by the test."""

    __slots__ = ("_jobs", "_step")

    def __init__(self) -> None:
        self._jobs: deque[Callable[[], None]] = deque()
        self._step: Step = _nothing

    def start(self, step: Step) -> None:
        """Remember the step."""
        self._step = step

    def wake(self, within_seconds: float = 0.0) -> None:
        """Nothing: the test decides when."""

    def run_aside(self, job: Callable[[], None]) -> None:
        """Keep the job for `run_jobs`."""
        self._jobs.append(job)

    def yield_now(self) -> None:
        """Nothing: there is one thread."""

    def stop(self) -> None:
        """Run the jobs that wait."""
        self.run_jobs()

    def step(self) -> None:
        """Run one step."""
        self._step()

    def run_jobs(self) -> None:
        """Run all jobs that wait."""
        while self._jobs:
            self._jobs.popleft()()


def _nothing() -> None:
    return None
