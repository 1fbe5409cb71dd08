"""What one end of a link is, whatever the far side speaks: who is there, its streams, how it goes, and how it ends.

`LinkSession` (between two of ours) and `ForeignSession` (other brokers) add the protocol.
Tests: tests/unit/broker/link/test_session.py, tests/property/test_link_network.py, tests/interop/test_foreign_links.py.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from broker.errors import BrokerError
from broker.link.tally import Tally

if TYPE_CHECKING:
    from broker.clock import Clock
    from broker.core.broker import Broker
    from broker.link.outflow import Outflow
    from broker.link.ports import DN, Wake
    from broker.link.table import LinkTable

log = logging.getLogger(__name__)

SILENCE_FACTOR: Final = 2.5
"""A peer that was silent for so many heart-beats is gone."""
TEXT_MAX: Final = 500

Received = TypeVar("Received", bound=Tally)
"""The receiving end of a stream."""


class LinkEnd(ABC, Generic[Received]):
    """One end of one connection of a link; the rest of `session.base.Session` is the protocol's."""

    is_dialer: bool
    is_in_clear = False
    """It was dialed without TLS."""
    nonsense = "a frame that makes no sense"
    """What is said of bytes that cannot be read."""

    def __init__(
        self,
        table: LinkTable,
        clock: Clock,
        wake: Wake,
        name: str,
        window_bytes: int,
        peer: str,
        on_ended: Callable[[str], None] | None,
    ) -> None:
        self.table = table
        self.broker: Broker = table.broker
        self.clock = clock
        self.name = name
        self.window_bytes = window_bytes
        self.peer = peer
        self.peer_id = b""
        self.peer_name = ""
        self.is_closing = False
        self.is_up = False
        self.certificate: DN | None = None
        self.far_reason = ""
        self.last_error = ""
        self.refused_at = 0.0
        self.up_at_ms = 0
        self.round_trip_ms: float | None = None
        self.received_bytes = 0
        self.sent_bytes = 0
        self.sent_rate = 0.0
        self.received_rate = 0.0
        self.outflows: dict[int, Outflow] = {}
        self.inflows: dict[int, Received] = {}
        self._rates_at = (0.0, 0, 0)
        self._wake = wake
        self._on_ended = on_ended
        self._is_writable = True
        self._began_at = clock.now()
        self._heard_at = self._began_at

    @abstractmethod
    def _end_flows(self) -> None:
        """Let go of all streams: what was not settled goes back, or stays in doubt."""

    def wake_up(self) -> None:
        """Have this end's turn ended: it has promises or output."""
        self._wake(self)

    @property
    def peer_closes_first(self) -> bool:
        """Either end may close."""
        return False

    def say(self, text: str) -> None:
        """Note something that went wrong, for status and log."""
        self.last_error = text[:TEXT_MAX]
        log.warning("link %s: %s", self.name, text)

    def note_rates(self, now: float) -> None:
        """Messages a second since the last call, for status."""
        sent = sum(one.sent_count for one in self.outflows.values())
        received = sum(one.applied_count for one in self.inflows.values())
        at, sent_before, received_before = self._rates_at
        if now > at > 0:
            self.sent_rate = (sent - sent_before) / (now - at)
            self.received_rate = (received - received_before) / (now - at)
        self._rates_at = (now, sent, received)

    def set_far_reason(self, reason: str) -> None:
        """The far side says that publishers must wait, or with an empty text need not any more."""
        self.far_reason = reason
        for outflow in self.outflows.values():
            outflow.look_at_window()

    def stream_ended(self, number: int, text: str) -> None:
        """One stream cannot go on; the others do.  The whole link is begun anew after a while."""
        self.say(text)
        self.refused_at = self.refused_at or self.clock.now()
        for flow in (self.outflows.get(number), self.inflows.get(number)):
            if flow is not None:
                flow.refusal = text

    # Ending

    def attempt(self, take: Callable[[bytes], None], received: bytes) -> None:
        """Have bytes taken; the connection ends for what the far side must not say, or what makes no sense."""
        try:
            take(received)
        except BrokerError as error:
            self.fail(error.text)
        except (TypeError, ValueError, KeyError, IndexError) as error:
            self.fail(f"{self.nonsense}: {error!r}")

    def fail(self, text: str, *, is_told: bool = True) -> None:
        """End the connection for a reason, which the far side is told where its protocol has words for it."""
        if self.is_closing:
            return
        if self._on_ended is None:
            self.say(text)
        else:
            # Who dialed is told, and logs it with what is done about it.
            self.last_error = text[:TEXT_MAX]
        self.is_closing = True
        self.wake_up()

    def replaced(self) -> None:
        """The same link came up anew: this connection was dead without anybody's knowing."""
        self.is_closing = True
        self._end_flows()
        self.wake_up()

    def connection_lost(self, reason: str) -> None:
        """The socket is gone: what was not settled goes back, or stays in doubt."""
        self.is_closing = True
        if not self.last_error:
            self.last_error = reason[:TEXT_MAX]
            if self.is_in_clear and not self.received_bytes:
                self.last_error += " It said nothing before: does it speak TLS there (tls = true)?"
        self._end_flows()
        self.table.leave(self)
        if self._on_ended is not None:
            ended, self._on_ended = self._on_ended, None
            ended(self.last_error)
