"""`gridmsg lab`: wide-area experiments with brokers and links on this machine.

Tests: tests/unit/bench/lab/test_cli.py, tests/interop/test_lab_run.py.
"""

from __future__ import annotations

import json
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click

from bench.lab import report as reports
from bench.lab import topology as topologies
from bench.lab.experiment import FAILURES, Experiment
from bench.lab.topology import Topology
from broker.setting_types import parse_duration

RUNS: Final = Path("lab-runs")


@click.group()
def lab() -> None:
    """Wide-area experiments: brokers, links, delays, outages, and an account of every message."""


@lab.command("list")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def list_topologies(as_json: bool) -> None:
    """The topologies that ship; each is a file to copy from."""
    found = []
    for path in topologies.shipped_files():
        one = topologies.read(path)
        found.append(
            {
                "name": path.stem,
                "sites": len(one.sites),
                "paths": len(one.paths),
                "channels": len(one.channels),
                "seconds": one.duration,
                "title": one.title,
                "file": str(path),
            }
        )
    if as_json:
        click.echo(json.dumps(found))
        return
    for row in found:
        click.echo(
            f"{row['name']:<14} {row['sites']:>2} sites {row['paths']:>2} paths "
            f"{row['channels']:>2} channels {row['seconds']:>6g} s  {row['title']}"
        )


def _duration(context: click.Context, option: click.Parameter, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return parse_duration(text)
    except ValueError:
        raise click.BadParameter(f"{text!r}: such as 30s or 5min expected") from None


@lab.command("run")
@click.argument("topology")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the run.  [default: lab-runs/NAME-TIME]",
)
@click.option(
    "--relay",
    type=click.Choice(["auto", "packets", "stream"]),
    help="What carries the traffic, if not as the topology says.",
)
@click.option("--duration", callback=_duration, help="How long to publish, if not as it says.")
@click.option("--seed", type=int, help="Of everything left to chance, if not as it says.")
@click.option(
    "--scale",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    help="Multiply the counts of messages, and of cuts, kills and unlinks by chance.",
)
@click.option("--keep", is_flag=True, help="Keep the brokers' stores after a run without fault.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, without series.")
def run(
    topology: str,
    out: Path | None,
    relay: str | None,
    duration: float | None,
    seed: int | None,
    scale: float,
    keep: bool,
    as_json: bool,
) -> int:
    """Run a topology: a TOML file, or one of `gridmsg lab list`.

    Exit status 1 when a message was lost or doubled.
    """
    file = topologies.find(topology)
    wanted = adapted(topologies.read(file), duration, seed, scale)
    folder = out or RUNS / f"{file.stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    signal.signal(signal.SIGTERM, _stop)
    # Here, so that `gridmsg --help` need not wait for it.
    from rich.console import Console

    from bench.lab.progress import Progress

    with Progress(Console(stderr=True)) as progress:
        experiment = Experiment(
            wanted, relay or wanted.relay, folder, progress.change, keeps_stores=keep
        )
        progress.watch(experiment)
        try:
            result = experiment.run()
        except FAILURES as error:
            raise click.ClickException(str(error)) from None
    page = reports.write(result, folder)
    if as_json:
        click.echo(json.dumps({k: v for k, v in result.items() if k not in ("series", "topology")}))
    else:
        _say(result, page)
    return 1 if result["lost"] or result["doubled"] else 0


@lab.command("report")
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where to write it.  [default: the run's folder]",
)
def report(folder: Path, out: Path | None) -> None:
    """Write the report of a run anew (HTML with plots) from its result.json."""
    try:
        result = reports.read(folder)
    except reports.NoResult as error:
        raise click.ClickException(str(error)) from None
    target = out or (folder if folder.is_dir() else folder.parent)
    _say(result, reports.write(result, target))


def adapted(topology: Topology, duration: float | None, seed: int | None, scale: float) -> Topology:
    """The topology with what the command line says otherwise; events after the end are left out."""
    changed = topology
    if duration is not None:
        events = tuple(one for one in topology.events if one.at <= duration)
        changed = replace(changed, duration=duration, events=events)
    if seed is not None:
        changed = replace(changed, seed=seed)
    if scale != 1.0:
        channels = tuple(
            replace(one, messages=max(1, round(one.messages * scale))) if one.messages else one
            for one in changed.channels
        )
        chaos = replace(
            changed.chaos,
            cuts=round(changed.chaos.cuts * scale),
            kills=round(changed.chaos.kills * scale),
            unlinks=round(changed.chaos.unlinks * scale),
        )
        changed = replace(changed, channels=channels, chaos=chaos)
    return changed


def _say(result: dict[str, Any], page: Path) -> None:
    for name, channel in result["channels"].items():
        for site, one in channel["targets"].items():
            click.echo(
                f"{name} to {site}: {one['confirmed']:,} confirmed, {one['arrived']:,} arrived, "
                f"{one['lost']:,} lost, {one['doubled']:,} doubled, "
                f"{one['disordered']:,} out of order, {one['per_second']:,.0f}/s, "
                f"p50 {one['latency_ms']['p50']:,.1f} ms, p99 {one['latency_ms']['p99']:,.1f} ms"
            )
    click.echo(result["verdict"])
    click.echo(f"report: {page}")


def _stop(number: int, frame: object) -> None:
    raise KeyboardInterrupt
