"""Days computed and kept, copied, looked for: the summary agent without a broker."""

import itertools
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock_time

import pytest

from agents.config import SummarySettings
from agents.errors import Refused, Unavailable
from agents.recordstore.interface import Kind, StoredRecord
from agents.recordstore.sqlite import SqliteRecordStore
from agents.summaries.changes import DayCounts, StoreChanges, changes_of
from agents.summaries.copies import Copies
from agents.summaries.corrections import Corrections
from agents.summaries.days import Days, Stopped
from agents.summaries.ledger import ComputedDay, SummaryLedger, SummaryLedgerError
from agents.summaries.messages import DAY_HEADER, GENERATION_HEADER, ROW_HEADER, ROWS_HEADER
from agents.summary import SummaryAgent, copy_destinations

DAY = date(2016, 5, 27)
NEXT = DAY + timedelta(days=1)


class Crash(BaseException):
    """The process dies here."""


class Wire:
    def __init__(self):
        self.sent, self.failures = [], []

    def publish(self, destination, messages, timeout_s):
        if self.failures and (failure := self.failures.pop(0)):
            raise failure
        self.sent += [(destination, m.body, dict(m.headers)) for m in messages]

    def days(self, destination="d"):
        """Give what a receiver ends up with: of each day the newest whole generation."""
        gathered, whole = {}, {}
        for name, body, headers in self.sent:
            if name != destination:
                continue
            key = headers[DAY_HEADER], int(headers[GENERATION_HEADER])
            rows = gathered.setdefault(key, {})
            rows[headers[ROW_HEADER]] = body
            count = int(headers[ROWS_HEADER])
            if len(rows) >= count and key[1] >= whole.get(key[0], (0,))[0]:
                whole[key[0]] = key[1], count
        return whole


class Room:
    def __init__(self, folder):
        self.folder = folder
        self.raw = SqliteRecordStore(folder / "records.sqlite")
        self.summary = SqliteRecordStore(folder / "summary.sqlite")
        self.wire = Wire()
        self.clock_ms = itertools.count(1000)
        self.open()

    def open(self, corrections=None):
        self.ledger = SummaryLedger(self.folder / "ledger.sqlite")
        self.stopping = False
        self.days = Days(
            self.raw, self.summary, self.ledger, corrections or Corrections(),
            self.folder / "lock", lambda: next(self.clock_ms), lambda: self.stopping,
        )  # fmt: skip
        self.copies = Copies(self.days, self.ledger, self.wire, ["d"], batch_rows=2)
        self.now = 0.0
        self.moment = datetime.combine(NEXT, clock_time(12), UTC)

    def agent(self, changes=None, **settings):
        return SummaryAgent(
            SummarySettings(**settings), self.days, self.ledger, changes or changes_of(self.raw),
            self.copies, is_stopping=lambda: self.stopping,
            now=lambda: self.now, utc_now=lambda: self.moment,
        )  # fmt: skip

    def put(self, record_id, day=DAY, **fields):
        document = {"EndTime": f"{day}T12:00:00Z", "VOName": "cms", **fields}
        self.raw.put([StoredRecord.of(Kind.RAW, record_id, document)])

    def rows(self, day=DAY):
        found = [each.document for each in self.days.stored_rows(day)]
        return sorted((row["VOName"], row["Count"]) for row in found)

    def close(self):
        self.ledger.close()
        self.raw.close()
        self.summary.close()


@pytest.fixture
def room(tmp_path):
    room = Room(tmp_path)
    yield room
    room.close()


def test_a_day_is_computed_and_kept(room):
    room.put("a", VOName="cms")
    room.put("b", VOName="cms")
    room.put("c", VOName="osg")
    room.put("x", NEXT)
    assert room.days.compute(DAY)
    assert room.rows() == [("cms", 2), ("osg", 1)]
    assert room.ledger.computed(DAY).row_count == 2
    assert room.days.generation(DAY) == room.ledger.computed(DAY).generation


