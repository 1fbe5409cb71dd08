"""From the files of a store to its state: newest valid checkpoint, chain of epochs, replay.

Changes nothing.  A bad batch is a torn tail only if nothing valid follows it and nothing says that it was durable;
everything else is damage and stops the start.  Steps and reasons: FORMAT.md.  Tests:
tests/unit/store/test_journal_traps.py, tests/property/test_store_crash.py.
"""

from __future__ import annotations

import logging
from typing import Final, final

from store.checkpoint import Checkpoint, Place, checkpoint_name, decode_checkpoint
from store.errors import Corrupt, VersionMismatch
from store.index import State
from store.layout import Layout
from store.lease.directory import read_lease
from store.record import FLAG_OPENING, OPENING, debt_of
from store.segment import (
    NUMBER_BITS,
    SEGMENT_HEADER_BYTES,
    Batch,
    Segment,
    chunks_of,
    open_segment,
    segment_name,
)

_LOG: Final = logging.getLogger("store")


@final
class Opening:
    """What an epoch says of its predecessor: its epoch, and where its history ends."""

    __slots__ = ("end", "epoch", "predecessor", "segment")

    def __init__(self, epoch: int, predecessor: int, end: Place, segment: int) -> None:
        self.epoch = epoch
        self.predecessor = predecessor
        self.end = end
        self.segment = segment


@final
class History:
    """What recovery found: the state, its last place, and what that cost."""

    __slots__ = (
        "checkpoints",
        "damaged",
        "debt_bytes",
        "debt_records",
        "epoch",
        "epoch_count",
        "is_torn",
        "place",
        "state",
    )

    def __init__(self, state: State, place: Place, epoch: int) -> None:
        self.state = state
        self.place = place
        self.epoch = epoch
        self.debt_bytes = 0
        self.debt_records = 0
        self.epoch_count = 1
        self.is_torn = False
        # Valid checkpoints, oldest first, and the paths of damaged ones.
        self.checkpoints: list[tuple[int, int, Place]] = []
        self.damaged: list[str] = []


def recover(layout: Layout, own_epoch: int) -> History | None:
    """Read the state of a store as of its last whole batch; None for a store that never began.  Raises Corrupt."""
    # A killed owner's names may be in the cache only: what is built upon must not go with the power.
    layout.files.sync_folder(layout.segments)
    layout.files.sync_folder(layout.checkpoints)
    segments: dict[int, list[int]] = {}
    for id in layout.segment_ids():
        if id >> NUMBER_BITS < own_epoch:
            segments.setdefault(id >> NUMBER_BITS, []).append(id)
    search = _Search(layout, segments)
    search.run()
    if not search.valid:
        if search.is_any or _has_history(layout, segments):
            path = search.damaged[-1] if search.damaged else layout.checkpoints
            raise Corrupt(
                path, 0, "no usable checkpoint is left; see `gridmsg store verify` and `salvage`"
            )
        return None
    checkpoint = search.valid[-1]
    history = History(checkpoint.state, checkpoint.place, checkpoint.epoch)
    history.damaged = search.damaged
    history.checkpoints = [(c.epoch, c.number, c.place) for c in search.valid]
    chain = [e for e in _chain(search.openings) if e >= checkpoint.epoch]
    history.epoch_count = len(chain)
    _replay(layout, history, segments, search, chain)
    return history


