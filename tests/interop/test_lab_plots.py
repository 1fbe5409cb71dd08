"""Plots of a result with the real matplotlib; without it the report says what is missing (tests/unit/bench/lab/test_report.py)."""

from __future__ import annotations

import pytest

from bench.lab import plots as plotting
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


def test_a_run_in_which_nothing_arrived_has_plots_of_the_rest():
    """Latencies are then all missing: no plot of them, and no error."""
    pytest.importorskip("matplotlib", reason="plots: pip install 'gridmsg[plot]'")
    silent = {"t": [0.0, 1.0], "arrived": [0.0, 0.0], "p50_ms": [0.0, 0.0], "p99_ms": [0.0, 0.0]}
    series = {**RESULT["series"], "arrived": {"news@b": silent}}
    found = plots({**RESULT, "series": series})
    assert "Rate" in found
    assert "Latency from when a message was due" not in found


def test_a_burst_and_a_thousand_events_leave_the_usual_to_be_seen(tmp_path):
    """The rate's axis is logarithmic above the usual one, and events are marks at the foot."""
    figure = pytest.importorskip("matplotlib.figure", reason="plots: pip install 'gridmsg[plot]'")
    axes = figure.Figure().add_subplot()
    plotting._scale(axes, [30.0] * 600 + [12_000.0], is_log=False)
    assert axes.get_yscale() == "symlog"
    plotting._scale(calm := figure.Figure().add_subplot(), [30.0, 60.0], is_log=False)
    assert calm.get_yscale() == "linear"
    events = [{"t": float(t), "kind": "cut", "subject": "a--b", "how": ""} for t in range(1000)]
    plotting._mark_events(axes, {"events": events})
    assert max(line.get_ydata()[1] for line in axes.lines) < 0.1


def test_a_column_is_read_between_its_times():
    assert [plotting._at([1.0, 2.0, 2.0], [0.0, 4.0, 6.0], t) for t in (0.5, 1.25, 2.0, 3.0)] == [
        0.0,
        1.0,
        4.0,
        6.0,
    ]
    assert plotting._at([], [], 1.0) == 0.0
