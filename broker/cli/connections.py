"""`gridmsg connection`, by the management API.  Tests: tests/unit/broker/cli/test_access.py."""

from __future__ import annotations

import click

from broker.cli.base import Place, broker_options, json_option, print_rows, say

COLUMNS = ("name", "protocol", "state", "is_publisher", "connected_at")


@click.group()
def connection() -> None:
    """Connections: list, close."""


@connection.command(name="list")
@broker_options
@json_option
def connection_list(place: Place, as_json: bool) -> None:
    """List the connections; a name is the peer's address and port."""
    print_rows(place.client().get("connections"), COLUMNS, as_json, "no connections")


@connection.command(name="delete")
@click.argument("name")
@click.option(
    "--reason", default="Closed via rabbitmqctl", help="What the peer hears.", show_default=True
)
@broker_options
def connection_delete(place: Place, name: str, reason: str) -> None:
    """Close a connection: AMQP clients hear CONNECTION_FORCED with the reason, STOMP clients an ERROR."""
    place.client().delete("connections", name, reason=reason)
    say(f"connection {name} is being closed")