@final
class _Search:
    """Looks for the two newest checkpoints within the chain of epochs, reading no older epoch than they need."""

    __slots__ = ("_layout", "_segments", "damaged", "is_any", "openings", "valid")

    def __init__(self, layout: Layout, segments: dict[int, list[int]]) -> None:
        self._layout = layout
        self._segments = segments
        self.openings: dict[int, Opening] = {}
        # Oldest first.
        self.valid: list[Checkpoint] = []
        self.damaged: list[str] = []
        self.is_any = False

    def run(self) -> None:
        """Go back over the checkpoints, newest first; what is damaged or of a fenced owner is passed over."""
        layout = self._layout
        known = max(self._segments, default=0) + 1
        for epoch, number in reversed(layout.checkpoint_ids()):
            self.is_any = True
            path = f"{layout.checkpoints}/{checkpoint_name(epoch, number)}"
            try:
                found = decode_checkpoint(layout.files.read_whole(path), path)
                if (found.epoch, found.number) != (epoch, number):
                    raise Corrupt(path, 0, "the checkpoint carries another name inside")
            except Corrupt as error:
                _LOG.error("%s; an older checkpoint is used", error)
                self.damaged.append(path)
                continue
            # What is above it decides whether it is history; older epochs are in it already.
            for one in sorted((e for e in self._segments if epoch <= e < known), reverse=True):
                self._read_opening(one)
            known = min(known, epoch)
            if not _is_history(found, self.openings):
                _LOG.warning("%s is of an owner that was fenced off: it is passed over", path)
                continue
            self.valid.insert(0, found)
            if len(self.valid) == 2:
                return
        if not self.valid:
            for one in sorted((e for e in self._segments if e < known), reverse=True):
                self._read_opening(one)

    def _read_opening(self, epoch: int) -> None:
        """Note the opening batch of an epoch if it has one; called from the highest down.  Raises Corrupt."""
        layout = self._layout
        ids = self._segments[epoch]
        lease = read_lease(layout.files, layout.lease, epoch).latest
        is_opened = lease is not None and lease.is_opened
        try:
            segment = open_segment(layout.files, layout.segments, ids[0])
        except Corrupt:
            # Created, but its header never reached the disk; unless something says that it opened.
            if is_opened or len(ids) > 1:
                raise
            return
        try:
            if not self.openings:
                # Below one that opened, what counts was settled by its owner.
                _settle(segment)
            # Behind the opening come the definitions, which may be many.
            batch = segment.read_batch(SEGMENT_HEADER_BYTES, is_first_only=True)
            if batch is not None and batch.header.flags & FLAG_OPENING:
                record = next(r for r in batch.records if r[0] == OPENING)
                end = Place(record[4], record[5], record[2], record[3])
                self.openings[epoch] = Opening(epoch, record[1], end, ids[0])
            elif batch is None and (
                is_opened or segment.find_batch(SEGMENT_HEADER_BYTES, 0) is not None
            ):
                raise Corrupt(segment.path, SEGMENT_HEADER_BYTES, "the opening batch is damaged")
        finally:
            segment.close()

    def durable_batch(self, epoch: int) -> int:
        """The highest batch that an epoch's lease says was durable; 0 when it says nothing."""
        lease = read_lease(self._layout.files, self._layout.lease, epoch).latest
        return lease.durable_batch if lease is not None else 0


def _settle(segment: Segment) -> None:
    """See to it that what is read next is what the disk has, and the disk has what is read.

    A killed owner's last batch may be in the page cache only, or there in spite of a failed sync: sealed as it
    is read, it would be missing after a power loss.
    """
    segment.file.sync()
    segment.file.forget_cached()


def _chain(openings: dict[int, Opening]) -> list[int]:
    """The epochs that are history, oldest first: from the highest that opened, back."""
    chain: list[int] = []
    epoch = max(openings, default=0)
    while epoch:
        chain.append(epoch)
        opening = openings.get(epoch)
        epoch = opening.predecessor if opening is not None else 0
    chain.reverse()
    return chain


def _is_history(checkpoint: Checkpoint, openings: dict[int, Opening]) -> bool:
    """Whether a checkpoint lies within the chain: one that a fenced-off owner wrote late does not."""
    later = [openings[e] for e in _chain(openings) if e > checkpoint.epoch and e in openings]
    return not later or (
        later[0].predecessor == checkpoint.epoch and later[0].end.batch >= checkpoint.place.batch
    )


def _has_history(layout: Layout, segments: dict[int, list[int]]) -> bool:
    """Whether any segment holds a batch after an opening: a store that promised something."""
    for ids in segments.values():
        for id in ids:
            try:
                segment = open_segment(layout.files, layout.segments, id)
            except Corrupt:
                continue
            try:
                if segment.find_batch(SEGMENT_HEADER_BYTES, 2) is not None:
                    return True
            finally:
                segment.close()
    return False


def _replay(
    layout: Layout,
    history: History,
    segments: dict[int, list[int]],
    search: _Search,
    chain: list[int],
) -> None:
    openings = search.openings
    epochs = chain or [history.epoch]
    for index, epoch in enumerate(epochs):
        following = openings[epochs[index + 1]] if index + 1 < len(epochs) else None
        ids = segments.get(epoch, [])
        if index == 0:
            start = (history.place.segment, history.place.offset)
        else:
            start = (openings[epoch].segment, SEGMENT_HEADER_BYTES)
        history.epoch = epoch
        durable = search.durable_batch(epoch) if following is None else 0
        _EpochReplay(layout, history, ids, following, durable).run(*start)


