"""Checkpoints and sidecars: the state as of one batch, and where living messages lie.

A checkpoint is a header, a root, and one blob a lane; blobs of lanes that nobody touched are kept
packed from the last time, and the others are copied some at a time while the journal goes on.  Sidecar pages hold the extents of living messages, so that memory holds only those since
the last checkpoint.  Order of syncs: FORMAT.md.  Tests: tests/unit/store/test_journal_traps.py.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from typing import Any, Final, final

from store.checksum import crc32
from store.errors import Corrupt, VersionMismatch
from store.files import File, FileSystem
from store.index import SUMMARY, Extent, Lane, State, first_of
from store.positions import PositionSet
from store.record import decode_start, decode_value, encode_value
from store.runs import FIRST, LAST, RUN_FIELDS, SEGMENT, Page, Runs
from store.segment import sidecar_name

CHECKPOINT_MAGIC: Final = b"gmCKPT2\n"
_KIND_BYTES: Final = 6
"""Of the magic; the version follows."""
_HEADER: Final = struct.Struct("<8sIIQQI")
_CRC: Final = struct.Struct("<I")
_LENGTH: Final = struct.Struct("<I")
WRITE_BYTES: Final = 1 << 20
"""How much of a file is written by one call."""
PAGE_MAGIC: Final = b"gmP1"
_PAGE: Final = struct.Struct("<4sIQQII")
PAGE_HEADER_BYTES: Final = _PAGE.size + _CRC.size


@final
class Place:
    """A point of history: a batch, and where the next one is looked for."""

    __slots__ = ("batch", "crc", "offset", "segment")

    def __init__(self, batch: int, crc: int, segment: int, offset: int) -> None:
        self.batch = batch
        self.crc = crc
        self.segment = segment
        self.offset = offset


@final
class Checkpoint:
    """A checkpoint as read back."""

    __slots__ = ("_path", "_payload", "_state", "epoch", "number", "place")

    def __init__(self, epoch: int, number: int, place: Place, payload: bytes, path: str) -> None:
        self.epoch = epoch
        self.number = number
        self.place = place
        self._payload = payload
        self._path = path
        self._state: State | None = None

    @property
    def state(self) -> State:
        """The state that it holds, made when it is first asked for: of two checkpoints only one is.  Raises Corrupt."""
        if self._state is None:
            try:
                first, *blobs = _pieces(self._payload)
                root, lane_count = decode_value(first)[4:]
                if lane_count != len(blobs):
                    raise ValueError(f"{lane_count} lanes announced, {len(blobs)} found")
                self._state = State.thaw(root, blobs)
            except (ValueError, TypeError, struct.error) as error:
                raise _senseless(self._path, error) from error
            self._payload = b""
        return self._state


_NO_POSITIONS: Final = PositionSet()
_NO_RUNS: Final = Runs()


@final
class LaneCopy:
    """A lane as it was at the captured batch; its new chunks are taken along to be written to sidecars."""

    __slots__ = (
        "dead",
        "extents",
        "fields",
        "head",
        "lane",
        "pages",
        "requeued",
        "runs",
        "summary",
    )

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        # (segment, new pages of one run): what was written for it.
        self.pages: list[tuple[int, list[Page]]] = []
        self.summary = lane.summary()
        self.fields = (lane.number, lane.head, lane.next, lane.horizon)
        self.head = lane.head
        # Of ten thousand lanes most have neither: what is empty is not copied.
        self.dead = lane.dead.copy() if lane.dead else _NO_POSITIONS
        self.requeued = lane.requeued.copy() if lane.requeued else {}
        self.runs = lane.runs.copy()
        if lane.frozen:
            # Left by a checkpoint that found no space.
            lane.frozen += lane.extents
            lane.frozen.sort(key=first_of)
        else:
            lane.frozen = lane.extents
        lane.extents = []
        self.extents = lane.frozen

    def living(self) -> dict[int, list[Extent]]:
        """By run, the chunks that hold a message that was alive then, and still lay there."""
        figures, extents = self.runs.figures, self.extents
        if not extents or not figures:
            return {}
        at = len(figures) - RUN_FIELDS
        low = max(self.head, figures[at + FIRST])
        if not self.dead and extents[0][0] >= low:
            # Nothing died, and all lie in the newest run.
            segment, high = figures[at + SEGMENT], figures[at + LAST]
            if all(e[2] == segment and e[1] <= high for e in extents):
                return {at // RUN_FIELDS: extents}
        found: dict[int, list[Extent]] = {}
        next_absent = self.dead.next_absent
        for extent in extents:
            position = next_absent(max(extent[0], self.head))
            if position > extent[1]:
                continue
            index = self.runs.find_from(extent[1])
            at = index * RUN_FIELDS
            if (
                at < len(figures)
                and figures[at + SEGMENT] == extent[2]
                and figures[at + FIRST] <= extent[1]
            ):
                found.setdefault(index, []).append(extent)
        return found

    def pack(self) -> bytes:
        """Give the lane as bytes, from which `State.find` makes it again, and let go of what it was."""
        packed = SUMMARY.pack(*self.summary) + encode_value(
            [*self.fields, self.dead.freeze(), self.requeued, self.runs.freeze()]
        )
        self.dead, self.requeued, self.runs, self.extents = _NO_POSITIONS, {}, _NO_RUNS, []
        return packed


@final
class Capture:
    """The state at one batch.

    Made at once but for the lanes: those are copied some at a time while the journal goes on, and each at the latest before it
    changes, so that no one waits for all of them.  `take`, `take_some` and `give_back` need the journal's lock.
    """

    __slots__ = (
        "_state",
        "copies",
        "debt_bytes",
        "debt_records",
        "packed",
        "place",
        "root",
        "segments",
        "touched",
        "waiting",
    )

    def __init__(self, state: State, place: Place) -> None:
        self._state = state
        self.place = place
        self.root = state.freeze()
        self.debt_bytes = 0
        self.debt_records = 0
        self.segments = {s.id: (s.count, s.last_batch) for s in state.segments.values()}
        self.packed = state.packed.copy()
        self.copies: list[LaneCopy] = []
        self.waiting, state.touched = state.touched, set()
        self.touched = self.waiting.copy()
        state.before_change = self.take

    def take(self, lane: Lane) -> None:
        """Copy a lane that waits to be copied."""
        if lane.number in self.waiting:
            self.waiting.discard(lane.number)
            self.copies.append(LaneCopy(lane))

    def take_some(self, count: int) -> bool:
        """Copy up to `count` lanes; False when none waits any more."""
        waiting, state = self.waiting, self._state
        while waiting and count:
            count -= 1
            lane = state.find(waiting.pop())
            assert lane is not None, "a dropped lane is not touched"
            self.copies.append(LaneCopy(lane))
        if not waiting:
            self._state.before_change = None
        return bool(waiting)

    def give_back(self) -> None:
        """It will not be written: let the next one have what this one took."""
        state = self._state
        state.before_change = None
        state.touched |= {number for number in self.touched if number in state.lanes}


def checkpoint_name(epoch: int, number: int) -> str:
    """Give the file name of a checkpoint."""
    return f"{epoch:06d}-{number:012d}"


def checkpoint_of_name(name: str) -> tuple[int, int] | None:
    """Give (epoch, number) of a checkpoint's file name, or None."""
    epoch, dash, number = name.partition("-")
    if not dash or not epoch.isdecimal() or not number.isdecimal():
        return None
    return int(epoch), int(number)


