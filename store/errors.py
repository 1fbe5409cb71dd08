"""What can go wrong in the store, with the place where it did.

Imports nothing of ours.  Tests: tests/unit/store/.
"""

from __future__ import annotations


class StoreError(Exception):
    """Any failure of the store."""


class Corrupt(StoreError):
    """Stored bytes that fail their checksum or make no sense, with file and offset."""

    def __init__(self, path: str, offset: int, reason: str) -> None:
        super().__init__(f"{path}: damage at offset {offset}: {reason}")
        self.path = path
        self.offset = offset
        self.reason = reason


class VersionMismatch(StoreError):
    """A store folder written by a version that this program cannot read."""


class Full(StoreError):
    """No space is left for what was to be written."""


class Fenced(StoreError):
    """Another owner has taken the store over; nothing may be promised any more."""