def test_a_vanished_group_vanishes(room):
    room.put("a", VOName="cms")
    room.put("b", VOName="osg")
    room.days.compute(DAY)
    room.put("b", VOName="cms")
    assert room.days.compute(DAY)
    assert room.rows() == [("cms", 2)]
    room.raw.delete(Kind.RAW, ["a", "b"])
    assert room.days.compute(DAY)
    assert room.rows() == []
    assert room.ledger.computed(DAY).row_count == 0


def test_an_unchanged_day_keeps_its_generation(room):
    room.put("a")
    room.days.compute(DAY)
    generation = room.days.generation(DAY)
    assert not room.days.compute(DAY)
    assert room.days.generation(DAY) == generation
    assert not room.days.compute(NEXT)
    assert room.days.generation(NEXT) is None


def test_generations_grow_even_when_the_clock_does_not(room):
    room.put("a")
    room.days.compute(DAY)
    before = room.days.generation(DAY)
    room.clock_ms = itertools.repeat(5)
    room.put("b")
    room.days.compute(DAY)
    assert room.days.generation(DAY) == before + 1


def test_a_lost_ledger_is_made_again(room):
    room.put("a")
    room.days.compute(DAY)
    before = room.days.generation(DAY)
    room.ledger._file._database.execute("DELETE FROM days")
    assert room.days.compute(DAY)
    assert room.days.generation(DAY) > before


def test_a_stop_leaves_the_day_marked(room):
    room.put("a")
    room.ledger.mark_dirty([DAY])
    room.stopping = True
    with pytest.raises(Stopped):
        room.days.compute(DAY)
    assert room.ledger.dirty_days() == [DAY]


def test_a_day_marked_while_it_is_computed_stays_marked(room):
    room.put("a")
    room.ledger.mark_dirty([DAY])
    real = room.raw.page

    def page(*arguments):
        room.raw.page = real
        room.ledger.mark_dirty([DAY])
        return real(*arguments)

    room.raw.page = page
    room.days.compute(DAY)
    assert room.ledger.dirty_days() == [DAY]
    room.days.compute(DAY)
    assert room.ledger.dirty_days() == []


def test_copies_carry_day_generation_and_place(room):
    for vo in ("a", "b", "c"):
        room.put(vo, VOName=vo)
    room.days.compute(DAY)
    assert room.copies.send_due()
    headers = [headers for _, _, headers in room.wire.sent]
    assert [h[ROW_HEADER] for h in headers] == ["0", "1", "2"]
    assert {h[ROWS_HEADER] for h in headers} == {"3"}
    assert {h[DAY_HEADER] for h in headers} == {"2016-05-27"}
    assert {h[GENERATION_HEADER] for h in headers} == {str(room.days.generation(DAY))}
    room.copies.send_due()
    assert len(room.wire.sent) == 3


def test_an_emptied_day_is_told_by_one_message(room):
    room.put("a")
    room.days.compute(DAY)
    room.raw.delete(Kind.RAW, ["a"])
    room.days.compute(DAY)
    room.copies.send_due()
    ((_, body, headers),) = room.wire.sent
    assert (body, headers[ROWS_HEADER], headers[ROW_HEADER]) == (b"{}", "0", "0")


@pytest.mark.parametrize("failure", [Unavailable("gone"), Refused("no")])
def test_a_destination_that_fails_stays_due_and_stops_no_other(room, failure):
    room.copies = Copies(room.days, room.ledger, room.wire, ["bad", "d"])
    room.put("a")
    room.days.compute(DAY)
    room.wire.failures = [failure]
    assert not room.copies.send_due()
    assert [name for name, *_ in room.wire.sent] == ["d"]
    assert room.copies.send_due()
    assert [name for name, *_ in room.wire.sent] == ["d", "bad"]


def test_a_day_written_by_somebody_else_is_computed_again_before_it_is_sent(room):
    room.put("a")
    room.days.compute(DAY)
    room.summary.replace_day(DAY, 10**15, [])
    room.copies.send_due()
    assert room.wire.sent == []
    assert room.ledger.dirty_days() == [DAY]


