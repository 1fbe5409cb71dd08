"""One direction of an emulated line: when each piece of traffic that enters comes out, if at all.

Pure: bytes are only counted, time and chance come in.  The packet relay asks for each packet, the TCP relay for each piece
of a stream.  Invariants: without `reorder` what comes out keeps its order whatever the jitter; the same seed and the same
calls give the same answers.  Tests: tests/unit/bench/lab/test_way.py.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final, final

DROPPED: Final = -1
HELD_BYTES_MAX: Final = 256 << 20
"""In flight on one way; what comes on top is dropped, as by a router whose memory is full."""
NS: Final = 1_000_000_000


@final
@dataclass(slots=True)
class Line:
    """What a line does to traffic, each way alike; changed while it runs.

    `loss` and `reorder` are shares of packets, 0 to 1; a reordered packet comes `reorder_ns` early.  `bytes_per_second` 0
    is no limit; else up to `queue_bytes` wait for their turn and the rest is dropped.
    """

    delay_ns: int = 0
    jitter_ns: int = 0
    loss: float = 0.0
    reorder: float = 0.0
    reorder_ns: int = 1_000_000
    bytes_per_second: float = 0.0
    queue_bytes: int = 1 << 20
    is_cut: bool = False

    @property
    def is_by_packet(self) -> bool:
        """Whether packets fare differently, so that each must be one segment of the stream."""
        return self.loss > 0 or self.reorder > 0 or self.bytes_per_second > 0


@final
class Way:
    """One direction; counts what it let through and what it dropped, and why."""

    __slots__ = (
        "_chance",
        "_free_at_ns",
        "_last_due_ns",
        "cut_count",
        "held_bytes",
        "line",
        "lost_count",
        "overflow_count",
        "passed_bytes",
        "passed_count",
        "peak_bytes",
    )

    def __init__(self, line: Line, seed: str) -> None:
        self.line = line
        self._chance = random.Random(seed)
        self._free_at_ns = 0
        self._last_due_ns = 0
        self.held_bytes = 0
        self.peak_bytes = 0
        self.passed_count = 0
        self.passed_bytes = 0
        self.lost_count = 0
        self.overflow_count = 0
        self.cut_count = 0

    def admit(self, size_bytes: int, now_ns: int) -> int:
        """Return when a packet that enters now comes out (ns of the same clock), or DROPPED."""
        line = self.line
        if line.is_cut:
            self.cut_count += 1
            return DROPPED
        if line.loss and self._chance.random() < line.loss:
            self.lost_count += 1
            return DROPPED
        leaves_ns = now_ns
        if line.bytes_per_second:
            begins_ns = max(self._free_at_ns, now_ns)
            waiting_bytes = (begins_ns - now_ns) * line.bytes_per_second / NS
            if waiting_bytes + size_bytes > line.queue_bytes:
                self.overflow_count += 1
                return DROPPED
            leaves_ns = begins_ns + int(size_bytes * NS / line.bytes_per_second)
            self._free_at_ns = leaves_ns
        if self.held_bytes + size_bytes > HELD_BYTES_MAX:
            self.overflow_count += 1
            return DROPPED
        due_ns = self._due(leaves_ns, now_ns)
        self.held_bytes += size_bytes
        if self.held_bytes > self.peak_bytes:
            self.peak_bytes = self.held_bytes
        return due_ns

    def pace(self, size_bytes: int, now_ns: int) -> int:
        """Return when a piece of a stream that enters now comes out: late, never dropped."""
        line = self.line
        leaves_ns = now_ns
        if line.bytes_per_second:
            begins_ns = max(self._free_at_ns, now_ns)
            leaves_ns = begins_ns + int(size_bytes * NS / line.bytes_per_second)
            self._free_at_ns = leaves_ns
        self.held_bytes += size_bytes
        if self.held_bytes > self.peak_bytes:
            self.peak_bytes = self.held_bytes
        return self._due(leaves_ns, now_ns)

    def _due(self, leaves_ns: int, now_ns: int) -> int:
        line = self.line
        due_ns = leaves_ns + line.delay_ns
        if line.jitter_ns:
            due_ns += int(self._chance.random() * line.jitter_ns)
        if line.reorder and self._chance.random() < line.reorder:
            # Ahead of those before it, and without a say in when those behind it come.
            return max(now_ns, max(due_ns, self._last_due_ns) - line.reorder_ns)
        if due_ns < self._last_due_ns:
            due_ns = self._last_due_ns
        self._last_due_ns = due_ns
        return due_ns

    def release(self, size_bytes: int) -> None:
        """Tell that what was let in has come out."""
        self.held_bytes -= size_bytes
        self.passed_count += 1
        self.passed_bytes += size_bytes

    def forget(self, waiting_count: int) -> None:
        """Tell that all that was in flight was dropped: the line was cut, or a shorter delay shall count at once."""
        self.cut_count += waiting_count
        self.held_bytes = 0
        self._last_due_ns = 0

    def counts(self) -> dict[str, int]:
        """What happened so far, for the report."""
        return {
            "packets": self.passed_count,
            "bytes": self.passed_bytes,
            "lost": self.lost_count,
            "overflow": self.overflow_count,
            "cut": self.cut_count,
            "held_bytes": self.held_bytes,
            "peak_bytes": self.peak_bytes,
        }


def change(line: Line, wanted: dict[str, float]) -> None:
    """Set fields of a line by name; raises ValueError for a name or value that a line cannot have."""
    for name, value in wanted.items():
        if name not in LINE_FIELDS or value < 0:
            raise ValueError(f"{name} = {value}: a line has {', '.join(LINE_FIELDS)}, from 0 on")
        setattr(line, name, int(value) if name.endswith(("_ns", "queue_bytes")) else float(value))


LINE_FIELDS: Final = (
    "delay_ns",
    "jitter_ns",
    "loss",
    "reorder",
    "reorder_ns",
    "bytes_per_second",
    "queue_bytes",
)
