from __future__ import annotations

import pytest

from bench.lab import topology
from bench.lab.ledger import Promised, Seen
from bench.lab.record import Audit, Record, make_result
from bench.lab.site import producer_numbers

TOPOLOGY = topology.parse(
    '[[path]]\nbetween = ["a", "b", "c"]\n[[channel]]\nname = "news"\nfrom = "a"\nto = ["b", "c"]\n'
)
S = 1_000_000_000


def sample(at_s, sent=0, confirmed=0, arrived=None, scouts=(), links=()):
    return {
        "at_ns": at_s * S,
        "producers": {} if arrived is not None else {"1": [sent, confirmed, 0, 0]},
        "is_finished": True,
        "queues": {} if arrived is None else {"lab.news": [arrived, 0, 0, 0, 0]},
        "scouts": {"lab.news": list(scouts)},
        "latencies": {"lab.news": {"100": 5}},
        "broker": {"messages": 7, "links": list(links)},
        "losses": 0,
        "errors": ["connection refused"],
        "cpu_seconds": 0.1,
    }


def link(name, state, direction="dialed"):
    keys = {"lag_ms": 5, "backlog": 9, "round_trip_ms": 63.0, "last_error": "no route"}
    return {"link": name, "direction": direction, "state": state, **keys}


def record():
    made = Record(TOPOLOGY, producer_numbers(TOPOLOGY))
    made.begin_ns = 10 * S
    return made


def test_totals_over_sites():
    found = record()
    found.note("a", sample(12, sent=100, confirmed=90))
    found.note("b", sample(12, arrived=90))
    found.note("c", sample(13, arrived=80))
    (channel,) = TOPOLOGY.channels
    assert found.sent_counts(channel) == [100, 90, 0, 0]
    assert found.arrived_count() == 170
    assert not found.is_all_there()
    found.note("c", sample(14, arrived=90))
    assert found.is_all_there()
    assert found.are_producers_done()
    assert found.last_arrival_at == 4.0
    assert found.errors == {"connection refused": 4}


def test_series_count_from_the_beginning_of_publishing():
    found = record()
    found.note("b", sample(12, arrived=4, links=[link("a--b", "up")]))
    found.note_broker("b", 13 * S, {"memory_mb": 50.0, "cpu_seconds": 1.5})
    assert found.arrived["news@b"].as_dict()["t"] == [2.0]
    assert found.brokers["b"].as_dict()["messages"] == [7]
    assert found.links["b: a--b (dialed)"].as_dict()["backlog"] == [9]


def test_ways_are_open_when_scouts_came_and_links_are_up():
    found = record()
    assert found.unreached() == ["news to b", "news to c"]
    found.note("b", sample(1, arrived=0, scouts=[1], links=[link("b--c", "connecting")]))
    assert found.unreached() == ["news to c"]
    assert found.links_down() == ["a--b (None)", "b--c (no route)"]
    found.note("c", sample(1, arrived=0, scouts=[1]))
    found.note("a", sample(1, links=[link("a--b", "up")]))
    found.note("b", sample(1, arrived=0, scouts=[1], links=[link("b--c", "up")]))
    assert found.unreached() == found.links_down() == []


def accounts(sent=10, b=((0, 10),), c=((0, 10),), corrupt=0):
    promised = Promised()
    promised.send(sent)
    promised.confirm(sent - 1, is_multiple=True)
    found = {"a": {"producers": {"1": promised.as_dict()}, "queues": {}}}
    for site, runs in (("b", b), ("c", c)):
        seen = Seen()
        for first, stop in runs:
            seen.note(first, stop, 1.0)
        inbox = {"first_ns": 11 * S, "last_ns": 13 * S, "corrupt": corrupt}
        found[site] = {
            "producers": {},
            "queues": {"lab.news": inbox | {"seen": {"1": seen.as_dict()}}},
        }
    return found


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        ({}, "nothing lost, nothing doubled"),
        ({"b": ((0, 7),)}, "3 lost"),
        ({"b": ((0, 10), (3, 5)), "c": ((0, 9),)}, "1 lost, 2 doubled"),
        ({"corrupt": 2}, "4 corrupt"),
    ],
)
def test_the_verdict(changed, wanted):
    found = record()
    for site in "abc":
        found.note(site, sample(12, sent=10, confirmed=10, arrived=None if site == "a" else 10))
    audit = Audit(TOPOLOGY, found.numbers, accounts(**changed))
    more = {"relay": "stream", "started": "now", "seconds": 3.0}
    result = make_result(found, audit, more)
    assert result["verdict"] == wanted
    target = result["channels"]["news"]["targets"]["c"]
    assert target["confirmed"] == 10
    assert target["per_second"] == target["arrived"] / 2
    assert (target["first_seconds"], target["last_seconds"]) == (1.0, 3.0)
    assert len(result["rows"]) == 2


def test_a_site_where_nothing_came_lost_all():
    given = accounts()
    given["c"]["queues"] = {}
    audit = Audit(TOPOLOGY, producer_numbers(TOPOLOGY), given)
    assert audit.lost == 10
    channel = audit.channel_result(TOPOLOGY.channels[0], "c", 0)
    assert (channel["lost"], channel["per_second"], channel["first_seconds"]) == (10, 0.0, None)
