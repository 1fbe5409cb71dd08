"""The broker's figures in Prometheus's text format.

Every name begins with `gridmsg_`; docs/operating.md lists them (a test looks).
Tests: tests/unit/broker/management/test_metrics.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from broker.core.broker import Broker

QUEUES_MAX = 1000
"""Queues with figures of their own; the rest is in the totals only."""
LINKS_MAX = 1000

GAUGES = {
    "gridmsg_up": "1 while the broker is active.",
    "gridmsg_epoch": "Epoch of the store's owner.",
    "gridmsg_blocked": "1 while publishers wait for the store.",
    "gridmsg_connections": "Open connections.",
    "gridmsg_queues": "Queues.",
    "gridmsg_queue_messages_ready": "Messages ready in a queue.",
    "gridmsg_queue_messages_unacknowledged": "Messages of a queue in consumers' hands.",
    "gridmsg_queue_consumers": "Consumers of a queue.",
    "gridmsg_link_up": "1 while a link is up and not blocked.",
    "gridmsg_link_lag_seconds": "Age of the oldest message that a link has not forwarded.",
    "gridmsg_link_backlog": "Messages that wait for a link, or are on their way.",
    "gridmsg_link_round_trip_seconds": "Round trip of a link, what waits in its sockets included.",
    "gridmsg_link_sent": "Messages a link sent since it came up.",
    "gridmsg_link_received": "Messages that came by a link since it came up.",
    "gridmsg_link_duplicates": "Second copies that a link suppressed since it came up.",
    "gridmsg_link_possible_duplicates": "Messages of a link too old to know whether they came before.",
    "gridmsg_link_window_share": "How far back the latest second copy of a link came, as a share of what is remembered.",
    "gridmsg_origins": "Origins of messages remembered to know second copies.",
    "gridmsg_origin_bytes": "Memory that they take.",
    "gridmsg_origins_forgotten": "Origins forgotten since start because there were too many.",
}
"""Gauges with their help; counters are those of broker/metrics.py, as `gridmsg_NAME_total`."""


def render(broker: Broker, described: dict[str, Any]) -> str:
    """The text of /metrics."""
    return "\n".join(_lines(broker, described)) + "\n"


def counter_name(slot: str) -> str:
    """The metric's name of a counter."""
    return f"gridmsg_{slot.removesuffix('_count')}_total"


def _lines(broker: Broker, described: dict[str, Any]) -> Iterator[str]:
    queues = [one for vhost in broker.vhosts.values() for one in vhost.queues.values()]
    for slot, value in broker.metrics.as_dict().items():
        name = counter_name(slot)
        yield f"# TYPE {name} counter"
        yield f"{name} {value}"
    singles = {
        "gridmsg_up": int(described.get("role") == "active"),
        "gridmsg_epoch": described.get("epoch", 0),
        "gridmsg_blocked": int(bool(described.get("is_blocked"))),
        "gridmsg_connections": len(described.get("connections", [])),
        "gridmsg_queues": len(queues),
    }
    origins = described.get("link_origins")
    if origins:
        singles["gridmsg_origins"] = origins["count"]
        singles["gridmsg_origin_bytes"] = origins["bytes"]
        singles["gridmsg_origins_forgotten"] = origins["forgotten"]
    for name, value in singles.items():
        yield f"# HELP {name} {GAUGES[name]}"
        yield f"# TYPE {name} gauge"
        yield f"{name} {value}"
    for key, value in sorted(described.get("store", {}).items()):
        if isinstance(value, (int, float)):
            name = "gridmsg_store_" + "".join(c if c.isalnum() else "_" for c in str(key))
            yield f"# TYPE {name} gauge"
            yield f"{name} {float(value) if isinstance(value, float) else int(value)}"
    for name, attribute in (
        ("gridmsg_queue_messages_ready", "depth"),
        ("gridmsg_queue_messages_unacknowledged", "unsettled_count"),
        ("gridmsg_queue_consumers", "consumer_count"),
    ):
        yield f"# HELP {name} {GAUGES[name]}"
        yield f"# TYPE {name} gauge"
        for one in queues[:QUEUES_MAX]:
            labels = f'vhost="{_escaped(one.vhost.name)}",queue="{_escaped(one.name)}"'
            yield f"{name}{{{labels}}} {getattr(one, attribute)}"
    if described.get("links"):
        yield from _link_lines(described["links"])


def _link_lines(links: list[dict[str, Any]]) -> Iterator[str]:
    found: dict[str, list[str]] = {name: [] for name in GAUGES if name.startswith("gridmsg_link_")}
    for one in links[:LINKS_MAX]:
        sends = [stream for stream in one["streams"] if stream["sends"]]
        takes = [stream for stream in one["streams"] if not stream["sends"]]
        values = {
            "up": int(one["state"] == "up"),
            "lag_seconds": max([stream["lag_ms"] for stream in sends], default=0) / 1000,
            "backlog": sum(stream["backlog"] + stream["in_flight"] for stream in sends),
            "round_trip_seconds": (one.get("round_trip_ms") or 0.0) / 1000,
            "sent": sum(stream["messages"] for stream in sends),
            "received": sum(stream["messages"] for stream in takes),
            "duplicates": sum(stream["repeats"] + stream["second_copies"] for stream in takes),
            "possible_duplicates": sum(stream["possible_duplicates"] for stream in takes),
            "window_share": max([stream["window_share"] for stream in takes], default=0),
        }
        labels = f'link="{_escaped(one["link"])}",direction="{one["direction"]}",peer="{_escaped(one["peer"])}"'
        for name, value in values.items():
            found[f"gridmsg_link_{name}"].append(f"gridmsg_link_{name}{{{labels}}} {value}")
    for name, lines in found.items():
        yield f"# HELP {name} {GAUGES[name]}"
        yield f"# TYPE {name} gauge"
        yield from lines


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
