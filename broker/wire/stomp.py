"""STOMP 1.0, 1.1 and 1.2 frames ↔ bytes.

A frame is the tuple (command, header block, body, receipt), all bytes as they came.  The block is read lazily by
`stomp_headers.split_block`, because most frames of a connection repeat the block of the one before; the first `receipt`
is taken out of it, because that differs each time.  Invariant:
what `FrameParser` returns does not depend on how the bytes were cut.  Knows nothing of sessions and destinations.
Tests: tests/unit/broker/wire/test_stomp.py, tests/property/test_stomp_frames.py.
"""

from __future__ import annotations

import re
from io import BytesIO
from typing import Final, final

from broker.errors import ProtocolViolation
from broker.wire.stomp_headers import V12, Pairs, join_block, malformed
from broker.wire.stomp_properties import decode_properties, encode_properties

__all__ = [
    "BODIED",
    "Frame",
    "FrameLimits",
    "FrameParser",
    "decode_properties",
    "encode_frame",
    "encode_properties",
]

Frame = tuple[bytes, bytes, bytes, bytes]

BODIED: Final = frozenset({b"SEND", b"MESSAGE", b"ERROR"})
"""Commands that may have a body; on all others `content-length` is ignored (old clients echo it on ACK)."""

_BETWEEN_FRAMES: Final = re.compile(rb"[\r\n\0]+")
_RESCAN_BYTES: Final = 4096
"""Below this size an unfinished header is looked at again with every piece; above only when a line ended."""
HEADS_MAX: Final = 32
"""Heads that a parser remembers unless it is told to remember more."""
_HEAD_BYTES_MAX: Final = 512
_ACK_BYTES_MAX: Final = 256
_LARGE_BYTES: Final = 1 << 20
"""A body of so much that isn't all there is gathered apart: joined with its head and cut out, it would be held twice."""


@final
class FrameLimits:
    """What a peer may send: lengths in bytes, `headers` in lines.

    Defaults: RabbitMQ's, but for the body (16 MiB).  `header_bytes` is for the whole block.
    """

    __slots__ = ("body_bytes", "command_bytes", "header_bytes", "headers")

    def __init__(
        self,
        command_bytes: int = 32,
        headers: int = 100,
        header_bytes: int = 100 * 1024,
        body_bytes: int = 16 * 1024 * 1024,
    ) -> None:
        self.command_bytes = command_bytes
        self.headers = headers
        self.header_bytes = header_bytes
        self.body_bytes = body_bytes


@final
class _LargeBody:
    """A frame whose body is under way: it grows in place, and the NUL comes after `missing_bytes` more."""

    __slots__ = ("_body", "_frame", "body_bytes", "missing_bytes")

    def __init__(self, command: bytes, block: bytes, receipt: bytes, body_bytes: int) -> None:
        self._frame = (command, block, receipt)
        self._body = BytesIO()
        self.body_bytes = body_bytes
        self.missing_bytes = body_bytes

    def add(self, piece: memoryview) -> None:
        """Take the next bytes of the body, not more than are missing."""
        self._body.write(piece)
        self.missing_bytes -= len(piece)

    def frame(self) -> Frame:
        """Make the frame, once nothing is missing."""
        command, block, receipt = self._frame
        return (command, block, self._body.getvalue(), receipt)


