"""What goes on beside the batches: checkpoints, the next segment, free space, compaction.

`tend` is called by the writer thread after each step and only decides; the work is done by the aside thread, one job after the
other, so that commits go on.  What a job changes it changes under the journal's lock, some hundred microseconds at a time.
Tests: tests/unit/store/test_journal_traps.py, test_journal_space.py, test_compaction.py.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final, final

from store.checkpoint import Capture
from store.compaction import Compactor, Moved, complain, find_sparse
from store.errors import Corrupt
from store.index import State
from store.keeper import Keeper
from store.layout import Layout
from store.lease import Host
from store.pressure import Pressure
from store.reader import Reader
from store.settings import StoreSettings
from store.supply import NO_SPACE, SegmentSupply
from store.tail import Tail
from store.writer import Writer

_LOG: Final = logging.getLogger("store")
RETRY_SECONDS: Final = 0.5
"""How often free space is looked at again while publishers wait for it."""
IDLE_SECONDS: Final = 2.0
"""After so long without a batch, dead segments are seen to."""
_IDLE_CHECKPOINTS: Final = 2
"""Checkpoints in a row that see a segment dead before both kept ones do."""
_LANES_AT_ONCE: Final = 64
_LANES_IN_A_ROW: Final = 16
"""Lanes packed before other threads get the interpreter: without being given it, they wait 5 ms for it each time."""


@final
class Upkeep:
    """Keeps the journal short and the disk free."""

    __slots__ = (
        "_calm_until",
        "_clock",
        "_compactor",
        "_fail",
        "_idle_left",
        "_is_checkpointing",
        "_is_preparing",
        "_is_reading",
        "_keeper",
        "_layout",
        "_lock",
        "_prepared_at",
        "_pressure",
        "_reader",
        "_refused_at",
        "_settings",
        "_state",
        "_supply",
        "_tail",
        "_uncompactable",
        "_writer",
        "_written_bytes",
        "compacted_count",
        "moved_bytes",
    )

    def __init__(
        self,
        layout: Layout,
        settings: StoreSettings,
        writer: Writer,
        lock: threading.RLock,
        fail: Callable[[BaseException], None],
        *,
        state: State,
        tail: Tail,
        supply: SegmentSupply,
        keeper: Keeper,
        reader: Reader,
        pressure: Pressure,
        clock: Callable[[], float],
    ) -> None:
        self._layout = layout
        self._settings = settings
        self._writer = writer
        self._lock = lock
        self._fail = fail
        self._state = state
        self._tail = tail
        self._supply = supply
        self._keeper = keeper
        self._reader = reader
        self._pressure = pressure
        self._clock = clock
        self._is_checkpointing = False
        # When a checkpoint found no space, until one does.
        self._refused_at: float | None = None
        self._prepared_at = clock()
        calm_seconds = settings.calm_seconds
        self._calm_until: float | None = clock() + calm_seconds if calm_seconds else None
        self._is_preparing = False
        self._compactor: Compactor | None = None
        self._is_reading = False
        self._uncompactable: set[int] = set()
        self._written_bytes = 0
        self._idle_left = _IDLE_CHECKPOINTS
        self.compacted_count = 0
        self.moved_bytes = 0

    # The writer's thread

    def tend(self, written_bytes: int) -> bool:
        """Start what is due; True when a checkpoint is and `checkpoint` is to be called, with nothing unsynced."""
        is_idle = written_bytes == self._written_bytes
        self._written_bytes = written_bytes
        if not is_idle:
            self._idle_left = _IDLE_CHECKPOINTS
        if not self._supply.is_ready and self._needs_segment():
            self.prepare()
        if self._pressure.wants_look(written_bytes):
            self._look_at_space()
        if self._compactor is None and (is_idle or self._pressure.is_space_low):
            self._choose()
        if self._is_checkpointing or self._is_too_soon():
            return False
        if self._pressure.is_checkpoint_due and not self._calm_left_seconds:
            return True
        # Dead segments give space back once two checkpoints have seen them dead.
        return self._pressure.is_space_low and self._has_dead()

    def _is_too_soon(self) -> bool:
        """Whether a checkpoint was refused space a moment ago."""
        return self._refused_at is not None and self._clock() < self._refused_at + RETRY_SECONDS

    @property
    def _calm_left_seconds(self) -> float:
        """How long a checkpoint waits for the start to be over."""
        if self._calm_until is None or self._pressure.presses:
            return 0.0
        left_seconds = self._calm_until - self._clock()
        if left_seconds > 0:
            return left_seconds
        self._calm_until = None
        return 0.0

    def _needs_segment(self) -> bool:
        """Whether the next segment is to be made: the current one is half full, or compaction waits for it."""
        compactor = self._compactor
        if compactor is not None and compactor.is_ready and not self._supply.is_short:
            return True
        return self._tail.offset * 2 > self._tail.segment.size_bytes

    def _has_dead(self) -> bool:
        current = self._tail.segment.id
        return any(s.count == 0 and s.id != current for s in self._state.segments.values())

    def idle(self) -> bool:
        """Nothing was written for a while: True when a checkpoint would give dead segments back."""
        if self._is_checkpointing or not self._idle_left or not self._has_dead():
            return False
        self._idle_left -= 1
        return True

    @property
    def wait_seconds(self) -> float | None:
        """When to be called again though no unit comes."""
        if self._pressure.is_space_low:
            return RETRY_SECONDS
        if self._pressure.is_checkpoint_due and self._calm_left_seconds:
            return self._calm_left_seconds
        return IDLE_SECONDS if self._idle_left and self._has_dead() else None

    def _look_at_space(self) -> None:
        free_bytes = self._layout.files.free_bytes(self._layout.folder)
        is_short = self._supply.is_short
        now = self._clock()
        if (
            is_short
            and free_bytes >= self._settings.free_bytes_resume
            and now >= self._prepared_at + RETRY_SECONDS
        ):
            self._prepared_at = now
            self.prepare()
        if self._pressure.look(free_bytes, is_short):
            word = "low: publishers wait" if self._pressure.is_space_low else "enough again"
            _LOG.warning("%s: space is %s (%d bytes free)", self._layout.folder, word, free_bytes)

    # Segments

    def begin(self, host: Host) -> None:
        """Right after the opening: remove what former owners made ahead and never used, and make the next segment."""
        known = set(self._state.segments)
        self._run(lambda: self._keeper.unlink_unused(known))
        self.prepare()
        self._run(lambda: self._keeper.forget_owners(host))

    def prepare(self) -> None:
        """Have the next segment and the reserve made aside."""
        if self._is_preparing:
            return
        self._is_preparing = True

        def prepare() -> None:
            self._supply.prepare()
            self._is_preparing = False
            is_new = self._supply.is_short and not self._pressure.is_space_low
            if is_new:
                self._pressure.is_space_low = True
            if is_new or self._compactor is not None:
                self._writer.wake()

        self._run(prepare)

    def _run(self, job: Callable[[], None]) -> None:
        """Have a job done aside; what goes wrong there is the journal's end."""

        def run() -> None:
            try:
                job()
            except BaseException as error:
                self._fail(error)

        self._writer.run_aside(run)

    # Checkpoints

    def checkpoint(self) -> None:
        """Take the state as of the last batch, which is durable, and have it written aside."""
        capture = self.capture()
        self._is_checkpointing = True

        def keep() -> None:
            self.keep(capture)
            self._is_checkpointing = False
            if self._compactor is None:
                self._choose()
            self._writer.wake()

        self._run(keep)

    def capture(self) -> Capture:
        """The state as of the last batch."""
        with self._lock:
            capture = Capture(self._state, self._tail.place())
            capture.debt_bytes = self._pressure.debt_bytes
            capture.debt_records = self._pressure.debt_records
        return capture

    def keep(self, capture: Capture) -> bool:
        """Write a checkpoint, take its pages over, unlink what died; False when there was no space.  Raises OSError, Fenced."""
        draft = self._keeper.begin()
        copies, done, is_more = capture.copies, 0, True
        while is_more:
            with self._lock:
                is_more = capture.take_some(_LANES_AT_ONCE)
            # Traffic adds others, which had to be copied before they changed.
            for copy in copies[done:]:
                draft.add(copy)
                capture.packed[copy.lane.number] = copy.pack()
                done += 1
                if not done % _LANES_IN_A_ROW:
                    self._writer.yield_now()
        try:
            dead = self._keeper.write(capture, draft)
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            # Nothing is lost, the journal still has it all; it is tried again with the reserve's space.
            if self._refused_at is None:
                _LOG.warning(
                    "no space for a checkpoint, it is tried every %s s until it fits: %s",
                    RETRY_SECONDS,
                    error,
                )
            is_more = self._supply.give_up_reserve()
            self._refused_at = self._clock() - (RETRY_SECONDS if is_more else 0)
            with self._lock:
                capture.give_back()
                self._pressure.is_space_low = True
            return False
        if self._refused_at is not None:
            self._refused_at = None
            _LOG.warning("there is space for checkpoints again")
        state = self._state
        for start in range(0, len(capture.copies), _LANES_AT_ONCE):
            self._writer.yield_now()
            with self._lock:
                for copy in capture.copies[start : start + _LANES_AT_ONCE]:
                    lane = copy.lane
                    for segment, pages in copy.pages:
                        lane.add_pages(segment, pages)
                    lane.frozen = []
                    if state.lanes.get(lane.number) is not lane:
                        continue
                    if lane.number in state.touched:
                        # It changed meanwhile: of ten thousand busy lanes nobody needs the form that they had.
                        state.packed.pop(lane.number, None)
                    else:
                        state.packed[lane.number] = capture.packed[lane.number]
        with self._lock:
            state.forget_quiet()
            for id in dead:
                self._state.segments.pop(id, None)
                self._reader.forget(id)
            self._pressure.subtract(capture.debt_bytes, capture.debt_records)
        for id in dead:
            self._keeper.unlink(id)
        return True

    # Compaction

    def _choose(self) -> None:
        """Begin to empty the segment that has the least to lose."""
        settings = self._settings
        if not settings.compact_share or self._supply.is_short:
            return
        with self._lock:
            if self._compactor is not None:
                return
            excluded = {self._tail.segment.id, *self._uncompactable}
            source = find_sparse(
                self._state, excluded, settings.compact_share, settings.compact_bytes_min
            )
            if source is None:
                return
            layout = self._layout
            try:
                self._compactor = Compactor(
                    layout.files,
                    layout.segments,
                    source,
                    self._state,
                    self._lock,
                    settings.compact_group_bytes,
                )
            except (Corrupt, OSError) as error:
                complain(source, error)
                self._uncompactable.add(source)
                return
        self._read_aside()

    def _read_aside(self) -> None:
        if self._is_reading:
            return
        self._is_reading = True

        def read() -> None:
            compactor = self._compactor
            assert compactor is not None, "chosen before"
            try:
                is_more = compactor.prepare()
            except (Corrupt, OSError) as error:
                # Only read: what cannot be read stays where it is.
                self._stop_compacting(compactor, error)
                is_more = True
            self._is_reading = False
            if not is_more:
                self._end_compacting(compactor)
            self._writer.wake()

        self._run(read)

    @property
    def is_moving(self) -> bool:
        """Whether compaction has something for the next batch, and the journal room for it."""
        compactor = self._compactor
        return compactor is not None and compactor.is_ready and self._supply.is_ready

    def take_moved(self) -> Moved | None:
        """What compaction has for the next batch, as far as it lives; call with the lock held, after acknowledgements."""
        compactor = self._compactor
        if compactor is None or not self.is_moving:
            return None
        try:
            moved = compactor.take()
        except Corrupt as error:
            self._stop_compacting(compactor, error)
            return None
        if moved is not None:
            self.moved_bytes += sum(len(chunk[0]) for chunk in moved.chunks)
        self._read_aside()
        return moved

    def _stop_compacting(self, compactor: Compactor, error: Corrupt | OSError) -> None:
        """It cannot be emptied: nothing is lost by that, and its readers meet the damage with its place."""
        complain(compactor.source, error)
        self._uncompactable.add(compactor.source)
        self._compactor = None
        compactor.close()

    def _end_compacting(self, compactor: Compactor) -> None:
        with self._lock:
            figures = self._state.segments.get(compactor.source)
            if figures is not None and figures.count:
                # Not found again by reading: never to be tried in circles.
                self._uncompactable.add(compactor.source)
                _LOG.error("segment %d keeps %d messages", compactor.source, figures.count)
        self.compacted_count += 1
        self._compactor = None
        compactor.close()
        self._choose()

    def close(self) -> None:
        """Let go of what compaction has open."""
        if self._compactor is not None:
            self._compactor.close()
            self._compactor = None
