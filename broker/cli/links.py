"""`gridmsg link`, by the management API.

Tests: tests/interop/test_links.py.
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
    say,
    table_lines,
)

COLUMNS = (
    "link",
    "direction",
    "state",
    "peer",
    "address",
    "round_trip_ms",
    "lag_ms",
    "in_flight",
    "backlog",
    "sent",
    "received",
    "duplicates",
)
STREAM_COLUMNS = ("stream", "sends", "messages", "backlog", "in_flight", "lag_ms", "repeats")


@click.group()
def link() -> None:
    """Links to other brokers: list, show, add, change, delete."""


@link.command(name="list")
@broker_options
@json_option
def link_list(place: Place, as_json: bool) -> None:
    """List the links, dialed and accepted, with state, lag and counts."""
    rows = place.client().get("links")
    if as_json:
        print_json(rows)
        return
    print_rows(rows, COLUMNS, False, "no links")
    for row in rows:
        if row.get("state") not in ("up", None):
            say(f"{row['link']}: {row.get('reason') or row.get('last_error') or row['state']}")


@link.command(name="show")
@click.argument("name")
@broker_options
@json_option
def link_show(place: Place, name: str, as_json: bool) -> None:
    """Show a link that is dialed from here: configuration, state, streams."""
    found = place.client().get("links", name)
    if as_json:
        print_json(found)
        return
    for key, value in found["configuration"].items():
        say(f"{key:<20}{_shown(value)}")
    for key in ("state", "reason", "peer", "up_since_ms", "round_trip_ms", "rate", "last_error"):
        say(f"{key:<20}{_shown(found.get(key))}")
    if found["streams"]:
        for line in table_lines(found["streams"], STREAM_COLUMNS):
            say(line)


@link.command(name="add")
@click.argument("name")
@click.argument("address", nargs=-1, required=True)
@click.option("--pull-exchange", multiple=True, help="Take what is wanted here of an exchange.")
@click.option("--push-exchange", multiple=True, help="Send what is wanted there of an exchange.")
@click.option("--pull-queue", multiple=True, help="Move a queue's messages here.")
@click.option("--push-queue", multiple=True, help="Move a queue's messages there.")
@click.option("--user", help="User there.  [default: guest]")
@click.option("--secret", help="Its password.  [default: guest]")
@click.option("--option", "options", multiple=True, help="Any other key of [[link]]: KEY=VALUE.")
@broker_options
def link_add(
    place: Place,
    name: str,
    address: tuple[str, ...],
    pull_exchange: tuple[str, ...],
    push_exchange: tuple[str, ...],
    pull_queue: tuple[str, ...],
    push_queue: tuple[str, ...],
    user: str | None,
    secret: str | None,
    options: tuple[str, ...],
) -> None:
    """Add a link to ADDRESS (HOST:PORT, standbys after it); it is dialed at once and kept over restarts."""
    row: dict[str, Any] = {
        "address": list(address),
        "pull-exchanges": list(pull_exchange),
        "push-exchanges": list(push_exchange),
        "pull-queues": list(pull_queue),
        "push-queues": list(push_queue),
        **_options(options),
    }
    if user is not None:
        row["user"] = user
    if secret is not None:
        row["password"] = secret
    client = place.client()
    if any(one["link"] == name and one["direction"] == "dialed" for one in client.get("links")):
        raise Failure(f"there is a link {name} already: change it with `gridmsg link set`")
    client.put("links", name, body=row)
    say(f"link {name} added; `gridmsg link list` shows whether it is up")


@link.command(name="set")
@click.argument("name")
@click.argument("options", nargs=-1, required=True)
@broker_options
def link_set(place: Place, name: str, options: tuple[str, ...]) -> None:
    """Change keys of a link, each as KEY=VALUE with the keys of [[link]]; it is dialed anew."""
    client = place.client()
    row = client.get("links", name)["configuration"]
    row.update(_options(options))
    client.put("links", name, body=row)
    say(f"link {name} changed")


@link.command(name="delete")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@broker_options
def link_delete(place: Place, name: str, yes: bool) -> None:
    """Delete a link; what it has not sent stays in its queue, which is named."""
    client = place.client()
    found = client.get("links", name)
    if not yes:
        click.confirm(f"delete link {name} with {found['backlog']} messages waiting?", abort=True)
    kept = client.delete("links", name)["kept"]
    say(f"link {name} deleted")
    for line in kept_lines(kept):
        say(line)


def kept_lines(kept: dict[str, int]) -> list[str]:
    """What to do about messages that links taken away had not sent."""
    return [
        f"{count} messages that it had not sent, or does not know to be there, stay in queue {queue}: "
        f"move them on with `gridmsg queue move {queue} …`, or `gridmsg queue delete {queue}`"
        for queue, count in kept.items()
    ]


def _options(texts: tuple[str, ...]) -> dict[str, Any]:
    """KEY=VALUE; a value that is JSON is taken as that, else as text."""
    row: dict[str, Any] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or not key:
            raise Failure(f"{text}: KEY=VALUE expected")
        try:
            row[key] = json.loads(value)
        except ValueError:
            row[key] = value
    return row


def _shown(value: object) -> str:
    if value is None or value == "":
        return "-"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict)) else str(value)