@final
class _EpochReplay:
    """Replays the batches of one epoch; each takes effect once its successor proves it whole."""

    __slots__ = ("_durable", "_files", "_folder", "_following", "_history", "_ids", "_waiting")

    def __init__(
        self,
        layout: Layout,
        history: History,
        ids: list[int],
        following: Opening | None,
        durable: int,
    ) -> None:
        self._durable = durable
        self._files = layout.files
        self._folder = layout.segments
        self._history = history
        self._ids = ids
        self._following = following
        self._waiting: Batch | None = None

    def run(self, segment_id: int, offset: int) -> None:
        """Replay from a place to the end of the epoch."""
        expected = self._history.place.batch + 1
        end_batch = self._following.end.batch if self._following is not None else None
        segment = self._open(segment_id)
        try:
            while end_batch is None or expected <= end_batch:
                batch = segment.read_batch(offset)
                if batch is None or batch.header.number != expected:
                    found = self._find_next(segment.id, expected)
                    if found is None:
                        break
                    segment.close()
                    segment = found
                    offset = SEGMENT_HEADER_BYTES
                    continue
                self._take()
                self._waiting = batch
                offset = batch.end
                expected += 1
            if end_batch is None:
                self._finish(segment, offset, expected)
            elif expected <= end_batch:
                raise Corrupt(segment.path, offset, f"batch {expected} is damaged or missing")
            else:
                self._take()
        finally:
            segment.close()

    def _open(self, id: int) -> Segment:
        """Open a segment; one that is to be sealed shows what the disk has, and the disk what it shows."""
        segment = open_segment(self._files, self._folder, id)
        if self._following is None:
            _settle(segment)
        return segment

    def _find_next(self, current: int, expected: int) -> Segment | None:
        """The segment of this epoch that starts with the batch expected next."""
        for id in self._ids:
            if id == current or id in self._history.state.segments:
                continue
            try:
                segment = self._open(id)
            except Corrupt:
                continue
            batch = segment.read_batch(SEGMENT_HEADER_BYTES)
            if batch is not None and batch.header.number == expected:
                return segment
            segment.close()
        return None

    def _take(self) -> None:
        batch = self._waiting
        if batch is None:
            return
        self._waiting = None
        history = self._history
        state = history.state
        for record in batch.records:
            try:
                state.replay(record, batch.segment, batch.chunks_offset)
            except ValueError as error:
                raise VersionMismatch(
                    f"batch {batch.header.number} in {segment_name(batch.segment)}: {error}; "
                    "it was written by a newer version, start that one"
                ) from error
        figures = state.segment(batch.segment)
        figures.last_batch = batch.header.number
        figures.used_bytes = batch.end
        figures.size_bytes = batch.file_bytes
        history.place = Place(batch.header.number, batch.header.crc, batch.segment, batch.end)
        history.debt_bytes += batch.header.total_bytes
        history.debt_records += debt_of(batch.records)

    def _finish(self, segment: Segment, offset: int, expected: int) -> None:
        """Decide what ends the newest epoch: clean, torn, or damaged."""
        batch = self._waiting
        if batch is not None and not _are_chunks_whole(segment, batch):
            self._waiting = None
            offset, expected = batch.offset, expected - 1
            self._history.is_torn = True
        # Searched from behind the tail's first bytes: a batch that failed above cannot be found again.
        later = segment.find_batch(offset + 1, expected)
        if later is None:
            later = self._find_later(segment.id, expected)
        if later is not None and (batch is None or later.header.number != batch.header.number):
            raise Corrupt(
                segment.path,
                offset,
                f"batch {expected} is damaged: a later one ({later.header.number}) is whole",
            )
        if expected <= self._durable:
            raise Corrupt(
                segment.path,
                offset,
                f"batch {expected} is damaged or missing: its owner's lease says that it was durable",
            )
        if any(segment.file.read(offset, 4)):
            self._history.is_torn = True
        if self._history.is_torn:
            _LOG.warning("%s: torn batch %d at offset %d is cut", segment.path, expected, offset)
        self._take()

    def _find_later(self, current: int, expected: int) -> Batch | None:
        for id in self._ids:
            if id == current or id in self._history.state.segments:
                continue
            try:
                segment = open_segment(self._files, self._folder, id)
            except Corrupt:
                continue
            try:
                batch = segment.read_batch(SEGMENT_HEADER_BYTES)
            finally:
                segment.close()
            if batch is not None and batch.header.number >= expected:
                return batch
        return None


def _are_chunks_whole(segment: Segment, batch: Batch) -> bool:
    for offset, size_bytes, crc, _ in chunks_of(batch):
        try:
            segment.read_chunk(offset, size_bytes, crc)
        except Corrupt:
            return False
    return True
