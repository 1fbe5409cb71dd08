"""Records that could not be taken, each in a file with the reason and the original.

Invariants: a file is on disk before the sender hears `OK`; the name comes from the original, so that a record sent
again does not fill the folder; nothing is ever deleted here; the folder is bounded.
Tests: tests/unit/agents/collector/test_quarantine.py.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import final

from agents.durable import make_folder, name_of, shown, sync_folder, write_file
from agents.errors import SpoolFull


@final
class Rejected:
    """A record that could not be taken, and why."""

    __slots__ = ("original", "reason")

    def __init__(self, original: bytes, reason: str) -> None:
        self.original = original
        self.reason = reason


class Quarantine:
    """The folder of rejected records; thread-safe."""

    def __init__(self, folder: Path, files_max: int) -> None:
        self._folder = folder
        self._files_max = files_max
        self._lock = threading.Lock()
        make_folder(folder)
        self._count = sum(1 for _ in folder.glob("*.json"))

    @property
    def file_count(self) -> int:
        """Files in the folder (as far as this process knows)."""
        return self._count

    def keep(self, rejected: Sequence[Rejected], sender: str, how: str) -> None:
        """Write the records durably; raise SpoolFull when the folder is full or the disk takes no more.

        `how` is the command or path by which they came.
        """
        if not rejected:
            return
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with self._lock:
            try:
                for record in rejected:
                    self._write(record, now, sender, how)
                sync_folder(self._folder)
            except OSError as error:
                raise SpoolFull(f"quarantine cannot be written: {error.strerror}") from error

    def _write(self, record: Rejected, now: str, sender: str, how: str) -> None:
        path = self._folder / name_of(record.original)
        if path.exists():
            return
        if self._count >= self._files_max:
            raise SpoolFull(f"quarantine holds {self._count} files, its bound: look at them")
        content: dict[str, str] = {
            "reason": record.reason,
            "received": now,
            "from": sender,
            "by": how,
            **shown("original", record.original),
        }
        write_file(path, json.dumps(content, indent=2, ensure_ascii=False).encode())
        self._count += 1
