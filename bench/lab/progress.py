"""Progress of a run: a table that is redrawn on a terminal, a plain line every few seconds elsewhere.

Tests: tests/unit/bench/lab/test_progress.py.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, final

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from types import TracebackType

    from bench.lab.experiment import Experiment

PLAIN_EVERY_SECONDS: Final = 10.0
EVENTS_SHOWN: Final = 4


@final
class Progress:
    """Shows an experiment while it runs; used as a context."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._experiment: Experiment | None = None
        self._next_plain = 0.0
        self._last: tuple[float, dict[str, int]] = (0.0, {})
        self._rates: dict[str, float] = {}
        self._phase = ""

    def watch(self, experiment: Experiment) -> None:
        """Show this one from now on."""
        self._experiment = experiment

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, trace)

    def change(self, phase: str) -> None:
        """Show what is new."""
        experiment = self._experiment
        if experiment is None:
            return
        now = time.monotonic()
        self._measure(experiment, now)
        if self._live is not None:
            self._live.update(Group(*self._picture(experiment, phase)), refresh=True)
        elif phase != self._phase or now >= self._next_plain:
            self._next_plain = now + PLAIN_EVERY_SECONDS
            self._console.print(self._line(experiment, phase), highlight=False, soft_wrap=True)
        self._phase = phase

    def _measure(self, experiment: Experiment, now: float) -> None:
        record = experiment.record
        counts = {
            f"{channel.name}@{site}": record.arrived_counts(channel, site)[0]
            for channel in experiment.topology.channels
            for site in channel.targets
        }
        before, old = self._last
        if now - before >= 1.0:
            self._rates = {
                name: (count - old.get(name, 0)) / (now - before) for name, count in counts.items()
            }
            self._last = (now, counts)

    def _line(self, experiment: Experiment, phase: str) -> str:
        record = experiment.record
        sent = sum(record.sent_counts(one)[1] for one in experiment.topology.channels)
        per_second = sum(self._rates.values())
        at = record.seconds(time.monotonic_ns())
        return (
            f"{max(at, 0):7.1f} s  {phase}: {sent:,} confirmed, {record.arrived_count():,} arrived, "
            f"{per_second:,.0f}/s, {len(record.happened)} events"
        )

    def _picture(self, experiment: Experiment, phase: str) -> list[Table | Text]:
        record = experiment.record
        at = max(record.seconds(time.monotonic_ns()), 0)
        title = experiment.topology.title or "laboratory"
        head = Text(f"{title}: {phase}, {at:.0f} of {experiment.topology.duration:.0f} s")
        flows = Table("channel", "to", "confirmed", "arrived", "per second", "p99 ms", "doubled")
        for channel in experiment.topology.channels:
            confirmed = record.sent_counts(channel)[1]
            for site in channel.targets:
                key = f"{channel.name}@{site}"
                counts = record.arrived_counts(channel, site)
                series = record.arrived.get(key)
                p99 = series.last("p99_ms") if series is not None else 0.0
                numbers = (confirmed, counts[0], self._rates.get(key, 0.0))
                flows.add_row(
                    channel.name,
                    site,
                    *(f"{one:,.0f}" for one in numbers),
                    f"{p99:.1f}",
                    str(counts[1]),
                )
        brokers = Table("broker", "memory MB", "backlog")
        for site, columns in record.brokers.items():
            brokers.add_row(
                site, f"{columns.last('memory_mb'):.0f}", f"{columns.last('messages'):,.0f}"
            )
        events = [
            Text(f"{one['t']:8.1f} s  {one['kind']} {one['subject']} {one['how']}")
            for one in record.happened[-EVENTS_SHOWN:]
        ]
        return [head, flows, brokers, *events]
