"""One replay through its states: counts, control messages, and a crash at every step."""

import itertools

import pytest

from agents.errors import Refused, Unavailable
from agents.recordstore.interface import StoreUnavailable
from agents.replays.ledger import LedgerError, ReplayLedger, State
from agents.replays.pages import Page
from agents.replays.task import END_TELL_TRIES_MAX, FAILED_RECORDS_MAX, NAME_TRIES, ReplayTask
from agents.transport import Outgoing

DAY_MS = 1_464_307_200_000  # 2016-05-27


class Crash(BaseException):
    """The process dies here."""


class FakePages:
    """`count` records, `size` a page; the cursor is the number of the last record."""

    def __init__(self, count=10, size=3):
        self.records, self.size = count, size

    def count(self):
        return self.records

    def after(self, cursor):
        start = int(cursor) if cursor else 0
        numbers = range(start, min(start + self.size, self.records))
        if not numbers:
            return None
        messages = [Outgoing(b"%d" % n) for n in numbers]
        first, last = DAY_MS + numbers[0] * 1000, DAY_MS + numbers[-1] * 1000
        return Page(messages, len(messages), str(numbers[-1] + 1), first, last)


class FakeWire:
    """Destinations that exist, bodies that are refused, failures to come."""

    def __init__(self, names=("/exchange/there",), bad=()):
        self.names, self.bad = names, set(bad)
        self.got = []
        self.calls = []
        self.failures = []

    def publish(self, destination, messages, timeout_s):
        self.calls.append(destination)
        if self.failures:
            raise self.failures.pop(0)
        if destination not in self.names:
            raise Refused(f"no exchange '{destination}' in vhost '/'")
        for message in messages:
            if message.body in self.bad:
                raise Refused("message too large: 5 bytes, at most 4")
            self.got.append(int(message.body))


class FakeTeller:
    def __init__(self):
        self.told = []
        self.failures = []

    def tell(self, message):
        if self.failures:
            raise self.failures.pop(0)
        counts = message.counts
        self.told.append((message.stage, counts.sent, counts.failed, counts.expected))
        self.last = message


class FakePause:
    def __init__(self):
        self.stopping = False
        self.waits = []

    def is_stopping(self):
        return self.stopping

    def wait(self, seconds):
        self.waits.append(seconds)


class Room:
    """A ledger on disk with fakes around it."""

    def __init__(self, path, pages=None, wire=None):
        self.path = path
        self.ledger = ReplayLedger(path)
        self.pages = pages or FakePages()
        self.wire = wire or FakeWire()
        self.teller = FakeTeller()
        self.pause = FakePause()
        self.destination = "there"
        self.clock = itertools.count(step=10)

    def task(self, entry=None):
        if entry is None:
            entry, _ = self.ledger.accept(b"body", "r1", False, 1)
        return ReplayTask(
            entry,
            (self.destination, ""),
            lambda: self.pages,
            self.ledger,
            self.wire,
            self.teller,
            self.pause,
            now=lambda: float(next(self.clock)),
            progress_seconds=5.0,
        )


@pytest.fixture
def room(tmp_path):
    room = Room(tmp_path / "requests.sqlite")
    yield room
    room.ledger.close()


def test_the_sender_hears_all_of_it_with_exact_counts(room):
    assert room.task().run() == State.FINISHED
    assert room.wire.got == list(range(10))
    assert room.teller.told == [
        ("starting", 0, 0, 10),
        ("progress", 3, 0, 10),
        ("progress", 6, 0, 10),
        ("progress", 9, 0, 10),
        ("progress", 10, 0, 10),
        ("finished", 10, 0, 10),
    ]
    counts = room.teller.last.counts
    assert (counts.first_end_time, counts.last_end_time) == (
        "2016-05-27T00:00:00Z",
        "2016-05-27T00:00:09Z",
    )


def test_nothing_to_send_is_finished_too(room):
    room.pages = FakePages(count=0)
    assert room.task().run() == State.FINISHED
    assert room.teller.told == [("starting", 0, 0, 0), ("finished", 0, 0, 0)]
    assert room.teller.last.counts.first_end_time is None


def test_the_bare_name_is_taken_where_no_exchange_is(room):
    room.wire.names = ("/there",)
    assert room.task().run() == State.FINISHED
    assert room.wire.calls == ["/exchange/there", *["/there"] * 5]
    assert room.wire.got == list(range(10))


NOT_FOUND = Unavailable("not_found: NOT_FOUND - no exchange 'there' in vhost '/'")


def test_a_missing_exchange_may_show_as_a_lost_connection(room):
    # RabbitMQ's ERROR for a missing exchange names no receipt.
    room.wire.failures = [NOT_FOUND] * NAME_TRIES
    room.wire.names = ("/there",)
    assert room.task().run() == State.FINISHED
    assert room.wire.got == list(range(10))


def test_the_last_text_of_a_lost_connection_is_not_taken_for_an_answer(room):
    room.wire.failures = [NOT_FOUND]
    assert room.task().run() == State.FINISHED
    assert set(room.wire.calls) == {"/exchange/there"}
    assert room.wire.got == list(range(10))


def test_a_destination_that_is_not_there_is_an_error_that_says_what_to_do(room):
    room.destination = "nowhere"
    assert room.task().run() == State.FAILED
    assert [stage for stage, *_ in room.teller.told] == ["starting", "error"]
    assert "make the exchange or queue first" in room.teller.last.message
    assert room.wire.got == []


def test_a_destination_that_goes_away_is_an_error_with_what_was_sent(room):
    task = room.task()
    for _ in range(3):
        task.step()
    room.wire.failures = [Refused("message reaches no queue: /exchange/there")]
    assert task.run() == State.FAILED
    assert room.teller.told[-1] == ("error", 6, 0, 10)


