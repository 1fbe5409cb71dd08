"""What the transport puts on the wire and reads off it, without a socket: frames of runs, texts of errors, pauses.

stomp.py encodes one frame a call, with sorted headers and a write each: too slow for runs of thousands.
Tests: tests/unit/agents/test_transport.py.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Final, final

SEND_CHUNK_BYTES: Final = 256 * 1024
NO_HEADERS: Final[Mapping[str, str]] = {}


@final
class Outgoing:
    """A message to publish: a body and its headers (`content-type` and our own; `persistent` is added)."""

    __slots__ = ("body", "headers")

    def __init__(self, body: bytes, headers: Mapping[str, str] = NO_HEADERS) -> None:
        self.body = body
        self.headers = headers


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
