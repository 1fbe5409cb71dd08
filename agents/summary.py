"""The summary agent: keeps daily summaries of the raw records, and sends copies of them.

It looks for days whose raw records changed, computes these days again as a whole, and sends what
changed to `/grace.<db>.summary` queues.  What it keeps is in DATA/summary: `ledger.sqlite` (what
each day was computed to and who has it); the rows are in a record store of their own.

Invariants: see agents/summaries/days.py and copies.py; one agent per folder, while `rebuild` may run
beside it; computing takes at most a tenth of the time once a day is slow to compute.
Tests: tests/unit/agents/test_summary_*.py, tests/interop/test_replay_site.py; described in docs/summary.md
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final, final

from agents.config import SummarySettings
from agents.durable import make_folder
from agents.errors import AgentError
from agents.lifetime import held
from agents.recordstore.interface import RecordStore, RecordStoreError, StoredRecord
from agents.recordstore.sqlite import SqliteRecordStore
from agents.summaries.changes import Changes, changes_of
from agents.summaries.copies import Copies
from agents.summaries.corrections import Corrections
from agents.summaries.days import Days, Stopped, days_selection
from agents.summaries.ledger import SummaryLedger
from agents.transport import Transport

log = logging.getLogger(__name__)

FOLDER: Final = "summary"
NO_COPIES: Final = "none"
POSITION: Final = "changes-read-to"
LOOK_SECONDS_MAX: Final = 15.0
RETRY_SECONDS: Final = 5.0
REST_FACTOR: Final = 10.0
REBUILD_DAYS_MAX: Final = 36_525


@final
class SummaryAgent:
    """Passes over the changed days, again and again."""

    def __init__(
        self,
        settings: SummarySettings,
        days: Days,
        ledger: SummaryLedger,
        changes: Changes,
        copies: Copies,
        *,
        is_stopping: Callable[[], bool],
        now: Callable[[], float] = time.monotonic,
        utc_now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._settings = settings
        self._days = days
        self._ledger = ledger
        self._changes = changes
        self._copies = copies
        self._is_stopping = is_stopping
        self._now = now
        self._utc_now = utc_now
        self._rest_until: dict[date, float] = {}
        self._swept_at: float | None = None
        self._swept_night: date | None = None

    def pass_once(self) -> bool:
        """Compute what changed and send what is due; True when nothing is left for soon.

        Failures of stores and broker are logged; what they left undone stays marked.
        """
        try:
            self._days.check_definition()
            self._look()
            is_done = self._compute_dirty()
        except Stopped:
            return False
        except (RecordStoreError, AgentError, OSError) as error:
            log.warning("summaries wait: %s", error)
            is_done = False
        try:
            return self._copies.send_due() and is_done
        except (RecordStoreError, AgentError, OSError) as error:
            log.warning("copies of summaries wait: %s", error)
            return False

    def _look(self) -> None:
        changed, position = self._changes.since(self._ledger.fact(POSITION))
        marked = set(changed) | set(self._swept())
        if marked or position != self._ledger.fact(POSITION):
            self._ledger.mark_dirty(sorted(marked), {POSITION: position})

    def _swept(self) -> list[date]:
        """Give days to compute whether or not a change was seen: recent ones, at night a year's."""
        if not self._changes.misses_corrections:
            return []
        now, moment = self._now(), self._utc_now()
        today = moment.date()
        night = (moment - timedelta(hours=self._settings.nightly_hour_utc)).date()
        count = 0
        if self._swept_at is None or now - self._swept_at >= self._settings.interval_seconds:
            self._swept_at = now
            count = self._settings.recent_days
            if self._swept_night != night:
                self._swept_night = night
                count = self._settings.nightly_days
        return [today - timedelta(days=back) for back in range(count)]

    def _compute_dirty(self) -> bool:
        is_done = True
        for day in self._ledger.dirty_days():
            if self._is_stopping():
                return False
            if self._now() < self._rest_until.get(day, 0.0):
                is_done = False
                continue
            started = self._now()
            is_changed = self._days.compute(day)
            seconds = self._now() - started
            self._rest_until[day] = self._now() + seconds * REST_FACTOR
            if is_changed:
                log.info("summary of %s computed in %.2f s", day, seconds)
        present = self._now()
        self._rest_until = {d: until for d, until in self._rest_until.items() if until > present}
        return is_done


@final
@dataclass(frozen=True, slots=True)
class RebuiltDay:
    """What `rebuild` did to one day."""

    day: date
    row_count: int
    is_changed: bool