def test_a_pass_finds_new_and_removed_records_of_any_day(room):
    room.put("a", date(2016, 1, 1))
    room.put("b")
    agent = room.agent()
    assert agent.pass_once()
    assert set(room.wire.days()) == {"2016-01-01", "2016-05-27"}
    room.raw.delete(Kind.RAW, ["a"])
    room.now = 1.0
    agent.pass_once()
    assert room.wire.days()["2016-01-01"][1] == 0


def test_a_pass_finds_corrected_records(room):
    room.put("a", VOName="osg")
    agent = room.agent(interval_seconds=60.0)
    agent.pass_once()
    room.put("a", VOName="cms")
    room.now = 100.0
    agent.pass_once()
    assert room.rows() == [("cms", 1)]


def test_a_store_that_only_counts_is_swept_for_corrections(room):
    today, old = NEXT, NEXT - timedelta(days=200)
    for record_id, day in (("a", today), ("o", old)):
        room.put(record_id, day, VOName="osg")
    agent = room.agent(DayCounts(room.raw), interval_seconds=60.0, recent_days=2)
    agent.pass_once()
    for record_id, day in (("a", today), ("o", old)):
        room.put(record_id, day, VOName="cms")
    room.now = 59.0
    agent.pass_once()
    assert room.rows(today) == [("osg", 1)]
    room.now = 60.0
    agent.pass_once()
    assert (room.rows(today), room.rows(old)) == ([("cms", 1)], [("osg", 1)])
    agent = room.agent(DayCounts(room.raw))
    agent.pass_once()
    assert room.rows(old) == [("cms", 1)]


def test_the_night_s_sweep_waits_for_its_hour(room):
    old = NEXT - timedelta(days=200)
    room.put("o", old, VOName="osg")
    agent = room.agent(DayCounts(room.raw), interval_seconds=60.0, nightly_hour_utc=2)
    agent.pass_once()
    room.put("o", old, VOName="cms")
    for hour, expected in ((1, "osg"), (2, "cms")):
        room.moment = datetime.combine(NEXT + timedelta(days=1), clock_time(hour), UTC)
        room.now += 100.0
        agent.pass_once()
        assert room.rows(old) == [(expected, 1)]


def test_a_changed_definition_computes_every_day_again(room):
    room.put("a", date(2016, 1, 1))
    room.agent().pass_once()
    before = room.days.generation(date(2016, 1, 1))
    room.ledger.close()
    room.open(Corrections((), "another table"))
    room.days.check_definition()
    assert room.ledger.dirty_days() == [date(2016, 1, 1)]
    room.agent().pass_once()
    assert room.ledger.dirty_days() == []
    assert room.days.generation(date(2016, 1, 1)) == before


def test_a_slow_day_rests_ten_times_as_long(room):
    room.put("a")
    agent = room.agent()
    real = room.days.compute

    def compute(day):
        room.now += 3.0
        return real(day)

    room.days.compute = compute
    agent.pass_once()
    room.put("b")
    assert not agent.pass_once()
    assert room.rows() == [("cms", 1)]
    room.now += 30.0
    agent.pass_once()
    assert room.rows() == [("cms", 2)]


def test_failures_are_logged_and_tried_again(room, caplog):
    room.put("a")
    agent = room.agent()
    room.ledger._file._database.execute("PRAGMA query_only=1")
    assert not agent.pass_once()
    assert "summaries wait" in caplog.text
    room.ledger._file._database.execute("PRAGMA query_only=0")
    assert agent.pass_once()
    assert room.wire.days()["2016-05-27"][1] == 1


