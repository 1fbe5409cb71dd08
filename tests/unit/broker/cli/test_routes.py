"""What `gridmsg broker reload` makes of [[route]]."""

from __future__ import annotations

from broker import config as broker_config
from broker.cli.routes import apply_routes


class Asked:
    """A broker that has one queue, and remembers what it was told to make."""

    def __init__(self):
        self.made = []
        self.has = {
            "queues": [{"name": "grace.site.raw"}],
            "exchanges": [{"name": "gracc.site.raw"}, {"name": "amq.direct"}],
            "bindings": [
                {
                    "source": "gracc.site.raw",
                    "destination": "grace.site.raw",
                    "destination_type": "queue",
                    "routing_key": "",
                }
            ],
        }

    def get(self, kind, vhost):
        return self.has[kind]

    def put(self, kind, vhost, name, body=None):
        self.made.append((kind, name, body))

    def post(self, *path, body=None):
        self.made.append((*path, body))


def test_what_is_missing_is_made_once_and_nothing_else(tmp_path):
    file = tmp_path / "gridmsg.toml"
    file.write_text(
        '[[route]]\nexchange = "gracc.site.raw"\nqueue = "copy"\nkey = ""\n'
        '[[route]]\nexchange = "mine"\nqueue = "copy"\nkey = "a"\n'
        '[[address]]\npattern = "/mine"\nkind = "exchange"\nexchange-kind = "topic"\n'
    )
    asked = Asked()
    made = apply_routes(asked, broker_config.load(file, tmp_path, 0))
    assert [line for line in made if "copy" in line or "mine" in line] == [
        "queue copy",
        "binding of copy to gracc.site.raw with key ''",
        "topic exchange mine",
        "binding of copy to mine with key 'a'",
    ]
    assert ("exchanges", "mine", {"type": "topic", "durable": True}) in asked.made
    assert all("grace.site.raw" not in entry for entry in asked.made)
    assert all(entry[1] != "gracc.site.raw" for entry in asked.made if entry[0] == "exchanges")
