"""Where a message comes from and which brokers it went through: its trace, and what was seen of each origin.

A trace is bytes: 24 of origin (an id of the opening of a store, and a sequence), then 16 for each broker that it left by a
link (store ids).  The origin is given when a message first enters a link's buffer, is stored with the message, and never
changes.  Its id is new with each opening, so that a store put back from a copy gives none twice.  A broker that takes messages
by exchange links remembers, for each origin, which of the last WINDOW sequences it has applied (design: links.md, "Origin"):
filters leave gaps that never close, so it is a bitmap and no high-water mark.  What is older than the window cannot be known.
Kept in the store as definitions `["origin", opening, piece]`, in the unit that holds the messages.
Tests: tests/unit/broker/link/test_trace.py.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, final

ID_BYTES: Final = 16
_SEQUENCE: Final = struct.Struct(">Q")
ORIGIN_BYTES: Final = ID_BYTES + _SEQUENCE.size
NO_ORIGIN: Final = bytes(ORIGIN_BYTES)
"""The origin part of a message that left by a queue link only: it has none."""
ROUTE_MAX: Final = 255
"""Brokers in a trace, at most: a longer one is not one of ours."""

PIECE_BITS: Final = 4096
PIECE_BYTES: Final = PIECE_BITS // 8
WINDOW: Final = 1 << 20
"""Sequences remembered below the highest of an origin: 128 KiB each."""
ORIGINS_MAX: Final = 1024
"""Openings remembered: each restart of a broker is one."""

Verdict = Literal["new", "repeat", "unknown"]
Define = Callable[[str, dict[str, Any] | None], None]
"""Sets a definition in the turn's unit (UnitOfWork.define)."""


def origin(opening: bytes, sequence: int) -> bytes:
    """The trace of a message that enters its first link here; given in this opening of the store."""
    return opening + _SEQUENCE.pack(sequence)


def origin_of(trace: bytes) -> tuple[bytes, int] | None:
    """Opening and sequence of a trace; None if it has none."""
    if len(trace) < ORIGIN_BYTES or trace.startswith(NO_ORIGIN):
        return None
    return trace[:ID_BYTES], _SEQUENCE.unpack_from(trace, ID_BYTES)[0]


def hop_count(trace: bytes) -> int:
    """How many brokers a message has left by a link."""
    return max(0, len(trace) - ORIGIN_BYTES) // ID_BYTES


def route_of(trace: bytes) -> list[bytes]:
    """The brokers that a message has left by a link, first to last."""
    return [trace[at : at + ID_BYTES] for at in range(ORIGIN_BYTES, len(trace), ID_BYTES)]


def has_been_at(trace: bytes, store_id: bytes) -> bool:
    """Whether a message has left a broker by a link."""
    return store_id in trace and store_id in route_of(trace)


def is_sound(trace: bytes) -> bool:
    """Whether bytes from a peer are a trace."""
    rest = len(trace) - ORIGIN_BYTES
    return not trace or (0 <= rest <= ROUTE_MAX * ID_BYTES and rest % ID_BYTES == 0)


@final
class OriginWindow:
    """Which of the last sequences of one origin were applied."""

    __slots__ = ("highest", "pieces")

    def __init__(self) -> None:
        self.highest = -1
        self.pieces: dict[int, bytearray] = {}

    def lowest_piece(self) -> int:
        """The first piece that the window reaches into."""
        return max(0, self.highest - WINDOW + 1) // PIECE_BITS


