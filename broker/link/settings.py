"""What a link is told: the streams it carries, and its limits.  Made by `broker.config` of `[[link]]`.

Tests: tests/unit/broker/test_link_config.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, final

StreamKind = Literal["exchange", "queue"]


@final
@dataclass(frozen=True, slots=True)
class Stream:
    """One flow of messages: from an exchange or queue of the sending broker to one of the receiving broker.

    `is_push`: who dials sends.  `vhost` is the near one (of who dials), `far_vhost` the other.
    """

    kind: StreamKind
    is_push: bool
    source: str
    target: str
    vhost: str = "/"
    far_vhost: str = "/"

    @property
    def given(self) -> tuple[str, bool, str, str]:
        """What is sent, wherever it goes: two streams with the same share their queue at the sending side."""
        return self.kind, self.is_push, self.vhost if self.is_push else self.far_vhost, self.source

    @property
    def name(self) -> str:
        """How status and logs name it."""
        arrow = "push" if self.is_push else "pull"
        to = "" if self.source == self.target else f" to {self.target}"
        return f"{arrow} {self.kind} {self.source}{to}"


@final
@dataclass(frozen=True, slots=True)
class LinkTls:
    """How a link secures its connections; paths of PEM files.  Empty: the system's authorities, no own certificate."""

    ca: str = ""
    certificate: str = ""
    key: str = ""
    server_name: str = ""


@final
@dataclass(frozen=True, slots=True)
class LinkSettings:
    """One link, as who dials knows it."""

    name: str
    addresses: tuple[tuple[str, int], ...]
    streams: tuple[Stream, ...]
    protocol: Literal["gridmsg", "amqp", "stomp"] = "gridmsg"
    user: str = ""
    password: str = field(default="", repr=False)
    tls: LinkTls | None = None
    window_bytes: int = 64 << 20
    hops_max: int = 16
    buffer_bytes: int = 8 << 30
    connections: int = 0
    compression: Literal["none", "auto", "always"] = "none"
    rate_bytes: int = 0
    heartbeat_seconds: float = 5.0
    is_on_demand: bool = False
    retry_seconds: float = 1.0
    retry_seconds_max: float = 60.0
    origin: Literal["configuration", "store"] = "configuration"
