"""The journal: a `Store` on files, with group commit, checkpoints and reclaim.

Threads: the caller's (reactor) calls commit and read; the writer thread builds, writes and syncs batches,
one in flight; the aside thread writes checkpoints and makes segments.  `_lock` guards state, reader and counters;
`_gate` guards the units that wait, so that commit never waits for a batch being built.  After the first
failed write or sync nothing becomes durable any more.  Design: FORMAT.md.  Tests: tests/unit/store/test_journal.py,
tests/suites/store_suite.py, tests/property/test_store_crash.py, tests/crash/test_store_kill.py.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any, Final, final

from store.batch import gather
from store.checkpoint import Place
from store.errors import Full, StoreError
from store.files import FileSystem, RealFiles
from store.index import State
from store.interface import LINGER_SECONDS, LaneState, Recovered, StoredMessage, UnitOfWork
from store.keeper import Keeper
from store.layout import Layout
from store.lease import Host, Lease, RealHost, claim_lease
from store.lease.guarded import GuardedFiles, LivelyFiles
from store.lease.held import OPENING_BEAT, WRITER_BEAT
from store.pending import PendingUnits
from store.pressure import Pressure
from store.reader import Reader
from store.record import (
    BATCH_HEADER_BYTES,
    DEFINITIONS,
    FLAG_OPENING,
    OPENING,
    Record,
    encode_value,
)
from store.recovery import History, recover
from store.segment import NUMBER_BITS, SEGMENT_HEADER_BYTES, Segment
from store.settings import StoreSettings
from store.supply import SegmentSupply
from store.tail import Batch, Tail
from store.upkeep import Upkeep
from store.writer import ThreadWriter, Writer

_LOG: Final = logging.getLogger("store")


@final
class Journal:
    """Keeps what the broker promised in a folder of files."""

    def __init__(
        self,
        folder: str,
        settings: StoreSettings | None = None,
        files: FileSystem | None = None,
        *,
        writer: Writer | None = None,
        host: Host | None = None,
        salt: Callable[[], int] | None = None,
        clock: Callable[[], float] = time.monotonic,
        lease: Lease | None = None,
    ) -> None:
        self.durable = 0
        self.is_blocked = False
        self.failure: BaseException | None = None
        self._settings = settings or StoreSettings()
        self._layout = Layout(files or RealFiles(), folder.rstrip("/"))
        self._writer: Writer = writer or ThreadWriter()
        self._host: Host = host or RealHost()
        self._salt = salt or _random_salt
        self._lock = threading.RLock()
        self._pending = PendingUnits()
        self._committed = 0
        self._taken = 0
        self._sync_count = 0
        self._written_bytes = 0
        self._unsynced: list[Segment] = []
        self._clock = clock
        self._synced_at = clock()
        self._pressure = Pressure(self._settings)
        self._telling = threading.Lock()
        self._claimed = lease
        self._is_open = False

    def open(
        self,
        post: Callable[[Callable[[], None]], None],
        on_durable: Callable[[int], None],
        on_failed: Callable[[BaseException], None],
        on_blocked: Callable[[bool], None],
    ) -> Recovered:
        """Recover, write the opening batch, start the writer.

        Raises Corrupt, VersionMismatch, Full, InUse, StoreError, OSError; the folder is left as it was found.
        """
        self._post = post
        self._on_durable = on_durable
        self._on_failed = on_failed
        self._on_blocked = on_blocked
        settings, layout = self._settings, self._layout
        layout.make_folders()
        layout.check_format()
        ids = layout.segment_ids()
        self._lease: Lease = self._claimed or claim_lease(
            layout.files,
            layout.lease,
            self._host,
            layout.highest_epoch(),
            layout.give_up_reserve,
        )
        lively = Layout(LivelyFiles(layout.files, self._beat), layout.folder)
        layout.files = GuardedFiles(layout.files, self._lease)
        try:
            store_id = layout.store_id()
            number = max((id & (1 << NUMBER_BITS) - 1 for id in ids), default=0) + 1
            self._supply = SegmentSupply(layout, settings, self._lease.epoch, number, self._salt)
            segment = self._supply.first()
            try:
                history = recover(lively, self._lease.epoch)
            except BaseException:
                # Nothing refers to it yet: leave the folder as it was found.
                segment.close()
                layout.files.unlink(segment.path)
                raise
            self._begin(history, segment)
            self._lease.check()
        except BaseException:
            with contextlib.suppress(OSError):
                self._lease.release()
            raise
        self._is_open = True
        self._writer.start(self._step)
        self._upkeep.begin(self._host)
        return self._recovered(store_id)

    def _begin(self, history: History | None, segment: Segment) -> None:
        """Write the opening batch; what it says is history from then on."""
        settings, layout = self._settings, self._layout
        if history is None:
            self._state = State()
            place, predecessor = Place(0, 0, 0, 0), 0
            kept: list[tuple[int, int, Place]] = []
        else:
            self._state = history.state
            place, predecessor = history.place, history.epoch
            kept = history.checkpoints
            self._pressure.add(history.debt_bytes, history.debt_records)
            self._pressure.debt_epochs = history.epoch_count
        self._reader = Reader(
            layout.files, layout.segments, settings.open_segments, settings.cache_bytes
        )
        self._keeper = Keeper(layout, self._lease, kept, settings.page_extents)
        opening = (OPENING, predecessor, place.segment, place.offset, place.batch, place.crc)
        records: list[Record] = [opening, (DEFINITIONS, self._state.definitions.copy())]
        need_bytes = BATCH_HEADER_BYTES + 128 + len(encode_value(records))
        if SEGMENT_HEADER_BYTES + need_bytes > segment.size_bytes:
            segment.close()
            layout.files.unlink(segment.path)
            segment = self._supply.take(need_bytes)
        self._tail = Tail(self._state, segment, self._supply, place)
        self._upkeep = Upkeep(
            layout,
            settings,
            self._writer,
            self._lock,
            self._fail,
            state=self._state,
            tail=self._tail,
            supply=self._supply,
            keeper=self._keeper,
            reader=self._reader,
            pressure=self._pressure,
            clock=self._clock,
        )
        batch = self._tail.close_batch(0, records, [], FLAG_OPENING)
        self._pressure.add(batch.size_bytes, batch.record_count)
        batch.segment.file.write(batch.offset, batch.parts)
        batch.segment.file.sync()
        self._tail.durable = batch.number
        self._lease.mark_opened(batch.number)
        if history is None and not any(self._upkeep.keep(self._upkeep.capture()) for _ in range(2)):
            # Recovery starts from a checkpoint: without one nothing may be promised.
            raise Full(
                f"no space for the first checkpoint in {layout.checkpoints}: free some, then start again"
            )

    def _recovered(self, store_id: str) -> Recovered:
        state = self._state
        lanes = {
            number: LaneState(first, next, count, size_bytes, horizon)
            for number, first, next, count, size_bytes, horizon in state.summaries()
        }
        definitions = state.definitions.copy()
        return Recovered(definitions, lanes, state.next_lane, self._lease.epoch, store_id)

    @property
    def blocked_reason(self) -> str:
        """Why publishers must wait, for the log; empty: they need not."""
        if not self.is_blocked:
            return ""
        return self._pressure.reason(self._pending.size_bytes)

    def prod(self) -> None:
        """Ask the writer for a sign of life: its lease is renewed only while it moves."""
        self._writer.wake()

    def _beat(self) -> None:
        self._lease.beat(OPENING_BEAT)

    def commit(self, unit: UnitOfWork) -> int:
        """Take over a unit and return its number; one append, whatever its size."""
        if not unit:
            return self._committed
        self._committed += 1
        within_seconds = self._pending.add(unit)
        if within_seconds is not None:
            self._writer.wake(within_seconds)
        if self._pending.size_bytes > self._settings.waiting_bytes and not self.is_blocked:
            # The writer itself may hang in a write: it would not tell.
            self._update_blocked()
        return self._committed

    def hurry(self) -> None:
        """Have acknowledgements that wait for company written at once."""
        if self._pending.hurry():
            self._writer.wake()

    def read(
        self, lane: int, first: int, count_max: int, bytes_max: int
    ) -> list[tuple[int, StoredMessage, int]]:
        """The next live messages of a lane: written ones, then those of units that wait.  Raises Corrupt, OSError."""
        with self._lock:
            known = self._state.find(lane)
            overlay = self._pending.overlay(lane)
            counts = overlay.counts
            rows: list[tuple[int, StoredMessage]] = []
            if known is not None and not overlay.is_dropped:
                position = first
                while len(rows) < count_max:
                    # What a waiting unit removes was read in vain: go on behind it.
                    found = self._reader.rows(known, position, count_max - len(rows), bytes_max)
                    if not found:
                        break
                    if overlay.removes_nothing:
                        rows = found
                        break
                    rows += overlay.living(found)
                    if rows:
                        break
                    position = found[-1][0] + 1
                counts = {**known.requeued, **counts} if known.requeued else counts
                is_all = not rows or known.next_alive(rows[-1][0] + 1) >= known.next
            else:
                is_all = True
            if len(rows) < count_max and is_all:
                rows += overlay.rows(first)
        if len(rows) > count_max:
            del rows[count_max:]
        if not counts and sum([len(m.body) + len(m.header) for _, m in rows]) < bytes_max:
            return [(position, message, 0) for position, message in rows]
        result = []
        size_bytes = 0
        for position, message in rows:
            result.append((position, message, counts.get(position, 0) if counts else 0))
            size_bytes += len(message.body) + len(message.header)
            if size_bytes >= bytes_max:
                break
        return result

    def close(self) -> None:
        """Write what waits, checkpoint, stop.  Raises what made the store fail, if it had."""
        if not self._is_open:
            return
        self._writer.stop()
        if self.failure is None:
            while self._pending:
                self._step()
                self._writer.stop()
        if self.failure is None:
            try:
                self._sync_rest()
                for _ in range(2):
                    if self._upkeep.keep(self._upkeep.capture()):
                        break
                self._supply.close()
                self._lease.release()
            except (OSError, StoreError) as error:
                self._fail(error)
        self._upkeep.close()
        self._reader.close()
        self._tail.segment.close()
        if self.failure is not None:
            # Nothing more is promised: whoever can do better may take over at once.
            with contextlib.suppress(OSError):
                self._lease.release()
            raise StoreError(f"the store had failed: {self.failure}") from self.failure

    def stat(self) -> dict[str, Any]:
        """Figures for status and metrics."""
        with self._lock:
            state = self._state
            return {
                "epoch": self._lease.epoch,
                "segments": len(state.segments),
                "lanes": state.lane_count,
                "messages": sum(figures.count for figures in state.segments.values()),
                "message_bytes": sum(figures.bytes for figures in state.segments.values()),
                "journal_debt_bytes": self._pressure.debt_bytes,
                "journal_debt_records": self._pressure.debt_records,
                "batches": self._tail.number,
                "syncs": self._sync_count,
                "written_bytes": self._written_bytes,
                "commits": self._committed,
                "commits_durable": self.durable,
                "is_blocked": self.is_blocked,
                "is_space_low": self._pressure.is_space_low,
                "waiting_bytes": self._pending.size_bytes,
                "compacted_segments": self._upkeep.compacted_count,
                "moved_bytes": self._upkeep.moved_bytes,
                "sync": self._settings.sync,
            }

    def _step(self) -> float | None:
        """Write one batch, then see to checkpoint, space and blocking; the writer thread's whole work."""
        if self.failure is not None:
            return None
        try:
            with self._lock:
                batch = self._build()
            if batch is not None:
                self._write(batch)
            self._tend()
        except BaseException as error:
            self._fail(error)
            return None
        self._lease.beat(WRITER_BEAT)
        if self._pending:
            return 0.0 if self._pending.is_urgent else LINGER_SECONDS
        if self._unsynced and self._settings.sync == "interval":
            return self._settings.sync_interval_seconds
        return self._upkeep.wait_seconds

    def _build(self) -> Batch | None:
        """Fold what waits into one batch; afterwards the state is as of that batch."""
        units = self._pending.take(self._settings.batch_messages, self._settings.batch_bytes)
        if not units and not self._upkeep.is_moving:
            return None
        self._taken += len(units)
        gathered = gather(self._state, units, self._settings.chunk_bytes, self._upkeep.take_moved)
        if not gathered:
            return self._tail.empty(self._taken)
        batch = self._tail.add(self._taken, gathered, self._reader)
        self._pressure.add(batch.size_bytes, batch.record_count)
        for sealed in self._tail.sealed:
            if sealed not in self._unsynced:
                sealed.close()
        self._tail.sealed.clear()
        return batch

    def _write(self, batch: Batch) -> None:
        """Write and sync one batch, pass the fence, then tell."""
        if batch.parts:
            self._written_bytes += batch.segment.file.write(batch.offset, batch.parts)
            # Let go of before it is told: who hears of a large message may ask for it at once.
            batch.parts.clear()
            with self._lock:
                self._reader.unwritten.clear()
            if self._settings.sync == "always":
                batch.segment.file.sync()
                self._sync_count += 1
                self._tail.durable = batch.number
                self._lease.note_durable(batch.number)
            elif batch.segment not in self._unsynced:
                self._unsynced.append(batch.segment)
            self._lease.check()
        commit = batch.commit
        if commit != self.durable:
            self.durable = commit
            self._post(lambda: self._on_durable(commit))

    def _sync_rest(self) -> None:
        """Sync what the policies other than "always" left unsynced."""
        segments, self._unsynced = self._unsynced, []
        for segment in segments:
            segment.file.sync()
            self._sync_count += 1
            if segment is not self._tail.segment:
                segment.close()
        self._tail.durable = self._tail.number

    def _tend(self) -> None:
        """See to what no unit asks for: interval sync, checkpoint, blocking, and what else `Upkeep` starts."""
        settings = self._settings
        if self._unsynced and settings.sync == "interval":
            now = self._clock()
            if now - self._synced_at >= settings.sync_interval_seconds:
                self._synced_at = now
                self._sync_rest()
        if self._upkeep.tend(self._written_bytes):
            self._checkpoint_aside()
        self._update_blocked()

    def _checkpoint_aside(self) -> None:
        if self._unsynced:
            self._sync_rest()
        self._upkeep.checkpoint()

    def _update_blocked(self) -> None:
        """Tell publishers to wait, or to go on; called by the caller's thread and the writer's."""
        with self._telling:
            is_blocked = self._pressure.blocks(self.is_blocked, self._pending.size_bytes)
            if is_blocked != self.is_blocked:
                self.is_blocked = is_blocked
                self._post(lambda: self._on_blocked(is_blocked))

    def _fail(self, error: BaseException) -> None:
        """Note the first failure, for good, and tell once."""
        with self._lock:
            if self.failure is not None:
                return
            self.failure = error
        _LOG.critical("the store failed, nothing is confirmed any more: %s", error)
        self._post(lambda: self._on_failed(error))


def _random_salt() -> int:
    return secrets.randbits(32)
