"""Control messages: what the sender of a replay request is told, and how they are read.

`{"status":"ok","stage":"starting"}` and `…"finished"}` are what GRACC's clients know; the
stages `progress` and `error` (status `error`) and the counts are ours, as extra keys.

Invariants: `finished` is said once everything was confirmed, `error` when the request ended
without; nothing is said after either, except the same message again after a crash.
Tests: tests/unit/agents/test_replay_control.py
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final, final

STARTING: Final = "starting"
PROGRESS: Final = "progress"
FINISHED: Final = "finished"
ERROR: Final = "error"
END_STAGES: Final = frozenset({FINISHED, ERROR})


@final
@dataclass(slots=True)
class Counts:
    """How far a replay is; each record counts once, sent or failed."""

    expected: int = 0
    sent: int = 0
    failed: int = 0
    first_end_time: str | None = None
    last_end_time: str | None = None


@final
@dataclass(frozen=True, slots=True)
class ControlMessage:
    """One control message, as it is told and as it is read."""

    stage: str
    request_id: str | None
    counts: Counts
    message: str | None = None

    @property
    def is_end(self) -> bool:
        """Whether the request is over with this message."""
        return self.stage in END_STAGES

    @property
    def is_error(self) -> bool:
        """Whether the request ended without being done."""
        return self.stage == ERROR

    def encode(self) -> bytes:
        """Write it as the JSON body of a message."""
        counts = self.counts
        fields: dict[str, object] = {
            "status": "error" if self.stage == ERROR else "ok",
            "stage": self.stage,
            "id": self.request_id,
            "expected": counts.expected,
            "sent": counts.sent,
            "failed": counts.failed,
            "first_end_time": counts.first_end_time,
            "last_end_time": counts.last_end_time,
        }
        if self.message is not None:
            fields["message"] = self.message
        return json.dumps(fields, separators=(",", ":")).encode()


def read_control_message(body: bytes) -> ControlMessage | None:
    """Read a control message of any agent, old or ours; None when it is something else."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict) or not isinstance(fields.get("stage", ""), str):
        return None
    stage = fields.get("stage", "")
    if fields.get("status") == "error":
        stage = ERROR
    if not stage:
        return None
    counts = Counts(
        _count(fields, "expected"),
        _count(fields, "sent"),
        _count(fields, "failed"),
        _text(fields, "first_end_time"),
        _text(fields, "last_end_time"),
    )
    return ControlMessage(stage, _text(fields, "id"), counts, _text(fields, "message"))


def _count(fields: dict[str, object], name: str) -> int:
    value = fields.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _text(fields: dict[str, object], name: str) -> str | None:
    value = fields.get(name)
    return value if isinstance(value, str) else None
