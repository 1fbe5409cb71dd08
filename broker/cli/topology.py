"""`gridmsg queue`, `gridmsg exchange` and `gridmsg binding`, by the management API.

Tests: tests/unit/broker/cli/test_topology.py.
"""

from __future__ import annotations

import json
from typing import Any

import click

from broker.cli.base import (
    Failure,
    Place,
    broker_options,
    json_option,
    print_json,
    print_rows,
    progress,
    say,
    table_lines,
)

MOVE_STEP = 1000
QUEUE_COLUMNS = ("name", "messages", "messages_ready", "messages_unacknowledged", "consumers")

vhost_option = click.option("--vhost", default="/", help="Virtual host.", show_default=True)


@click.group()
def queue() -> None:
    """Queues: look, empty, delete, move messages."""


@queue.command(name="list")
@broker_options
@vhost_option
@json_option
def queue_list(place: Place, vhost: str, as_json: bool) -> None:
    """List the queues with what they hold."""
    rows = place.client().get("queues", vhost)
    print_rows(rows, QUEUE_COLUMNS, as_json, "no queues")


@queue.command(name="show")
@click.argument("name")
@broker_options
@vhost_option
@json_option
def queue_show(place: Place, name: str, vhost: str, as_json: bool) -> None:
    """Show one queue with its consumers and bindings."""
    client = place.client()
    found = client.get("queues", vhost, name)
    found["bindings"] = client.get("queues", vhost, name, "bindings")
    if as_json:
        print_json(found)
        return
    for key in (*QUEUE_COLUMNS, "durable", "exclusive", "auto_delete", "arguments"):
        say(f"{key:<24}{_shown(found.get(key))}")
    for one in found["bindings"]:
        say(f"bound to                {one['source']} with key '{one['routing_key']}'")
    if found["consumer_details"]:
        for line in table_lines(
            found["consumer_details"], ("consumer_tag", "ack_required", "unacknowledged")
        ):
            say(line)


@queue.command(name="peek")
@click.argument("name")
@click.option("--count", default=10, type=click.IntRange(1, 1000), show_default=True)
@broker_options
@vhost_option
@json_option
def queue_peek(place: Place, name: str, count: int, vhost: str, as_json: bool) -> None:
    """Show the first messages of a queue; they stay where they are."""
    rows = place.client().post(
        "queues", vhost, name, "get", body={"count": count, "ackmode": "ack_requeue_true"}
    )
    if as_json:
        print_json(rows)
        return
    if not rows:
        say(f"queue {name} is empty")
    for row in rows:
        say(
            f"position {row['position']}  from {row['exchange'] or 'the default exchange'} "
            f"with key '{row['routing_key']}'  {row['payload_bytes']} bytes"
            + ("  redelivered" if row["redelivered"] else "")
        )
        for key, value in row["properties"].items():
            say(f"  {key}: {_shown(value)}")
        payload = row["payload"]
        say("  " + (payload if len(payload) <= 2000 else payload[:2000] + " …"))


@queue.command(name="purge")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@broker_options
@vhost_option
def queue_purge(place: Place, name: str, yes: bool, vhost: str) -> None:
    """Remove all messages of a queue that no consumer holds."""
    client = place.client()
    depth = client.get("queues", vhost, name)["messages_ready"]
    _confirm(yes, f"remove {depth} messages from queue {name}?")
    say(f"{client.delete('queues', vhost, name, 'contents')['purged']} messages removed")


