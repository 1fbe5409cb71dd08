"""What a run measures while it goes on, and what is made of it at the end: the contents of `result.json`.

Pure: samples of agents and brokers come in, time too.  Tests: tests/unit/bench/lab/test_record.py.
"""

from __future__ import annotations

from typing import Any, Final, final

from bench.lab.latency import Latencies
from bench.lab.ledger import Verdict
from bench.lab.series import Series
from bench.lab.topology import Channel, Topology

FORMAT: Final = 1
ORIGINAL_PER_SECOND: Final = 216.0
"""What the grid's run of seven million messages over three channels reached."""


@final
class Record:
    """Samples so far: totals for the progress, series for the plots."""

    def __init__(self, topology: Topology, numbers: dict[str, list[int]]) -> None:
        self.topology = topology
        self.numbers = numbers
        self.begin_ns = 0
        self.samples: dict[str, dict[str, Any]] = {}
        self.arrived: dict[str, Series] = {}
        self.sent: dict[str, Series] = {}
        self.brokers: dict[str, Series] = {}
        self.links: dict[str, Series] = {}
        self.link_states: dict[str, dict[str, Any]] = {}
        self.latencies: dict[str, Latencies] = {}
        self.happened: list[dict[str, Any]] = []
        self.errors: dict[str, int] = {}
        self.last_arrival_at = 0.0
        self._arrived_total = 0

    def seconds(self, at_ns: int) -> float:
        """Since publishing began."""
        return (at_ns - self.begin_ns) / 1e9 if self.begin_ns else 0.0

    def note(self, site: str, sample: dict[str, Any]) -> None:
        """Take an agent's sample."""
        self.samples[site] = sample
        at = self.seconds(sample["at_ns"])
        for text in sample["errors"]:
            if len(self.errors) < 100 or text in self.errors:
                self.errors[text] = self.errors.get(text, 0) + 1
        for channel in self.topology.channels:
            self._note_channel(channel, site, at, sample)
        total = self.arrived_count()
        if total > self._arrived_total:
            self._arrived_total = total
            self.last_arrival_at = at
        self._note_links(site, at, sample.get("broker") or {})

    def _note_channel(self, channel: Channel, site: str, at: float, sample: dict[str, Any]) -> None:
        key = f"{channel.name}@{site}"
        if site in channel.targets:
            queue = channel.queue_of(self.topology.sites[site])
            counts = sample["queues"].get(queue, [0, 0, 0, 0, 0])
            latencies = Latencies.load(sample["latencies"].get(queue, {}))
            self.latencies.setdefault(key, Latencies()).merge(latencies)
            series = self.arrived.setdefault(key, Series("arrived", "p50_ms", "p99_ms"))
            shares = latencies.percentile_ms(50), latencies.percentile_ms(99)
            series.add(at, counts[0], *shares)
        if site in channel.sources:
            rows = [sample["producers"][str(number)] for number in self.numbers[key]]
            totals = [sum(row[one] for row in rows) for one in range(2)]
            self.sent.setdefault(key, Series("sent", "confirmed")).add(at, *totals)

    def _note_links(self, site: str, at: float, broker: dict[str, Any]) -> None:
        for link in broker.get("links", []):
            name = f"{site}: {link['link']} ({link['direction']})"
            self.link_states[name] = link
            series = self.links.setdefault(name, Series("lag_ms", "backlog", "round_trip_ms"))
            series.add(at, link["lag_ms"], link["backlog"], link["round_trip_ms"])

    def note_broker(self, site: str, at_ns: int, usage: dict[str, float]) -> None:
        """Take what a broker's process uses, with its backlog as last seen."""
        seen = (self.samples.get(site) or {}).get("broker") or {}
        series = self.brokers.setdefault(site, Series("memory_mb", "cpu_seconds", "messages"))
        series.add(
            self.seconds(at_ns),
            usage["memory_mb"],
            usage["cpu_seconds"],
            float(seen.get("messages", 0)),
        )

    def note_event(self, at_ns: int, kind: str, subject: str, how: str = "") -> None:
        """Take an event that was carried out."""
        self.happened.append(
            {"t": round(self.seconds(at_ns), 3), "kind": kind, "subject": subject, "how": how}
        )

    # -- totals --------------------------------------------------------------------------------

    def sent_counts(self, channel: Channel) -> list[int]:
        """Sent, confirmed, in doubt, refused, over all producers of a channel."""
        found = [0, 0, 0, 0]
        for site in channel.sources:
            sample = self.samples.get(site)
            if sample is not None:
                for number in self.numbers[f"{channel.name}@{site}"]:
                    row = sample["producers"][str(number)]
                    found = [a + b for a, b in zip(found, row, strict=True)]
        return found

    def arrived_counts(self, channel: Channel, site: str) -> list[int]:
        """Arrived, doubled, repeats, disordered, corrupt at one target of a channel."""
        sample = self.samples.get(site)
        queue = channel.queue_of(self.topology.sites[site])
        counts: list[int] = (sample or {"queues": {}})["queues"].get(queue, [0] * 5)
        return counts

    def arrived_count(self) -> int:
        """All that arrived anywhere."""
        return sum(
            self.arrived_counts(channel, site)[0]
            for channel in self.topology.channels
            for site in channel.targets
        )

    def is_all_there(self) -> bool:
        """Whether every target has as many as were confirmed: then an audit is worth its time."""
        return all(
            self.arrived_counts(channel, site)[0] >= self.sent_counts(channel)[1]
            for channel in self.topology.channels
            for site in channel.targets
        )

    def unreached(self) -> list[str]:
        """Targets that have not yet seen a scout of each of their sources: demand is still on its way."""
        found = []
        for channel in self.topology.channels:
            wanted = {
                number
                for site in channel.sources
                for number in self.numbers[f"{channel.name}@{site}"]
            }
            for site in channel.targets:
                queue = channel.queue_of(self.topology.sites[site])
                seen = (self.samples.get(site) or {"scouts": {}})["scouts"].get(queue, [])
                if not wanted <= set(seen):
                    found.append(f"{channel.name} to {site}")
        return found

    def links_down(self) -> list[str]:
        """Links of the topology that their dialing broker does not call up."""
        found = []
        for path in self.topology.paths.values():
            if not path.is_link:
                continue
            state = self.link_states.get(f"{path.first}: {path.name} (dialed)", {})
            if state.get("state") != "up":
                found.append(f"{path.name} ({state.get('last_error') or state.get('state')})")
        return found

    def are_producers_done(self) -> bool:
        """Whether all producers sent what they will and know what became of it."""
        return all(one["is_finished"] for one in self.samples.values())


