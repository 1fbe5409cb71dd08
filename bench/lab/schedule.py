"""When what happens in a run: the events of the topology and those that chance adds, in order.

Pure.  Invariants: the same seed gives the same schedule; two events of chance for one path, or one broker, do
not overlap.
Tests: tests/unit/bench/lab/test_schedule.py.
"""

from __future__ import annotations

import random
from typing import Final, final

from bench.lab.topology import Event, Topology

_QUIET_SECONDS: Final = 0.2
"""Between two events of chance for one subject."""
_TRIES: Final = 200


@final
class Schedule:
    """The events, and how far they have been carried out."""

    def __init__(self, topology: Topology) -> None:
        chance = random.Random(f"{topology.seed} chaos")
        events = list(topology.events)
        busy = _busy(events)
        chaos = topology.chaos
        links = [path.name for path in topology.paths.values() if path.is_link]
        for _ in range(chaos.cuts):
            placed = _place(chance, busy, links, topology.duration, chaos.cut_seconds)
            if placed is None:
                break
            subject, begin, stop = placed
            events.append(Event(begin, "cut", subject, chance.random() < 0.5))
            events.append(Event(stop, "mend", subject))
        for _ in range(chaos.kills):
            placed = _place(chance, busy, topology.brokers, topology.duration, chaos.kill_seconds)
            if placed is None:
                break
            subject, begin, stop = placed
            events.append(Event(begin, "kill", subject))
            events.append(Event(stop, "start", subject))
        for _ in range(chaos.unlinks):
            placed = _place(chance, busy, links, topology.duration, chaos.unlink_seconds)
            if placed is None:
                break
            subject, begin, stop = placed
            events.append(Event(begin, "unlink", subject))
            events.append(Event(stop, "link", subject))
        self.events = sorted(events, key=lambda one: one.at)
        self._done = 0

    @property
    def is_over(self) -> bool:
        """Whether all have been taken."""
        return self._done == len(self.events)

    @property
    def next_at(self) -> float | None:
        """When the next one is due, in seconds since publishing began."""
        return None if self.is_over else self.events[self._done].at

    def take(self, now: float) -> list[Event]:
        """Those that are due now, each once."""
        first = self._done
        while not self.is_over and self.events[self._done].at <= now:
            self._done += 1
        return self.events[first : self._done]

    def counts(self) -> dict[str, int]:
        """How many of each kind there are."""
        found: dict[str, int] = {}
        for one in self.events:
            found[one.kind] = found.get(one.kind, 0) + 1
        return found


def _busy(events: list[Event]) -> dict[str, list[tuple[float, float]]]:
    """When each path is cut and each broker down, by the topology's own events."""
    busy: dict[str, list[tuple[float, float]]] = {}
    begun: dict[tuple[str, str], float] = {}
    ends = {"mend": "cut", "start": "kill", "link": "unlink"}
    for one in events:
        if one.kind in ends.values():
            begun[one.kind, one.subject] = one.at
        elif one.kind in ends:
            begin = begun.get((ends[one.kind], one.subject), 0.0)
            busy.setdefault(one.subject, []).append((begin, one.at))
    return busy


def _place(
    chance: random.Random,
    busy: dict[str, list[tuple[float, float]]],
    subjects: list[str],
    duration: float,
    longest: float,
) -> tuple[str, float, float] | None:
    """A subject and a time when nothing else happens to it; None when the run is too short for all that was asked."""
    for _ in range(_TRIES):
        subject = chance.choice(subjects)
        begin = chance.uniform(0.0, duration)
        stop = begin + chance.uniform(0.02, 1.0) * longest
        taken = busy.setdefault(subject, [])
        if all(
            stop + _QUIET_SECONDS < other_begin or begin > other_stop + _QUIET_SECONDS
            for other_begin, other_stop in taken
        ):
            taken.append((begin, stop))
            return subject, begin, stop
    return None
