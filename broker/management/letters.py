"""Dead letters for operators: list with reasons, send back, remove.

A dead letter is a message with `x-death` headers.  `redrive` publishes it where it came from and acknowledges it in the
same unit of work, so an interruption leaves each message in exactly one place, and running it again goes on.
Tests: tests/unit/broker/management/test_letters.py.
"""

from __future__ import annotations

from typing import Any, Final

from broker.core.dead_letter import CAUSE, copy_properties, deaths_of
from broker.core.delivery import Delivery
from broker.core.message import Message
from broker.core.queue import Queue
from broker.core.vhost import DEAD_LETTER_QUEUE, Vhost
from broker.errors import NotFound
from broker.management import shapes
from broker.management.call import Call
from broker.management.operations import put_back_uncounted
from broker.wire.amqp import values
from broker.wire.properties import AMQP

LIST_COUNT_MAX: Final = 1000
SCAN_COUNT_MAX: Final = 20_000
"""Messages looked at by one call: a queue can hold more, then the call is made again."""
REDRIVEN: Final = "x-gridmsg-redriven"
"""Header with the number of times that a message was sent back by an operator."""
_DEATH_HEADERS: Final = (
    "x-death",
    "x-first-death-reason",
    "x-first-death-queue",
    "x-first-death-exchange",
    "x-last-death-reason",
    "x-last-death-queue",
    "x-last-death-exchange",
    CAUSE,
)


def summary_of(message: Message, position: int) -> dict[str, Any]:
    """Why, where and when a dead letter died."""
    headers = message.properties.headers or {}
    rows = deaths_of(headers)
    last = rows[0] if rows else {}
    keys = last.get("routing-keys")
    return {
        "position": position,
        "reason": last.get("reason", "unknown"),
        "cause": shapes.plain(headers.get(CAUSE)),
        "queue": last.get("queue", ""),
        "exchange": last.get("exchange", ""),
        "routing_key": keys[0] if isinstance(keys, list) and keys else "",
        "deaths": sum(int(row.get("count", 0)) for row in rows),
        "died_at": int(last["time"]) if isinstance(last.get("time"), int) else None,
        "bytes": len(message.body),
    }


def list_letters(call: Call) -> Any:
    """GET /api/deadletters/VHOST/QUEUE?count=…&reason=…&queue=…: the oldest first, with a count by reason."""
    if call.path[1] == DEAD_LETTER_QUEUE and DEAD_LETTER_QUEUE not in call.vhost().queues:
        # It is made with the first dead letter: until then there are none.
        return {
            "queue": DEAD_LETTER_QUEUE,
            "messages": 0,
            "looked_at": 0,
            "reasons": {},
            "letters": [],
        }
    queue = _queue(call)
    count = call.count("count", 100, LIST_COUNT_MAX)
    found = [summary_of(one, position) for position, one, _ in queue.peek(SCAN_COUNT_MAX)]
    reasons: dict[str, int] = {}
    for row in found:
        reasons[row["reason"]] = reasons.get(row["reason"], 0) + 1
    wanted = [row for row in found if _is_wanted(call, row)]
    return {
        "queue": queue.name,
        "messages": queue.depth,
        "looked_at": len(found),
        "reasons": reasons,
        "letters": wanted[:count],
    }


def show(call: Call) -> Any:
    """GET /api/deadletters/VHOST/QUEUE/POSITION: one dead letter in full, as `get` shows messages."""
    queue = _queue(call)
    for index, (position, message, count) in enumerate(queue.peek(SCAN_COUNT_MAX)):
        if str(position) == call.path[2]:
            left = queue.depth - index - 1
            return shapes.message(message, position, count, left, shapes.PAYLOAD_BYTES_MAX)
    raise NotFound(
        f"no message at position {call.path[2]} among the first {SCAN_COUNT_MAX} of '{queue.name}':"
        " see `gridmsg deadletter list`"
    )