@final
class Audit:
    """All agents' accounts, compared: a verdict for each producer at each target."""

    def __init__(
        self, topology: Topology, numbers: dict[str, list[int]], accounts: dict[str, dict[str, Any]]
    ) -> None:
        self.rows: list[tuple[Channel, str, int, str, Verdict]] = []
        self._accounts = accounts
        self._topology = topology
        for channel in topology.channels:
            for source in channel.sources:
                for number in numbers[f"{channel.name}@{source}"]:
                    promised = accounts[source]["producers"][str(number)]
                    for target in channel.targets:
                        queue = channel.queue_of(topology.sites[target])
                        inbox = accounts[target]["queues"].get(queue, {"seen": {}})
                        verdict = Verdict(promised, inbox["seen"].get(str(number)))
                        self.rows.append((channel, source, number, target, verdict))

    @property
    def lost(self) -> int:
        """Confirmed and not arrived, everywhere."""
        return sum(row[4].lost for row in self.rows)

    @property
    def doubled(self) -> int:
        """Arrived more often than a consumer's lost connection explains."""
        return sum(row[4].doubled for row in self.rows)

    def channel_result(self, channel: Channel, target: str, begin_ns: int) -> dict[str, Any]:
        """Totals of a channel at one target, with its rates in messages a second."""
        found: dict[str, Any] = {}
        for row_channel, _, _, row_target, verdict in self.rows:
            if row_channel is channel and row_target == target:
                for name, one in verdict.as_dict().items():
                    if isinstance(one, int):
                        found[name] = found.get(name, 0) + one
        queue = channel.queue_of(self._topology.sites[target])
        inbox = self._accounts[target]["queues"].get(queue, {})
        first_ns, last_ns = inbox.get("first_ns", 0), inbox.get("last_ns", 0)
        seconds = (last_ns - first_ns) / 1e9
        found["corrupt"] = inbox.get("corrupt", 0)
        found["first_seconds"] = round((first_ns - begin_ns) / 1e9, 3) if first_ns else None
        found["last_seconds"] = round((last_ns - begin_ns) / 1e9, 3) if last_ns else None
        found["per_second"] = round(found.get("arrived", 0) / seconds, 1) if seconds > 0 else 0.0
        return found


def make_result(record: Record, audit: Audit, more: dict[str, Any]) -> dict[str, Any]:
    """Put together what is written to `result.json`."""
    topology = record.topology
    channels: dict[str, Any] = {}
    for channel in topology.channels:
        sent = record.sent_counts(channel)
        channels[channel.name] = {
            "from": list(channel.sources),
            "to": list(channel.targets),
            "by": "queue" if channel.is_queue else "exchange",
            "rate": channel.rate,
            "body_bytes": channel.body_bytes,
            "is_shared": channel.consumers > 1,
            "sent": sent[0],
            "confirmed": sent[1],
            "targets": {
                target: {
                    **audit.channel_result(channel, target, record.begin_ns),
                    "latency_ms": record.latencies.get(
                        f"{channel.name}@{target}", Latencies()
                    ).percentiles(),
                }
                for target in channel.targets
            },
        }
    rows = [
        {"channel": channel.name, "from": source, "producer": number, "to": target}
        | verdict.as_dict()
        for channel, source, number, target, verdict in audit.rows
    ]
    return {
        "format": FORMAT,
        "title": topology.title,
        "seed": topology.seed,
        "verdict": verdict_of(audit),
        "lost": audit.lost,
        "doubled": audit.doubled,
        "channels": channels,
        "rows": rows,
        "events": record.happened,
        "errors": record.errors,
        "links": record.link_states,
        "series": {
            "arrived": {name: one.as_dict() for name, one in record.arrived.items()},
            "sent": {name: one.as_dict() for name, one in record.sent.items()},
            "brokers": {name: one.as_dict() for name, one in record.brokers.items()},
            "links": {name: one.as_dict() for name, one in record.links.items()},
        },
        "topology": topology.text,
        **more,
    }


def verdict_of(audit: Audit) -> str:
    """One line: whether everything that was confirmed came, once."""
    corrupt = sum(one.get("corrupt", 0) for one in _inboxes(audit))
    faults = [
        text
        for count, text in (
            (audit.lost, "lost"),
            (audit.doubled, "doubled"),
            (corrupt, "corrupt"),
        )
        if count
        for text in (f"{count} {text}",)
    ]
    return ", ".join(faults) if faults else "nothing lost, nothing doubled"


def _inboxes(audit: Audit) -> list[dict[str, Any]]:
    return [inbox for account in audit._accounts.values() for inbox in account["queues"].values()]
