"""What status, API and metrics show of links.  Names of fields are those of `gridmsg link list --json`.

Every link has a row, also one that is down, and one that a far side dialed and that is away: what waits for it is shown
until it is back or its queue is deleted.  Tests: tests/interop/test_links.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.link.trace import WINDOW

if TYPE_CHECKING:
    from broker.link.foreign import Arrivals, ForeignSession
    from broker.link.inflow import Inflow
    from broker.link.linked import LinkedQueue
    from broker.link.outflow import Outflow
    from broker.link.session import LinkSession
    from broker.net.links import Dial, Links


def describe(links: Links) -> list[dict[str, Any]]:
    """Dialed links first, then accepted ones, then those that are away."""
    table = links.table
    now_ms = table.broker.clock.wall_ms()
    idle: dict[str, list[LinkedQueue]] = {}
    busy = {
        id(flow.linked) for session in table.sessions.values() for flow in session.outflows.values()
    }
    for key, linked in table.linked.items():
        if id(linked) not in busy:
            idle.setdefault(key[2], []).append(linked)
    rows = [_dialed(dial, idle.pop(name, []), now_ms) for name, dial in links.dials.items()]
    for session in table.sessions.values():
        if not session.is_dialer:
            waiting = idle.pop(session.key, [])
            rows.append(_session(session, now_ms, waiting))
    rows += [_away(name, queues, now_ms) for name, queues in idle.items()]
    return rows


def _dialed(dial: Dial, idle: list[LinkedQueue], now_ms: int) -> dict[str, Any]:
    session = dial.session
    host, port = dial.address
    if session is not None and session.is_up:
        row = _session(session, now_ms, idle)
    else:
        row = {
            "link": dial.settings.name,
            "direction": "dialed",
            "state": "failing" if dial.failing_since_ms else "connecting",
            "reason": dial.last_error,
            "peer": "",
            "protocol": dial.settings.protocol,
            "round_trip_ms": None,
            "streams": [_waiting(one, now_ms) for one in idle],
        }
    row["address"] = f"{host}:{port}"
    row["origin"] = dial.settings.origin
    row["attempts"] = dial.attempt_count
    row["connects"] = dial.up_count
    row["failing_since_ms"] = dial.failing_since_ms
    row["last_error"] = row.get("last_error") or dial.last_error
    return row


def _away(key: str, queues: list[LinkedQueue], now_ms: int) -> dict[str, Any]:
    """A link of which only what waits for it is here."""
    name, _, peer = key.partition("@")
    is_given_up = any(one.is_given_up for one in queues)
    kept = ", ".join(one.queue.name for one in queues if one.is_given_up)
    return {
        "link": name,
        "direction": "accepted" if peer else "dialed",
        "state": "not configured" if is_given_up or not peer else "away",
        "reason": f"it was taken out; what it had not sent stays in {kept}: move it on, or delete the queue"
        if is_given_up
        else "the far side is not connected",
        "peer": peer,
        "address": "",
        "protocol": queues[0].protocol,
        "round_trip_ms": None,
        "last_error": "",
        "streams": [_waiting(one, now_ms) for one in queues],
    }


def _session(
    session: LinkSession | ForeignSession, now_ms: int, idle: list[LinkedQueue]
) -> dict[str, Any]:
    streams = [_outflow(one, now_ms) for one in session.outflows.values()]
    streams += [_inflow(one) for one in session.inflows.values()]
    streams += [_waiting(one, now_ms) for one in idle]
    refused = [one["refused"] for one in streams if one["refused"]]
    state = "blocked by far side" if session.far_reason else "failing" if refused else "up"
    return {
        "link": session.name,
        "direction": "dialed" if session.is_dialer else "accepted",
        "state": state,
        "reason": session.far_reason or (refused[0] if refused else ""),
        "peer": session.peer_name,
        "peer_id": session.peer_id.hex(),
        "address": session.peer,
        "protocol": session.settings.protocol if session.settings is not None else "gridmsg",
        "up_since_ms": session.up_at_ms,
        "round_trip_ms": session.round_trip_ms,
        "connections": 1 + len(session.strands),
        "compression": session.compression,
        "sent_rate": session.sent_rate,
        "received_rate": session.received_rate,
        "received_bytes": session.received_bytes,
        "sent_bytes": session.sent_bytes,
        "last_error": session.last_error,
        "streams": streams,
    }


def _waiting(linked: LinkedQueue, now_ms: int) -> dict[str, Any]:
    """A queue of a link that is down."""
    oldest = linked.oldest_published_at()
    return {
        "stream": f"from {linked.exchange or linked.queue.name}",
        "sends": True,
        "queue": linked.queue.name,
        "backlog": linked.queue.depth,
        "in_flight": linked.doubt_count,
        "in_flight_bytes": 0,
        "lag_ms": max(0, now_ms - oldest) if oldest else 0,
        "messages": 0,
        "bytes": 0,
        "settled": 0,
        "in_doubt": linked.doubt_count,
        "passed_over": linked.passed_count,
        "refused": "",
    }


def _outflow(flow: Outflow, now_ms: int) -> dict[str, Any]:
    oldest = flow.oldest_published_at()
    return {
        **_waiting(flow.linked, now_ms),
        "stream": flow.name,
        "in_flight": flow.in_flight_count,
        "in_flight_bytes": flow.held_bytes,
        "lag_ms": max(0, now_ms - oldest) if oldest else 0,
        "messages": flow.sent_count,
        "bytes": flow.sent_bytes,
        "settled": flow.settled_count,
        "refused": flow.refusal,
    }


def _inflow(flow: Inflow | Arrivals) -> dict[str, Any]:
    return {
        "stream": flow.name,
        "sends": False,
        "messages": flow.applied_count,
        "bytes": flow.applied_bytes,
        "repeats": flow.repeat_count,
        "second_copies": flow.second_copy_count,
        "circled": flow.circled_count,
        "unroutable": flow.unroutable_count,
        "possible_duplicates": flow.unknown_count,
        "window_share": round(flow.behind / WINDOW, 6),
        "dead_lettered": flow.refused_count,
        "refused": flow.refusal,
    }
