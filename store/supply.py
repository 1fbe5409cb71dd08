"""Segments made ahead of need, and the reserve that is given up when the disk is full.

`prepare` runs aside, `take` in the writer thread: it waits only when the next segment is not ready.  A
full disk is met here, while the current segment still has room for acknowledgements.  Tests:
tests/unit/store/test_journal_space.py.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import threading
from collections.abc import Callable
from typing import Final, final

from store.errors import Full
from store.layout import Layout
from store.record import aligned
from store.segment import (
    SEGMENT_HEADER_BYTES,
    Segment,
    create_segment,
    segment_id,
    segment_name,
)
from store.settings import StoreSettings

_LOG: Final = logging.getLogger("store")
NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT)


@final
class SegmentSupply:
    """Gives the epoch's segments, one after the other."""

    __slots__ = (
        "_epoch",
        "_layout",
        "_lock",
        "_next",
        "_number",
        "_salt",
        "_settings",
        "is_short",
    )

    def __init__(
        self,
        layout: Layout,
        settings: StoreSettings,
        epoch: int,
        number: int,
        salt: Callable[[], int],
    ) -> None:
        self._layout = layout
        self._settings = settings
        self._epoch = epoch
        self._number = number
        self._salt = salt
        self._next: Segment | None = None
        self._lock = threading.Lock()
        self.is_short = False
        """True after space for the next segment, or for the reserve, was refused."""

    @property
    def is_ready(self) -> bool:
        """Whether the next segment is made."""
        return self._next is not None

    def first(self) -> Segment:
        """Make the epoch's first segment; the reserve may be spent on it.  Raises Full."""
        return self._make(self._settings.first_segment_bytes)

    def prepare(self) -> None:
        """Make the next segment and the reserve if they are missing; a full disk is noted, not raised."""
        with self._lock:
            try:
                if self._next is None:
                    self._next = self._create(self._settings.segment_bytes)
                self._fill_reserve()
                self.is_short = False
            except OSError as error:
                if error.errno not in NO_SPACE:
                    raise
                if not self.is_short:
                    _LOG.warning("no space for the next segment: %s", error)
                self.is_short = True

    def take(self, need_bytes: int) -> Segment:
        """Give a segment with room for a batch of `need_bytes`.  Raises Full."""
        with self._lock:
            ready = self._next
            if ready is not None and SEGMENT_HEADER_BYTES + need_bytes <= ready.size_bytes:
                self._next = None
                return ready
            size_bytes = max(self._settings.segment_bytes, SEGMENT_HEADER_BYTES + need_bytes)
            return self._make(aligned(size_bytes))

    def close(self) -> None:
        """Unlink what was made but not used, and forget it."""
        with self._lock:
            ready, self._next = self._next, None
        if ready is not None:
            ready.close()
            self._layout.files.unlink(ready.path)

    def _make(self, size_bytes: int) -> Segment:
        try:
            return self._create(size_bytes)
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            refused = error
        if self.give_up_reserve():
            try:
                return self._create(size_bytes)
            except OSError as error:
                if error.errno not in NO_SPACE:
                    raise
                refused = error
        raise Full(
            f"no space for a segment of {size_bytes} bytes in {self._layout.segments}: free some, then start again"
        ) from refused

    def give_up_reserve(self) -> bool:
        """Free the space that was kept for a full disk; False if it was freed before."""
        files = self._layout.files
        self.is_short = True
        if not files.exists(self._layout.reserve):
            return False
        _LOG.warning("the disk is full: the reserve is given up")
        files.unlink(self._layout.reserve)
        return True

    def _create(self, size_bytes: int) -> Segment:
        id = segment_id(self._epoch, self._number)
        self._number += 1
        layout = self._layout
        try:
            return create_segment(
                layout.files,
                layout.segments,
                id,
                self._salt(),
                size_bytes,
                self._settings.is_prewritten,
            )
        except OSError:
            # Half-made and ours alone: it holds nothing.
            with contextlib.suppress(OSError):
                layout.files.unlink(f"{layout.segments}/{segment_name(id)}")
            raise

    def _remove_drafts(self) -> None:
        """Give back what unfinished reserves hold."""
        layout = self._layout
        start = layout.reserve.rpartition("/")[2]
        for name in layout.files.listdir(layout.folder):
            if name.startswith(start) and name.endswith(".tmp"):
                with contextlib.suppress(FileNotFoundError):
                    layout.files.unlink(f"{layout.folder}/{name}")

    def _fill_reserve(self) -> None:
        layout = self._layout
        if not self._settings.reserve_bytes or layout.files.exists(layout.reserve):
            return
        # A name of our own epoch: a former owner that wakes up may be at the same.
        draft = f"{layout.reserve}-{self._epoch:06d}.tmp"
        self._remove_drafts()
        file = layout.files.create(draft)
        try:
            file.reserve(self._settings.reserve_bytes, is_prewritten=False)
            file.sync()
        except OSError:
            with contextlib.suppress(OSError):
                layout.files.unlink(draft)
            raise
        finally:
            file.close()
        layout.files.rename(draft, layout.reserve)
        layout.files.sync_folder(layout.folder)
