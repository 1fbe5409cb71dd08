"""`gridmsg deadletter`: why messages died, and what to do with them, by the management API.

Tests: tests/unit/broker/cli/test_letters.py.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

from broker.cli.base import (
    Failure,
    Place,
    broker_options,
    json_option,
    print_json,
    progress,
    say,
    table_lines,
)
from broker.cli.topology import vhost_option

QUEUE = "dead-letter"
STEP = 500

queue_option = click.option(
    "--queue", "queue", default=QUEUE, show_default=True, help="Queue that holds the dead letters."
)
reason_option = click.option("--reason", help="Only those with this reason, such as rejected.")
from_option = click.option("--from-queue", help="Only those that died in this queue.")


@click.group()
def deadletter() -> None:
    """Dead letters: messages that were refused, delivered too often, expired or unroutable."""


@deadletter.command(name="list")
@broker_options
@vhost_option
@queue_option
@reason_option
@from_option
@click.option("--count", default=50, type=click.IntRange(1, 1000), show_default=True)
@json_option
def deadletter_list(
    place: Place,
    vhost: str,
    queue: str,
    reason: str | None,
    from_queue: str | None,
    count: int,
    as_json: bool,
) -> None:
    """List dead letters, the oldest first, with their reasons."""
    query = {"count": count, **_filter(reason, from_queue)}
    found = place.client().get("deadletters", vhost, queue, **query)
    if as_json:
        print_json(found)
        return
    say(f"{found['messages']} dead letters in {queue}")
    for name, number in sorted(found["reasons"].items()):
        say(f"  {number} {name}")
    rows = [{**row, "died": _time(row["died_at"])} for row in found["letters"]]
    if rows:
        for line in table_lines(
            rows, ("position", "reason", "queue", "exchange", "deaths", "died", "cause")
        ):
            say(line)


@deadletter.command(name="show")
@click.argument("position", type=int)
@broker_options
@vhost_option
@queue_option
def deadletter_show(place: Place, position: int, vhost: str, queue: str) -> None:
    """Show one dead letter in full, as JSON, by its position from the list."""
    print_json(place.client().get("deadletters", vhost, queue, str(position)))


@deadletter.command(name="redrive")
@broker_options
@vhost_option
@queue_option
@reason_option
@from_option
@click.option("--position", type=int, help="Only the one at this position.")
@click.option("--to", help="Queue to send to.  [default: where each came from]")
@click.option("--count", type=click.IntRange(1), help="At most so many.  [default: all that fit]")
@json_option
def deadletter_redrive(
    place: Place,
    vhost: str,
    queue: str,
    reason: str | None,
    from_queue: str | None,
    position: int | None,
    to: str | None,
    count: int | None,
    as_json: bool,
) -> None:
    """Send dead letters back to where they came from.

    Each step is one unit of work: after an interruption every message is in exactly one place; run it again to go on.
    """
    body = _filter(reason, from_queue)
    if position is not None:
        body["position"] = position
    if to is not None:
        body["to"] = to
    client = place.client()
    waiting = client.get("deadletters", vhost, queue, count=1)["messages"]
    wanted = waiting if count is None else min(count, waiting)
    done = {"redriven": 0, "unroutable": 0, "left": waiting}
    with progress("sending back", wanted) as advance:
        while done["redriven"] < wanted:
            asked = {**body, "count": min(STEP, wanted - done["redriven"])}
            step = client.post("deadletters", vhost, queue, "redrive", body=asked)
            done["redriven"] += step["redriven"]
            done["unroutable"], done["left"] = step["unroutable"], step["left"]
            advance(done["redriven"], wanted)
            if step["redriven"] < asked["count"]:
                break
    if as_json:
        print_json(done)
    else:
        say(f"{done['redriven']} sent back, {done['left']} left in {queue}")
    if done["unroutable"]:
        raise Failure(
            f"{done['unroutable']} stay: their queue or exchange is gone or takes nothing; "
            "make it again, or name another with --to"
        )


@deadletter.command(name="purge")
@broker_options
@vhost_option
@queue_option
@reason_option
@from_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def deadletter_purge(
    place: Place,
    vhost: str,
    queue: str,
    reason: str | None,
    from_queue: str | None,
    yes: bool,
) -> None:
    """Remove dead letters for good: all, or those that fit."""
    client = place.client()
    waiting = client.get("deadletters", vhost, queue, count=1)["messages"]
    if not waiting:
        say(f"no dead letters in {queue}")
        return
    body = _filter(reason, from_queue)
    which = f"those of {waiting} dead letters that fit" if body else f"all {waiting} dead letters"
    if not yes:
        click.confirm(f"remove {which}?", abort=True, err=True)
    answer = client.post("deadletters", vhost, queue, "purge", body=body)
    say(f"{answer['purged']} removed, {answer['left']} left in {queue}")


def _filter(reason: str | None, from_queue: str | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if reason is not None:
        found["reason"] = reason
    if from_queue is not None:
        found["queue"] = from_queue
    return found


def _time(seconds: int | None) -> str:
    if seconds is None:
        return "-"
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
