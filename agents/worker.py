"""Takes messages in batches, commits each batch, and acknowledges it only then: the loop of every consuming agent.

Invariants: a message is acknowledged only after `commit` returned with it; while the store fails the batch stays
unacknowledged and is tried again, ever more slowly; a message that no try can store is kept in a folder with its
reason and rejected to the broker's dead letters, alone.  Commits run in the worker's own thread, one at a time, in
the order of arrival.  `receive` never blocks.
Must not know: stores, record formats, STOMP.
Tests: tests/unit/agents/test_worker.py.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple, Protocol, final

from agents.errors import AgentError
from agents.transport import Incoming, jittered

log = logging.getLogger(__name__)

CAUSE_LENGTH_MAX: Final = 500
TRIES_BEFORE_ALONE: Final = 3
_NAME_LENGTH: Final = 32


class Settles(Protocol):
    """What a worker needs of a transport."""

    def acknowledge(self, messages: Sequence[Incoming]) -> None:
        """Settle messages for good."""
        ...

    def reject(self, message: Incoming, cause: str, requeue: bool) -> None:
        """Give a message back, to its queue or to the dead letters."""
        ...


class Rejection(NamedTuple):
    """A message of a committed batch that could not be part of it, and why."""

    message: Incoming
    reason: str


Commit = Callable[[Sequence[Incoming]], Sequence[Rejection]]


@final
@dataclass(frozen=True, slots=True)
class BatchLimits:
    """When a batch is full, how much may wait, and how long between tries."""

    messages_max: int = 1_000
    bytes_max: int = 5 * 1024 * 1024
    wait_seconds: float = 0.2
    waiting_messages_max: int = 16_000
    retry_min_seconds: float = 0.1
    retry_max_seconds: float = 60.0


@final
class WorkerCounts:
    """What a worker did since it started; read by anybody, written by its thread (`refused`: the receiver's)."""

    __slots__ = ("batches", "committed", "failures", "received", "refused", "rejected")

    def __init__(self) -> None:
        self.received = 0
        self.refused = 0
        self.committed = 0
        self.rejected = 0
        self.batches = 0
        self.failures = 0


@final
class BadMessageFolder:
    """Keeps messages that could not be stored, one JSON file each, named by what is in it.

    A message that comes again overwrites its own file.  At `files_max` new ones are no longer kept here, only in
    the broker's dead letters; a log line says so.
    """

    def __init__(self, folder: Path, files_max: int = 100_000) -> None:
        self._folder = folder
        self._files_max = files_max
        self._files_count: int | None = None

    def keep(self, message: Incoming, reason: str) -> Path | None:
        """Write message and reason durably; None when the folder is full.  Raises OSError."""
        name = hashlib.sha256(message.body).hexdigest()[:_NAME_LENGTH] + ".json"
        path = self._folder / name
        self._folder.mkdir(parents=True, exist_ok=True)
        if self._files_count is None:
            self._files_count = sum(1 for _ in self._folder.glob("*.json"))
        is_new = not path.exists()
        if is_new and self._files_count >= self._files_max:
            log.error(
                "%s is full (%d files): a bad message is kept by the broker only",
                self._folder,
                self._files_max,
            )
            return None
        text: dict[str, object] = {
            "reason": reason,
            "kept": datetime.now(UTC).isoformat(timespec="seconds"),
            "destination": message.destination,
            "headers": message.headers,
        }
        try:
            text["body"] = message.body.decode()
        except UnicodeDecodeError:
            text["body_base64"] = base64.b64encode(message.body).decode()
        _write_durably(path, json.dumps(text, indent=2).encode())
        if is_new:
            self._files_count += 1
        return path


@final
class Worker:
    """One batch loop; `commit` stores a batch durably and tells which messages it could not take.

    `commit` raises AgentError when the whole batch shall be tried again.  Any other exception is tried again too,
    then message by message: one that fails alone while others do not is rejected.
    """

    def __init__(
        self,
        name: str,
        settles: Settles,
        commit: Commit,
        bad_messages: BadMessageFolder,
        limits: BatchLimits | None = None,
    ) -> None:
        self.name = name
        self.counts = WorkerCounts()
        self.failure_text = ""
        self._settles = settles
        self._commit = commit
        self._bad_messages = bad_messages
        self._limits = limits or BatchLimits()
        self._changed = threading.Condition()
        self._waiting: deque[Incoming] = deque()
        self._waiting_bytes = 0
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_seconds: float) -> bool:
        """Finish the batch in hand and end; what waits stays unacknowledged.  False when it took too long."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    @property
    def waiting_count(self) -> int:
        """Messages received and in no batch yet."""
        return len(self._waiting)

    def receive(self, message: Incoming) -> bool:
        """Take a message; never blocks.  Beyond the bound it goes back to its queue, and False says so."""
        with self._changed:
            if len(self._waiting) < self._limits.waiting_messages_max:
                self._waiting.append(message)
                self._waiting_bytes += len(message.body)
                self.counts.received += 1
                if len(self._waiting) == 1 or self._is_full():
                    self._changed.notify()
                return True
            self.counts.refused += 1
        self._settles.reject(message, f"{self.name} has too many messages waiting", requeue=True)
        return False

    def _run(self) -> None:
        while batch := self._take():
            try:
                self._work_on(batch)
            except Exception:
                # Left unacknowledged, so the broker gives the batch again; a dead thread would take no more.
                log.exception("%s: a batch of %d was left unsettled", self.name, len(batch))
                self.counts.failures += 1

    def _is_full(self) -> bool:
        limits = self._limits
        return len(self._waiting) >= limits.messages_max or self._waiting_bytes >= limits.bytes_max

    def _take(self) -> list[Incoming]:
        """Wait for a batch; an empty one means stop."""
        limits = self._limits
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_stopping)
            deadline = time.monotonic() + limits.wait_seconds
            while not self._is_full() and not self._is_stopping:
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            if self._is_stopping:
                return []
            batch: list[Incoming] = []
            batch_bytes = 0
            while self._waiting and len(batch) < limits.messages_max:
                size = len(self._waiting[0].body)
                if batch and batch_bytes + size > limits.bytes_max:
                    break
                batch.append(self._waiting.popleft())
                batch_bytes += size
            self._waiting_bytes -= batch_bytes
            return batch

    def _work_on(self, batch: list[Incoming]) -> None:
        rejections = self._committed(batch)
        if rejections is None:
            return
        rejected = {id(rejection.message) for rejection in rejections}
        good = [message for message in batch if id(message) not in rejected]
        if good:
            self._settles.acknowledge(good)
        self.counts.committed += len(good)
        self.counts.batches += 1
        for rejection in rejections:
            self._reject(rejection)

    def _committed(self, batch: list[Incoming]) -> Sequence[Rejection] | None:
        """Commit, again and again while the store cannot; None when it stops before that."""
        pause_seconds = self._limits.retry_min_seconds
        tries = 0
        while True:
            tries += 1
            try:
                rejections = self._commit(batch)
            except AgentError as error:
                self._note_failure(len(batch), str(error))
            except Exception as error:
                log.exception("%s: a batch of %d failed", self.name, len(batch))
                self._note_failure(len(batch), repr(error))
                if tries >= TRIES_BEFORE_ALONE:
                    alone = self._committed_alone(batch)
                    if alone is not None:
                        return alone
            else:
                if self.failure_text:
                    log.warning("%s: stores again after %d tries", self.name, tries)
                    self.failure_text = ""
                return rejections
            pause_seconds = jittered(
                pause_seconds, self._limits.retry_min_seconds, self._limits.retry_max_seconds
            )
            with self._changed:
                if self._changed.wait_for(lambda: self._is_stopping, pause_seconds):
                    return None

    def _committed_alone(self, batch: list[Incoming]) -> list[Rejection] | None:
        """Commit message by message; None when all of several fail: then it is not the messages."""
        rejections: list[Rejection] = []
        failed = 0
        for message in batch:
            try:
                rejections.extend(self._commit([message]))
            except AgentError as error:
                self._note_failure(1, str(error))
                return None
            except Exception as error:
                failed += 1
                rejections.append(Rejection(message, f"fails each time it is stored: {error!r}"))
        return None if failed == len(batch) > 1 else rejections

    def _note_failure(self, messages_count: int, text: str) -> None:
        self.counts.failures += 1
        if text != self.failure_text:
            log.warning("%s: %d messages wait unacknowledged: %s", self.name, messages_count, text)
        self.failure_text = text

    def _reject(self, rejection: Rejection) -> None:
        """Keep a bad message, then reject it; it stays unsettled when it can be kept nowhere before the stop."""
        pause_seconds = self._limits.retry_min_seconds
        cause = " ".join(rejection.reason.split())[:CAUSE_LENGTH_MAX]
        while True:
            try:
                path = self._bad_messages.keep(rejection.message, rejection.reason)
                break
            except OSError as error:
                self._note_failure(1, f"cannot keep a bad message: {error}")
            pause_seconds = jittered(
                pause_seconds, self._limits.retry_min_seconds, self._limits.retry_max_seconds
            )
            with self._changed:
                if self._changed.wait_for(lambda: self._is_stopping, pause_seconds):
                    return
        log.warning("%s: bad message kept in %s: %s", self.name, path or "the broker", cause)
        self._settles.reject(rejection.message, cause, requeue=False)
        self.counts.rejected += 1


def _write_durably(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, on disk when it returns."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
