"""The asking side of a replay: sends a request and listens to its control channel.

The control channel is a key of `amq.direct` that nobody else knows: subscribing to it makes a queue
that goes with the connection, on our broker and on RabbitMQ alike, and an agent that only knows
exchanges and keys can answer on it.

Invariants: the listener is there before the request is sent; messages about other requests are
passed over; listening ends with `finished`, with `error`, or when there was no sign of life for
the silence time, never in silence.
Tests: tests/unit/agents/test_requests.py, tests/interop/test_replay_site.py
"""

from __future__ import annotations

import json
import logging
import queue
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from datetime import time as clock_time
from typing import Final, Protocol, final

from agents.errors import AgentError
from agents.replays.control import ControlMessage, read_control_message
from agents.replays.destination import exchange_address
from agents.replays.request import RequestError, read_request
from agents.transport import Incoming, Outgoing

log = logging.getLogger(__name__)

CONTROL_EXCHANGE: Final = "amq.direct"
SILENCE_SECONDS: Final = 60.0
SEND_TIMEOUT_SECONDS: Final = 30.0
CONTROL_PREFETCH: Final = 100
ASK_AGAIN_SECONDS: Final = 5.0


class NoSignOfLife(AgentError):
    """Nothing was heard on the control channel for the silence time."""


class ReplayFailed(AgentError):
    """The replay agent says that the request ended with an error."""

    def __init__(self, text: str, message: ControlMessage) -> None:
        super().__init__(text)
        self.message = message


class Wire(Protocol):
    """What asking needs of a transport."""

    def publish(self, destination: str, messages: Sequence[Outgoing], timeout_s: float) -> None:
        """Send messages and return when each is confirmed; Unavailable or Refused otherwise."""
        ...

    def subscribe(
        self,
        destination: str,
        prefetch: int,
        on_message: Callable[[Incoming], None],
        headers: Mapping[str, str] = ...,
    ) -> None:
        """Receive from a destination."""
        ...

    def acknowledge(self, messages: Sequence[Incoming]) -> None:
        """Settle messages for good."""
        ...

    def is_connected(self) -> bool:
        """Whether every connection opened so far is logged in."""
        ...


@final
class Asked:
    """One request as it is sent; RequestError when it cannot be understood."""

    def __init__(
        self,
        start: datetime | date,
        end: datetime | date,
        destination: str,
        *,
        kind: str = "raw",
        routing_key: str = "",
        filter_text: str = "",
    ) -> None:
        self.request_id = uuid.uuid4().hex
        self.control_key = f"replay-{self.request_id}"
        fields: dict[str, object] = {
            "id": self.request_id,
            "from": _moment_text(start, clock_time.min),
            "to": _moment_text(end, clock_time.max),
            "kind": kind,
            "destination": destination,
            "routing_key": routing_key,
            "control": CONTROL_EXCHANGE,
            "control_key": self.control_key,
        }
        if filter_text:
            fields["filter"] = _filter_query(filter_text)
        self.body = json.dumps(fields).encode()
        read_request(self.body)


def follow(
    wire: Wire,
    requests_queue: str,
    asked: Asked,
    *,
    silence_seconds: float = SILENCE_SECONDS,
    send_timeout_s: float = SEND_TIMEOUT_SECONDS,
    now: Callable[[], float] = time.monotonic,
) -> Iterator[ControlMessage]:
    """Send a request and give its control messages, the last one `finished`.

    Raises Unavailable or Refused when the request cannot be sent, ReplayFailed when the agent gives
    up, NoSignOfLife after `silence_seconds` without a message.
    """
    heard: queue.SimpleQueue[Incoming] = queue.SimpleQueue()
    address = exchange_address(CONTROL_EXCHANGE, asked.control_key)
    wire.subscribe(address, CONTROL_PREFETCH, heard.put)
    _await_connection(wire, send_timeout_s, now)
    outgoing = [
        Outgoing(asked.body, {"content-type": "application/json", "mandatory": "true"}),
    ]
    wire.publish(requests_queue, outgoing, send_timeout_s)
    heard_at = asked_at = now()
    knows_ids = False
    while True:
        left_seconds = heard_at + silence_seconds - now()
        if left_seconds <= 0:
            raise NoSignOfLife(
                f"nothing was heard of replay {asked.request_id} for {silence_seconds:.0f} s;"
                " is the replay agent running? The request waits in its queue and is done when it is"
            )
        try:
            incoming = heard.get(timeout=min(left_seconds, ASK_AGAIN_SECONDS))
        except queue.Empty:
            # The last word may have been lost with a broker.  An agent that told its id takes the
            # same request for the same, and repeats how it ended.
            if knows_ids and now() - max(heard_at, asked_at) >= ASK_AGAIN_SECONDS:
                _ask_again(wire, requests_queue, outgoing)
                asked_at = now()
            continue
        wire.acknowledge([incoming])
        message = read_control_message(incoming.body)
        if message is None or message.request_id not in (None, asked.request_id):
            continue
        heard_at = now()
        knows_ids = message.request_id is not None
        if message.is_error:
            raise ReplayFailed(message.message or "the replay agent gives no reason", message)
        yield message
        if message.is_end:
            return


def _ask_again(wire: Wire, requests_queue: str, outgoing: list[Outgoing]) -> None:
    try:
        wire.publish(requests_queue, outgoing, ASK_AGAIN_SECONDS)
    except AgentError as error:
        log.info("asking again failed: %s", error)


def _await_connection(wire: Wire, timeout_s: float, now: Callable[[], float]) -> None:
    # The listener must be subscribed before the first control message is sent; the request goes
    # over another connection and could overtake it.
    deadline = now() + timeout_s
    while not wire.is_connected() and now() < deadline:
        time.sleep(0.02)


def _filter_query(text: str) -> object:
    if not text.lstrip().startswith("{"):
        return {"query": {"query_string": {"query": text}}}
    try:
        query: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError("filter", f"not JSON: {error}") from error
    return query


def _moment_text(moment: datetime | date, time_of_day: clock_time) -> str:
    """Write a time without its zone in UTC, as GRACC's clients do; a day is its first or last moment."""
    if not isinstance(moment, datetime):
        moment = datetime.combine(moment, time_of_day)
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC).replace(tzinfo=None)
    return moment.isoformat()
