"""The links of a broker by the management API.

Rows are those of `[[link]]`, keys spelled as there; passwords are taken and never shown.  Tests: tests/interop/test_links.py.
"""

from __future__ import annotations

from typing import Any, Protocol

from broker.errors import NotFound
from broker.management.call import MADE, BadCall, Call, Made


class LinkRegister(Protocol):
    """The part of `net.links` that the API needs."""

    def describe(self) -> list[dict[str, Any]]:
        """All links with their state."""
        ...

    def row(self, name: str) -> dict[str, Any] | None:
        """How a link is configured, without its password."""
        ...

    def put(self, name: str, row: dict[str, Any]) -> bool:
        """Add or replace a link; True if it is new.  Raises BrokerError."""
        ...

    def delete(self, name: str) -> dict[str, int]:
        """Take a link away; returns the messages that stay in its buffers, by queue.  Raises BrokerError."""
        ...

    def reload(self) -> dict[str, Any]:
        """Follow the `[[link]]` rows of the configuration file as they are now.  Raises BrokerError."""
        ...


def _register(call: Call) -> LinkRegister:
    if call.links is None:
        raise NotFound("this broker has no links")
    return call.links


def links(call: Call) -> Any:
    """All links with their state."""
    call.administrator()
    return [_filled(one) for one in _register(call).describe()]


def link(call: Call) -> Any:
    """One dialed link: its configuration and its state."""
    call.administrator()
    register = _register(call)
    row = register.row(call.path[0])
    if row is None:
        raise NotFound(f"no link '{call.path[0]}' is dialed from here")
    state = next(
        one
        for one in register.describe()
        if one["link"] == call.path[0] and one["direction"] == "dialed"
    )
    return {**_filled(state), "configuration": row}


def put_link(call: Call) -> Made | None:
    """Add or replace a link; it is dialed at once."""
    call.administrator()
    row = dict(call.body)
    if row.setdefault("name", call.path[0]) != call.path[0]:
        raise BadCall("'name': not the one in the address")
    return MADE if _register(call).put(call.path[0], row) else None


def delete_link(call: Call) -> Any:
    """Take a link away; what its buffers here hold stays in them."""
    call.administrator()
    return {"kept": _register(call).delete(call.path[0])}


def reload_links(call: Call) -> Any:
    """POST /api/links: follow the configuration file as it is now."""
    call.administrator()
    return _register(call).reload()


def _filled(row: dict[str, Any]) -> dict[str, Any]:
    """A row with the sums that lists show."""
    sent = [one for one in row["streams"] if one["sends"]]
    received = [one for one in row["streams"] if not one["sends"]]
    return {
        **row,
        "lag_ms": max([one["lag_ms"] for one in sent], default=0),
        "in_flight": sum(one["in_flight"] for one in sent),
        "backlog": sum(one["backlog"] for one in sent),
        "sent": sum(one["messages"] for one in sent),
        "received": sum(one["messages"] for one in received),
        "duplicates": sum(one["repeats"] + one["second_copies"] for one in received),
    }