def run(
    settings: SummarySettings, data_folder: Path, stopping: threading.Event | None = None
) -> None:
    """Keep summaries until SIGTERM, SIGINT or `stopping`; SettingsError for what cannot be used."""
    with contextlib.ExitStack() as open_things:
        stop_asked = open_things.enter_context(held(data_folder / FOLDER, stopping))
        room = open_things.enter_context(_opened(settings, data_folder, stop_asked.is_set))
        transport = Transport(settings.broker, "summary")
        transport.start()
        copies = Copies(
            room.days,
            room.ledger,
            transport,
            copy_destinations(settings),
            batch_rows=settings.batch_rows,
            confirm_timeout_s=settings.confirm_timeout_seconds,
            is_stopping=stop_asked.is_set,
        )
        changes = changes_of(room.raw)
        agent = SummaryAgent(
            settings, room.days, room.ledger, changes, copies, is_stopping=stop_asked.is_set
        )
        worker = threading.Thread(
            target=_pass_until, args=(agent, settings, stop_asked), name="summary", daemon=True
        )
        worker.start()
        stop_asked.wait()
        closer = threading.Thread(target=transport.stop, daemon=True)
        closer.start()
        deadline = time.monotonic() + settings.stop_timeout_seconds * 0.8
        for thread in (closer, worker):
            thread.join(max(0.0, deadline - time.monotonic()))


def rebuild(
    settings: SummarySettings,
    data_folder: Path,
    first: date,
    last: date,
    on_day: Callable[[RebuiltDay], None] = lambda _: None,
) -> list[RebuiltDay]:
    """Compute the days from `first` to `last` again, both included; the running agent sends copies.

    Raises AgentError for a range that is empty or over REBUILD_DAYS_MAX, RecordStoreError when a
    store cannot be used.
    """
    if last < first:
        raise AgentError(f"the range ends ({last}) before it begins ({first})")
    count = (last - first).days + 1
    if count > REBUILD_DAYS_MAX:
        raise AgentError(f"{count} days; at most {REBUILD_DAYS_MAX} at once")
    rebuilt: list[RebuiltDay] = []
    make_folder(data_folder / FOLDER)
    with _opened(settings, data_folder, lambda: False) as room:
        for back in range(count):
            day = first + timedelta(days=back)
            is_changed = room.days.compute(day)
            computed = room.ledger.computed(day)
            done = RebuiltDay(day, computed.row_count if computed else 0, is_changed)
            rebuilt.append(done)
            on_day(done)
    return rebuilt


def show(
    settings: SummarySettings, data_folder: Path, first: date, last: date
) -> Iterator[StoredRecord]:
    """Give the summary rows of some days, both included, by day and id; raises as the store does."""
    store = SqliteRecordStore(data_folder / settings.summary_path, is_read_only=True)
    try:
        yield from store.scan(days_selection(first, last))
    finally:
        store.close()


def copy_destinations(settings: SummarySettings) -> tuple[str, ...]:
    """Give the destinations of copies; none configured means the site's own summary queue."""
    if settings.destinations == (NO_COPIES,):
        return ()
    return settings.destinations or (f"/grace.{settings.name}.summary",)


@final
@dataclass(frozen=True, slots=True)
class _Room:
    raw: RecordStore
    days: Days
    ledger: SummaryLedger


@contextlib.contextmanager
def _opened(
    settings: SummarySettings, data_folder: Path, is_stopping: Callable[[], bool]
) -> Iterator[_Room]:
    folder = data_folder / FOLDER
    with contextlib.ExitStack() as open_things:
        raw = SqliteRecordStore(data_folder / settings.path)
        open_things.callback(raw.close)
        summary = SqliteRecordStore(data_folder / settings.summary_path)
        open_things.callback(summary.close)
        ledger = SummaryLedger(folder / "ledger.sqlite")
        open_things.callback(ledger.close)
        corrections = Corrections.load(settings.corrections, data_folder)
        lock_path = folder / "compute.lock"
        days = Days(raw, summary, ledger, corrections, lock_path, _now_ms, is_stopping)
        yield _Room(raw, days, ledger)


def _pass_until(agent: SummaryAgent, settings: SummarySettings, stopping: threading.Event) -> None:
    look_seconds = min(settings.interval_seconds, LOOK_SECONDS_MAX)
    while not stopping.is_set():
        try:
            is_done = agent.pass_once()
        except Exception:
            # The next pass begins from the ledger, so nothing is lost by going on.
            log.exception("a pass over the summaries failed")
            is_done = False
        stopping.wait(look_seconds if is_done else min(look_seconds, RETRY_SECONDS))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
