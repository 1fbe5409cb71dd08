"""The batch loop: acknowledged after the commit only, tried again, bad messages alone."""

from __future__ import annotations

import base64
import json
import threading
from pathlib import Path

import pytest

from agents.errors import AgentError
from agents.transport import Incoming
from agents.worker import BadMessageFolder, BatchLimits, Rejection, Worker
from tests.support.waiting import PATIENCE_SECONDS, wait_until

FAST = BatchLimits(
    messages_max=4,
    bytes_max=100,
    wait_seconds=0.001,
    retry_min_seconds=0.001,
    retry_max_seconds=0.002,
)


class Settled:
    """Takes settlements and remembers them in their order."""

    def __init__(self):
        self.log: list[tuple] = []
        self.changed = threading.Condition()

    def acknowledge(self, messages):
        with self.changed:
            self.log.append(("ack", *[message.body for message in messages]))
            self.changed.notify_all()

    def reject(self, message, cause, requeue):
        with self.changed:
            self.log.append(("nack", message.body, cause, requeue))
            self.changed.notify_all()

    def wait(self, count):
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.log) >= count, PATIENCE_SECONDS), self.log


def message(body, **headers):
    return Incoming(body, {"message-id": "1", **headers}, "/q")


@pytest.fixture
def settled():
    return Settled()


@pytest.fixture
def start(settled, tmp_path):
    workers = []

    def start_worker(commit, limits=FAST, folder=None):
        worker = Worker("w", settled, commit, folder or BadMessageFolder(tmp_path / "bad"), limits)
        workers.append(worker)
        return worker

    yield start_worker
    assert all(worker.stop(PATIENCE_SECONDS) for worker in workers)


def test_acknowledged_after_commit_and_in_batches(settled, start):
    gate = threading.Event()
    batches = []

    def commit(batch):
        gate.wait(PATIENCE_SECONDS)
        batches.append([m.body for m in batch])
        return []

    worker = start(commit)
    for n in range(10):
        worker.receive(message(b"%d" % n))
    worker.start()
    assert settled.log == []
    gate.set()
    settled.wait(3)
    assert batches == [[b"0", b"1", b"2", b"3"], [b"4", b"5", b"6", b"7"], [b"8", b"9"]]
    assert settled.log == [("ack", *batch) for batch in batches]
    # Counted behind the acknowledgement.
    wait_until(lambda: worker.counts.batches == 3, "the third batch counted")
    assert (worker.counts.received, worker.counts.committed) == (10, 10)


def test_batches_are_bounded_by_bytes_but_never_empty(settled, start):
    batches = []
    worker = start(lambda batch: batches.append([len(m.body) for m in batch]) or [])
    for size in (60, 60, 40, 500, 1):
        worker.receive(message(b"x" * size))
    worker.start()
    settled.wait(4)
    assert batches == [[60], [60, 40], [500], [1]]


def test_a_failing_store_keeps_the_batch_unacknowledged(settled, start):
    tries = []

    def commit(batch):
        tries.append(len(batch))
        if len(tries) < 5:
            assert settled.log == []
            raise AgentError("disk full")
        return []

    worker = start(commit)
    for n in range(3):
        worker.receive(message(b"%d" % n))
    worker.start()
    settled.wait(1)
    assert tries == [3] * 5
    assert settled.log == [("ack", b"0", b"1", b"2")]
    assert (worker.counts.failures, worker.failure_text) == (4, "")


def test_rejected_messages_are_kept_then_rejected_alone(settled, start, tmp_path):
    worker = start(
        lambda batch: [Rejection(m, "no\nrecord") for m in batch if m.body.startswith(b"bad")]
    )
    for body in (b"good", b"bad \xff", b"fine"):
        worker.receive(message(body, origin="x"))
    worker.start()
    settled.wait(2)
    assert settled.log == [("ack", b"good", b"fine"), ("nack", b"bad \xff", "no record", False)]
    (path,) = (tmp_path / "bad").iterdir()
    kept = json.loads(path.read_text())
    assert base64.b64decode(kept.pop("body-base64")) == b"bad \xff"
    assert kept.pop("kept")
    assert kept == {
        "reason": "no\nrecord",
        "destination": "/q",
        "headers": {"message-id": "1", "origin": "x"},
    }


def test_a_message_that_breaks_the_commit_is_found_and_rejected(settled, start):
    def commit(batch):
        if any(m.body == b"poison" for m in batch):
            raise KeyError("oops")
        return []

    worker = start(commit)
    for body in (b"a", b"poison", b"b"):
        worker.receive(message(body))
    worker.start()
    settled.wait(2)
    assert settled.log == [
        ("ack", b"a", b"b"),
        ("nack", b"poison", "fails each time it is stored: KeyError('oops')", False),
    ]


