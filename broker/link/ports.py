"""What links ask of the rooms beside and above them, as protocols: rooms of one rank do not see each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from broker.core.broker import Broker


class Identity(Protocol):
    """A user who has logged in (session.auth)."""

    name: str

    @property
    def is_valid(self) -> bool: ...

    @property
    def tags(self) -> tuple[str, ...]: ...

    def may_enter(self, vhost: str) -> bool: ...

    def check(
        self,
        vhost: str,
        operation: Literal["configure", "write", "read"],
        kind: Literal["queue", "exchange"],
        name: str,
    ) -> None: ...


class Login(Protocol):
    """An attempt to log in, settled now or later."""

    is_settled: bool
    on_settled: Callable[[], None] | None

    def identity(self) -> Identity: ...


DN = tuple[tuple[tuple[str, str], ...], ...]
"""The subject of a certificate (session.dn)."""
Authenticate = Callable[[str, str, DN | None], Login]
"""From user, password and certificate subject; user empty: the certificate counts."""
Wake = Callable[[Any], None]
"""Has a session's turn ended (session.base)."""


class Sender(Protocol):
    """The session of an outflow, as it needs it."""

    name: str
    window_bytes: int
    far_reason: str

    @property
    def broker(self) -> Broker: ...

    def send(self, kind: int, value: object) -> None: ...
    def say(self, text: str) -> None: ...
    def wake_up(self) -> None: ...
    def stream_ended(self, number: int, text: str) -> None: ...


class BatchSource(Protocol):
    """An outflow, as it is sent."""

    def next_batch(self) -> bytes | None: ...


LINK_TAGS = ("link", "administrator")
"""Who may open a link: what they say of origins is believed."""
