from __future__ import annotations

from dataclasses import replace

from bench.lab import topology
from bench.lab.schedule import Schedule
from bench.lab.topology import Chaos, Event

BASE = topology.parse(
    '[lab]\nduration = "60s"\n[[path]]\nbetween = ["a", "b", "c"]\nshape = "ring"\n'
    '[[channel]]\nfrom = "a"\nto = "c"\n'
)


def chaotic(cuts=40, kills=10, unlinks=0, seed=1, events=()):
    chaos = Chaos(cuts, kills, 0.5, 0.5, unlinks, 0.5)
    return Schedule(replace(BASE, chaos=chaos, seed=seed, events=events))


def test_the_same_seed_gives_the_same_moments():
    assert chaotic().events == chaotic().events
    assert chaotic().events != chaotic(seed=2).events


def test_all_are_there_and_each_ends():
    counts = chaotic(unlinks=5).counts()
    assert counts == {"cut": 40, "mend": 40, "kill": 10, "start": 10, "unlink": 5, "link": 5}


def test_nothing_happens_twice_at_a_time_to_one_subject():
    own = (Event(5.0, "kill", "a"), Event(30.0, "start", "a"))
    is_away = set()
    for one in chaotic(kills=30, unlinks=20, events=own).events:
        if one.kind in ("cut", "kill", "unlink"):
            assert one.subject not in is_away
            is_away.add(one.subject)
        else:
            is_away.remove(one.subject)
    assert not is_away


def test_more_than_fit_are_left_out():
    schedule = chaotic(cuts=10_000, kills=0)
    assert 100 < schedule.counts()["cut"] == schedule.counts()["mend"] < 10_000


def test_events_are_taken_once_when_they_are_due():
    schedule = Schedule(
        replace(BASE, events=(Event(1.0, "cut", "a--b"), Event(2.0, "mend", "a--b")))
    )
    assert schedule.take(0.5) == []
    assert schedule.next_at == 1.0
    assert [one.kind for one in schedule.take(1.0)] == ["cut"]
    assert schedule.take(1.5) == []
    assert [one.kind for one in schedule.take(9.0)] == ["mend"]
    assert schedule.is_over
    assert schedule.next_at is None
