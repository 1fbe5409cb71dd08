"""The command line's frame: exit statuses, places, tables, progress."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest

from broker import cli
from broker.cli import base


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("GRIDMSG_DATA", "GRIDMSG_CONFIG", "GRIDMSG_PORT_OFFSET", "GRIDMSG_URL"):
        monkeypatch.delenv(name, raising=False)


def test_done_is_0(capsys):
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("gridmsg ")
    assert cli.run(["broker", "check"]) == 0


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"],
        ["queue", "list", "--nonsense"],
        ["broker", "check", "--port-offset", "4000"],
        ["queue", "peek"],
        ["queue", "peek", "q", "--count", "0"],
        ["replay", "request", "--from", "never", "--to", "2026-01-01", "--destination", "d"],
    ],
)
def test_wrong_usage_is_2(words, capsys):
    assert cli.run(words) == 2
    assert capsys.readouterr().err


def one_line(capsys):
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_no_broker_is_1_and_says_what_to_do(capsys):
    assert cli.run(["status", "--url", "http://127.0.0.1:1"]) == 1
    assert "start one with `gridmsg up`" in one_line(capsys)


def test_a_bad_configuration_is_1_with_file_and_line(tmp_path, capsys):
    Path("x.toml").write_text("[store]\nsync = 5\n")
    assert cli.run(["broker", "check", "--config", "x.toml"]) == 1
    assert one_line(capsys).startswith("gridmsg: x.toml:2: store.sync: 5 is not allowed: one of ")


@pytest.mark.parametrize(
    "text", ["[collector]\nnmae = 1\n", '[[database]]\nprefetch = "many"\n', "[summary]\nx = 1\n"]
)
def test_the_agents_sections_are_checked_as_well(text, capsys):
    Path("x.toml").write_text(text)
    assert cli.run(["broker", "check", "--config", "x.toml"]) == 1
    assert one_line(capsys).startswith("gridmsg: x.toml:2: ")


def test_check_tells_values_and_where_they_came_from(monkeypatch, capsys):
    Path("x.toml").write_text('[store]\nsync = "never"\n[collector.broker]\npasscode = "hush"\n')
    monkeypatch.setenv("GRIDMSG_BROKER__NAME", "me")
    assert cli.run(["broker", "check", "--config", "x.toml", "--json"]) == 0
    rows = {one["key"]: one for one in json.loads(capsys.readouterr().out)["values"]}
    assert rows["store.sync"] == {"key": "store.sync", "value": '"never"', "origin": "x.toml:2"}
    assert rows["broker.name"]["origin"] == "environment GRIDMSG_BROKER__NAME"
    assert rows["store.segment-size"]["origin"] == "default"
    assert rows["collector.broker.passcode"]["value"] == "…"


def test_nothing_to_stop(capsys):
    assert cli.run(["broker", "stop"]) == 1
    assert "no broker runs on data" in one_line(capsys)


def test_a_stale_pid_file_is_no_broker(capsys):
    Path("data").mkdir()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    Path("data/broker.pid").write_text(f"{ended.pid}\n")
    assert cli.run(["broker", "stop"]) == 1
    assert "no broker runs" in one_line(capsys)


def test_no_record_store_yet(capsys):
    assert cli.run(["record", "count"]) == 1
    assert "no record store at data/records.sqlite" in one_line(capsys)


def test_every_command_of_the_table_loads():
    context = click.Context(cli.gridmsg)
    missing = [
        name
        for name in cli.COMMANDS
        if name != "bench" and cli.gridmsg.get_command(context, name) is None
    ]
    assert missing == []


def test_help_loads_neither_twisted_nor_the_agents_libraries():
    code = (
        "import sys, broker.cli; broker.cli.run(['--help']); "
        "print([m for m in ('twisted', 'stomp', 'lxml', 'rich', 'argon2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_tables_align():
    rows = [{"a": "x", "n": 5, "b": True}, {"a": "longer", "n": 12345, "b": None}]
    assert list(base.table_lines(rows, ("a", "n", "b"))) == [
        "A           N  B",
        "x           5  yes",
        "longer  12345  -",
    ]


def test_progress_is_plain_lines_without_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(base, "is_terminal", lambda: False)
    with base.progress("work", 2500, every=1000) as advance:
        for done in range(0, 2501, 250):
            advance(done, None)
    assert capsys.readouterr().err.splitlines() == ["work: 1000 of 2500", "work: 2000 of 2500"]


def test_the_place_as_arguments_of_a_child(tmp_path):
    Path("x.toml").write_text("")
    place = base.Place(Path("d"), Path("x.toml"), 7)
    assert place.arguments() == ["--data", "d", "--port-offset", "7", "--config", "x.toml"]
    assert place.url == "http://127.0.0.1:15679"
    assert place.collector_address() == "127.0.0.1:8887"
    assert base.Place(None, None, 0, "http://h:1/").url == "http://h:1"


def test_folders_are_expanded_in_order(tmp_path):
    (tmp_path / "f").mkdir()
    for name in ("b", "a"):
        (tmp_path / "f" / name).touch()
    assert [one.name for one in base.expand([tmp_path / "f"])] == ["a", "b"]