def encode_checkpoint(
    epoch: int, number: int, place: Place, root: list[Any], blobs: Collection[bytes]
) -> list[bytes]:
    """Give the bytes of a checkpoint file in pieces: with many queues it is large, and never made whole in memory."""
    packed = encode_value([place.batch, place.crc, place.segment, place.offset, root, len(blobs)])
    parts = [b"", _LENGTH.pack(len(packed)), packed]
    for blob in blobs:
        parts.append(_LENGTH.pack(len(blob)))
        parts.append(blob)
    crc = length = 0
    for part in parts:
        crc = crc32(part, crc)
        length += len(part)
    fields = _HEADER.pack(CHECKPOINT_MAGIC, epoch, 0, number, length, crc)
    parts[0] = fields + _CRC.pack(crc32(fields))
    return parts


def decode_checkpoint(raw: bytes, path: str) -> Checkpoint:
    """Read a checkpoint file.  Raises Corrupt, and VersionMismatch for one of another layout."""
    start = _HEADER.size + _CRC.size
    if len(raw) < start or raw[:_KIND_BYTES] != CHECKPOINT_MAGIC[:_KIND_BYTES]:
        raise Corrupt(path, 0, "not the header of a checkpoint")
    if crc32(raw[: _HEADER.size]) != _CRC.unpack(raw[_HEADER.size : start])[0]:
        raise Corrupt(path, 0, "the checkpoint's header fails its checksum")
    if raw[:8] != CHECKPOINT_MAGIC:
        raise VersionMismatch(
            f"{path} is a checkpoint of another version ({raw[_KIND_BYTES:7]!r}, this program reads "
            f"{CHECKPOINT_MAGIC[_KIND_BYTES:7]!r}): start the gridmsg that wrote it"
        )
    _, epoch, _, number, length, crc = _HEADER.unpack(raw[: _HEADER.size])
    payload = raw[start:]
    if len(payload) != length or crc32(payload) != crc:
        raise Corrupt(path, start, "the checkpoint fails its checksum")
    try:
        place = Place(*decode_start(next(_pieces(payload)), 4))
    except (ValueError, TypeError, StopIteration, struct.error) as error:
        raise _senseless(path, error) from error
    return Checkpoint(epoch, number, place, payload, path)


