"""CONNECT: version, login, host and heart-beats, as asked for and as agreed.  Also the limits of a session.

CONNECT and CONNECTED are never escaped (STOMP 1.2, "Value Encoding").
Tests: tests/unit/broker/session/test_stomp_connect.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

from broker.session.dn import DN
from broker.session.sasl import CertificateLogin, Credentials, PasswordLogin
from broker.session.stomp_errors import VERSIONS, StompError
from broker.session.stomp_profile import STRICT, Profile
from broker.session.stomp_send import read_headers
from broker.wire.stomp import FrameLimits, encode_frame
from broker.wire.stomp_headers import V10, V12, VERSION_TEXTS, split_block

if TYPE_CHECKING:
    from broker.core.broker import Broker
    from broker.core.vhost import Vhost
    from broker.session.auth import Identity

SERVER: Final = b"gridmsg"


@dataclass(frozen=True, slots=True)
class StompLimits:
    """What a STOMP peer may do; every excess is an ERROR frame, then the connection is closed.

    Frames: as `FrameLimits`; before login bodies are bounded by `login_body_bytes_max`, and login must come within
    `login_seconds`.  Heart-beats are never agreed shorter than `heart_beat_ms_min`; a peer counts as dead after
    `heart_beat_tolerance` times the agreed time.  A client's prefetch of 0 means `prefetch_max`, none means
    `prefetch_default`: what is in a client's hands is kept in memory.
    """

    command_bytes_max: int = 32
    headers_max: int = 100
    header_bytes_max: int = 100 * 1024
    body_bytes_max: int = 16 * 1024 * 1024
    login_body_bytes_max: int = 64 * 1024
    login_seconds: float = 10.0
    heart_beat_ms_min: int = 100
    heart_beat_tolerance: float = 2.0
    subscriptions_max: int = 10_000
    transactions_max: int = 16
    transaction_frames_max: int = 1024
    transaction_bytes_max: int = 64 * 1024 * 1024
    prefetch_default: int = 10_000
    prefetch_max: int = 65_535
    receipts_waiting_max: int = 1_000_000
    profile: Profile = STRICT

    def frames(self) -> FrameLimits:
        """The parser's share, for a peer that has logged in."""
        return FrameLimits(
            self.command_bytes_max, self.headers_max, self.header_bytes_max, self.body_bytes_max
        )


@final
class ConnectRequest:
    """A CONNECT frame; heart-beats in milliseconds: what the client will send, and what it wants to get."""

    __slots__ = ("client_id", "host", "login", "passcode", "receives_ms", "sends_ms", "version")

    def __init__(self, block: bytes) -> None:
        """Read the frame's block; raises StompError, ProtocolViolation."""
        headers = read_headers(split_block(block, V12, has_escapes=False))
        self.version = _version(headers.get("accept-version"))
        if self.version == V10:
            headers = {name: value.lstrip() for name, value in headers.items()}
        self.login = headers.get("login", "")
        self.passcode = headers.get("passcode", "")
        self.host = headers.get("host", "")
        self.client_id = headers.get("client-id", "")
        self.sends_ms, self.receives_ms = _heart_beat(headers.get("heart-beat", "0,0"))

    def credentials(self, certificate: DN | None) -> Credentials:
        """What the peer logs in with: what it says, else its certificate, else as guest."""
        if self.login or self.passcode:
            return PasswordLogin(self.login, self.passcode)
        if certificate is not None:
            return CertificateLogin(certificate)
        return PasswordLogin("guest", "guest")

    def find_vhost(self, broker: Broker, identity: Identity, profile: Profile) -> Vhost:
        """Where the client is let in; raises StompError."""
        if profile.checks_host and self.host and self.host not in broker.vhosts:
            raise StompError("Bad CONNECT", f"Virtual host '{self.host[:200]}' access denied")
        # Many clients send the address they dialled as `host`: what names no vhost means the default one.
        vhost = broker.vhosts.get(self.host) or broker.vhost(broker.default_vhost)
        if not identity.may_enter(vhost.name):
            raise StompError("Bad CONNECT", f"Virtual host '{vhost.name}' access denied")
        return vhost

    def agree(self, least_ms: int) -> tuple[int, int]:
        """The heart-beats of the broker and of the client, in milliseconds, 0 for none; never shorter than `least_ms`."""
        least_ms = max(1, least_ms)
        return agree(least_ms, self.receives_ms), agree(least_ms, self.sends_ms)

    def answer(self, token: bytes, send_ms: int, receive_ms: int) -> bytes:
        """The CONNECTED frame."""
        return encode_frame(
            b"CONNECTED",
            [
                (b"version", VERSION_TEXTS[self.version].encode()),
                (b"session", b"session-" + token),
                (b"heart-beat", b"%d,%d" % (send_ms, receive_ms)),
                (b"server", SERVER),
            ],
        )


def agree(ours_ms: int, theirs_ms: int) -> int:
    """The interval of one direction in milliseconds; 0 if either side does without."""
    return max(ours_ms, theirs_ms) if ours_ms and theirs_ms else 0


def _version(accepted: str | None) -> int:
    if accepted is None:
        return V10
    asked = {one.strip() for one in accepted.split(",")}
    for version in sorted(VERSION_TEXTS, reverse=True):
        if VERSION_TEXTS[version] in asked:
            return version
    raise StompError("Version mismatch", f"Supported versions are {VERSIONS}\n")


def _heart_beat(text: str) -> tuple[int, int]:
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 2 or not all(
        part.isascii() and part.isdigit() and len(part) <= 10 for part in parts
    ):
        raise StompError(
            "Bad CONNECT", f"Invalid heart-beat '{text[:100]}', allowed is cx,cy in ms\n"
        )
    return int(parts[0]), int(parts[1])
