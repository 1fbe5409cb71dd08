"""The report of a run: one HTML file with its plots inside, made of `result.json` alone.

Pure but for `write`.  Tests: tests/unit/bench/lab/test_report.py.
"""

from __future__ import annotations

import base64
import json
from html import escape
from pathlib import Path
from typing import Any, Final

from bench.lab.plots import plots
from bench.lab.record import FORMAT, ORIGINAL_PER_SECOND

ROWS_MAX: Final = 200
EVENTS_MAX: Final = 100
_STYLE: Final = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 70em; color: #1c1c1c; padding: 0 1em; }
table { border-collapse: collapse; margin: .6em 0 1.4em; font-size: 13px; }
th, td { padding: .25em .7em; border-bottom: 1px solid #d8d8d8; text-align: right; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; } pre { background: #f4f4f4; padding: 1em; overflow: auto; }
.good { color: #20702c; font-weight: 600; } .bad { color: #b02020; font-weight: 600; }
"""


class NoResult(Exception):
    """There is no result to report on; the text says what was looked for."""


def read(folder: Path) -> dict[str, Any]:
    """The result of a run, by its folder; raises NoResult."""
    path = folder / "result.json" if folder.is_dir() else folder
    try:
        result: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise NoResult(f"{path}: {error}: name the folder of a run that ended") from None
    if result.get("format") != FORMAT:
        raise NoResult(f"{path}: format {result.get('format')}, this version reads {FORMAT}")
    return result


def write(result: dict[str, Any], folder: Path) -> Path:
    """Write report.html and the plots as files; return the page's path."""
    pictures = plots(result)
    folder.mkdir(parents=True, exist_ok=True)
    for title, png in pictures.items():
        (folder / f"{'-'.join(title.lower().split())}.png").write_bytes(png)
    page = folder / "report.html"
    page.write_text(html(result, pictures))
    return page


def html(result: dict[str, Any], pictures: dict[str, bytes]) -> str:
    """The page."""
    title = escape(result["title"] or "A run of the laboratory")
    mark = "good" if not result["lost"] and not result["doubled"] else "bad"
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>",
        f"<style>{_STYLE}</style><h1>{title}</h1>",
        f"<p class={mark}>{escape(result['verdict'])}</p>",
        f"<p>{escape(_summary(result))}</p>",
        "<h2>Channels</h2>",
        _table(_CHANNEL_HEADS, _channel_rows(result)),
        (
            "<p>Lost: confirmed to its producer and never arrived. Doubled: arrived again though no "
            "consumer's connection had broken. Again: delivered a second time because it had. In doubt: "
            "sent, but the connection broke before the confirm; may arrive once or not at all. Latency "
            "counts from the moment a message was due.</p>"
        ),
    ]
    if not pictures:
        parts.append("<p>No plots: install the extra <code>plot</code> (matplotlib).</p>")
    elif result["events"]:
        parts.append("<p>Red marks: cut, kill, unlink. Green: what ends them. Gray: a change.</p>")
    for name, png in pictures.items():
        source = base64.b64encode(png).decode()
        parts.append(
            f"<h2>{escape(name)}</h2><img alt='{escape(name)}' src='data:image/png;base64,{source}'>"
        )
    parts += [
        "<h2>Brokers</h2>",
        _table(("broker", "killed", "CPU s", "µs / message", "peak MB"), _broker_rows(result)),
        "<h2>Lines</h2>",
        _table(("path and way", "packets", "MB", "lost", "overflow", "cut"), _line_rows(result)),
    ]
    if result["links"]:
        parts += ["<h2>Links at the end</h2>", f"<pre>{escape(_shown(result['links']))}</pre>"]
    if result["events"]:
        parts += ["<h2>Events</h2>", _table(("second", "what", "where", "how"), _events(result))]
    if result["errors"]:
        parts += ["<h2>What clients were told</h2>", _table(("error", "samples"), _errors(result))]
    rows = result["rows"]
    if 1 < len(rows) <= ROWS_MAX:
        parts += ["<h2>Each producer at each target</h2>", _table(_ROW_HEADS, _rows(rows))]
    parts += [
        "<h2>Machine</h2>",
        f"<pre>{escape(_shown(result['machine']))}</pre>",
        "<h2>Topology</h2>",
        f"<pre>{escape(result['topology'])}</pre></html>",
    ]
    return "\n".join(parts)


_CHANNEL_HEADS: Final = (
    *("channel", "to", "confirmed", "arrived", "lost", "doubled", "again", "out of order"),
    *("in doubt", "per second", "p50 ms", "p99 ms", "max ms"),
)
_ROW_HEADS: Final = (
    *("channel", "producer", "from", "to", "confirmed", "arrived", "lost", "doubled"),
    *("again", "out of order", "in doubt", "of these arrived"),
)


def _summary(result: dict[str, Any]) -> str:
    arrived = _arrived(result)
    seconds = _arrival_seconds(result)
    per_second = arrived / seconds if seconds else 0.0
    text = (
        f"{arrived:,} messages arrived in {seconds:,.1f} s: {per_second:,.0f}/s over all channels; "
        f"relay: {result['relay']}, seed {result['seed']}, started {result['started']}, "
        f"{result['seconds']:,.0f} s in all."
    )
    if arrived >= 1_000_000:
        text += (
            f" The original of seven million messages ran at {ORIGINAL_PER_SECOND:.0f}/s: "
            f"{per_second / ORIGINAL_PER_SECOND:,.1f} times that."
        )
    return text


def _arrived(result: dict[str, Any]) -> int:
    return sum(
        int(target["arrived"])
        for one in result["channels"].values()
        for target in one["targets"].values()
    )


def _arrival_seconds(result: dict[str, Any]) -> float:
    """From the first arrival anywhere to the last."""
    targets = [
        target
        for one in result["channels"].values()
        for target in one["targets"].values()
        if target["first_seconds"] is not None
    ]
    if not targets:
        return 0.0
    first = min(float(one["first_seconds"]) for one in targets)
    return max(float(one["last_seconds"]) for one in targets) - first


def _channel_rows(result: dict[str, Any]) -> list[list[str]]:
    rows = []
    for name, channel in result["channels"].items():
        for site, target in channel["targets"].items():
            latency = target["latency_ms"]
            order = "shared" if channel["is_shared"] else f"{target['disordered']:,}"
            rows.append(
                [
                    name,
                    site,
                    *(f"{target[key]:,}" for key in ("confirmed", "arrived", "lost", "doubled")),
                    f"{target['repeats']:,}",
                    order,
                    f"{target['in_doubt']:,}",
                    f"{target['per_second']:,.0f}",
                    *(f"{latency[key]:,.1f}" for key in ("p50", "p99", "p100")),
                ]
            )
    return rows


def _broker_rows(result: dict[str, Any]) -> list[list[str]]:
    arrived = _arrived(result) or 1
    return [
        [
            name,
            str(one["kills"]),
            f"{one['cpu_seconds']:.1f}",
            f"{one['cpu_seconds'] / arrived * 1e6:.1f}",
            f"{one['peak_memory_mb']:.0f}",
        ]
        for name, one in result["brokers"].items()
    ]


def _line_rows(result: dict[str, Any]) -> list[list[str]]:
    rows = []
    for name, ways in result["relay_stats"]["stats"].items():
        for way, counts in ways.items():
            numbers = [counts["packets"], counts["bytes"] / 1e6]
            numbers += [counts[key] for key in ("lost", "overflow", "cut")]
            rows.append([f"{name}, {way}", *(f"{one:,.0f}" for one in numbers)])
    return rows


def _events(result: dict[str, Any]) -> list[list[str]]:
    events = result["events"]
    rows = [[f"{e['t']:.1f}", e["kind"], e["subject"], e["how"]] for e in events[:EVENTS_MAX]]
    if len(events) > EVENTS_MAX:
        rows.append(["…", f"{len(events) - EVENTS_MAX} more", "", "in result.json"])
    return rows


def _errors(result: dict[str, Any]) -> list[list[str]]:
    return [[text, str(count)] for text, count in sorted(result["errors"].items())]


def _rows(rows: list[dict[str, Any]]) -> list[list[str]]:
    keys = ("confirmed", "arrived", "lost", "doubled", "repeats", "disordered", "in_doubt")
    return [
        [
            one["channel"],
            str(one["producer"]),
            one["from"],
            one["to"],
            *(f"{one[key]:,}" for key in (*keys, "doubt_arrived")),
        ]
        for one in rows
    ]


def _table(heads: tuple[str, ...], rows: list[list[str]]) -> str:
    head = "".join(f"<th>{escape(one)}</th>" for one in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _shown(what: Any) -> str:
    return json.dumps(what, indent=1, ensure_ascii=False)
