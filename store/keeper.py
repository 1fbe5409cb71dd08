"""Writes checkpoints, keeps the newest two, and unlinks segments that nobody needs.

Runs aside from commits; what it changes in the journal it returns.  A segment goes only when the checkpoint that
found it dead is on disk and neither kept checkpoint would replay it.  Tests: tests/unit/store/test_journal_traps.py.
"""

from __future__ import annotations

import contextlib
import logging
from typing import Final, final

from store.checkpoint import (
    Capture,
    PagesDraft,
    Place,
    Sidecars,
    checkpoint_name,
    encode_checkpoint,
    publish_file,
    write_file,
)
from store.layout import Layout
from store.lease import Host, Lease
from store.lease.past import remove_settled
from store.segment import NUMBER_BITS, segment_name

_LOG: Final = logging.getLogger("store")


@final
class Keeper:
    """Owns the checkpoints folder for one epoch."""

    __slots__ = ("_layout", "_lease", "_number", "_page_extents", "_sidecars", "kept")

    def __init__(
        self,
        layout: Layout,
        lease: Lease,
        kept: list[tuple[int, int, Place]],
        page_extents: int,
    ) -> None:
        self._layout = layout
        self._lease = lease
        self._number = max((number for _, number in layout.checkpoint_ids()), default=0)
        self._page_extents = page_extents
        self._sidecars = Sidecars(layout.files, layout.segments, lease.epoch)
        # (epoch, number, place), oldest first: the valid ones on disk.
        self.kept = kept

    def begin(self) -> PagesDraft:
        """Begin a checkpoint: what it will add to the sidecars."""
        return self._sidecars.draft(self._page_extents)

    def write(self, capture: Capture, draft: PagesDraft) -> list[int]:
        """Put a checkpoint, whose lanes are packed, on stable storage; returns the segments that may go.

        Raises OSError, Fenced.
        """
        layout = self._layout
        packed = capture.packed
        self._sidecars.append(draft)
        self._number += 1
        epoch = self._lease.epoch
        name = checkpoint_name(epoch, self._number)
        content = encode_checkpoint(
            epoch, self._number, capture.place, capture.root, packed.values()
        )
        write_file(layout.files, layout.checkpoints, name, content)
        self._lease.check()
        publish_file(layout.files, layout.checkpoints, name)
        self.kept.append((epoch, self._number, capture.place))
        while len(self.kept) > 2:
            old_epoch, old_number, _ = self.kept[0]
            path = f"{layout.checkpoints}/{checkpoint_name(old_epoch, old_number)}"
            with contextlib.suppress(FileNotFoundError):
                layout.files.unlink(path)
            del self.kept[0]
        return self._dead(capture)

    def _dead(self, capture: Capture) -> list[int]:
        if len(self.kept) < 2:
            return []
        oldest = self.kept[0][2]
        return [
            id
            for id, (count, last_batch) in capture.segments.items()
            if count == 0
            and last_batch <= oldest.batch
            and id not in (oldest.segment, capture.place.segment)
        ]

    def unlink(self, id: int) -> None:
        """Remove a segment and its sidecars."""
        layout = self._layout
        self._lease.check()
        for name in (*layout.sidecar_names(id), segment_name(id)):
            with contextlib.suppress(FileNotFoundError):
                layout.files.unlink(f"{layout.segments}/{name}")
        self._sidecars.forget(id)

    def forget_owners(self, host: Host) -> None:
        """Remove the lease files of former owners that fence nobody any more."""
        layout = self._layout
        used = {id >> NUMBER_BITS for id in layout.segment_ids()}
        used.update(epoch for epoch, _ in layout.checkpoint_ids())
        try:
            remove_settled(layout.files, layout.lease, host, self._lease.epoch, used)
        except OSError as error:
            # Nothing depends on it: the next owner tries again.
            _LOG.warning("former leases in %s are not tidied: %s", layout.lease, error)

    def unlink_unused(self, known: set[int]) -> None:
        """Remove segments of former epochs that history does not know: made ahead, never part of it."""
        for id in self._layout.segment_ids():
            if id >> NUMBER_BITS < self._lease.epoch and id not in known:
                self.unlink(id)
