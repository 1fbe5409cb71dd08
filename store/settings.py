"""What an operator may choose about the store; every limit has its default here.

Imports nothing of ours.  Tests: tests/unit/store/test_journal_traps.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

SYNC_POLICIES: Final = ("always", "interval", "never")


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Limits and policies of a journal; sizes in bytes, times in seconds.

    `sync`: "always" confirms after fdatasync; "interval" confirms after write and syncs every
    `sync_interval_seconds`; "never" leaves it to the system.  The last two lose confirmed messages with the power.
    Raises ValueError for values that cannot work.
    """

    segment_bytes: int = 32 * MIB
    first_segment_bytes: int = 4 * MIB
    """The segment made while opening: small, so that a start does not wait for zeros."""
    is_prewritten: bool = True
    chunk_bytes: int = 256 * KIB
    batch_messages: int = 10_000
    batch_bytes: int = 8 * MIB
    waiting_bytes: int = 64 * MIB
    """Bodies that wait for the disk; beyond, publishers wait."""
    checkpoint_bytes: int = 32 * MIB
    checkpoint_records: int = 25_000
    calm_seconds: float = 0.0
    """After an opening, how long a checkpoint waits unless the debt presses: it would compete with the start."""
    page_extents: int = 1024
    cache_bytes: int = 4 * MIB
    open_segments: int = 64
    sync: str = "always"
    sync_interval_seconds: float = 0.2
    compact_share: float = 0.5
    """Living messages below this share of a segment's file are moved, and the file goes."""
    compact_bytes_min: int = 128 * MIB
    """Segments that together take less are left alone."""
    compact_group_bytes: int = 256 * KIB
    free_bytes_min: int = 256 * MIB
    free_bytes_resume: int = 320 * MIB
    reserve_bytes: int = 40 * MIB

    def __post_init__(self) -> None:
        if self.sync not in SYNC_POLICIES:
            raise ValueError(f"sync must be one of {', '.join(SYNC_POLICIES)}, not {self.sync!r}")
        if min(self.segment_bytes, self.first_segment_bytes) < 16 * KIB:
            raise ValueError("segment_bytes and first_segment_bytes must be at least 16384")
        if self.free_bytes_resume < self.free_bytes_min:
            raise ValueError("free_bytes_resume must not be below free_bytes_min")
        if not 0 <= self.compact_share < 1:
            raise ValueError("compact_share must be from 0 (never) to below 1")
        for name in ("chunk_bytes", "batch_messages", "batch_bytes", "waiting_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive")
        for name in ("page_extents", "compact_group_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive")
        for name in ("checkpoint_bytes", "checkpoint_records", "open_segments"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive")
