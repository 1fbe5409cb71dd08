"""Plots of a run's result, with matplotlib: rates, latency, lag of links, backlog, memory, processor.

Returns PNG bytes by name; without matplotlib (extra `plot`) there are none, and the report says so.
Tests: tests/interop/test_lab_plots.py.
"""

from __future__ import annotations

import io
from bisect import bisect_left
from collections.abc import Callable
from typing import Any, Final

from bench.lab.series import rates

WIDTH, HEIGHT = 9.5, 3.2
PLACE: Final = (0.115, 0.15, 0.635, 0.80)
"""Of the axes in the picture: left, bottom, width, height; the legend is to the right."""
PLACE_ALONE: Final = (0.115, 0.15, 0.865, 0.80)
"""Without a legend."""
NAMED_LARGE_MAX, NAMED_MAX = 12, 26
"""So many lines are named in letters of the usual and of the smallest size."""
DPI: Final = 100
BAD: Final = "#b03030"
GOOD: Final = "#30803a"
MARKED: Final = {
    **dict.fromkeys(("cut", "kill", "unlink"), BAD),
    **dict.fromkeys(("mend", "start", "link"), GOOD),
}
EVENTS_LINED_MAX: Final = 60
"""More than these are short marks at the foot, so that the curves stay visible."""
BURST: Final = 30
"""A peak of so many times the median gets an axis that is logarithmic above the median."""
DASHED: Final = ("confirmed", "p99")
"""Lines that would else hide the ones they nearly always lie on."""


def plots(result: dict[str, Any]) -> dict[str, bytes]:
    """Draw all that there is something for: title → PNG."""
    try:
        from matplotlib import colormaps
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return {}
    found: dict[str, bytes] = {}
    for title, unit, is_log, lines in _pictures(result):
        shown = [line for line in lines if line[1] and any(one > 0 for one in line[2])]
        if not shown:
            continue
        figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI)
        axes = figure.add_axes(PLACE if len(shown) <= NAMED_MAX else PLACE_ALONE)
        palette = colormaps["tab10" if len(shown) <= 10 else "tab20"]
        axes.set_prop_cycle(color=[palette(number) for number in range(palette.N)])
        for name, times, values in shown:
            style = "--" if name.startswith(DASHED) else "-"
            axes.plot(times, values, style, label=name, linewidth=1.1)
        _mark_events(axes, result)
        _scale(axes, [one for _, _, values in shown for one in values if one > 0], is_log=is_log)
        axes.set_xlabel("seconds since publishing began")
        axes.set_ylabel(unit)
        axes.grid(visible=True, alpha=0.3)
        if len(shown) <= NAMED_MAX:
            size, spacing = ("x-small", 0.5) if len(shown) <= NAMED_LARGE_MAX else ("xx-small", 0.1)
            axes.legend(
                fontsize=size, labelspacing=spacing, loc="center left", bbox_to_anchor=(1.0, 0.5)
            )
        stream = io.BytesIO()
        figure.savefig(stream, format="png")
        found[title] = stream.getvalue()
    return found


def _scale(axes: Any, positive: list[float], *, is_log: bool) -> None:
    """Choose the axis on which both the usual and the peak can be read, with numbers in full."""
    usual = sorted(positive)[len(positive) // 2]
    if is_log:
        axes.set_yscale("log")
    elif max(positive) > BURST * usual:
        axes.set_yscale("symlog", linthresh=usual)
        axes.set_ylim(bottom=0)
    else:
        axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _place: f"{value:,.10g}")
    axes.xaxis.set_major_formatter(lambda value, _place: f"{value:,.10g}")


Line = tuple[str, list[float], list[float]]


def _pictures(result: dict[str, Any]) -> list[tuple[str, str, bool, list[Line]]]:
    series = result["series"]
    rate_lines = [
        *_lines(series["sent"], lambda c: rates(c["t"], c["confirmed"]), "confirmed "),
        *_lines(series["arrived"], lambda c: rates(c["t"], c["arrived"]), "arrived "),
    ]
    latency_lines = [
        *_lines(series["arrived"], lambda c: _positive(c["p50_ms"]), "p50 "),
        *_lines(series["arrived"], lambda c: _positive(c["p99_ms"]), "p99 "),
    ]
    links = series["links"]
    brokers = series["brokers"]
    return [
        ("Rate", "messages / s", False, rate_lines),
        ("Latency from when a message was due", "ms", True, latency_lines),
        ("Behind", "messages", False, _behind(result)),
        ("Lag of links", "ms", False, _lines(links, lambda c: c["lag_ms"])),
        ("Messages in each broker", "messages", False, _lines(brokers, lambda c: c["messages"])),
        ("Memory of each broker", "MB", False, _lines(brokers, lambda c: c["memory_mb"])),
        (
            "Processor time of each broker",
            "cores",
            False,
            _lines(brokers, lambda c: _forward(rates(c["t"], c["cpu_seconds"]))),
        ),
    ]


def _lines(
    columns: dict[str, Any],
    values: Callable[[dict[str, list[float]]], list[float]],
    prefix: str = "",
) -> list[Line]:
    return [(prefix + name, one["t"], values(one)) for name, one in columns.items()]


def _positive(values: list[float]) -> list[float]:
    """Without zeros, which a logarithmic axis cannot show and which mean that nothing arrived."""
    return [one if one > 0 else float("nan") for one in values]


def _forward(values: list[float]) -> list[float]:
    """Without what a restarted process makes of its counter."""
    return [max(0.0, one) for one in values]


def _behind(result: dict[str, Any]) -> list[Line]:
    """Confirmed at the sources and not yet arrived at a target, by time."""
    series = result["series"]
    found: list[Line] = []
    for name, channel in result["channels"].items():
        sources = [series["sent"][f"{name}@{site}"] for site in channel["from"]]
        for target in channel["to"]:
            arrived = series["arrived"].get(f"{name}@{target}")
            if arrived is None:
                continue
            values = [
                max(0.0, sum(_at(one["t"], one["confirmed"], t) for one in sources) - count)
                for t, count in zip(arrived["t"], arrived["arrived"], strict=True)
            ]
            found.append((f"{name}@{target}", arrived["t"], values))
    return found


def _at(times: list[float], values: list[float], wanted: float) -> float:
    """The value of a column at a time, on the straight line between its neighbors."""
    if not times:
        return 0.0
    after = bisect_left(times, wanted)
    if after == 0:
        return values[0]
    if after == len(times):
        return values[-1]
    t0, t1, v0, v1 = times[after - 1], times[after], values[after - 1], values[after]
    return v0 + (v1 - v0) * (wanted - t0) / (t1 - t0)


def _mark_events(axes: Any, result: dict[str, Any]) -> None:
    events = result["events"]
    height = 1.0 if len(events) <= EVENTS_LINED_MAX else 0.05
    for one in events:
        color = MARKED.get(one["kind"], "#707070")
        axes.axvline(one["t"], ymax=height, color=color, linewidth=0.7, alpha=0.6)