@pytest.mark.parametrize("is_before", [True, False])
def test_a_crash_at_every_step_skips_nothing(tmp_path, is_before):
    names = [("raw", "page"), ("summary", "replace_day"), ("summary", "scan"), ("wire", "publish"),
             ("ledger", "note_computed"), ("ledger", "note_sent"), ("ledger", "mark_dirty"),
             ("ledger", "clear_dirty")]  # fmt: skip
    for fuse in itertools.count(1):
        folder = tmp_path / f"{fuse}"
        folder.mkdir()
        room = Room(folder)
        for number, vo in enumerate(("a", "b", "c")):
            room.put(f"{number}", VOName=vo)
        left = [fuse]
        for owner_name, name in names:
            owner = getattr(room, owner_name)

            def call(*arguments, real=getattr(owner, name)):
                left[0] -= 1
                if left[0] == 0 and is_before:
                    raise Crash
                result = real(*arguments)
                if left[0] == 0:
                    raise Crash
                return result

            setattr(owner, name, call)
        try:
            room.agent().pass_once()
            is_over = True
        except Crash:
            is_over = False
        for owner_name, name in names:
            getattr(room, owner_name).__dict__.pop(name, None)
        room.ledger.close()
        room.open()
        room.agent().pass_once()
        assert room.rows() == [("a", 1), ("b", 1), ("c", 1)]
        assert room.wire.days() == {"2016-05-27": (room.days.generation(DAY), 3)}
        assert room.ledger.due_copies("d") == [] and room.ledger.dirty_days() == []
        room.close()
        if is_over:
            break
    assert fuse > 8


def test_the_ledger_keeps_what_it_is_told(tmp_path):
    ledger = SummaryLedger(tmp_path / "ledger.sqlite")
    ledger.note_computed(ComputedDay(DAY, 5, "digest", 3))
    ledger.note_sent(DAY, "d", 4)
    ledger.mark_dirty([DAY, NEXT], {"position": "7"})
    again = SummaryLedger(tmp_path / "ledger.sqlite")
    assert again.computed(DAY) == ComputedDay(DAY, 5, "digest", 3)
    assert again.computed_days() == [DAY]
    assert [each.day for each in again.due_copies("d")] == [DAY]
    again.note_sent(DAY, "d", 5)
    assert again.due_copies("d") == [] and len(again.due_copies("e")) == 1
    assert again.dirty_days() == [NEXT, DAY]
    assert again.fact("position") == "7" and again.fact("nothing") == ""
    again.close()
    ledger.close()


def test_marks_and_position_are_written_together(tmp_path):
    ledger = SummaryLedger(tmp_path / "ledger.sqlite")
    with pytest.raises(SummaryLedgerError):
        ledger.mark_dirty([DAY], {"position": None})
    assert ledger.dirty_days() == []
    ledger.close()
    (tmp_path / "other").write_text("no database" * 1000)
    with pytest.raises(SummaryLedgerError):
        SummaryLedger(tmp_path / "other")


def test_a_store_that_counts_its_changes_is_asked():
    class Store:
        def changed_days(self, after):
            return [each for each in [(NEXT, 7), (DAY, 9)] if each[1] > after]

    changes = changes_of(Store())
    assert isinstance(changes, StoreChanges) and not changes.misses_corrections
    assert changes.since("") == ([NEXT, DAY], "9")
    assert changes.since("7") == ([DAY], "9")
    assert changes.since("9") == ([], "9")
    assert changes.since("not a number") == ([NEXT, DAY], "9")
    # A store that was made anew counts from the beginning.
    assert changes.since("12") == ([NEXT, DAY], "9")


def test_a_store_without_any_change():
    class Store:
        def changed_days(self, after):
            return []

    assert changes_of(Store()).since("") == ([], "0")
    assert changes_of(Store()).since("5") == ([], "0")


def test_counts_of_days_show_new_and_removed_records(room):
    changes = DayCounts(room.raw)
    room.put("a", date(2016, 1, 1))
    room.put("b")
    days, position = changes.since("")
    assert days == [date(2016, 1, 1), DAY]
    assert changes.since(position) == ([], position)
    room.raw.delete(Kind.RAW, ["a"])
    room.put("c", NEXT)
    assert changes.since(position)[0] == [date(2016, 1, 1), NEXT]


def test_destinations_of_copies():
    assert copy_destinations(SummarySettings()) == ("/grace.site.summary",)
    assert copy_destinations(SummarySettings(destinations=("none",))) == ()
    assert copy_destinations(SummarySettings(destinations=("/a", "/b"))) == ("/a", "/b")