def test_a_lost_broker_is_waited_for(room):
    room.wire.failures = [Unavailable("gone"), Unavailable("gone"), Unavailable("gone")]
    assert room.task().run() == State.FINISHED
    assert room.pause.waits == [0.5, 1.0, 2.0]
    assert room.teller.told[-1] == ("finished", 10, 0, 10)


def test_a_busy_store_is_waited_for(room):
    real, tries = room.pages.after, iter([StoreUnavailable("busy")])

    def after(cursor):
        for error in tries:
            raise error
        return real(cursor)

    room.pages.after = after
    assert room.task().run() == State.FINISHED
    assert len(room.pause.waits) == 1


def test_a_full_disk_under_the_ledger_is_waited_for(room):
    task = room.task()
    task.step()
    real, tries = room.ledger.move, iter([LedgerError("disk is full")])

    def move(entry, state):
        for error in tries:
            raise error
        real(entry, state)

    room.ledger.move = move
    assert task.run() == State.FINISHED
    # The page whose count could not be written goes out again; it counts once.
    assert room.wire.got == [0, 1, 2, *range(10)]
    assert room.teller.told[-1] == ("finished", 10, 0, 10)


@pytest.mark.parametrize("bad", [b"0", b"4", b"9"])
def test_one_refused_record_does_not_stop_the_others(room, bad):
    room.wire.bad = {bad}
    assert room.task().run() == State.FINISHED
    assert set(room.wire.got) == set(range(10)) - {int(bad)}
    assert room.teller.told[-1] == ("finished", 9, 1, 10)


def test_too_many_refused_records_end_the_request(room):
    room.pages = FakePages(count=100, size=50)
    room.wire.bad = {b"%d" % n for n in range(100)}
    assert room.task().run() == State.FAILED
    assert f"more than {FAILED_RECORDS_MAX} records" in room.teller.last.message
    assert "too large" in room.teller.last.message


def test_a_fault_of_ours_is_told_and_ends_the_request(room, caplog):
    room.pages.after = lambda cursor: 1 // 0
    assert room.task().run() == State.FAILED
    assert room.teller.told[-1][0] == "error"
    assert "division" in room.teller.last.message
    assert "ZeroDivisionError" in caplog.text


def test_a_sender_who_cannot_be_told_of_progress_stops_nothing(room):
    room.wire.failures = []
    task = room.task()
    task.step()
    room.teller.failures = [Unavailable("gone")]
    assert task.run() == State.FINISHED
    assert room.pause.waits == []


def test_the_end_is_told_again_and_again_but_not_for_ever(room, caplog):
    room.pages = FakePages(count=0)
    task = room.task()
    task.step()
    room.teller.failures = [Unavailable("gone")] * (END_TELL_TRIES_MAX + 5)
    assert task.run() == State.FINISHED
    assert len(room.teller.failures) == 5
    assert "could not be told" in caplog.text


def test_a_stop_leaves_the_request_where_it_is(room):
    task = room.task()
    task.step()
    task.step()
    room.pause.stopping = True
    assert task.run() == State.RUNNING
    (entry,) = room.ledger.open_entries()
    assert (entry.cursor, entry.counts.sent) == ("3", 3)


def effects(room):
    """Every place where a replay touches the world, as (object, method)."""
    return [
        (room.pages, "count"),
        (room.pages, "after"),
        (room.wire, "publish"),
        (room.teller, "tell"),
        (room.ledger, "move"),
    ]


def arm(room, fuse, is_before):
    """Let the process die at the fuse-th effect, before or after it took place."""
    left = [fuse]
    for owner, name in effects(room):
        real = getattr(owner, name)

        def call(*arguments, real=real, owner=owner, name=name):
            left[0] -= 1
            if left[0] == 0 and is_before:
                raise Crash(f"before {name}")
            result = real(*arguments)
            if left[0] == 0:
                raise Crash(f"after {name}")
            return result

        setattr(owner, name, call)
    return left


def disarm(room):
    for owner, name in effects(room):
        owner.__dict__.pop(name, None)


@pytest.mark.parametrize("is_before", [True, False])
@pytest.mark.parametrize("destination", ["there", "nowhere"])
def test_a_crash_at_every_step_changes_nothing_in_the_end(tmp_path, is_before, destination):
    for fuse in itertools.count(1):
        room = Room(tmp_path / f"{fuse}.sqlite")
        room.destination = destination
        task = room.task()
        arm(room, fuse, is_before)
        try:
            task.run()
        except Crash:
            crashed = True
        else:
            crashed = False
        disarm(room)
        room.ledger.close()
        room.ledger = ReplayLedger(room.path)
        for entry in room.ledger.open_entries():
            room.task(entry).run()
        ended = room.ledger.find("r1")
        stages = [stage for stage, *_ in room.teller.told]
        end = "finished" if destination == "there" else "error"
        assert ended.state == (State.FINISHED if destination == "there" else State.FAILED)
        assert stages[0] == "starting"
        assert stages[-1] == end
        assert set(stages[: stages.index(end)]) <= {"starting", "progress"}
        assert set(stages[stages.index(end) :]) == {end}
        if destination == "there":
            assert room.teller.told[-1] == ("finished", 10, 0, 10)
            assert set(room.wire.got) == set(range(10))
            assert len(room.wire.got) <= 13, "at most one page twice"
        else:
            assert room.teller.told[-1] == ("error", 0, 0, 10)
        room.ledger.close()
        if not crashed:
            break
    assert fuse > (20 if destination == "there" else 4)
