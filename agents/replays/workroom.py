"""The replay agent's threads: one that takes requests in, some that work on them.

Invariants: a request is in the ledger (or, unreadable, in quarantine) before it is acknowledged;
each worker has connections of its own, as a broker that refuses one message closes the whole
connection; at the start every request that had not ended is taken up again.
Tests: tests/unit/agents/test_replay_workroom.py, tests/interop/test_replay_site.py
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple, Protocol, final

from agents.config import ReplaySettings
from agents.errors import AgentError, Unavailable
from agents.recordstore.filter import read_filter
from agents.recordstore.interface import RecordStore
from agents.recordstore.terms import UntranslatableFilter
from agents.replays.control import ERROR, FINISHED, PROGRESS, ControlMessage, Counts
from agents.replays.destination import is_allowed
from agents.replays.ledger import ENDED, Entry, IdTaken, LedgerError, ReplayLedger, State
from agents.replays.pages import Pages, pages_of
from agents.replays.quarantine import Quarantine
from agents.replays.request import (
    BODY_BYTES_MAX,
    ReplayRequest,
    RequestError,
    read_control,
    read_id,
    read_request,
)
from agents.replays.task import ReplayTask
from agents.replays.teller import ControlTeller
from agents.transport import Incoming, Outgoing

log = logging.getLogger(__name__)

PREFETCH: Final = 16
OPEN_REQUESTS_MAX: Final = 1_000
INTAKE_RETRY_SECONDS: Final = 1.0


class Wire(Protocol):
    """What the agent needs of a transport."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def publish(self, destination: str, messages: Sequence[Outgoing], timeout_s: float) -> None: ...
    def subscribe(
        self,
        destination: str,
        prefetch: int,
        on_message: Callable[[Incoming], None],
        headers: Mapping[str, str] = ...,
    ) -> None: ...
    def acknowledge(self, messages: Sequence[Incoming]) -> None: ...


@final
class _StopPause:
    """The agent's stop as a task sees it."""

    def __init__(self, stopping: threading.Event) -> None:
        self._stopping = stopping

    def is_stopping(self) -> bool:
        return self._stopping.is_set()

    def wait(self, seconds: float) -> None:
        self._stopping.wait(seconds)


class _Wires(NamedTuple):
    """A worker's connections, each opened when it is first needed."""

    records: Wire
    control: Wire
    probe: Wire


