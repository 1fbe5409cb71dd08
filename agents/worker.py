"""Takes messages in batches, commits each batch, and acknowledges it only then: the loop of every consuming agent.

Invariants: a message is acknowledged only after `commit` returned with it; while the store fails the batch stays
unacknowledged and is tried again, ever more slowly; a message that no try can store is kept in a folder with its
reason and rejected to the broker's dead letters, alone.  Commits run in the worker's own thread, one at a time, in
the order of arrival.  Memory is bounded: `receive` waits while more waits than the limits allow, so that the socket
holds the broker back; what an earlier connection brought is dropped then, as the broker gives it again.
Must not know: stores, record formats, STOMP.
Tests: tests/unit/agents/test_worker.py.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple, Protocol, final

from agents.durable import make_folder, name_of, shown, sync_folder, write_file
from agents.errors import AgentError
from agents.transport import Incoming, jittered

log = logging.getLogger(__name__)

CAUSE_LENGTH_MAX: Final = 500
TRIES_BEFORE_ALONE: Final = 3
ROOM_SECONDS: Final = 0.5
"""How often a receiver that waits for room looks whether its connection is still there."""


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
    waiting_bytes_max: int = 64 * 1024 * 1024
    retry_min_seconds: float = 0.1
    retry_max_seconds: float = 60.0


@final
class WorkerCounts:
    """What a worker did since it started; read by anybody, written by its thread (`received`: the receiver's)."""

    __slots__ = ("batches", "committed", "failures", "received", "rejected")

    def __init__(self) -> None:
        self.received = 0
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
        path = self._folder / name_of(message.body)
        if self._files_count is None:
            make_folder(self._folder)
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
            **shown("body", message.body),
        }
        write_file(path, json.dumps(text, indent=2).encode())
        sync_folder(self._folder)
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

    def receive(self, message: Incoming) -> None:
        """Take a message, as soon as there is room for it.

        While it waits nothing is read from the connection, heart-beats neither: if the store fails for long the
        connection is given up.  A message that is not taken (its connection is gone, or the worker stops) comes
        again.
        """
        with self._changed:
            while not self._has_room(message):
                self._drop_stale()
                if self._has_room(message):
                    break
                if self._is_stopping or not message.is_current:
                    return
                self._changed.wait(ROOM_SECONDS)
            self._waiting.append(message)
            self._waiting_bytes += len(message.body)
            self.counts.received += 1
            if len(self._waiting) == 1 or self._is_full():
                self._changed.notify_all()

    def _has_room(self, message: Incoming) -> bool:
        limits = self._limits
        if not self._waiting:
            return True
        return (
            len(self._waiting) < limits.waiting_messages_max
            and self._waiting_bytes + len(message.body) <= limits.waiting_bytes_max
        )

    def _drop_stale(self) -> None:
        kept = deque(message for message in self._waiting if message.is_current)
        if len(kept) < len(self._waiting):
            self._waiting = kept
            self._waiting_bytes = sum(len(message.body) for message in kept)

    def _run(self) -> None:
        while (batch := self._take()) is not None:
            if not batch:
                continue
            try:
                self._work_on(batch)
            except Exception:
                # Left unacknowledged, so the broker gives the batch again; a dead thread would take no more.
                log.exception("%s: a batch of %d was left unsettled", self.name, len(batch))
                self.counts.failures += 1

    def _is_full(self) -> bool:
        limits = self._limits
        return len(self._waiting) >= limits.messages_max or self._waiting_bytes >= limits.bytes_max

    def _take(self) -> list[Incoming] | None:
        """Wait for a batch; None means stop.  It may be empty, when its messages were dropped meanwhile."""
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
                return None
            batch: list[Incoming] = []
            batch_bytes = 0
            while self._waiting and len(batch) < limits.messages_max:
                size = len(self._waiting[0].body)
                if batch and batch_bytes + size > limits.bytes_max:
                    break
                batch.append(self._waiting.popleft())
                batch_bytes += size
            self._waiting_bytes -= batch_bytes
            self._changed.notify_all()
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
