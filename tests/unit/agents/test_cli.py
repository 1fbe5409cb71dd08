"""The agents' commands without a broker: tables, JSON, times and errors."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager

import pytest

from agents import cli as commands
from agents.config import settings_from
from agents.errors import Refused
from agents.recordstore.interface import Kind, StoredRecord
from agents.recordstore.sqlite import SqliteRecordStore
from agents.replays.control import FINISHED, PROGRESS, STARTING, ControlMessage, Counts
from broker import cli
from broker.cli.base import Failure
from tests.support.waiting import wait_until

DAY = "2016-05-27"


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = SqliteRecordStore(tmp_path / "data" / "records.sqlite")
    store.put(
        [
            StoredRecord.of(
                kind,
                record_id,
                {"EndTime": f"{DAY}T01:00:00Z", "VOName": "cms", "CoreHours": 0.0168, **more},
            )
            for kind, record_id, more in (
                (Kind.RAW, "a", {}),
                (Kind.RAW, "b", {"VOName": "atlas"}),
                (Kind.QUARANTINE, "q", {"Quarantine": "EpochStartTime"}),
            )
        ]
    )
    store.close()
    return tmp_path


def test_times(site):
    assert commands.first_moment(DAY).isoformat() == f"{DAY}T00:00:00+00:00"
    assert commands.last_moment(DAY).isoformat() == f"{DAY}T23:59:59.999999+00:00"


def test_summaries_are_rebuilt_and_shown(site, capsys):
    assert cli.run(["summary", "rebuild", "--from", DAY, "--to", DAY]) == 0
    assert "1 days computed, 1 changed" in capsys.readouterr().out
    assert cli.run(["summary", "show", "--from", DAY, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert sorted((row["VOName"], row["Count"]) for row in rows) == [("atlas", 1), ("cms", 1)]
    assert cli.run(["summary", "show", "--from", DAY]) == 0
    assert "0.017" in capsys.readouterr().out
    assert cli.run(["summary", "rebuild", "--from", DAY, "--to", "2016-05-01"]) == 1
    assert "before it begins" in capsys.readouterr().err


def test_which_database(site):
    settings = settings_from({"database": [{"name": "x"}, {"name": "y"}]})
    assert commands.one_database(settings, "y").name == "y"
    with pytest.raises(Failure, match=r"say which with --name \(x, y\)"):
        commands.one_database(settings, None)
    with pytest.raises(Failure, match="--name takes x, y"):
        commands.one_database(settings, "z")


@contextmanager
def answers(monkeypatch, *messages):
    """Replay requests are answered so, and no connection is made."""

    def follow(_wire, _queue, asked, **_):
        for each in messages:
            if isinstance(each, Exception):
                raise each
            yield ControlMessage(each[0], asked.request_id, *each[1:])

    with monkeypatch.context() as patch:
        patch.setattr("agents.requests.follow", follow)
        yield


REQUEST = ["replay", "request", "--from", DAY, "--to", DAY, "--destination", "/queue/x"]


def test_a_replay_is_followed_to_its_end(site, capsys, monkeypatch):
    waits = (PROGRESS, Counts(), "waits for 3 requests before it")
    heard = (waits, waits, (STARTING, Counts(5)), (FINISHED, Counts(5, 5)))
    with answers(monkeypatch, *heard):
        assert cli.run(REQUEST) == 0
    said = capsys.readouterr()
    assert said.out == "5 of 5 records sent to /queue/x\n"
    assert said.err == "the request waits for 3 requests before it\n"
    with answers(monkeypatch, (FINISHED, Counts(5, 4, 1))):
        assert cli.run([*REQUEST, "--json"]) == 1
    said = capsys.readouterr()
    assert json.loads(said.out)["failed"] == 1
    assert "1 records could not be sent" in said.err
    with answers(monkeypatch, Refused("no such destination")):
        assert cli.run(REQUEST) == 1
    assert "no such destination" in capsys.readouterr().err

    def is_left():
        return any(t.name.startswith("replay-request") for t in threading.enumerate())

    wait_until(lambda: not is_left(), "no thread left")


@pytest.mark.parametrize(
    ("more", "says"),
    [(["--filter", "{bad"], "not JSON"), (["--from", "2017-01-01"], "is before from")],
)
def test_a_request_that_cannot_be_is_not_sent(site, capsys, more, says):
    assert cli.run([*REQUEST, *more]) == 1
    assert says in capsys.readouterr().err