@final
class FrameParser:
    """Cuts a stream of bytes into frames.

    A violation ends it: the frames before it are still returned, `violation` is set, and later bytes are ignored.
    `body_bytes_max` and `heads_max` may be raised between calls (a peer that has not logged in gets less); for that, `is_single` makes
    `feed` return at most one frame, and `feed(b"")` the next.
    """

    __slots__ = (
        "_body_at",
        "_command_bytes_max",
        "_header_bytes_max",
        "_headers_max",
        "_heads",
        "_held_bytes",
        "_large",
        "_mark",
        "_pieces",
        "_receipt",
        "_wait_bytes",
        "body_bytes_max",
        "heads_max",
        "is_single",
        "violation",
    )

    def __init__(self, limits: FrameLimits) -> None:
        self.body_bytes_max = limits.body_bytes
        self.is_single = False
        self.violation: ProtocolViolation | None = None
        self._command_bytes_max = limits.command_bytes
        self._headers_max = limits.headers
        self._header_bytes_max = limits.header_bytes
        # Clients repeat themselves: what a head (command and headers) was read as, by its bytes.
        self._heads: dict[bytes, tuple[bytes, bytes, int]] = {}
        self.heads_max = HEADS_MAX
        self._body_at = 0
        self._receipt = b""
        self._pieces: list[bytes] = []
        self._held_bytes = 0
        self._large: _LargeBody | None = None
        # A rest is looked at again once it has `_wait_bytes`, or a piece holds `_mark` (if that is not empty).
        self._wait_bytes = 0
        self._mark = b""

    def forget(self) -> None:
        """Forget what was remembered of former frames, and remember no more than usual from now on."""
        self._heads.clear()
        self.heads_max = HEADS_MAX

    def feed(self, data: bytes) -> list[Frame]:
        """Take bytes and return all frames that are whole now."""
        frames: list[Frame] = []
        if self.violation is not None:
            return frames
        if self._large is not None:
            data = self._take_large(self._large, data, frames)
            if not data:
                return frames
        pieces = self._pieces
        if pieces:
            pieces.append(data)
            self._held_bytes += len(data)
            if self._held_bytes < self._wait_bytes and not self._has_mark(data):
                return frames
            data = b"".join(pieces)
            pieces.clear()
        try:
            pos = self._scan(data, frames)
        except ProtocolViolation as violation:
            self.violation = violation
            return frames
        if pos < len(data):
            pieces.append(data[pos:] if pos else data)
            self._held_bytes = len(data) - pos
        return frames

    def _take_large(self, large: _LargeBody, data: bytes, frames: list[Frame]) -> bytes:
        """Take what belongs to the body under way, and return what comes after its frame."""
        missing_bytes = large.missing_bytes
        if len(data) <= missing_bytes:
            large.add(memoryview(data))
            return b""
        self._large = None
        if data[missing_bytes]:
            self.violation = _no_nul(large.body_bytes)
            return b""
        large.add(memoryview(data)[:missing_bytes])
        frames.append(large.frame())
        return data[missing_bytes + 1 :]

    def _has_mark(self, piece: bytes) -> bool:
        mark = self._mark
        if not mark:
            return False
        return mark in piece or b"\0" in piece

    def _scan(self, data: bytes, frames: list[Frame]) -> int:
        """Append the whole frames; return where the rest begins.  Raises ProtocolViolation."""
        pos = 0
        end = len(data)
        find = data.find
        startswith = data.startswith
        heads = self._heads
        has_cr = b"\r" in data
        while pos < end:
            if self.is_single and frames:
                self._wait(0, b"")
                return pos
            if data[pos] < 14:
                gap = _BETWEEN_FRAMES.match(data, pos)
                if gap is not None:
                    pos = gap.end()
                    continue
            head_end = find(b"\n\n", pos)
            if not has_cr and startswith(b"ACK\n", pos) and find(b"\0", pos, end) == head_end + 2:
                # Every ACK names another message: its head is not worth looking up or remembering.
                block = data[pos + 4 : head_end + 1]
                if len(block) <= _ACK_BYTES_MAX and b"receipt:" not in block:
                    frames.append((b"ACK", block, b"", b""))
                    pos = head_end + 3
                    continue
            head = heads.get(data[pos:head_end]) if head_end >= 0 else None
            if head is None:
                if head_end >= 0 and not has_cr:
                    head = self._known_but_for_receipt(data, pos, head_end)
                if head is None:
                    head = self._read_head(data, pos, end, head_end, has_cr)
                if head is None:
                    return pos
                body_at = self._body_at
                receipt = self._receipt
            else:
                body_at = head_end + 2
                receipt = b""
            command, block, length = head
            if length >= 0:
                stop = body_at + length
                if stop >= end:
                    if length < _LARGE_BYTES:
                        self._wait(stop + 1 - pos, b"")
                        return pos
                    self._large = _LargeBody(command, block, receipt, length)
                    self._large.add(memoryview(data)[body_at:])
                    return end
                if data[stop]:
                    raise _no_nul(length)
                frames.append((command, block, data[body_at:stop], receipt))
            else:
                stop = find(b"\0", body_at)
                if (stop if stop >= 0 else end) - body_at > self.body_bytes_max:
                    raise self._too_large()
                if stop < 0:
                    self._wait(body_at - pos + self.body_bytes_max + 1, b"\0")
                    return pos
                body = data[body_at:stop]
                if body and command not in BODIED:
                    if not body.isspace():
                        raise malformed("Only SEND may have a body")
                    body = b""
                frames.append((command, block, body, receipt))
            pos = stop + 1
        return pos

    def _read_head(
        self, data: bytes, pos: int, end: int, head_end: int, has_cr: bool
    ) -> tuple[bytes, bytes, int] | None:
        """Read command, block and content-length (-1: none) at `pos`; None while they are unfinished.

        `head_end` is where the first two LF in a row were found.  Sets `_body_at` and `_receipt`.  Raises ProtocolViolation.
        """
        find = data.find
        line_end = find(b"\n", pos)
        if line_end < 0:
            self._check_unfinished(data, pos, end)
            return None
        body_at = head_end + 2
        command = data[pos:line_end]
        if has_cr:
            if command.endswith(b"\r"):
                command = command[:-1]
            crlf_end = find(b"\n\r\n", line_end, head_end if head_end >= 0 else end)
            if crlf_end >= 0:
                head_end = crlf_end
                body_at = crlf_end + 3
        if len(command) > self._command_bytes_max:
            raise malformed(f"Command is longer than {self._command_bytes_max} bytes")
        if head_end < 0:
            self._check_unfinished(data, pos, line_end)
            return None
        block = data[line_end + 1 : head_end + 1]
        self._check_block(command, block)
        length = -1
        if command in BODIED:
            at = find(b"\ncontent-length:", line_end, head_end)
            if at >= 0:
                length = self._content_length(data[at + 16 : find(b"\n", at + 16)])
        self._body_at = body_at
        block, self._receipt = _cut_receipt(block)
        head = (command, block, length)
        if len(block) <= _HEAD_BYTES_MAX and block.count(b"\n") < self._headers_max:
            if len(self._heads) >= self.heads_max:
                self._heads.clear()
            if b"\r" not in block:
                self._heads[(command + b"\n" + block)[:-1]] = head
        return head

    def _known_but_for_receipt(
        self, data: bytes, pos: int, head_end: int
    ) -> tuple[bytes, bytes, int] | None:
        """The head at `pos` if it was seen before with another receipt."""
        if head_end - pos > _HEAD_BYTES_MAX:
            return None
        before, mark, rest = data[pos:head_end].partition(b"\nreceipt:")
        if not mark:
            return None
        receipt, line_end, rest = rest.partition(b"\n")
        head = self._heads.get(before + line_end + rest)
        if head is None or b"\0" in receipt:
            return None
        self._receipt = receipt
        self._body_at = head_end + 2
        return head

    def _wait(self, wait_bytes: int, mark: bytes) -> None:
        self._wait_bytes = wait_bytes
        self._mark = mark

    def _check_unfinished(self, data: bytes, pos: int, line_end: int) -> None:
        """Check what is there of a command line and headers, and say when to look again."""
        if b"\0" in data[pos:]:
            raise malformed("Frame ends before the empty line that ends its headers")
        if line_end == len(data):
            # CR may still turn out to belong to the line's end.
            if line_end - pos > self._command_bytes_max + 1:
                raise malformed(f"Command is longer than {self._command_bytes_max} bytes")
        elif len(data) - line_end - 1 > self._header_bytes_max + 1:
            raise malformed(f"Headers are longer than {self._header_bytes_max} bytes")
        elif data.count(b"\n", line_end + 1) > self._headers_max:
            raise malformed(f"More than {self._headers_max} headers")
        if len(data) - pos < _RESCAN_BYTES:
            self._wait(0, b"")
        else:
            self._wait(line_end - pos + self._header_bytes_max, b"\n")

    def _check_block(self, command: bytes, block: bytes) -> None:
        """Raise ProtocolViolation unless the block keeps to the limits and there is no NUL."""
        if b"\0" in block or b"\0" in command:
            raise malformed("Frame ends before the empty line that ends its headers")
        if len(block) > self._header_bytes_max:
            raise malformed(f"Headers are longer than {self._header_bytes_max} bytes")
        if block.count(b"\n") > self._headers_max:
            raise malformed(f"More than {self._headers_max} headers")

    def _content_length(self, text: bytes) -> int:
        text = text.strip()
        if not text.isdigit():
            shown = text[:40].decode("utf-8", "replace")
            raise malformed(f"Content-length '{shown}' is not a number")
        if len(text) > 15 or int(text) > self.body_bytes_max:
            raise self._too_large()
        return int(text)

    def _too_large(self) -> ProtocolViolation:
        return malformed(f"Body is longer than {self.body_bytes_max} bytes")


def _no_nul(length: int) -> ProtocolViolation:
    return malformed(f"No NUL after the {length} bytes that content-length told")


def _cut_receipt(block: bytes) -> tuple[bytes, bytes]:
    """Part a block from its first receipt line: (the rest, the value as it came, or empty)."""
    if block.startswith(b"receipt:"):
        at = 0
    else:
        at = block.find(b"\nreceipt:") + 1
        if not at:
            return block, b""
    line_end = block.find(b"\n", at)
    value = block[at + 8 : line_end]
    if value.endswith(b"\r"):
        value = value[:-1]
    return block[:at] + block[line_end + 1 :], value


def encode_frame(command: bytes, pairs: Pairs, body: bytes = b"", version: int = V12) -> bytes:
    """Write one frame, with `content-length` if it has a body; CONNECT and CONNECTED are never escaped."""
    is_plain = command in (b"CONNECT", b"CONNECTED")
    if is_plain:
        block = b"".join([b"%b:%b\n" % pair for pair in pairs])
    else:
        block = join_block(pairs, version)
    if body:
        return b"%b\n%bcontent-length:%d\n\n%b\0" % (command, block, len(body), body)
    return b"%b\n%b\n\0" % (command, block)
