"""Opening a stream at either end: what is declared, what rights it takes, which queue is sent.

The dialing end acts by its own configuration; the accepting end by the rights of the user that logged in.
Tests: tests/unit/broker/link/test_session.py, tests/interop/test_links.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.errors import AccessRefused, ProtocolViolation
from broker.link.inflow import Inflow
from broker.link.outflow import Outflow
from broker.link.settings import Stream

if TYPE_CHECKING:
    from broker.core.vhost import Vhost
    from broker.link.linked import LinkedQueue
    from broker.link.session import LinkSession

BUFFER_PREFIX = "link."


def buffer_name(puller: bytes, link: str, source: str) -> str:
    """The name of the queue that keeps what a link carries away from an exchange."""
    return f"{BUFFER_PREFIX}{link}.{source}.{puller.hex()[:8]}"[:255]


def open_near(session: LinkSession, number: int, stream: Stream) -> Outflow | Inflow:
    """The dialing end's part of a stream.  Raises BrokerError."""
    settings = session.settings
    assert settings is not None, "the dialing end has settings"
    vhost = session.broker.vhost(stream.vhost)
    if not stream.is_push:
        _declare_target(vhost, stream, {})
        return Inflow(session, number, stream, vhost.name, settings.hops_max)
    linked = _sent_queue(
        session, vhost, stream, {}, settings.buffer_bytes, session.table.id, settings.hops_max
    )
    return _outflow(session, number, stream, linked, is_on_demand=settings.is_on_demand)


def describe_open(session: LinkSession, number: int, stream: Stream) -> dict[str, Any]:
    """What the dialing end tells of a stream."""
    settings = session.settings
    assert settings is not None, "the dialing end has settings"
    vhost = session.broker.vhost(stream.vhost)
    return {
        "stream": number,
        "kind": stream.kind,
        "push": stream.is_push,
        "source": stream.source,
        "target": stream.target,
        "vhost": stream.far_vhost,
        "declared": _declaration(vhost, stream, stream.source if stream.is_push else stream.target),
        "hops": settings.hops_max,
        "buffer": settings.buffer_bytes,
        "on_demand": settings.is_on_demand,
    }


def accept(session: LinkSession, number: int, said: dict[str, Any]) -> Outflow | Inflow:
    """The accepting end's part of a stream.  Raises BrokerError, KeyError, TypeError, ValueError."""
    if number in session.outflows or number in session.inflows:
        raise ProtocolViolation(f"stream {number} is open already")
    kind = said["kind"]
    if kind not in ("exchange", "queue"):
        raise ProtocolViolation("a stream of an exchange or a queue expected")
    far_vhost = str(said["vhost"])
    stream = Stream(
        kind, not said["push"], str(said["source"]), str(said["target"]), far_vhost, far_vhost
    )
    identity = session.identity
    assert identity is not None, "streams are opened after the login"
    vhost = session.broker.vhost(far_vhost)
    hops_max = min(max(int(said["hops"]), 1), 255)
    declared = dict(said["declared"])
    # Seen from here: `is_push` is true where this end sends.
    if stream.is_push:
        identity.check(vhost.name, "read", stream.kind, stream.source)
        if stream.kind == "exchange":
            name = buffer_name(session.peer_id, session.name, stream.source)
            identity.check(vhost.name, "configure", "queue", name)
        else:
            _check_missing(session, vhost, "queue", stream.source)
        linked = _sent_queue(
            session, vhost, stream, declared, int(said["buffer"]), session.peer_id, hops_max
        )
        return _outflow(session, number, stream, linked, is_on_demand=bool(said["on_demand"]))
    identity.check(
        vhost.name,
        "write",
        "exchange",
        stream.target if stream.kind == "exchange" else "",
    )
    if stream.kind == "queue":
        identity.check(vhost.name, "write", "queue", stream.target)
    _check_missing(session, vhost, stream.kind, stream.target)
    _declare_target(vhost, stream, declared)
    return Inflow(session, number, stream, vhost.name, hops_max)


def _check_missing(session: LinkSession, vhost: Vhost, kind: str, name: str) -> None:
    """What is not there is made: that takes the right to."""
    identity = session.identity
    assert identity is not None, "streams are opened after the login"
    if name not in (vhost.exchanges if kind == "exchange" else vhost.queues):
        identity.check(vhost.name, "configure", "exchange" if kind == "exchange" else "queue", name)


def _declaration(vhost: Vhost, stream: Stream, name: str) -> dict[str, Any]:
    """How the near exchange is declared, so that the far side can make one like it."""
    exchange = vhost.exchanges.get(name) if stream.kind == "exchange" else None
    if exchange is None:
        return {}
    return {"kind": exchange.kind, "arguments": exchange.definition()["arguments"]}


def declare_exchange(vhost: Vhost, name: str, declared: dict[str, Any]) -> None:
    """Make an exchange if it is not there, as it is declared at the other end; raises BrokerError."""
    found = vhost.exchanges.get(name)
    if not name or (found is not None and found.is_internal):
        raise AccessRefused(
            f"exchange '{name}' is the default or an internal one: it takes no links"
        )
    if found is not None:
        return
    address = vhost.addresses.match_exchange(name)
    kind = address.exchange_kind if address is not None else "topic"
    vhost.declare_exchange(
        name,
        str(declared.get("kind", kind)),
        durable=True,
        arguments=dict(declared.get("arguments", {})),
    )


def _declare_target(vhost: Vhost, stream: Stream, declared: dict[str, Any]) -> None:
    if stream.kind == "exchange":
        declare_exchange(vhost, stream.target, declared)
    elif stream.target not in vhost.queues:
        vhost.declare_queue(stream.target, durable=True)


def _sent_queue(
    session: LinkSession,
    vhost: Vhost,
    stream: Stream,
    declared: dict[str, Any],
    buffer_bytes: int,
    puller: bytes,
    hops_max: int,
) -> LinkedQueue:
    """The queue that is sent: the shared one itself, or the buffer of an exchange."""
    table = session.table
    if stream.kind == "queue":
        if stream.source not in vhost.queues:
            vhost.declare_queue(stream.source, durable=True)
        linked = table.link_queue(vhost, stream.source, session.key, is_shared=True)
    else:
        declare_exchange(vhost, stream.source, declared)
        name = buffer_name(puller, session.name, stream.source)
        if name not in vhost.queues:
            arguments: dict[str, Any] = {}
            if buffer_bytes > 0:
                arguments = {"x-max-length-bytes": buffer_bytes, "x-overflow": "reject-publish"}
            vhost.declare_queue(name, durable=True, arguments=arguments)
        linked = table.link_queue(vhost, name, session.key, is_shared=False, exchange=stream.source)
    linked.set_peer(session.peer_id, hops_max)
    return linked


def _outflow(
    session: LinkSession, number: int, stream: Stream, linked: LinkedQueue, *, is_on_demand: bool
) -> Outflow:
    outflow = Outflow(session, number, linked, stream.name)
    outflow.is_on_demand = is_on_demand and linked.is_shared
    outflow.is_wanted = not outflow.is_on_demand
    return outflow
