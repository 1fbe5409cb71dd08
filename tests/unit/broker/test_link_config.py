"""`[[link]]`, as a file and as a command give it."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.config import load, split_address
from broker.errors import ConfigError, PreconditionFailed
from broker.link.settings import Stream
from broker.link_config import row_settings, shown_row


def links(tmp_path: Path, text: str):
    file = tmp_path / "gridmsg.toml"
    file.write_text(text)
    return load(file, tmp_path, environment={}).links


def test_a_whole_link(tmp_path):
    (link,) = links(
        tmp_path,
        """
[[link]]
name = "cern"
address = ["one.example:5671", "two.example"]
user = ""
tls = true
ca = "ca.pem"
certificate = "host.pem"
key = "host.key"
pull-exchanges = ["a", "b => c"]
push-queues = ["q"]
vhost = "here"
far-vhost = "there"
window = "16MiB"
retry = "250ms"
""",
    )
    assert link.addresses == (("one.example", 5671), ("two.example", 5671))
    assert link.streams == (
        Stream("exchange", False, "a", "a", "here", "there"),
        Stream("exchange", False, "b", "c", "here", "there"),
        Stream("queue", True, "q", "q", "here", "there"),
    )
    assert link.tls is not None
    assert link.tls.certificate == str(tmp_path / "host.pem")
    assert (link.window_bytes, link.retry_seconds) == (16 << 20, 0.25)
    assert "guest" not in repr(link)


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ('name = "x"\naddress = []\npull-queues = ["q"]', "address"),
        ('name = "x y"\naddress = ["h:1"]\npull-queues = ["q"]', "name"),
        ('name = "x"\naddress = ["h:1"]', "nothing to carry"),
        ('name = "x"\naddress = ["h:port"]\npull-queues = ["q"]', "HOST:PORT"),
        ('name = "x"\naddress = ["h:1"]\npull-queues = ["q =>"]', "SOURCE => TARGET"),
        ('name = "x"\naddress = ["h:1"]\npull-queues = ["q", "q"]', "twice"),
        ('name = "x"\naddress = ["h:1"]\npull-queues = ["q"]\nca = "f"', "tls = true"),
        (
            'name = "x"\naddress = ["h:1"]\npull-queues = ["q"]\ntls = true\ncertificate = "f"',
            "belong together",
        ),
        ('name = "x"\naddress = ["h:1"]\npull-queue = ["q"]', "pull-queue"),
    ],
)
def test_refusals(tmp_path, row, wanted):
    with pytest.raises(ConfigError, match=wanted):
        links(tmp_path, f"[[link]]\n{row}\n")


def test_two_links_of_one_name(tmp_path):
    row = '[[link]]\nname = "x"\naddress = ["h:1"]\npull-queues = ["q"]\n'
    with pytest.raises(ConfigError, match="another link"):
        links(tmp_path, row + row)


def test_a_row_by_command_and_back():
    row = {
        "name": "x",
        "address": ["h:1"],
        "pull-queues": ["a => b"],
        "rate": "1MiB",
        "password": "secret",
    }
    made = row_settings(row, split_address)
    assert (made.rate_bytes, made.origin, made.password) == (1 << 20, "store", "secret")
    shown = shown_row(made)
    assert "password" not in shown
    assert shown["pull-queues"] == ["a => b"]
    again = row_settings({**shown, "password": "secret"}, split_address)
    assert shown_row(again) == shown


@pytest.mark.parametrize(
    "row",
    [
        {"name": "x", "address": ["h:1"]},
        {"name": "x", "address": "h:1", "pull-queues": ["q"]},
        {"name": 'x"\n[[link]]', "address": ["h:1"], "pull-queues": ["q"]},
        {"name": "x", "address": ["h:1"], "pull-queues": ["q"], "a = 1\nb": 2},
        {"name": "x", "address": ["h:1"], "pull-queues": ["q"], "window": {"a": 1}},
    ],
)
def test_rows_that_are_refused(row):
    with pytest.raises(PreconditionFailed):
        row_settings(row, split_address)
