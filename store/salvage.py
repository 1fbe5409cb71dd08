"""Saves what is intact of a damaged store: a new store is made of it, the old files go to quarantine, never away.

Works without checkpoints (then acknowledged messages may come back, but none confirmed that is intact is lost), without
sidecars (never read: segments say it all), across damaged batches, and without a segment's header.  Memory: some hundred bytes a
chunk.  The new store takes as much space as its messages, and one body for each lane.  Tests: tests/unit/store/test_salvage.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Final, final

from store.checkpoint import checkpoint_name, decode_checkpoint, publish_file, write_file
from store.errors import Corrupt, StoreError
from store.files import FileSystem, RealFiles
from store.index import first_of
from store.interface import StoredMessage, UnitOfWork
from store.journal import Journal
from store.layout import FORMAT_NAME, SALVAGE_MARK, Layout
from store.lease import Host, Lease, RealHost, claim_lease
from store.positions import PositionSet
from store.record import (
    ACKNOWLEDGE,
    DEFINE,
    DEFINITIONS,
    DROP_LANE,
    FLAG_OPENING,
    HORIZON,
    OPENING,
    PURGE,
    REQUEUE,
    decode_chunk,
    positions_of,
)
from store.runs import Runs
from store.segment import (
    SEGMENT_HEADER_BYTES,
    Batch,
    Segment,
    chunks_of,
    find_salt,
    open_segment,
    segment_name,
)
from store.settings import StoreSettings
from store.writer import SteppedWriter

UNIT_MESSAGES: Final = 500
UNIT_BYTES: Final = 4 << 20

Extent = tuple[int, int, int, int, int, int, list[int]]


@final
class Loss:
    """Messages that could not be saved."""

    __slots__ = ("count", "first", "lane", "last", "path", "reason")

    def __init__(
        self, lane: int, first: int, last: int, count: int, path: str, reason: str
    ) -> None:
        self.lane = lane
        self.first = first
        self.last = last
        self.count = count
        self.path = path
        self.reason = reason


@final
class Salvaged:
    """What came of it."""

    __slots__ = (
        "damage",
        "definition_count",
        "has_checkpoint",
        "lane_names",
        "losses",
        "message_count",
        "missing_batches",
        "quarantine",
    )

    def __init__(self) -> None:
        self.damage: list[Corrupt] = []
        # First and last number of batches of which nothing was found.
        self.missing_batches: list[tuple[int, int]] = []
        self.losses: list[Loss] = []
        self.lane_names: dict[int, str] = {}
        self.message_count = 0
        self.definition_count = 0
        self.has_checkpoint = False
        self.quarantine = ""


@final
class _Lane:
    __slots__ = ("dead", "extents", "horizon", "known", "known_end", "next", "requeued")

    def __init__(self) -> None:
        self.dead = PositionSet()
        # The runs that a checkpoint knows, and the end of the positions that it speaks of.
        self.known = Runs()
        self.known_end = 0
        self.extents: list[Extent] = []
        self.horizon = 0
        self.next = 0
        self.requeued: dict[int, int] = {}


@final
class _Findings:
    """Everything that is intact, gathered from the segments in the order of batches."""

    def __init__(self, layout: Layout, report: Salvaged) -> None:
        self._layout = layout
        self._report = report
        self.lanes: dict[int, _Lane] = {}
        self.next_lane = 1
        self.definitions: dict[str, dict[str, Any]] = {}
        self.segments: dict[int, Segment] = {}
        # What the newest checkpoint covers: up to its batch it knows better what is dead.
        self._covered_batch = 0
        self._last_batch = 0

    def gather(self) -> None:
        """Read checkpoint and segments; damage goes to the report."""
        batches = list(self._batches())
        openings = {
            batch.header.epoch: next(r for r in batch.records if r[0] == OPENING)
            for batch in batches
            if batch.header.flags & FLAG_OPENING
        }
        ends = self._ends(openings)
        self._load_checkpoint(openings, ends)
        for batch in sorted(batches, key=lambda batch: batch.header.number):
            number, epoch = batch.header.number, batch.header.epoch
            if number <= ends.get(epoch, 1 << 63):
                self._apply(batch)

    def _ends(self, openings: dict[int, Any]) -> dict[int, int]:
        """The last batch of each epoch that is history; what a fenced-off owner wrote later never was."""
        ends: dict[int, int] = {}
        epoch = max(openings, default=0)
        for other in openings:
            if other < epoch:
                ends[other] = 0
        while epoch in openings:
            _, predecessor, _, _, last, _ = openings[epoch]
            if predecessor:
                ends[predecessor] = last
            epoch = predecessor
        return ends

    def _batches(self) -> Iterator[Batch]:
        layout = self._layout
        for id in layout.segment_ids():
            try:
                segment = open_segment(layout.files, layout.segments, id)
            except Corrupt as error:
                self._report.damage.append(error)
                found = self._without_header(id)
                if found is None:
                    continue
                segment = found
            self.segments[id] = segment
            offset, number = SEGMENT_HEADER_BYTES, -1
            while True:
                batch = segment.read_batch(offset)
                if batch is None:
                    batch = segment.find_batch(offset + 1, number + 1)
                    if batch is None:
                        break
                    reason = f"unreadable up to batch {batch.header.number}"
                    self._report.damage.append(Corrupt(segment.path, offset, reason))
                yield batch
                offset, number = batch.end, batch.header.number

    def _without_header(self, id: int) -> Segment | None:
        """A segment whose header is damaged: what its checksums are seeded with follows from any batch, and others prove it."""
        layout = self._layout
        path = f"{layout.segments}/{segment_name(id)}"
        try:
            file = layout.files.open(path)
        except OSError:
            return None
        segment = Segment(id, path, file, 0, file.size_bytes())
        salt = find_salt(segment)
        if salt is None:
            segment.close()
            return None
        segment.salt = salt
        return segment

    def _load_checkpoint(self, openings: dict[int, Any], ends: dict[int, int]) -> None:
        layout = self._layout
        for epoch, number in reversed(layout.checkpoint_ids()):
            path = f"{layout.checkpoints}/{checkpoint_name(epoch, number)}"
            try:
                found = decode_checkpoint(layout.files.read_whole(path), path)
            except Corrupt as error:
                self._report.damage.append(error)
                continue
            if found.place.batch > ends.get(epoch, 1 << 63):
                continue
            state = found.state
            self._report.has_checkpoint = True
            self._covered_batch = self._last_batch = found.place.batch
            self.definitions = state.definitions
            self.next_lane = state.next_lane
            for number_of_lane in list(state.packed):
                known = state.find(number_of_lane)
                assert known is not None, "it is packed there"
                lane = self.lanes[number_of_lane] = _Lane()
                lane.dead = known.dead
                lane.dead.add(0, known.head)
                lane.next, lane.horizon = known.next, known.horizon
                lane.requeued = known.requeued
                lane.known, lane.known_end = known.runs, known.next
            return

    def _apply(self, batch: Batch) -> None:
        number = batch.header.number
        is_covered = number <= self._covered_batch
        if not is_covered:
            if self._last_batch and number > self._last_batch + 1:
                self._report.missing_batches.append((self._last_batch + 1, number - 1))
            self._last_batch = number
        for offset, size_bytes, crc, places in chunks_of(batch):
            for place in places:
                # A covered batch adds nothing to a lane that the checkpoint no longer has.
                if is_covered and place[0] not in self.lanes:
                    continue
                ranges = place[1]
                last = ranges[-2] + ranges[-1] - 1
                lane = self._lane(place[0])
                lane.extents.append(
                    (ranges[0], last, batch.segment, offset, size_bytes, crc, ranges)
                )
                lane.next = max(lane.next, last + 1)
        if not is_covered:
            for record in batch.records:
                self._change(record)

    def _lane(self, number: int) -> _Lane:
        lane = self.lanes.get(number)
        if lane is None:
            lane = self.lanes[number] = _Lane()
            self.next_lane = max(self.next_lane, number + 1)
        return lane

    def _change(self, record: Any) -> None:
        kind = record[0]
        if kind == ACKNOWLEDGE:
            lane = self._lane(record[1])
            for index in range(0, len(record[2]), 2):
                lane.dead.add(record[2][index], record[2][index] + record[2][index + 1])
        elif kind == PURGE:
            lane = self._lane(record[1])
            kept = [position for position in record[3] if position not in lane.dead]
            lane.dead.add(0, record[2])
            for position in kept:
                lane.dead.remove(position)
        elif kind == DROP_LANE:
            self.lanes.pop(record[1], None)
            self.next_lane = max(self.next_lane, record[1] + 1)
        elif kind == DEFINE:
            if record[2] is None:
                self.definitions.pop(record[1], None)
            else:
                self.definitions[record[1]] = record[2]
        elif kind == DEFINITIONS:
            self.definitions = record[1]
        elif kind == HORIZON:
            lane = self._lane(record[1])
            lane.horizon = max(lane.horizon, record[2])
        elif kind == REQUEUE:
            self._lane(record[1]).requeued[record[2]] = record[3]

    def messages(self, number: int) -> Iterator[tuple[int, StoredMessage]]:
        """The living messages of a lane that can be read, by position; the others go to the report."""
        lane = self.lanes[number]
        taken = PositionSet()
        lost: dict[int, tuple[str, str]] = {}
        waiting: list[tuple[int, StoredMessage]] = []
        lane.extents.sort(key=first_of)
        for extent in lane.extents:
            # Chunks may interleave within a batch, and one that was moved lies beside its copy.
            while waiting and waiting[0][0] < extent[0]:
                yield waiting.pop(0)
            alive = [
                (index, position)
                for index, position in enumerate(positions_of(extent[6]))
                if position not in lane.dead and position not in taken
            ]
            if not alive:
                continue
            segment = self.segments[extent[2]]
            try:
                raw = segment.read_chunk(extent[3], extent[4], extent[5])
                messages = decode_chunk(raw)
            except (Corrupt, ValueError) as error:
                reason = error.reason if isinstance(error, Corrupt) else str(error)
                lost |= {position: (segment.path, reason) for _, position in alive}
                continue
            for index, position in alive:
                taken.add(position, position + 1)
                lost.pop(position, None)
                waiting.append((position, messages[index]))
            waiting.sort(key=_position_of)
        yield from waiting
        self._note_missing(lane, taken, lost)
        self._lose(number, lost)

    def _note_missing(
        self, lane: _Lane, taken: PositionSet, lost: dict[int, tuple[str, str]]
    ) -> None:
        """What a checkpoint knows to live, and no segment has."""
        position = lane.dead.next_absent(0)
        while position < lane.known_end:
            if position not in taken and position not in lost:
                index = lane.known.find(position)
                path = ""
                if index >= 0:
                    name = segment_name(lane.known.run(index)[0])
                    path = f"{self._layout.segments}/{name}"
                lost[position] = (path, "its batch is damaged or missing")
            position = lane.dead.next_absent(position + 1)

    def _lose(self, number: int, lost: dict[int, tuple[str, str]]) -> None:
        by_place: dict[tuple[str, str], list[int]] = {}
        for position, place in sorted(lost.items()):
            by_place.setdefault(place, []).append(position)
        for (path, reason), positions in by_place.items():
            self._report.losses.append(
                Loss(number, positions[0], positions[-1], len(positions), path, reason)
            )

    def close(self) -> None:
        """Close the segments."""
        for segment in self.segments.values():
            segment.close()


def _position_of(row: tuple[int, StoredMessage]) -> int:
    return row[0]


def salvage(
    folder: str,
    files: FileSystem | None = None,
    host: Host | None = None,
    settings: StoreSettings | None = None,
) -> Salvaged:
    """Make a sound store of what is intact in a damaged one, in its place.

    The old files go to FOLDER/quarantine/EPOCH.  Started again after an interruption it goes on.  Raises InUse while a broker
    owns the store, StoreError, OSError.
    """
    files = files or RealFiles()
    layout = Layout(files, folder.rstrip("/"))
    made = Layout(files, f"{layout.folder}/salvaged")
    mark = f"{layout.folder}/{SALVAGE_MARK}"
    report = Salvaged()
    lease = claim_lease(
        files, layout.lease, host or RealHost(), layout.highest_epoch(), layout.give_up_reserve
    )
    try:
        epoch = _ready_epoch(files, mark)
        if not epoch:
            _remove(made)
            _put(layout, f"copying {lease.epoch}")
            _copy(layout, made, report, lease, settings)
            epoch = lease.epoch
            _put(layout, f"ready {epoch}")
        report.quarantine = _swap(layout, made, epoch)
        files.unlink(mark)
        files.sync_folder(layout.folder)
    finally:
        lease.release()
    return report


def _ready_epoch(files: FileSystem, mark: str) -> int:
    """The epoch of a new store that only has to be put in its place; 0 when there is none."""
    if not files.exists(mark):
        return 0
    word, _, epoch = files.read_whole(mark).decode("ascii", "replace").partition(" ")
    return int(epoch) if word == "ready" and epoch.isdecimal() else 0


def _put(layout: Layout, text: str) -> None:
    """Say how far it is; brokers refuse the folder from here on."""
    write_file(layout.files, layout.folder, SALVAGE_MARK, [text.encode()])
    publish_file(layout.files, layout.folder, SALVAGE_MARK)


def _copy(
    layout: Layout, made: Layout, report: Salvaged, lease: Lease, settings: StoreSettings | None
) -> None:
    findings = _Findings(layout, report)
    writer = SteppedWriter()
    journal = Journal(made.folder, settings, layout.files, writer=writer, lease=lease)
    failures: list[BaseException] = []
    journal.open(_at_once, _nothing, failures.append, _nothing)

    def commit(unit: UnitOfWork) -> None:
        journal.commit(unit)
        for _ in range(2):
            writer.step()
            writer.run_jobs()
        if failures or journal.is_blocked:
            raise StoreError(f"the new store cannot be written: {failures or 'space is low'}")

    try:
        findings.gather()
        unit = UnitOfWork()
        if findings.next_lane > 1:
            # Said first, so that no number is ever used again.
            unit.drop_lane(findings.next_lane - 1)
        for key, value in findings.definitions.items():
            unit.define(key, value)
            for number in value.get("lanes", ()):
                report.lane_names[number] = key
        report.definition_count = len(findings.definitions)
        commit(unit)
        for number in sorted(findings.lanes):
            _copy_lane(number, findings, commit, report)
    finally:
        findings.close()
        journal.close()


def _at_once(call: Callable[[], None]) -> None:
    call()


def _nothing(_: object) -> None:
    return None


def _copy_lane(
    number: int, findings: _Findings, commit: Callable[[UnitOfWork], None], report: Salvaged
) -> None:
    lane = findings.lanes[number]
    unit = UnitOfWork()
    size_bytes = 0
    for position, message in findings.messages(number):
        unit.published.append((message, number, position))
        count = lane.requeued.get(position)
        if count is not None:
            unit.requeue(number, position, count)
        report.message_count += 1
        size_bytes += len(message.body)
        if len(unit.published) >= UNIT_MESSAGES or size_bytes >= UNIT_BYTES:
            commit(unit)
            unit, size_bytes = UnitOfWork(), 0
    # What was lost may have been delivered: its positions are not used again.
    unit.horizon(number, max(lane.horizon, lane.next))
    commit(unit)


def _remove(made: Layout) -> None:
    """Take away what an interrupted salvage had made so far; nothing refers to it."""
    files = made.files
    for folder in (made.segments, made.checkpoints, made.lease, made.folder):
        with contextlib.suppress(FileNotFoundError):
            for name in files.listdir(folder):
                with contextlib.suppress(IsADirectoryError, PermissionError):
                    files.unlink(f"{folder}/{name}")


def _swap(layout: Layout, made: Layout, epoch: int) -> str:
    """Old files to quarantine, new ones to their place; any part of it may have been done before."""
    files = layout.files
    quarantine = f"{layout.folder}/quarantine/{epoch:06d}"
    for name in ("segments", "checkpoints"):
        files.make_folder(f"{quarantine}/{name}")
        for old in files.listdir(f"{layout.folder}/{name}"):
            # All names begin with their writer's epoch; a sidecar's, of an older segment, too.
            if not old.startswith(f"{epoch:06d}-"):
                files.rename(f"{layout.folder}/{name}/{old}", f"{quarantine}/{name}/{old}")
        files.sync_folder(f"{quarantine}/{name}")
        for new in files.listdir(f"{made.folder}/{name}"):
            files.rename(f"{made.folder}/{name}/{new}", f"{layout.folder}/{name}/{new}")
        files.sync_folder(f"{layout.folder}/{name}")
        files.sync_folder(f"{made.folder}/{name}")
    form, new_form = f"{layout.folder}/{FORMAT_NAME}", f"{made.folder}/{FORMAT_NAME}"
    if files.exists(new_form):
        if files.exists(form):
            files.rename(form, f"{quarantine}/{FORMAT_NAME}")
            files.sync_folder(quarantine)
        files.rename(new_form, form)
    files.sync_folder(layout.folder)
    _remove(made)
    return quarantine
