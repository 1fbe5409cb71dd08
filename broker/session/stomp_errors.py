"""What a STOMP session refuses: the `message` header and body of its ERROR frames.

The texts are RabbitMQ's where it has one (design: protocols.md 3.1).  Tests: tests/conformance/stomp*.json.
"""

from __future__ import annotations

from typing import Final

from broker.errors import BrokerError, ProtocolViolation
from broker.wire.stomp import encode_frame
from broker.wire.stomp_headers import VERSION_TEXTS, Pairs

VERSIONS: Final = ",".join(VERSION_TEXTS.values())


class StompError(Exception):
    """A refusal with the texts of its ERROR frame; `headers` are added to it."""

    def __init__(self, message: str, body: str, headers: Pairs | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.body = body
        self.headers = headers or []


def missing_header(command: str, name: str) -> StompError:
    """Make the error for a frame without a header it must have."""
    if name == "destination":
        return StompError("Missing destination", f"\"{command}\" must include a '{name}' header\n")
    return StompError("Missing header", f"\"{command}\" must include a '{name}' header\n")


def bad_command(command: str) -> StompError:
    """Make the error for a frame that this version of STOMP does not have."""
    return StompError("Bad command", f'Could not interpret command "{command}"\n')


def invalid_header(name: str, value: str, allowed: str) -> StompError:
    """Make the error for a header whose value makes no sense."""
    return StompError("Invalid header", f"'{name}' is '{value[:200]}', allowed is {allowed}\n")


def error_of(error: BrokerError) -> StompError:
    """Translate what the core (or the parser) refused."""
    if isinstance(error, ProtocolViolation):
        return StompError("Malformed frame", error.text + "\n")
    return StompError(error.name.lower(), f"{error.name} - {error.text}")


def encode_error(error: StompError, receipt: bytes, version: int) -> bytes:
    """Write the ERROR frame; `receipt` is that of the frame at fault, without escapes, or empty."""
    pairs: Pairs = [
        (b"message", error.message.encode("utf-8", "replace")),
        (b"content-type", b"text/plain"),
        (b"version", VERSIONS.encode()),
    ]
    if receipt:
        pairs.append((b"receipt-id", receipt))
    pairs.extend(error.headers)
    return encode_frame(b"ERROR", pairs, error.body.encode("utf-8", "replace"), version)
