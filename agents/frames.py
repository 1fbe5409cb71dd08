"""What the transport puts on the wire and reads off it, without a socket: frames of runs, texts of errors, pauses.

stomp.py encodes one frame a call, with sorted headers and a write each, and reads each header of a frame with four
regular expressions: too slow for runs of thousands.
Tests: tests/unit/agents/test_transport.py, tests/unit/agents/test_frames.py.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, final

from broker.wire.stomp import FrameLimits, FrameParser

SEND_CHUNK_BYTES: Final = 256 * 1024
NO_HEADERS: Final[Mapping[str, str]] = {}
BODY_BYTES_MAX: Final = 256 * 1024 * 1024
"""Twice the largest message that a broker of ours can be set to take."""
_RUN_COMMANDS: Final = frozenset({b"MESSAGE", b"RECEIPT"})
_ESCAPE: Final = re.compile(r"\\.")
_ESCAPES: Final = {"\\r": "\r", "\\n": "\n", "\\c": ":", "\\\\": "\\"}


@final
class Outgoing:
    """A message to publish: a body and its headers (`content-type` and our own; `persistent` is added)."""

    __slots__ = ("body", "headers")

    def __init__(self, body: bytes, headers: Mapping[str, str] = NO_HEADERS) -> None:
        self.body = body
        self.headers = headers


class Received(NamedTuple):
    """A frame of the kinds that come in runs: MESSAGE, or RECEIPT."""

    is_message: bool
    headers: dict[str, str]
    body: bytes


@final
class RunReader:
    """Takes the frames that come in runs out of what is received; the rest is for the client library.

    Bodies are bounded by `BODY_BYTES_MAX`, heads by the defaults of `FrameLimits` (the broker's own).
    """

    def __init__(self) -> None:
        self._parser = FrameParser(FrameLimits(body_bytes=BODY_BYTES_MAX))

    def feed(self, received: bytes) -> tuple[list[Received], bytes]:
        """Return the whole frames of runs and the bytes of all others; the latter is one LF, a sign of life, if none.

        Raises ProtocolViolation when these are no frames or they are too large; after it the stream is of no use.
        """
        runs: list[Received] = []
        others: list[bytes] = []
        for command, block, body, receipt in self._parser.feed(received):
            if command in _RUN_COMMANDS:
                runs.append(Received(command == b"MESSAGE", read_headers(block), body))
            else:
                again = b"receipt:%b\n" % receipt if receipt else b""
                others.append(b"%b\n%b%b\n%b\0" % (command, block, again, body))
        if self._parser.violation is not None:
            raise self._parser.violation
        return runs, b"".join(others) or b"\n"


def read_headers(block: bytes) -> dict[str, str]:
    """Return the headers of a STOMP 1.2 frame; of those of one name the first counts, as the specification has it."""
    lines = block.decode("utf-8", "replace").split("\n")
    lines.reverse()
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            continue
        value = value.removesuffix("\r")
        if "\\" in line:
            name, value = _unescaped(name), _unescaped(value)
        headers[name] = value
    return headers


def _unescaped(text: str) -> str:
    # Unknown escapes stay as they are: a broker of another make is not to be cut off for its headers.
    return _ESCAPE.sub(lambda match: _ESCAPES.get(match[0], match[0]), text)


def jittered(previous_seconds: float, min_seconds: float, max_seconds: float) -> float:
    """Return the next pause by decorrelated jitter: between the minimum and three times the last, bounded."""
    upper = max(min_seconds, previous_seconds * 3.0)
    return min(max_seconds, random.uniform(min_seconds, upper))  # noqa: S311


def error_text(headers: Mapping[str, str], body: bytes) -> str:
    """Return an ERROR frame as one line of at most 500 characters."""
    detail = body.decode("utf-8", "replace").strip()
    message = headers.get("message", "").strip()
    text = f"{message}: {detail}" if message and detail and detail != message else message or detail
    return " ".join((text or "ERROR without a text").split())[:500]


def encode_sends(
    destination: str, messages: Sequence[Outgoing], receipts: Sequence[str]
) -> list[bytes]:
    """Return SEND frames (STOMP 1.2), persistent, each with its receipt, joined to chunks for the socket."""
    head = b"SEND\ndestination:" + escaped(destination) + b"\npersistent:true\n"
    chunks: list[bytes] = []
    pieces: list[bytes] = []
    waiting_bytes = 0
    last_headers: Mapping[str, str] | None = None
    middle = b""
    for message, receipt in zip(messages, receipts, strict=True):
        if message.headers is not last_headers:
            last_headers = message.headers
            middle = b"".join(
                escaped(name) + b":" + escaped(value) + b"\n"
                for name, value in last_headers.items()
            )
        tail = f"receipt:{receipt}\ncontent-length:{len(message.body)}\n\n".encode()
        pieces += (head, middle, tail, message.body, b"\x00")
        waiting_bytes += len(message.body) + 200
        if waiting_bytes >= SEND_CHUNK_BYTES:
            chunks.append(b"".join(pieces))
            pieces = []
            waiting_bytes = 0
    if pieces:
        chunks.append(b"".join(pieces))
    return chunks


def escaped(text: str) -> bytes:
    """Return a header name or value in STOMP 1.2 escapes."""
    if "\\" in text or "\n" in text or ":" in text or "\r" in text:
        text = text.replace("\\", "\\\\").replace("\r", "\\r").replace("\n", "\\n")
        text = text.replace(":", "\\c")
    return text.encode()