def redrive(call: Call) -> Any:
    """POST /api/deadletters/VHOST/QUEUE/redrive: send back those that fit `reason` and `queue`, at most `count`.

    `to` (a queue) goes before where they came from.
    """
    queue = _queue(call)
    vhost = queue.vhost
    call.check(vhost, "write", "exchange", "")
    sent, unroutable = 0, 0
    limit = call.count("count", LIST_COUNT_MAX, LIST_COUNT_MAX)
    others: list[Delivery] = []
    try:
        for delivery, row in _taken(call, queue, others):
            if sent >= limit:
                others.append(delivery)
                break
            letter = _revived(call, vhost, delivery.message, row)
            if letter is None or vhost.publish(letter) < 1:
                unroutable += 1
                others.append(delivery)
                continue
            call.broker.acknowledge([delivery])
            sent += 1
    finally:
        put_back_uncounted(call, others)
    return {"redriven": sent, "unroutable": unroutable, "left": queue.depth}


def purge(call: Call) -> Any:
    """POST /api/deadletters/VHOST/QUEUE/purge: remove those that fit `reason` and `queue`, at most `count`."""
    queue = _queue(call)
    limit = call.count("count", SCAN_COUNT_MAX, SCAN_COUNT_MAX)
    removed: list[Delivery] = []
    others: list[Delivery] = []
    for delivery, _ in _taken(call, queue, others):
        if len(removed) >= limit:
            others.append(delivery)
            break
        removed.append(delivery)
    call.broker.acknowledge(removed)
    put_back_uncounted(call, others)
    return {"purged": len(removed), "left": queue.depth}


def _taken(call: Call, queue: Queue, others: list[Delivery]) -> Any:
    """Take messages in order and yield those wanted; the rest is put into `others`."""
    for _ in range(min(SCAN_COUNT_MAX, queue.depth)):
        delivery = queue.take(is_acknowledged=True)
        if delivery is None:
            return
        row = summary_of(delivery.message, delivery.position)
        if _is_wanted(call, row):
            yield delivery, row
        else:
            others.append(delivery)


def _is_wanted(call: Call, row: dict[str, Any]) -> bool:
    for key in ("reason", "queue"):
        wanted = call.body.get(key, call.query.get(key))
        if wanted is not None and row[key] != wanted:
            return False
    position = call.body.get("position", call.query.get("position"))
    return position is None or str(row["position"]) == str(position)


def _revived(call: Call, vhost: Vhost, message: Message, row: dict[str, Any]) -> Message | None:
    """The message as it was before it died, for where it came from; None if that is gone."""
    to = call.body.get("to")
    if isinstance(to, str):
        destination = vhost.destination("", vhost.queue(to).name)
    elif row["queue"]:
        if row["queue"] not in vhost.queues:
            return None
        destination = vhost.destination("", row["queue"])
    else:
        # It never reached a queue: publish it where it was published.
        if row["exchange"] not in vhost.exchanges:
            return None
        destination = vhost.destination(row["exchange"], row["routing_key"])
        if not _reaches_a_queue(vhost, row["exchange"]):
            return None
    properties = copy_properties(message.properties)
    headers = properties.headers
    assert headers is not None, "copy_properties makes headers"
    for name in _DEATH_HEADERS:
        headers.pop(name, None)
    again = headers.get(REDRIVEN)
    headers[REDRIVEN] = (again if isinstance(again, int) else 0) + 1
    return Message(
        destination,
        AMQP,
        values.encode_properties(properties),
        message.body,
        message.is_persistent,
        message.priority,
        call.broker.now_ms,
        0,
    )


def _reaches_a_queue(vhost: Vhost, exchange: str) -> bool:
    """Whether anything is bound: else an unroutable message would come straight back."""
    return exchange == "" or bool(vhost.exchanges[exchange].bindings)


def _queue(call: Call) -> Queue:
    vhost = call.vhost()
    name = call.path[1] if len(call.path) > 1 else DEAD_LETTER_QUEUE
    call.check(vhost, "read", "queue", name)
    if name not in vhost.queues and name == DEAD_LETTER_QUEUE:
        raise NotFound(f"no message has died in vhost '{vhost.name}' yet: there is no such queue")
    return vhost.queue(name)
