from __future__ import annotations

import io
from types import SimpleNamespace

from rich.console import Console

from bench.lab import topology
from bench.lab.progress import Progress
from bench.lab.record import Record
from bench.lab.site import producer_numbers

TOPOLOGY = topology.parse('[[path]]\nbetween = ["a", "b"]\n[[channel]]\nfrom = "a"\nto = "b"\n')


def shown(*phases, is_terminal):
    out = io.StringIO()
    console = Console(file=out, force_terminal=is_terminal, width=120)
    record = Record(TOPOLOGY, producer_numbers(TOPOLOGY))
    experiment = SimpleNamespace(topology=TOPOLOGY, record=record)
    with Progress(console) as progress:
        progress.watch(experiment)
        for phase in phases:
            progress.change(phase)
    return out.getvalue()


def test_elsewhere_a_line_for_each_phase():
    text = shown("linking", "linking", "publishing", is_terminal=False)
    assert [line.split("s  ")[1].split(":")[0] for line in text.splitlines()] == [
        "linking",
        "publishing",
    ]


def test_on_a_terminal_a_table():
    text = shown("publishing", is_terminal=True)
    assert "channel-1" in text
    assert "p99 ms" in text