@final
class Workroom:
    """Takes requests in and works on them until it is stopped."""

    def __init__(
        self,
        settings: ReplaySettings,
        raw: RecordStore,
        summary: RecordStore,
        ledger: ReplayLedger,
        quarantine: Quarantine,
        make_wire: Callable[[str], Wire],
    ) -> None:
        self._settings = settings
        self._raw = raw
        self._summary = summary
        self._ledger = ledger
        self._quarantine = quarantine
        self._make_wire = make_wire
        self._stopping = threading.Event()
        self._arrived: queue.SimpleQueue[Incoming | None] = queue.SimpleQueue()
        self._waiting: queue.SimpleQueue[Entry | None] = queue.SimpleQueue()
        self._wires: list[Wire] = []
        self._threads: list[threading.Thread] = []
        self._receiver = self._new_wire("replay")

    def start(self) -> None:
        """Take up what had not ended, then new requests."""
        self._ledger.forget_old()
        for entry in self._ledger.open_entries():
            log.info("replay %s goes on (%s)", entry.request_id, entry.state)
            self._waiting.put(entry)
        self._run_thread("replay-intake", self._take_in)
        for number in range(1, self._settings.requests_max + 1):
            self._run_thread(f"replay-{number}", self._work)
        self._receiver.subscribe(self._settings.requests_queue, PREFETCH, self._arrived.put)

    def stop(self, timeout_seconds: float) -> None:
        """Stop within a time; what is under way goes on at the next start."""
        self._stopping.set()
        self._arrived.put(None)
        for _ in range(self._settings.requests_max):
            self._waiting.put(None)
        closers = [threading.Thread(target=wire.stop, daemon=True) for wire in self._wires]
        for closer in closers:
            closer.start()
        deadline = time.monotonic() + timeout_seconds
        for thread in [*closers, *self._threads]:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _run_thread(self, name: str, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _new_wire(self, name: str) -> Wire:
        wire = self._make_wire(name)
        wire.start()
        self._wires.append(wire)
        return wire

    # Taking requests in.

    def _take_in(self) -> None:
        control_wire = self._new_wire("replay-intake")
        while (incoming := self._arrived.get()) is not None:
            while not self._stopping.is_set():
                try:
                    self._accept(incoming, control_wire)
                    self._receiver.acknowledge([incoming])
                    break
                except (LedgerError, OSError, Unavailable) as error:
                    # Not acknowledged, so not lost: wait for the disk or the broker.
                    log.warning("a replay request waits: %s", error)
                    self._stopping.wait(INTAKE_RETRY_SECONDS)
                except Exception:
                    # The thread must live on for other requests; this one comes again with the next connection.
                    log.exception("a replay request was left in its queue")
                    break

    def _accept(self, incoming: Incoming, control_wire: Wire) -> None:
        body = incoming.body
        teller = ControlTeller(control_wire, read_control(body))
        request_id = read_id(body)
        if len(body) > BODY_BYTES_MAX:
            reason = f"a request of {len(body)} bytes; at most {BODY_BYTES_MAX}"
            self._quarantine.keep(body, reason, _now_ms())
            return
        try:
            if self._ledger.open_count() >= OPEN_REQUESTS_MAX:
                raise IdTaken(f"{OPEN_REQUESTS_MAX} requests are waiting; ask again later")
            entry, is_new = self._ledger.accept(
                body, request_id, incoming.is_redelivered, _now_ms()
            )
            before_count = self._ledger.open_count_before(entry)
        except IdTaken as error:
            self._quarantine.keep(body, error.text, _now_ms())
            _try_tell(teller, ControlMessage(ERROR, request_id, Counts(), error.text))
            return
        is_waiting = entry.state == State.ACCEPTED and before_count >= self._settings.requests_max
        if entry.state in ENDED:
            # Asked again after its end: the sender may have missed the last word.
            stage = FINISHED if entry.state == State.FINISHED else ERROR
            _try_tell(teller, ControlMessage(stage, entry.request_id, entry.counts, entry.error))
        elif is_waiting or not is_new:
            # Somebody who waits for a sign of life gets one: at once, and each time that he asks again.
            text = f"waits for {before_count} requests before it" if is_waiting else None
            _try_tell(teller, ControlMessage(PROGRESS, entry.request_id, entry.counts, text))
        if is_new:
            # After that, so that no word of its own can come before.
            self._waiting.put(entry)

    # Working on requests.

    def _work(self) -> None:
        name = threading.current_thread().name
        wires = _Wires(
            self._new_wire(name), self._new_wire(f"{name}-control"), self._new_wire(f"{name}-probe")
        )
        while (entry := self._waiting.get()) is not None and not self._stopping.is_set():
            try:
                self._replay(entry, wires)
            except Exception:
                # The thread must live on for the other requests; this one stays in the ledger.
                log.exception("replay %s was left until the next start", entry.request_id)

    def _replay(self, entry: Entry, wires: _Wires) -> None:
        pause = _StopPause(self._stopping)
        request = self._checked(entry)
        if request is None and entry.state in (State.ACCEPTED, State.RUNNING):
            return

        def make_pages() -> Pages:
            assert request is not None, "pages are for requests that were understood"
            condition = read_filter(request.filter_text, _accepted_at(entry))
            chosen = condition if request.filter_text else None
            return pages_of(request, self._raw, self._summary, chosen, self._settings.batch_records)

        names = ("", "") if request is None else (request.destination, request.routing_key)
        task = ReplayTask(
            entry,
            names,
            make_pages,
            self._ledger,
            wires.records,
            ControlTeller(wires.control, read_control(entry.body)),
            pause,
            now=time.monotonic,
            confirm_timeout_s=self._settings.confirm_timeout_seconds,
            prober=wires.probe,
            progress_seconds=self._settings.progress_seconds,
            retry_max_seconds=self._settings.retry_max_seconds,
        )
        task.run()

    def _checked(self, entry: Entry) -> ReplayRequest | None:
        """Read an entry's request; a bad one is kept aside and set to fail, None then."""
        try:
            request = read_request(entry.body)
            read_filter(request.filter_text, _accepted_at(entry))
            if not is_allowed(request.destination, self._settings.allow_destinations):
                raise RequestError(
                    "destination",
                    f"{request.destination!r} is not among the allow-destinations of [replay]",
                )
        except (RequestError, UntranslatableFilter) as error:
            reason = str(error)
        else:
            return request
        while entry.state in (State.ACCEPTED, State.RUNNING) and not self._stopping.is_set():
            try:
                self._quarantine.keep(entry.body, reason, _now_ms())
                entry.error = reason
                self._ledger.move(entry, State.FAILING)
            except (LedgerError, OSError) as error:
                log.warning("replay %s waits: %s", entry.request_id, error)
                self._stopping.wait(INTAKE_RETRY_SECONDS)
        return None


def _try_tell(teller: ControlTeller, message: ControlMessage) -> None:
    try:
        teller.tell(message)
    except AgentError as error:
        log.warning("replay %s: its sender could not be told: %s", message.request_id, error)


def _accepted_at(entry: Entry) -> datetime:
    # What `now` in a filter means must not move when the request goes on after a restart.
    return datetime.fromtimestamp(entry.accepted_ms / 1000, UTC)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