@queue.command(name="delete")
@click.argument("name")
@click.option("--if-empty", is_flag=True, help="Only if it holds no messages.")
@click.option("--if-unused", is_flag=True, help="Only if it has no consumers.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@broker_options
@vhost_option
def queue_delete(
    place: Place, name: str, if_empty: bool, if_unused: bool, yes: bool, vhost: str
) -> None:
    """Delete a queue and the messages in it."""
    client = place.client()
    depth = client.get("queues", vhost, name)["messages"]
    _confirm(yes, f"delete queue {name} with {depth} messages?")
    query = {}
    if if_empty:
        query["if-empty"] = "true"
    if if_unused:
        query["if-unused"] = "true"
    deleted = client.delete("queues", vhost, name, **query)["deleted"]
    say(f"queue {name} deleted, {deleted} messages with it")


@queue.command(name="move")
@click.argument("source")
@click.argument("target")
@click.option("--count", type=click.IntRange(1), help="At most so many.  [default: all]")
@broker_options
@vhost_option
def queue_move(place: Place, source: str, target: str, count: int | None, vhost: str) -> None:
    """Move messages from the head of one queue to the end of another, which must exist.

    Each step is one unit of work: an interruption leaves every message in exactly one of the two, and running it
    again goes on.
    """
    client = place.client()
    total = client.get("queues", vhost, source)["messages_ready"]
    total = total if count is None else min(count, total)
    moved = 0
    with progress(f"moving {source} to {target}", total) as advance:
        while moved < total:
            step = client.post(
                "queues",
                vhost,
                source,
                "move",
                body={"to": target, "count": min(MOVE_STEP, total - moved)},
            )
            if not step["moved"]:
                break
            moved += step["moved"]
            advance(moved, total)
    say(f"{moved} messages moved from {source} to {target}")


@click.group()
def exchange() -> None:
    """Exchanges: list, add, delete."""


@exchange.command(name="list")
@broker_options
@vhost_option
@json_option
def exchange_list(place: Place, vhost: str, as_json: bool) -> None:
    """List the exchanges."""
    columns = ("name", "type", "durable", "auto_delete", "internal", "arguments")
    rows = place.client().get("exchanges", vhost)
    print_rows(rows, columns, as_json, "no exchanges")


@exchange.command(name="add")
@click.argument("name")
@click.option(
    "--type",
    "kind",
    type=click.Choice(["direct", "fanout", "topic", "headers"]),
    default="direct",
    show_default=True,
)
@click.option("--transient", is_flag=True, help="Gone after a restart.")
@click.option("--arguments", default="{}", help="JSON object, such as an alternate-exchange.")
@broker_options
@vhost_option
def exchange_add(
    place: Place, name: str, kind: str, transient: bool, arguments: str, vhost: str
) -> None:
    """Make an exchange; the same again is no error."""
    body = {"type": kind, "durable": not transient, "arguments": _object(arguments)}
    place.client().put("exchanges", vhost, name, body=body)
    say(f"exchange {name} is there")


@exchange.command(name="delete")
@click.argument("name")
@click.option("--if-unused", is_flag=True, help="Only if nothing is bound to it.")
@broker_options
@vhost_option
def exchange_delete(place: Place, name: str, if_unused: bool, vhost: str) -> None:
    """Delete an exchange and its bindings."""
    query = {"if-unused": "true"} if if_unused else {}
    place.client().delete("exchanges", vhost, name, **query)
    say(f"exchange {name} deleted")


@click.group()
def binding() -> None:
    """Bindings of queues to exchanges: list, add, delete."""


@binding.command(name="list")
@broker_options
@vhost_option
@json_option
def binding_list(place: Place, vhost: str, as_json: bool) -> None:
    """List the bindings."""
    columns = ("source", "destination", "destination_type", "routing_key", "arguments")
    print_rows(place.client().get("bindings", vhost), columns, as_json, "no bindings")


@binding.command(name="add")
@click.argument("exchange_name", metavar="EXCHANGE")
@click.argument("queue_name", metavar="QUEUE")
@click.option("--key", default="", help="Routing key.")
@click.option("--arguments", default="{}", help="JSON object, for a headers exchange.")
@click.option("--to-exchange", is_flag=True, help="QUEUE names an exchange.")
@broker_options
@vhost_option
def binding_add(
    place: Place,
    exchange_name: str,
    queue_name: str,
    key: str,
    arguments: str,
    to_exchange: bool,
    vhost: str,
) -> None:
    """Bind a queue to an exchange; the same again is no error."""
    place.client().post(
        "bindings",
        vhost,
        "e",
        exchange_name,
        "e" if to_exchange else "q",
        queue_name,
        body={"routing_key": key, "arguments": _object(arguments)},
    )
    say(f"{queue_name} is bound to {exchange_name}")


@binding.command(name="delete")
@click.argument("exchange_name", metavar="EXCHANGE")
@click.argument("queue_name", metavar="QUEUE")
@click.option("--key", default="", help="Routing key.")
@broker_options
@vhost_option
def binding_delete(place: Place, exchange_name: str, queue_name: str, key: str, vhost: str) -> None:
    """Delete the bindings of a queue to an exchange with the key."""
    client = place.client()
    found = [
        one
        for one in client.get("bindings", vhost)
        if (one["source"], one["destination"], one["routing_key"])
        == (exchange_name, queue_name, key)
    ]
    if not found:
        raise Failure(
            f"no binding of {queue_name} to {exchange_name} with key '{key}': see `gridmsg binding list`"
        )
    for one in found:
        kind = "q" if one["destination_type"] == "queue" else "e"
        client.delete(
            "bindings", vhost, "e", exchange_name, kind, queue_name, one["properties_key"]
        )
    say(f"{queue_name} is no longer bound to {exchange_name} with key '{key}'")


def _confirm(is_sure: bool, question: str) -> None:
    if not is_sure:
        click.confirm(question, abort=True, err=True)


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise click.BadParameter("a JSON object expected", param_hint="--arguments")
    return value


def _shown(value: object) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value)
