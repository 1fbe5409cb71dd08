from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from bench.lab import topology
from bench.lab.cli import adapted, lab
from broker.cli import run

TEXT = """
[[path]]
between = ["a", "b"]
[[channel]]
name = "counted"
from = "a"
to = "b"
messages = 1000
[[channel]]
name = "timed"
from = "a"
to = "b"
[[event]]
at = "2s"
kill = "a"
[[event]]
at = "20s"
cut = ["a", "b"]
[chaos]
cuts = 10
kills = 4
"""


def test_list_names_what_ships():
    found = CliRunner().invoke(lab, ["list"])
    assert found.exit_code == 0
    assert [line.split()[0] for line in found.output.splitlines()] == [
        "mesh",
        "pair",
        "ring",
        "seven-million",
        "star",
    ]
    rows = json.loads(CliRunner().invoke(lab, ["list", "--json"]).output)
    assert rows[0]["sites"] == 5


def test_options_go_before_the_file():
    parsed = topology.parse(TEXT)
    changed = adapted(parsed, 5.0, 9, 0.5)
    assert (changed.duration, changed.seed) == (5.0, 9)
    assert [one.messages for one in changed.channels] == [500, 0]
    assert (changed.chaos.cuts, changed.chaos.kills) == (5, 2)
    assert {one.kind for one in changed.events} == {"kill", "start"}
    assert adapted(parsed, None, None, 1.0) == parsed


@pytest.mark.parametrize(
    ("words", "status", "wanted"),
    [
        (["run", "triangle"], 1, "topologies that ship: mesh"),
        (["run", "pair", "--duration", "soon"], 2, "such as 30s"),
        (["report", "."], 1, "name the folder of a run"),
    ],
)
def test_errors_are_one_line(words, status, wanted, capsys):
    assert run(["lab", *words]) == status
    assert wanted in capsys.readouterr().err


def test_a_wrong_topology_is_refused_before_anything_starts(tmp_path, capsys):
    file = tmp_path / "wrong.toml"
    file.write_text(TEXT.replace("between", "betwen"))
    assert run(["lab", "run", str(file), "--out", str(tmp_path / "out")]) == 1
    assert "wrong.toml:3: path[0].betwen: unknown key; did you mean between?" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()


def test_loss_needs_the_packet_relay(tmp_path, capsys):
    file = tmp_path / "lossy.toml"
    file.write_text(TEXT.replace('"b"]\n[[channel', '"b"]\nloss = 0.01\n[[channel', 1))
    words = ["lab", "run", str(file), "--relay", "stream", "--out", str(tmp_path / "out")]
    assert run(words) == 1
    assert "needs the packet relay" in capsys.readouterr().err
