"""What status, API and metrics show of links.  Names of fields are those of `gridmsg link list --json`.

Tests: tests/unit/broker/net/test_links.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from broker.link.inflow import Inflow
    from broker.link.outflow import Outflow
    from broker.link.session import LinkSession
    from broker.net.links import Dial, Links


def describe(links: Links) -> list[dict[str, Any]]:
    """Dialed links first, then accepted ones."""
    now_ms = links.table.broker.clock.wall_ms()
    rows = [_dialed(dial, now_ms) for dial in links.dials.values()]
    accepted = [one for one in links.table.sessions.values() if not one.is_dialer]
    return rows + [_session(session, now_ms) for session in accepted]


def _dialed(dial: Dial, now_ms: int) -> dict[str, Any]:
    session = dial.session
    host, port = dial.address
    if session is not None and session.is_up:
        row = _session(session, now_ms)
    else:
        row = {
            "link": dial.settings.name,
            "direction": "dialed",
            "state": "failing" if dial.failing_since_ms else "connecting",
            "peer": "",
            "streams": [],
        }
    row["address"] = f"{host}:{port}"
    row["protocol"] = dial.settings.protocol
    row["attempts"] = dial.attempt_count
    row["connects"] = dial.up_count
    row["failing_since_ms"] = dial.failing_since_ms
    row["last_error"] = row.get("last_error") or dial.last_error
    return row


def _session(session: LinkSession, now_ms: int) -> dict[str, Any]:
    streams = [_outflow(one, now_ms) for one in session.outflows.values()]
    streams += [_inflow(one) for one in session.inflows.values()]
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
        "protocol": "gridmsg",
        "up_since_ms": session.up_at_ms,
        "round_trip_ms": session.round_trip_ms,
        "connections": 1 + len(session.strands),
        "received_bytes": session.received_bytes,
        "sent_bytes": session.sent_bytes,
        "last_error": session.last_error,
        "streams": streams,
    }


def _outflow(flow: Outflow, now_ms: int) -> dict[str, Any]:
    queue = flow.queue
    oldest = flow.oldest_published_at()
    return {
        "stream": flow.name,
        "sends": True,
        "queue": queue.name,
        "backlog": queue.depth,
        "in_flight": flow.in_flight_count,
        "in_flight_bytes": flow.held_bytes,
        "lag_ms": max(0, now_ms - oldest) if oldest else 0,
        "messages": flow.sent_count,
        "bytes": flow.sent_bytes,
        "settled": flow.settled_count,
        "in_doubt": flow.linked.doubt_count,
        "passed_over": flow.linked.passed_count,
        "refused": flow.refusal,
    }


def _inflow(flow: Inflow) -> dict[str, Any]:
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
        "dead_lettered": flow.refused_count,
        "refused": flow.refusal,
    }
