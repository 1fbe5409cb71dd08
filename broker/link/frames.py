"""The wire between two of ours: bytes ↔ frames.

A connection begins with `OPENING` from who dials; then both sides send frames: 9 bytes of header (payload length, kind, sequence),
then one msgpack value.  Sequences count all frames of one direction of a link, over all its connections: with several
connections frames arrive out of turn, and `Order` gives them back in turn.  A frame holds a whole batch of messages, so the cost of
framing is paid per batch.  Limits: FRAME_BYTES_MAX, and what may wait for an earlier frame.
Tests: tests/unit/broker/link/test_frames.py.
"""

from __future__ import annotations

import struct
from typing import Any, Final, final

import msgpack

from broker.errors import ProtocolViolation

OPENING: Final = b"GMLK\x00\x00\x00\x01"
"""The first bytes of a link's connection: how a listener tells it from AMQP; the last is the version."""
STRAND_OPENING: Final = b"GMLS"
"""The first bytes of a link's further connections; the session's token follows."""
TOKEN_BYTES: Final = 16

HELLO: Final = 1
WELCOME: Final = 2
REFUSED: Final = 3
OPEN: Final = 4
START: Final = 5
RESUME: Final = 6
BATCH: Final = 7
ACKNOWLEDGED: Final = 8
SETTLED: Final = 9
DEMAND: Final = 10
PING: Final = 11
PONG: Final = 12
BLOCKED: Final = 13
WANTED: Final = 14
BEGIN: Final = 15
FORGET: Final = 16
PACKED: Final = 0x80
"""Added to a kind: the payload is compressed."""

KINDS: Final[dict[int, str]] = {
    HELLO: "hello",
    WELCOME: "welcome",
    REFUSED: "refused",
    OPEN: "open",
    START: "start",
    RESUME: "resume",
    BATCH: "batch",
    ACKNOWLEDGED: "acknowledged",
    SETTLED: "settled",
    DEMAND: "demand",
    PING: "ping",
    PONG: "pong",
    BLOCKED: "blocked",
    WANTED: "wanted",
    BEGIN: "begin",
    FORGET: "forget",
}

_HEADER: Final = struct.Struct(">IBI")
HEADER_BYTES: Final = _HEADER.size
SEQUENCE_END: Final = 1 << 32
FRAME_BYTES_MAX: Final = 80 << 20
"""The largest frame taken: one message of the largest body, with what lies around it."""
GREETING_BYTES_MAX: Final = 64 << 10
"""The largest frame taken from a peer that has not logged in."""
EARLY_BYTES_MAX: Final = 256 << 20
"""What may wait for a frame that another connection still owes."""

_packer: Final = msgpack.Packer(use_bin_type=True, buf_size=1 << 20)

Frame = tuple[int, int, bytes]
"""(kind, sequence, payload)."""


def encode(kind: int, sequence: int, payload: bytes) -> bytes:
    """Give a frame's bytes."""
    return _HEADER.pack(len(payload), kind, sequence) + payload


def pack(value: object) -> bytes:
    """Give a payload."""
    packed: bytes = _packer.pack(value)
    return packed


def unpack(payload: bytes) -> Any:
    """Read a payload; raises ProtocolViolation."""
    try:
        return msgpack.unpackb(payload, raw=False, strict_map_key=False)
    except (msgpack.UnpackException, ValueError, UnicodeDecodeError) as error:
        raise ProtocolViolation(f"a link's frame makes no sense: {error!r}") from None


@final
class FrameParser:
    """Cuts the bytes of one connection into frames."""

    __slots__ = ("_need_bytes", "_pieces", "_size_bytes", "bytes_max")

    def __init__(self, bytes_max: int = GREETING_BYTES_MAX) -> None:
        self.bytes_max = bytes_max
        self._pieces: list[bytes] = []
        self._size_bytes = 0
        self._need_bytes = HEADER_BYTES

    def feed(self, received: bytes) -> list[Frame]:
        """Take bytes and return the whole frames; raises ProtocolViolation for one that is too large."""
        self._pieces.append(received)
        self._size_bytes += len(received)
        if self._size_bytes < self._need_bytes:
            return []
        whole = received if len(self._pieces) == 1 else b"".join(self._pieces)
        frames: list[Frame] = []
        at = 0
        end = len(whole)
        need_bytes = HEADER_BYTES
        while end - at >= HEADER_BYTES:
            length, kind, sequence = _HEADER.unpack_from(whole, at)
            if length > self.bytes_max:
                raise ProtocolViolation(
                    f"a frame of {length} bytes; at most {self.bytes_max} are taken"
                )
            if end - at < HEADER_BYTES + length:
                need_bytes = HEADER_BYTES + length
                break
            start = at + HEADER_BYTES
            at = start + length
            frames.append((kind, sequence, whole[start:at]))
        self._pieces = [whole[at:]] if at < end else []
        self._size_bytes = end - at
        self._need_bytes = need_bytes
        return frames


@final
class Order:
    """Puts the frames of one direction, come by several connections, in the order they were sent in."""

    __slots__ = ("_early", "_early_bytes", "_next")

    def __init__(self, first: int = 0) -> None:
        self._next = first
        self._early: dict[int, Frame] = {}
        self._early_bytes = 0

    def take(self, frame: Frame) -> list[Frame]:
        """Take one frame and return those whose turn has come; raises ProtocolViolation."""
        sequence = frame[1]
        if sequence == self._next:
            self._next = (sequence + 1) % SEQUENCE_END
            if not self._early:
                return [frame]
            turn = [frame]
            while self._next in self._early:
                following = self._early.pop(self._next)
                self._early_bytes -= len(following[2])
                turn.append(following)
                self._next = (self._next + 1) % SEQUENCE_END
            return turn
        ahead = (sequence - self._next) % SEQUENCE_END
        if sequence in self._early or ahead > SEQUENCE_END // 2:
            raise ProtocolViolation(f"frame {sequence} came twice")
        self._early[sequence] = frame
        self._early_bytes += len(frame[2])
        if self._early_bytes > EARLY_BYTES_MAX:
            raise ProtocolViolation("too many frames wait for one that another connection owes")
        return []
