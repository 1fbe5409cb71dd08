from __future__ import annotations

from bench.lab.probe import summarize


def test_an_overview_becomes_backlog_and_links():
    streams = [{"lag_ms": 30, "backlog": 5, "in_flight": 2}, {"lag_ms": 70, "repeats": 1}]
    link = {
        "link": "a--b",
        "direction": "dialed",
        "state": "up",
        "round_trip_ms": 63.2,
        "connections": 4,
        "streams": streams,
    }
    overview = {"queue_totals": {"messages": 12}, "gridmsg": {"links": [link]}}
    found = summarize(overview)
    assert found["messages"] == 12
    (row,) = found["links"]
    assert (row["lag_ms"], row["backlog"], row["in_flight"], row["repeats"]) == (70, 5, 2, 1)
    assert (row["state"], row["round_trip_ms"], row["streams"]) == ("up", 63.2, 2)


def test_a_link_that_never_was_up_has_no_figures():
    link = {"link": "a--b", "direction": "dialed", "state": "connecting", "streams": []}
    overview = {"queue_totals": {"messages": 0}, "gridmsg": {"links": [link]}}
    (row,) = summarize(overview)["links"]
    assert (row["state"], row["round_trip_ms"], row["lag_ms"]) == ("connecting", 0, 0)
    assert summarize({"queue_totals": {"messages": 0}})["links"] == []
