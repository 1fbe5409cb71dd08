"""From the names of a request to what is sent to, over STOMP.

A destination is an exchange where one of that name exists, else a bare name of the address table
(its leading slash may be missing).  STOMP cannot ask whether an exchange exists, so the names are
tried in turn: a message to a missing exchange reaches nobody, and the broker says so.

Invariants: a name from a request never becomes more than one part of a destination (slashes in it
are percent-encoded, except in names that already say their type).
Tests: tests/unit/agents/test_replay_destination.py
"""

from __future__ import annotations

import fnmatch
import re
from typing import Final

from agents.errors import AgentError
from agents.replays.request import ControlChannel

TYPED_PREFIXES: Final = ("/queue/", "/exchange/", "/topic/", "/amq/queue/")
_NO_SUCH_NAME: Final = re.compile(
    r"no exchange|not[_ ]found|no such (exchange|destination)|unknown destination", re.IGNORECASE
)
_NOBODY_THERE: Final = re.compile(
    r"unroutable|no_route|reache[sd] no queue|no queue|access[_ ]refused|may not|not allowed|denied",
    re.IGNORECASE,
)


def addresses_of(destination: str, routing_key: str) -> list[str]:
    """Give the STOMP destinations that a request's names may mean, in the order to try."""
    if destination.startswith(TYPED_PREFIXES):
        parts = destination.count("/")
        if destination.startswith("/exchange/") and parts == 2 and routing_key:
            return [f"{destination}/{_part(routing_key)}"]
        return [destination]
    name = destination.lstrip("/")
    return [exchange_address(name, routing_key), f"/{name}"]


def exchange_address(exchange: str, key: str) -> str:
    """Give the STOMP destination of an exchange and a key; no exchange means a queue's name."""
    if not exchange:
        return f"/queue/{_part(key)}"
    return f"/exchange/{_part(exchange)}/{_part(key)}" if key else f"/exchange/{_part(exchange)}"


def control_address(control: ControlChannel) -> str:
    """Give the STOMP destination of a control channel."""
    return exchange_address(control.exchange, control.key)


def is_allowed(destination: str, patterns: tuple[str, ...]) -> bool:
    """Tell whether a request may name this destination; the slash in front does not matter."""
    name = destination.lstrip("/")
    return any(fnmatch.fnmatchcase(name, pattern.lstrip("/")) for pattern in patterns)


def says_no_such_name(error: AgentError) -> bool:
    """Tell whether the broker's text means that the name is not there."""
    return _NO_SUCH_NAME.search(error.text) is not None


def says_nobody_there(error: AgentError) -> bool:
    """Tell whether the broker's text is about the destination, not about one message."""
    return _NOBODY_THERE.search(error.text) is not None


def _part(name: str) -> str:
    return name.replace("%", "%25").replace("/", "%2F")
