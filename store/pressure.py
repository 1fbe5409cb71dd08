"""When publishers must wait, and when a checkpoint is due: journal debt and free space.

Pure arithmetic over figures it is given; the journal asks it and acts.  Blocking starts at twice the
checkpoint's limits and ends at once, so that it does not flutter; space has two watermarks.  Tests:
tests/unit/store/test_journal_space.py.
"""

from __future__ import annotations

from typing import Final, final

from store.settings import StoreSettings

SPACE_CHECK_BYTES: Final = 1 << 20
"""How much is written between two looks at the free space."""
EPOCHS_MAX: Final = 3
"""An owner that had to replay so many epochs makes a checkpoint soon: each costs a start some file operations."""


@final
class Pressure:
    """Debt since the last checkpoint, and whether space is low."""

    __slots__ = (
        "_checked_bytes",
        "_settings",
        "debt_bytes",
        "debt_epochs",
        "debt_records",
        "is_space_low",
    )

    def __init__(self, settings: StoreSettings) -> None:
        self._settings = settings
        self._checked_bytes = 0
        self.debt_bytes = 0
        self.debt_records = 0
        self.debt_epochs = 0
        self.is_space_low = False

    def add(self, size_bytes: int, record_count: int) -> None:
        """A batch was added to the journal."""
        self.debt_bytes += size_bytes
        self.debt_records += record_count

    def subtract(self, size_bytes: int, record_count: int) -> None:
        """A checkpoint covers that much of it, and all former epochs."""
        self.debt_epochs = 0
        self.debt_bytes -= size_bytes
        self.debt_records -= record_count

    @property
    def is_checkpoint_due(self) -> bool:
        """Whether replay would cost more than one interval."""
        return (
            self.debt_bytes >= self._settings.checkpoint_bytes
            or self.debt_records >= self._settings.checkpoint_records
            or self.debt_epochs >= EPOCHS_MAX
        )

    @property
    def presses(self) -> bool:
        """Whether a checkpoint that is due can wait no longer: publishers would, or the next start."""
        return (
            self.debt_bytes * 2 >= self._settings.checkpoint_bytes * 3
            or self.debt_records * 2 >= self._settings.checkpoint_records * 3
            or self.debt_epochs >= 2 * EPOCHS_MAX
        )

    def wants_look(self, written_bytes: int) -> bool:
        """Whether to look at the free space: always while it is low, else after some writing."""
        if self.is_space_low or written_bytes - self._checked_bytes > SPACE_CHECK_BYTES:
            self._checked_bytes = written_bytes
            return True
        return False

    def look(self, free_bytes: int, is_short: bool) -> bool:
        """Judge the free space; True when the judgment changed.  `is_short`: something was refused space."""
        settings = self._settings
        limit = settings.free_bytes_resume if self.is_space_low else settings.free_bytes_min
        is_low = is_short or free_bytes < limit
        is_changed = is_low != self.is_space_low
        self.is_space_low = is_low
        return is_changed

    def reason(self, waiting_bytes: int) -> str:
        """What makes publishers wait, in words and figures."""
        if self.is_space_low:
            return "free space is low"
        if waiting_bytes * 2 > self._settings.waiting_bytes:
            return f"{waiting_bytes >> 20} MiB wait for the disk"
        return f"{self.debt_bytes >> 20} MiB, {self.debt_records} records of journal wait for a checkpoint"

    def blocks(self, is_blocked: bool, waiting_bytes: int) -> bool:
        """Whether publishers must wait, given whether they do now and what waits for the disk."""
        factor = 1 if is_blocked else 2
        return (
            self.is_space_low
            or waiting_bytes * 2 > factor * self._settings.waiting_bytes
            or self.debt_bytes >= factor * self._settings.checkpoint_bytes
            or self.debt_records >= factor * self._settings.checkpoint_records
        )
