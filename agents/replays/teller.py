"""The control channel of one request, as the agent speaks on it.

Invariants: a sender who went away (its exchange is gone) is found out once and then left alone, as
each message to a missing exchange costs a connection; no replay stops for want of a listener.
Tests: tests/unit/agents/test_replay_teller.py
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final, Protocol, final

from agents.errors import Refused, Unavailable
from agents.replays.control import PROGRESS, ControlMessage
from agents.replays.destination import control_address, says_no_such_name, says_nobody_there
from agents.replays.request import ControlChannel
from agents.transport import Outgoing

log = logging.getLogger(__name__)

TELL_TIMEOUT_SECONDS: Final = 10.0
PROGRESS_TIMEOUT_SECONDS: Final = 2.0
DOUBTS_MAX: Final = 3
CONTROL_HEADERS: Final = {"content-type": "application/json"}


class _Publisher(Protocol):
    def publish(self, destination: str, messages: Sequence[Outgoing], timeout_s: float) -> None: ...


@final
class ControlTeller:
    """Tells one sender; without a control channel it only writes the log."""

    def __init__(self, publisher: _Publisher, control: ControlChannel | None) -> None:
        self._publisher = publisher
        self._address = None if control is None else control_address(control)
        self._doubt_count = 0

    def tell(self, message: ControlMessage) -> None:
        """Send one control message; Unavailable when the broker cannot be reached now."""
        if message.stage != PROGRESS:
            log.info("replay %s: %s", message.request_id, message.encode().decode())
        if self._address is None:
            return
        timeout_s = PROGRESS_TIMEOUT_SECONDS if message.stage == PROGRESS else TELL_TIMEOUT_SECONDS
        try:
            outgoing = Outgoing(message.encode(), CONTROL_HEADERS)
            self._publisher.publish(self._address, [outgoing], timeout_s)
            self._doubt_count = 0
        except (Refused, Unavailable) as error:
            if isinstance(error, Unavailable):
                # RabbitMQ's texts come without a receipt; but a connection that was just lost
                # repeats its last text, which may be about another sender: believe it when repeated.
                if says_no_such_name(error) or says_nobody_there(error):
                    self._doubt_count += 1
                if self._doubt_count < DOUBTS_MAX:
                    raise
            log.warning(
                "replay %s: nobody listens on %s any more: %s",
                message.request_id,
                self._address,
                error,
            )
            self._address = None