def _pieces(payload: bytes) -> Iterator[bytes]:
    at, end = 0, len(payload)
    while at < end:
        (size,) = _LENGTH.unpack_from(payload, at)
        at += _LENGTH.size
        yield payload[at : at + size]
        at += size


def _senseless(path: str, error: Exception) -> Corrupt:
    start = _HEADER.size + _CRC.size
    return Corrupt(path, start, f"the checkpoint makes no sense: {error}")


def encode_page(epoch: int, segment: int, lane: int, extents: list[Extent]) -> bytes:
    """Give the bytes of a sidecar page."""
    payload = encode_value(
        [[e[0], e[1], e[3], e[4], e[5], e[6] or (e[0], e[1] - e[0] + 1)] for e in extents]
    )
    fields = _PAGE.pack(PAGE_MAGIC, epoch, segment, lane, len(payload), len(extents))
    return fields + _CRC.pack(crc32(payload, crc32(fields))) + payload


def decode_page(raw: bytes, path: str, offset: int, segment: int, lane: int) -> list[Extent]:
    """Read a sidecar page that was written for this segment and lane.  Raises Corrupt."""
    if len(raw) < PAGE_HEADER_BYTES or raw[:4] != PAGE_MAGIC:
        raise Corrupt(path, offset, "not a page of a sidecar")
    fields, payload = raw[: _PAGE.size], raw[PAGE_HEADER_BYTES:]
    _, _, of_segment, of_lane, length, _ = _PAGE.unpack(fields)
    crc = _CRC.unpack(raw[_PAGE.size : PAGE_HEADER_BYTES])[0]
    if length != len(payload) or crc32(payload, crc32(fields)) != crc:
        raise Corrupt(path, offset, "the page fails its checksum")
    if (of_segment, of_lane) != (segment, lane):
        raise Corrupt(path, offset, f"the page belongs to lane {of_lane}")
    try:
        return [(f, la, segment, o, s, c, r) for f, la, o, s, c, r in decode_value(payload)]
    except (ValueError, TypeError) as error:
        raise Corrupt(path, offset, f"the page makes no sense: {error}") from error


