"""Looks into a store without owning it: figures, damage, and what each batch says.

Only reads, so that it may run beside a broker (a batch being written may then look torn).  Behind
`gridmsg store stat|verify|dump`.  Tests: tests/property/test_store_flip.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, final

from store.checkpoint import Checkpoint, checkpoint_name, decode_checkpoint, decode_page
from store.errors import Corrupt, StoreError
from store.files import FileSystem, RealFiles
from store.layout import Layout
from store.lease import is_lease_intact
from store.record import RECORD_KINDS, decode_chunk
from store.segment import (
    SEGMENT_HEADER_BYTES,
    Batch,
    Segment,
    chunks_of,
    open_segment,
    segment_name,
    sidecar_name,
)


@final
class Report:
    """What `verify` found."""

    __slots__ = ("batch_count", "checkpoint_count", "damage", "message_count", "segment_count")

    def __init__(self) -> None:
        self.damage: list[Corrupt] = []
        self.segment_count = 0
        self.batch_count = 0
        self.message_count = 0
        self.checkpoint_count = 0


def stat(folder: str, files: FileSystem | None = None) -> dict[str, Any]:
    """Figures of a store at rest, from its newest valid checkpoint.  Raises StoreError."""
    layout = Layout(files or RealFiles(), folder.rstrip("/"))
    report = Report()
    checkpoints = _checkpoints(layout, report)
    ids = layout.segment_ids()
    sizes = [layout.files.open(f"{layout.segments}/{segment_name(id)}") for id in ids]
    figures: dict[str, Any] = {
        "store_id": layout.read_store_id(),
        "segments": len(ids),
        "segment_bytes": sum(file.size_bytes() for file in sizes),
        "checkpoints": len(checkpoints),
        "damaged_checkpoints": len(report.damage),
    }
    for file in sizes:
        file.close()
    if checkpoints:
        newest = checkpoints[-1]
        lanes = newest.state.summaries()
        figures |= {
            "checkpoint": checkpoint_name(newest.epoch, newest.number),
            "batch": newest.place.batch,
            "lanes": len(lanes),
            "messages": sum(lane[3] for lane in lanes),
            "message_bytes": sum(lane[4] for lane in lanes),
            "definitions": len(newest.state.definitions),
        }
    return figures


def verify(folder: str, files: FileSystem | None = None) -> Report:
    """Check every checksum of a store; the report names each damage with file and offset."""
    layout = Layout(files or RealFiles(), folder.rstrip("/"))
    report = Report()
    try:
        layout.read_store_id()
    except Corrupt as error:
        report.damage.append(error)
    except StoreError as error:
        report.damage.append(Corrupt(f"{layout.folder}/FORMAT", 0, str(error)))
    for name in layout.files.listdir(layout.lease):
        path = f"{layout.lease}/{name}"
        if not is_lease_intact(layout.files.read_whole(path)):
            report.damage.append(Corrupt(path, 0, "the lease fails its checksum"))
    checkpoints = _checkpoints(layout, report)
    last_batches = _last_batches(checkpoints)
    for id in layout.segment_ids():
        _verify_segment(layout, id, last_batches.get(id, 0), report)
    if checkpoints:
        _verify_presence(layout, checkpoints[-1], report)
        _verify_pages(layout, checkpoints[-1], report)
    return report


def dump(folder: str, files: FileSystem | None = None) -> Iterator[dict[str, Any]]:
    """Tell every intact batch, in the order of segments: place, header fields, records by name."""
    layout = Layout(files or RealFiles(), folder.rstrip("/"))
    for id in layout.segment_ids():
        segment = open_segment(layout.files, layout.segments, id)
        try:
            for batch in segment.batches():
                yield {
                    "segment": segment_name(id),
                    "offset": batch.offset,
                    "batch": batch.header.number,
                    "epoch": batch.header.epoch,
                    "durable": batch.header.durable,
                    "bytes": batch.header.total_bytes,
                    "records": [
                        [RECORD_KINDS.get(record[0], f"unknown {record[0]}"), *record[1:]]
                        for record in batch.records
                    ],
                }
        finally:
            segment.close()


def _checkpoints(layout: Layout, report: Report) -> list[Checkpoint]:
    found = []
    for epoch, number in layout.checkpoint_ids():
        path = f"{layout.checkpoints}/{checkpoint_name(epoch, number)}"
        try:
            checkpoint = decode_checkpoint(layout.files.read_whole(path), path)
            if (checkpoint.epoch, checkpoint.number) != (epoch, number):
                raise Corrupt(path, 0, "the checkpoint carries another name inside")
            found.append(checkpoint)
        except Corrupt as error:
            report.damage.append(error)
    report.checkpoint_count = len(found)
    return found


def _last_batches(checkpoints: list[Checkpoint]) -> dict[int, int]:
    """The batch that each segment must at least reach."""
    reached: dict[int, int] = {}
    for checkpoint in checkpoints:
        for segment in checkpoint.state.segments.values():
            reached[segment.id] = max(reached.get(segment.id, 0), segment.last_batch)
    return reached


def _verify_presence(layout: Layout, newest: Checkpoint, report: Report) -> None:
    """A segment goes only after a checkpoint that found it dead."""
    there = set(layout.segment_ids())
    for figures in newest.state.segments.values():
        if figures.count and figures.id not in there:
            path = f"{layout.segments}/{segment_name(figures.id)}"
            report.damage.append(
                Corrupt(path, 0, f"the segment is missing, with {figures.count} messages")
            )


def _verify_segment(layout: Layout, id: int, last_batch: int, report: Report) -> None:
    try:
        segment = open_segment(layout.files, layout.segments, id)
    except Corrupt as error:
        report.damage.append(error)
        return
    report.segment_count += 1
    try:
        offset, number = SEGMENT_HEADER_BYTES, 0
        while True:
            batch = segment.read_batch(offset)
            if batch is None:
                # Go on behind the gap: what is intact there proves that this is no torn tail.
                batch = segment.find_batch(offset + 1, number + 1)
                if batch is None:
                    break
                report.damage.append(
                    Corrupt(segment.path, offset, f"damage up to batch {batch.header.number}")
                )
            report.batch_count += 1
            _verify_chunks(segment, batch, report)
            offset, number = batch.end, batch.header.number
        if number < last_batch:
            reason = f"batch {number + 1} is damaged: a checkpoint knows batch {last_batch}"
            report.damage.append(Corrupt(segment.path, offset, reason))
    except Corrupt as error:
        report.damage.append(error)
    finally:
        segment.close()


def _verify_chunks(segment: Segment, batch: Batch, report: Report) -> None:
    for offset, size_bytes, crc, _ in chunks_of(batch):
        try:
            raw = segment.read_chunk(offset, size_bytes, crc)
            report.message_count += len(decode_chunk(raw))
        except Corrupt as error:
            report.damage.append(error)
        except ValueError as error:
            report.damage.append(Corrupt(segment.path, offset, str(error)))


def _verify_pages(layout: Layout, checkpoint: Checkpoint, report: Report) -> None:
    for number in list(checkpoint.state.packed):
        lane = checkpoint.state.find(number)
        assert lane is not None, "it is packed there"
        for index in range(len(lane.runs)):
            segment = lane.runs.run(index)[0]
            for page in lane.runs.pages_of(index):
                path = f"{layout.segments}/{sidecar_name(segment, page[0])}"
                try:
                    file = layout.files.open(path)
                except FileNotFoundError:
                    report.damage.append(Corrupt(path, page[1], "the sidecar is missing"))
                    continue
                try:
                    raw = file.read(page[1], page[2])
                    decode_page(raw, path, page[1], segment, number)
                except Corrupt as error:
                    report.damage.append(error)
                finally:
                    file.close()
