from __future__ import annotations

import json

import pytest

from bench.lab import report


def columns(*names):
    return {"t": [0.0, 1.0, 2.0], **{name: [0.0, 5.0, 9.0] for name in names}}


def result(**changed):
    target = {
        "confirmed": 9, "arrived": 9, "lost": 0, "doubled": 0, "repeats": 0, "disordered": 0,
        "in_doubt": 0, "doubt_arrived": 0, "refused": 0, "corrupt": 0, "per_second": 4.5,
        "first_seconds": 0.1, "last_seconds": 2.1,
        "latency_ms": {"p50": 31.5, "p90": 33.0, "p99": 40.0, "p99.9": 41.0, "p100": 55.0},
    }  # fmt: skip
    channel = {"from": ["a"], "to": ["b"], "is_shared": False, "targets": {"b": target}}
    counts = {"packets": 5, "bytes": 500, "lost": 1, "overflow": 0, "cut": 2}
    row = {"channel": "news", "from": "a", "producer": 1, "to": "b"}
    made = {
        "format": 1,
        "title": "Tom & <Jerry>",
        "verdict": "nothing lost, nothing doubled",
        "lost": 0,
        "doubled": 0,
        "seed": 4,
        "relay": "stream",
        "started": "2026-03-01",
        "seconds": 3.0,
        "channels": {"news": channel},
        "rows": [row | target, row | target | {"producer": 2}],
        "events": [{"t": 1.0, "kind": "cut", "subject": "a--b", "how": "silent"}],
        "errors": {"connection refused": 2},
        "links": {"a: a--b (dialed)": {"state": "up"}},
        "brokers": {"a": {"kills": 0, "cpu_seconds": 0.9, "peak_memory_mb": 60.0}},
        "relay_stats": {"stats": {"a--b": {"there": counts, "back": counts}}},
        "machine": {"cores": 2},
        "topology": '[[path]]\nbetween = ["a", "b"]',
        "series": {
            "sent": {"news@a": columns("sent", "confirmed")},
            "arrived": {"news@b": columns("arrived", "p50_ms", "p99_ms")},
            "brokers": {"a": columns("memory_mb", "cpu_seconds", "messages")},
            "links": {"a: a--b (dialed)": columns("lag_ms", "backlog", "round_trip_ms")},
        },
    }
    return made | changed


def test_the_page_tells_the_verdict_and_escapes_what_users_wrote():
    page = report.html(result(), {})
    assert "Tom &amp; &lt;Jerry&gt;" in page
    assert "<p class=good>nothing lost, nothing doubled</p>" in page
    assert "9 messages arrived in 2.0 s" in page
    assert "a--b, there" in page
    assert "No plots" in page
    assert "<p class=bad>2 lost</p>" in report.html(result(lost=2, verdict="2 lost"), {})


def test_a_million_messages_are_compared_with_the_original():
    large = result()
    large["channels"]["news"]["targets"]["b"] |= {"arrived": 1_000_000, "last_seconds": 100.1}
    assert "46.3 times that" in report.html(large, {})


def test_nothing_arrived_is_told_without_a_rate():
    empty = result()
    empty["channels"]["news"]["targets"]["b"] |= {"arrived": 0, "first_seconds": None}
    assert "0 messages arrived in 0.0 s: 0/s" in report.html(empty, {})


def test_long_lists_of_events_are_cut_short():
    many = result(events=[{"t": 1.0, "kind": "cut", "subject": "x", "how": ""}] * 150)
    assert "50 more" in report.html(many, {})


def test_what_is_no_result_is_refused(tmp_path):
    with pytest.raises(report.NoResult, match="name the folder of a run"):
        report.read(tmp_path)
    file = tmp_path / "result.json"
    file.write_text(json.dumps(result(format=99)))
    with pytest.raises(report.NoResult, match="format 99"):
        report.read(tmp_path)
    file.write_text(json.dumps(result()))
    assert report.read(tmp_path)["seed"] == report.read(file)["seed"] == 4
