"""Apply `[[route]]` to a running broker: make what is missing of its exchanges, queues and bindings.

Nothing is removed or changed: a route that was taken out of the file leaves what it made.
Tests: tests/unit/broker/cli/test_routes.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from broker.core.destination import AddressTable

if TYPE_CHECKING:
    from broker.config import Config

VHOST = "/"


class Asks(Protocol):
    """The part of the management API's client that is needed."""

    def get(self, *path: str, **query: str | int) -> Any:
        """GET /api/…."""
        ...

    def put(self, *path: str, body: object = None) -> Any:
        """PUT /api/…."""
        ...

    def post(self, *path: str, body: object = None) -> Any:
        """POST /api/…."""
        ...


def apply_routes(client: Asks, config: Config) -> list[str]:
    """Make what the routes name and the broker has not; says each thing that was made."""
    addresses = AddressTable(config.addresses)
    queues = {one["name"] for one in client.get("queues", VHOST)}
    exchanges = {one["name"] for one in client.get("exchanges", VHOST)}
    bindings = {
        (one["source"], one["destination"], one["routing_key"])
        for one in client.get("bindings", VHOST)
        if one["destination_type"] == "queue"
    }
    made: list[str] = []
    for route in config.routes:
        if route.queue not in queues:
            client.put("queues", VHOST, route.queue, body={"durable": True})
            queues.add(route.queue)
            made.append(f"queue {route.queue}")
        if not route.exchange:
            continue
        if route.exchange not in exchanges:
            address = addresses.match_exchange(route.exchange)
            kind = address.exchange_kind if address is not None else "fanout"
            body = {"type": kind, "durable": True}
            client.put("exchanges", VHOST, route.exchange, body=body)
            exchanges.add(route.exchange)
            made.append(f"{kind} exchange {route.exchange}")
        binding = (route.exchange, route.queue, route.key)
        if binding not in bindings:
            path = ("bindings", VHOST, "e", route.exchange, "q", route.queue)
            client.post(*path, body={"routing_key": route.key, "arguments": {}})
            bindings.add(binding)
            made.append(f"binding of {route.queue} to {route.exchange} with key '{route.key}'")
    return made
