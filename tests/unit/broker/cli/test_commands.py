"""Commands against a management API without a port: what they ask, what they say."""

from __future__ import annotations

import json

import pytest

from broker import cli
from broker.cli import client as client_module
from broker.cli.base import Failure
from tests.support.management import Management


@pytest.fixture
def management(monkeypatch, tmp_path):
    """A broker whose API answers the client's requests in this process."""
    monkeypatch.chdir(tmp_path)
    made = Management()

    class Connection:
        def __init__(self, host, port, timeout):
            self._answer = None

        def request(self, method, target, sent, headers):
            login = headers["Authorization"]
            self._answer = made.ask(method, target, sent, None, headers={"Authorization": login})
            made.core.turn()

        def getresponse(self):
            return self

        @property
        def status(self):
            return self._answer.status

        def read(self, count):
            return self._answer.body

        def close(self):
            pass

    monkeypatch.setattr(client_module.http.client, "HTTPConnection", Connection)
    made.core.vhost.declare_queue("one", durable=True)
    made.core.vhost.declare_queue("two", durable=True)
    return made


def run(capsys, *words, status=0):
    assert cli.run(list(words)) == status
    return capsys.readouterr()


def fill(management, count, queue="one"):
    for number in range(count):
        management.core.publish("", queue, b"m%d" % number, delivery_mode=2)
    management.core.turn()


def depth(management, queue):
    return management.core.vhost.queues[queue].depth


def test_status(management, capsys):
    fill(management, 3)
    page = run(capsys, "status").out
    assert "gridmsg@test  active, epoch 3" in page
    assert "alarms     none" in page
    management.description["is_blocked"] = True
    assert "publishers are blocked" in run(capsys, "status").out
    found = json.loads(run(capsys, "status", "--json").out)
    assert found["overview"]["queue_totals"]["messages"] == 3


def test_queue_list_show_peek(management, capsys):
    fill(management, 2)
    rows = json.loads(run(capsys, "queue", "list", "--json").out)
    assert [(row["name"], row["messages"]) for row in rows] == [("one", 2), ("two", 0)]
    assert "durable                 True" in run(capsys, "queue", "show", "one").out
    assert "  m1\n" in run(capsys, "queue", "peek", "one").out
    assert "queue two is empty" in run(capsys, "queue", "peek", "two").out
    assert "no queue 'x'" in run(capsys, "queue", "show", "x", status=1).err


def test_queue_purge_delete_ask_first(management, capsys, monkeypatch):
    fill(management, 2)
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda _: "n")
    run(capsys, "queue", "purge", "one", status=1)
    assert depth(management, "one") == 2
    assert "2 messages removed" in run(capsys, "queue", "purge", "one", "--yes").out
    assert "queue one deleted" in run(capsys, "queue", "delete", "one", "--yes").out
    assert "one" not in management.core.vhost.queues


def test_queue_move_goes_in_steps_to_the_end(management, capsys, monkeypatch):
    monkeypatch.setattr("broker.cli.topology.MOVE_STEP", 3)
    fill(management, 8)
    assert "8 messages moved" in run(capsys, "queue", "move", "one", "two").out
    assert (depth(management, "one"), depth(management, "two")) == (0, 8)
    assert "2 messages moved" in run(capsys, "queue", "move", "two", "one", "--count", "2").out


def test_exchanges_and_bindings(management, capsys):
    run(capsys, "exchange", "add", "ex", "--type", "topic")
    run(capsys, "binding", "add", "ex", "one", "--key", "a.#")
    assert "a.#" in run(capsys, "binding", "list").out
    run(capsys, "binding", "delete", "ex", "one", "--key", "a.#")
    assert "no bindings" in run(capsys, "binding", "list").out
    assert (
        "see `gridmsg binding list`" in run(capsys, "binding", "delete", "ex", "one", status=1).err
    )
    run(capsys, "exchange", "delete", "ex")
    assert "ex" not in management.core.vhost.exchanges
    run(capsys, "exchange", "add", "ex", "--arguments", "[]", status=2)


def test_dead_letters(management, capsys):
    assert "0 dead letters" in run(capsys, "deadletter", "list").out
    assert "0 sent back" in run(capsys, "deadletter", "redrive").out
    assert "no dead letters" in run(capsys, "deadletter", "purge").out
    fill(management, 3)
    subscription, sink = management.core.subscribe("one")
    management.core.turn()
    management.core.broker.reject(sink.taken, "because")
    management.core.vhost.unsubscribe(subscription)
    management.core.turn()
    page = run(capsys, "deadletter", "list").out
    assert "3 dead letters" in page and "3 rejected" in page and "because" in page
    shown = json.loads(run(capsys, "deadletter", "show", "0").out)
    assert shown["payload"] == "m0"
    assert "no message at position 9" in run(capsys, "deadletter", "show", "9", status=1).err
    assert "1 sent back, 2 left" in run(capsys, "deadletter", "redrive", "--count", "1").out
    management.core.vhost.delete_queue("one")
    assert "2 stay" in run(capsys, "deadletter", "redrive", status=1).err
    found = json.loads(run(capsys, "deadletter", "redrive", "--to", "two", "--json").out)
    assert found["redriven"] == 2
    assert "no dead letters" in run(capsys, "deadletter", "purge").out


def test_a_wrong_login_says_what_to_give(management, capsys):
    assert "--login and --password" in run(capsys, "status", "--password", "x", status=1).err


@pytest.mark.parametrize("url", ["gopher://h", "ftp://h", "http://", "https://"])
def test_addresses_that_are_none(url):
    with pytest.raises(Failure, match="such as http://127.0.0.1:15672"):
        client_module.Client(url, "a", "b")
