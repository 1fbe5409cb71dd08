"""Plots of a result with the real matplotlib; without it the report says what is missing (tests/unit/bench/lab/test_report.py)."""

from __future__ import annotations

import pytest

from bench.lab import report
from bench.lab.plots import plots

pytestmark = pytest.mark.interop


def columns(*names):
    return {"t": [0.0, 1.0, 2.0], **{name: [0.0, 5.0, 9.0] for name in names}}


RESULT = {
    "channels": {"news": {"from": ["a"], "to": ["b"]}},
    "events": [{"t": 1.0, "kind": "cut", "subject": "a--b", "how": "silent"}],
    "series": {
        "sent": {"news@a": columns("sent", "confirmed")},
        "arrived": {"news@b": columns("arrived", "p50_ms", "p99_ms")},
        "brokers": {"a": columns("memory_mb", "cpu_seconds", "messages")},
        "links": {"a: a--b (dialed)": columns("lag_ms", "backlog", "round_trip_ms")},
    },
}


def test_plots_are_pictures_of_what_there_is(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="plots: pip install 'gridmsg[plot]'")
    monkeypatch.setattr(report, "html", lambda result, pictures: " ".join(pictures))
    page = report.write(RESULT, tmp_path)
    assert page.read_text().startswith("Rate Latency from when a message was due Lag of links")
    for name in ("rate", "lag-of-links", "memory-of-each-broker", "messages-in-each-broker"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_to_show_is_no_plot():
    pytest.importorskip("matplotlib", reason="plots: pip install 'gridmsg[plot]'")
    empty = {"sent": {}, "arrived": {}, "brokers": {}, "links": {}}
    assert plots({"channels": {}, "events": [], "series": empty}) == {}