def test_when_every_message_breaks_the_commit_nothing_is_rejected(settled, start):
    is_broken = True

    def commit(batch):
        if is_broken:
            calls.append(1)
            if len(calls) > 12:
                enough.set()
            raise KeyError("oops")
        return []

    calls, enough = [], threading.Event()
    worker = start(commit)
    for body in (b"a", b"b"):
        worker.receive(message(body))
    worker.start()
    assert enough.wait(PATIENCE_SECONDS)
    assert settled.log == []
    is_broken = False
    settled.wait(1)
    assert settled.log == [("ack", b"a", b"b")]


def test_stop_while_the_store_fails_leaves_the_batch_unacknowledged(settled, start):
    tried = threading.Event()

    def commit(batch):
        tried.set()
        raise AgentError("down")

    slow = BatchLimits(wait_seconds=0.001, retry_min_seconds=100, retry_max_seconds=100)
    worker = start(commit, slow)
    worker.receive(message(b"a"))
    worker.start()
    assert tried.wait(PATIENCE_SECONDS)
    assert worker.stop(PATIENCE_SECONDS)
    assert settled.log == []


class Session:
    """The part of a transport's session that tells whether it is still there."""

    def __init__(self):
        self.is_open = True


@pytest.mark.parametrize(
    "limits", [BatchLimits(waiting_messages_max=2), BatchLimits(waiting_bytes_max=25)]
)
def test_receiving_waits_while_too_much_waits(settled, start, limits):
    worker = start(lambda batch: [], limits)
    session = Session()
    bodies = [b"0" * 10, b"1" * 10, b"2" * 10]
    for body in bodies[:2]:
        worker.receive(Incoming(body, {}, "/q", session))
    third = threading.Thread(
        target=worker.receive, args=(Incoming(bodies[2], {}, "/q", session),), daemon=True
    )
    third.start()
    third.join(0.02)
    assert third.is_alive()
    worker.start()
    settled.wait(2)
    third.join(PATIENCE_SECONDS)
    assert worker.counts.received == 3
    assert [entry[0] for entry in settled.log] == ["ack", "ack"]


def test_what_a_lost_connection_brought_makes_room(start):
    worker = start(lambda batch: [], BatchLimits(waiting_messages_max=2))
    lost, present = Session(), Session()
    for n in range(2):
        worker.receive(Incoming(b"%d" % n, {}, "/q", lost))
    lost.is_open = False
    worker.receive(Incoming(b"again", {}, "/q", present))
    assert [message.body for message in worker._waiting] == [b"again"]
    assert worker._waiting_bytes == len(b"again")


def test_a_message_whose_connection_goes_while_it_waits_is_left_to_the_broker(start):
    worker = start(lambda batch: [], BatchLimits(waiting_messages_max=1))
    worker.receive(Incoming(b"kept", {}, "/q", Session()))
    lost = Session()
    lost.is_open = False
    worker.receive(Incoming(b"lost", {}, "/q", lost))
    assert [message.body for message in worker._waiting] == [b"kept"]


def test_a_bad_message_that_cannot_be_kept_yet_is_not_rejected_yet(settled, start, tmp_path):
    class Failing:
        tries = 0

        def keep(self, message, reason):
            self.tries += 1
            if self.tries < 4:
                assert settled.log == []
                raise OSError("disk full")
            return Path("kept")

    folder = Failing()
    worker = start(lambda batch: [Rejection(m, "bad") for m in batch], folder=folder)
    worker.receive(message(b"a"))
    worker.start()
    settled.wait(1)
    assert settled.log == [("nack", b"a", "bad", False)]
    assert folder.tries == 4


def test_folder_of_bad_messages_is_bounded_and_repeats_overwrite(tmp_path):
    folder = BadMessageFolder(tmp_path, files_max=2)
    first = folder.keep(message(b"1"), "r")
    assert folder.keep(message(b"1"), "again") == first
    assert json.loads(first.read_text())["reason"] == "again"
    assert folder.keep(message(b"2"), "r") is not None
    assert folder.keep(message(b"3"), "r") is None
    assert folder.keep(message(b"2"), "r") is not None
    assert len(list(tmp_path.iterdir())) == 2
    assert BadMessageFolder(tmp_path, files_max=2).keep(message(b"3"), "r") is None