@final
class PagesDraft:
    """New pages, by segment: where they will lie is known before they are written."""

    __slots__ = ("_epoch", "_known", "_page_extents", "content", "lengths")

    def __init__(self, epoch: int, known: dict[int, int], page_extents: int) -> None:
        self._epoch = epoch
        self._known = known
        self._page_extents = page_extents
        self.content: dict[int, list[bytes]] = {}
        self.lengths: dict[int, int] = {}

    def add(self, copy: LaneCopy) -> None:
        """Make the pages of a lane's living chunks; the copy knows them then."""
        lengths = self.lengths
        for index, extents in copy.living().items():
            segment = extents[0][2]
            pages: list[Page] = []
            for start in range(0, len(extents), self._page_extents):
                part = extents[start : start + self._page_extents]
                raw = encode_page(self._epoch, segment, copy.lane.number, part)
                offset = lengths.get(segment, self._known.get(segment, 0))
                first, last = part[0][0], part[-1][1]
                if len(part) > 1:
                    # Chunks of one batch may overlap.
                    last = max([e[1] for e in part])
                pages.append((self._epoch, offset, len(raw), first, last))
                self.content.setdefault(segment, []).append(raw)
                lengths[segment] = offset + len(raw)
            copy.runs.add_pages(index, pages)
            copy.pages.append((segment, pages))


@final
class Sidecars:
    """The sidecar files that one epoch appends to."""

    __slots__ = ("_files", "_folder", "_lengths", "epoch")

    def __init__(self, files: FileSystem, folder: str, epoch: int) -> None:
        self._files = files
        self._folder = folder
        self._lengths: dict[int, int] = {}
        self.epoch = epoch

    def draft(self, page_extents: int) -> PagesDraft:
        """What the next checkpoint adds to the sidecars: nothing yet."""
        return PagesDraft(self.epoch, self._lengths, page_extents)

    def append(self, draft: PagesDraft) -> None:
        """Write the pages of a draft and sync them.  Raises OSError: then they may be written again."""
        self._write(draft.content)
        self._lengths.update(draft.lengths)

    def _write(self, content: dict[int, list[bytes]]) -> None:
        is_new = False
        for segment, parts in content.items():
            path = f"{self._folder}/{sidecar_name(segment, self.epoch)}"
            length = self._lengths.get(segment, 0)
            # What lies past the known length is of a checkpoint that was not finished: no one refers to it.
            if length == 0:
                is_new = True
            if length or self._files.exists(path):
                file: File = self._files.open(path, is_writable=True)
            else:
                file = self._files.create(path)
            try:
                file.write(length, parts)
                file.sync()
            finally:
                file.close()
        if is_new:
            self._files.sync_folder(self._folder)

    def forget(self, segment: int) -> None:
        """Its sidecar was unlinked."""
        self._lengths.pop(segment, None)


def write_file(files: FileSystem, folder: str, name: str, parts: list[bytes]) -> str:
    """Put a whole file in place, or nothing: temporary name, sync; the caller renames by `publish_file`."""
    path = f"{folder}/{name}.tmp"
    if files.exists(path):
        files.unlink(path)
    file = files.create(path)
    try:
        offset = 0
        for piece in _pieces_of(parts):
            offset += file.write(offset, piece)
        file.sync()
    finally:
        file.close()
    return path


def _pieces_of(parts: list[bytes]) -> Iterator[list[bytes]]:
    """Divide what is to be written into pieces of about WRITE_BYTES."""
    start = size_bytes = 0
    for index, part in enumerate(parts):
        size_bytes += len(part)
        if size_bytes >= WRITE_BYTES:
            yield parts[start : index + 1]
            start, size_bytes = index + 1, 0
    if start < len(parts):
        yield parts[start:]


def publish_file(files: FileSystem, folder: str, name: str) -> None:
    """Give a file written by `write_file` its name, for good."""
    files.rename(f"{folder}/{name}.tmp", f"{folder}/{name}")
    files.sync_folder(folder)
