from __future__ import annotations

import tomllib
from types import SimpleNamespace

from bench.lab import site, topology
from bench.lab.ground import Place
from broker import config as broker_config

TEXT = """
[[path]]
between = ["a", "b", "c"]
[[path]]
between = ["c", "farm"]
link = false
[[site]]
name = "farm"
uses = "c"
[[channel]]
name = "news"
from = "a"
to = ["c", "farm"]
producers = 2
[[channel]]
name = "moved"
from = "c"
to = "a"
by = "queue"
"""
TOPOLOGY = topology.parse(TEXT)
SECRET = SimpleNamespace(password="pw", hashed="$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$YWJjZA")


class Ground:
    places = {
        name: Place("-", "127.0.0.1", 5672 + number, 15672 + number)
        for number, name in enumerate(TOPOLOGY.sites)
    }

    def address(self, path, name):
        other = path.second if name == path.first else path.first
        return "127.0.0.1", self.places[other].amqp_port


def configured(name):
    return tomllib.loads(site.broker_config(name, TOPOLOGY, Ground(), SECRET))


def test_a_link_is_configured_at_its_first_site_only():
    (link,) = configured("b")["link"]
    assert link["name"] == "b--c"
    assert link["address"] == ["127.0.0.1:5674"]
    assert link["push-exchanges"] == link["pull-exchanges"] == ["lab.news"]
    assert link["pull-queues"] == ["lab.moved"]
    assert "push-queues" not in link
    assert "link" not in configured("c")


def test_the_broker_takes_the_configuration(tmp_path):
    file = tmp_path / "gridmsg.toml"
    for name in TOPOLOGY.brokers:
        file.write_text(site.broker_config(name, TOPOLOGY, Ground(), SECRET))
        found = broker_config.load(file, tmp_path / "data", 0)
        assert [one.protocol for one in found.listeners] == ["amqp", "management"]


def test_each_target_has_a_queue_of_its_own():
    declared = [(name, fields[1:3]) for name, fields in site.declarations("c", TOPOLOGY)]
    assert declared == [
        ("exchange.declare", ["lab.news", "topic"]),
        ("queue.declare", ["lab.news", False]),
        ("queue.bind", ["lab.news", "lab.news"]),
        ("queue.declare", ["lab.news.farm", False]),
        ("queue.bind", ["lab.news.farm", "lab.news"]),
        ("queue.declare", ["lab.moved", False]),
    ]
    assert [name for name, _ in site.declarations("b", TOPOLOGY)] == [
        "exchange.declare",
        "queue.declare",
    ]


def test_agents_are_told_where_their_broker_is_and_what_to_do():
    numbers = site.producer_numbers(TOPOLOGY)
    assert numbers == {"news@a": [1, 2], "moved@c": [3]}
    plan = site.agent_plan("a", TOPOLOGY, Ground(), SECRET, numbers)
    assert [one["number"] for one in plan["producers"]] == [1, 2]
    assert [one["exchange"] for one in plan["producers"]] == ["lab.news"] * 2
    assert [one["queue"] for one in plan["consumers"]] == ["lab.moved"]
    farm = site.agent_plan("farm", TOPOLOGY, Ground(), SECRET, numbers)
    assert (farm["host"], farm["port"]) == ("127.0.0.1", Ground.places["c"].amqp_port)
    assert farm["declare"] == []
    assert farm["management"] == 0
    assert [one["queue"] for one in farm["consumers"]] == ["lab.news.farm"]