@final
class OriginTable:
    """What was applied, by origin.  Bounded: the origin that was silent longest is forgotten first."""

    __slots__ = ("_behind", "_dirty", "_windows", "forgotten_count", "unknown_count")

    def __init__(self) -> None:
        # Last used last.
        self._windows: dict[bytes, OriginWindow] = {}
        self._dirty: set[tuple[bytes, int]] = set()
        self._behind = 0
        self.unknown_count = 0
        self.forgotten_count = 0

    def __len__(self) -> int:
        return len(self._windows)

    def restore(self, definitions: Mapping[str, dict[str, Any]]) -> None:
        """Take over what the store holds."""
        for key, made in definitions.items():
            if not key.startswith('["origin"'):
                continue
            _, store_id, piece = json.loads(key)
            window = self._windows.setdefault(bytes.fromhex(store_id), OriginWindow())
            bits = bytearray(made["bits"] if "bits" in made else b"\xff" * PIECE_BYTES)
            bits.extend(bytes(PIECE_BYTES - len(bits)))
            window.pieces[piece] = bits
            top = piece * PIECE_BITS + int.from_bytes(bits, "little").bit_length() - 1
            window.highest = max(window.highest, top)

    def apply(self, store_id: bytes, sequence: int) -> Verdict:
        """Note that a message is being applied; tells whether it was before.

        "unknown": older than the window, so nobody can know.
        """
        window = self._windows.get(store_id)
        if window is None:
            window = self._windows[store_id] = OriginWindow()
        piece = sequence >> 12
        at = sequence & 4095
        if sequence > window.highest:
            window.highest = sequence
        else:
            behind = window.highest - sequence
            if behind > self._behind:
                self._behind = behind
            if behind >= WINDOW:
                self.unknown_count += 1
                return "unknown"
        bits = window.pieces.get(piece)
        if bits is None:
            bits = window.pieces[piece] = bytearray(PIECE_BYTES)
        mask = 1 << (at & 7)
        if bits[at >> 3] & mask:
            return "repeat"
        bits[at >> 3] |= mask
        self._dirty.add((store_id, piece))
        return "new"

    def take_behind(self) -> int:
        """How far below the highest of its origin the latest of all came since the last call: WINDOW is the bound."""
        behind, self._behind = self._behind, 0
        return behind

    def withdraw(self, store_id: bytes, sequence: int) -> None:
        """A message that `apply` took for new could not be applied: it may come again."""
        window = self._windows.get(store_id)
        bits = window.pieces.get(sequence >> 12) if window is not None else None
        if bits is not None:
            bits[(sequence & 4095) >> 3] &= ~(1 << (sequence & 7)) & 0xFF

    def flush(self, define: Define) -> None:
        """Put what changed into the turn's unit: call it in the turn in which the messages were published."""
        touched = {store_id for store_id, _ in self._dirty}
        for store_id, piece in self._dirty:
            window = self._windows.get(store_id)
            if window is None or piece < window.lowest_piece():
                continue
            bits = bytes(window.pieces[piece]).rstrip(b"\0")
            is_full = len(bits) == PIECE_BYTES and not bits.strip(b"\xff")
            define(_key(store_id, piece), {} if is_full else {"bits": bits})
        self._dirty.clear()
        for store_id in touched:
            window = self._windows.pop(store_id)
            self._windows[store_id] = window
            lowest = window.lowest_piece()
            if len(window.pieces) > WINDOW // PIECE_BITS:
                for piece in [piece for piece in window.pieces if piece < lowest]:
                    del window.pieces[piece]
                    define(_key(store_id, piece), None)
        while len(self._windows) > ORIGINS_MAX:
            store_id = next(iter(self._windows))
            self.forgotten_count += 1
            for piece in self._windows.pop(store_id).pieces:
                define(_key(store_id, piece), None)

    def describe(self) -> dict[str, int]:
        """What is remembered, what it takes in memory and the bounds of both, for status and metrics."""
        pieces = sum(len(window.pieces) for window in self._windows.values())
        return {
            "count": len(self._windows),
            "count_max": ORIGINS_MAX,
            "bytes": pieces * PIECE_BYTES,
            "bytes_max": ORIGINS_MAX * (WINDOW // PIECE_BITS + 1) * PIECE_BYTES,
            "forgotten": self.forgotten_count,
            "unknown": self.unknown_count,
        }


def _key(store_id: bytes, piece: int) -> str:
    return json.dumps(["origin", store_id.hex(), piece])
