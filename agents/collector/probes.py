"""Who reports and who went silent: each probe with what it last said, kept in one JSON file.

Invariants: bounded in probes (the longest silent is forgotten first) and in text; a file that cannot be read is set
aside, not deleted; losing the last seconds at a crash is accepted, records are not kept here.
Tests: tests/unit/agents/collector/test_probes.py.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import final

import msgspec

from agents.collector.intake import Intake
from agents.durable import write_file

log = logging.getLogger(__name__)


class ProbeState(msgspec.Struct, rename="kebab"):
    """What is known of one probe; times are seconds since 1970."""

    first_seen_s: float
    last_seen_s: float
    post_count: int = 0
    record_count: int = 0
    quarantined_count: int = 0
    backlog_records: int = 0
    backlog: dict[str, int] = {}
    details: dict[str, str] = {}


@final
class ProbeBook:
    """The probes by name; used from one thread."""

    def __init__(self, path: Path, probes_max: int) -> None:
        self._path = path
        self._probes_max = probes_max
        self._is_changed = False
        self._probes: dict[str, ProbeState] = {}
        try:
            self._probes = msgspec.json.decode(path.read_bytes(), type=dict[str, ProbeState])
        except FileNotFoundError:
            pass
        except (msgspec.MsgspecError, OSError, UnicodeDecodeError) as error:
            aside = path.with_suffix(".unreadable")
            log.error("%s cannot be read and goes to %s: %s", path, aside.name, error)
            path.rename(aside)

    @property
    def probes(self) -> Mapping[str, ProbeState]:
        """All probes by name."""
        return self._probes

    def note(self, intake: Intake, now_s: float) -> None:
        """Remember a request that was answered `OK`."""
        name = intake.sender
        if not name:
            return
        state = self._probes.pop(name, None) or ProbeState(now_s, now_s)
        # Taken out and put in again, so that the dictionary is in the order of the last word.
        self._probes[name] = state
        state.last_seen_s = now_s
        state.post_count += 1
        state.record_count += len(intake.bodies)
        state.quarantined_count += len(intake.rejected)
        if intake.backlog:
            state.backlog = dict(intake.backlog)
            state.backlog_records = backlog_records(intake.backlog)
        if intake.details:
            state.details = dict(intake.details)
        while len(self._probes) > self._probes_max:
            del self._probes[next(iter(self._probes))]
        self._is_changed = True

    def snapshot(self) -> bytes | None:
        """Return the file's content if it changed since the last call."""
        if not self._is_changed:
            return None
        self._is_changed = False
        return msgspec.json.encode(self._probes)

    def save(self, content: bytes) -> None:
        """Write a snapshot; may be called from another thread."""
        try:
            write_file(self._path, content)
        except OSError as error:
            log.error("%s cannot be written: %s", self._path, error)


def backlog_records(backlog: Mapping[str, int]) -> int:
    """Return the records that wait at a probe: its files and what it packed away (gracc.md 2.1)."""
    packed = backlog.get("tarfiles", 0) * backlog.get("maxpendingfiles", 0)
    return backlog.get("xmlfiles", 0) + packed
