"""Requests that could not be understood, kept as files with the reason.

Invariants: a request is on disk before it is acknowledged; at most FILES_MAX are kept, the oldest
goes first and the log says so.
Tests: tests/unit/agents/test_replay_quarantine.py
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Final, final

from agents.durable import make_folder, shown, sync_folder, write_file

log = logging.getLogger(__name__)

FILES_MAX: Final = 1_000


@final
class Quarantine:
    """A folder of refused requests: `<time>-<number>.json`, each with reason, headers and body."""

    def __init__(self, folder: Path, files_max: int = FILES_MAX) -> None:
        self._folder = folder
        self._files_max = files_max
        self._written_count = 0
        make_folder(folder)

    def keep(self, body: bytes, reason: str, now_ms: int) -> Path:
        """Write one refused request durably; OSError when the disk refuses."""
        self._written_count += 1
        path = self._folder / f"{now_ms:015d}-{os.getpid()}-{self._written_count:06d}.json"
        content = {"reason": reason, "refused_ms": now_ms, **shown("body", body)}
        write_file(path, json.dumps(content, indent=1).encode())
        sync_folder(self._folder)
        log.warning("a replay request was refused and kept in %s: %s", path, reason)
        self._drop_oldest()
        return path

    def _drop_oldest(self) -> None:
        kept = sorted(self._folder.glob("*.json"))
        for path in kept[: max(0, len(kept) - self._files_max)]:
            log.warning("more than %d refused requests: dropping %s", self._files_max, path)
            path.unlink(missing_ok=True)
