"""Links changed while brokers run: by the configuration file and `gridmsg broker reload`, and by command; nothing is dropped."""

from __future__ import annotations

import base64
import http.client
import json
from typing import Any

from tests.interop.test_links import (
    PERSISTENT,
    Site,
    channel,
    depth,
    drain,
    is_bound,
    links,
    sites,
)
from tests.support.waiting import PATIENCE_SECONDS, wait_until

__all__ = ["sites"]


def ask(site: Site, method: str, path: str, body: object = None) -> Any:
    """Ask the management API; quicker than a command.  Returns the answer, also an error's."""
    connection = http.client.HTTPConnection("127.0.0.1", site.port(15672), timeout=PATIENCE_SECONDS)
    login = base64.b64encode(b"guest:guest").decode()
    sent = json.dumps(body or {})
    connection.request(method, f"/api/{path}", sent, {"Authorization": f"Basic {login}"})
    answer = connection.getresponse().read()
    connection.close()
    return json.loads(answer) if answer else None


def row(site: Site, name: str) -> dict[str, Any]:
    return next((one for one in links(site) if one["link"] == name), {})


def link(far: Site, name: str, streams: str) -> str:
    address = f"127.0.0.1:{far.port(5672)}"
    return f'[[link]]\nname = "{name}"\naddress = ["{address}"]\nretry = 0.1\n{streams}\n'


def configure(site: Site, *rows: str) -> None:
    site.config.write_text('[broker]\nname = "near"\n' + "".join(rows))


def test_reload_follows_the_file(sites) -> None:
    """Added, left alone, changed under traffic, taken away with messages waiting, added again: each arrives once."""
    far, near = sites("far"), sites("near")
    far.start_broker()
    on_far = channel(far)
    on_far.queue_declare("news", durable=True)
    on_far.exchange_declare("news", "topic", durable=True)
    on_far.queue_bind("news", "news", "#")
    moves = link(far, "moves", 'push-queues = ["moves"]')
    configure(near, moves)
    near.start_broker()
    wait_until(lambda: row(near, "moves").get("state") == "up", "the link of the file", near, far)
    since = row(near, "moves")["up_since_ms"]

    configure(near, moves, link(far, "news", 'push-exchanges = ["news"]'))
    assert "added link news" in near.run("broker", "reload").stdout
    wait_until(lambda: is_bound(near, "#"), "demand of the new link", near, far)
    on_near = channel(near)
    on_near.confirm_delivery()
    for number in range(20):
        on_near.basic_publish("news", "k", b"%d" % number, PERSISTENT)
    changed = link(far, "news", 'push-exchanges = ["news"]\npush-queues = ["later"]')
    configure(near, moves, changed)
    assert ask(near, "POST", "links")["changed"] == ["news"]
    for number in range(20, 40):
        on_near.basic_publish("news", "k", b"%d" % number, PERSISTENT)
    wait_until(lambda: depth(on_far, "news") == 40, "arrival over the change", near, far)
    wait_until(lambda: len(row(near, "news")["streams"]) == 2, "the added stream", near, far)

    configure(near, moves, changed, 'retry = "often"')
    assert "gridmsg.toml" in ask(near, "POST", "links")["reason"]
    assert row(near, "news")["state"] == "up", "nothing changes by a file that is wrong"
    assert row(near, "moves")["up_since_ms"] == since, "what did not change is left alone"

    far.kill("broker", "run")
    wait_until(lambda: row(near, "news")["state"] == "failing", "the outage", near)
    for number in range(40, 50):
        on_near.basic_publish("news", "k", b"%d" % number, PERSISTENT)
    configure(near, moves)
    told = near.run("broker", "reload").stdout
    assert "removed link news" in told
    assert "10 messages" in told
    assert "link.news.news." in told
    kept = row(near, "news")
    assert (kept["state"], kept["backlog"]) == ("not configured", 10)

    configure(near, moves, changed)
    far.start_broker()
    assert ask(near, "POST", "links")["added"] == ["news"]
    on_far = channel(far)
    wait_until(lambda: depth(on_far, "news") == 50, "what had waited", near, far)
    assert drain(on_far, "news") == {b"%d" % number: 1 for number in range(50)}


def test_links_added_by_command_and_those_of_the_file(sites) -> None:
    """A name in the file stands above the same name added by command; messages of a deleted link wait in a named queue."""
    near = sites("near")
    near.start_broker()
    nowhere = {"address": ["127.0.0.1:1"], "push-exchanges": ["news"], "retry": 30}
    ask(near, "PUT", "links/mine", nowhere)
    assert ask(near, "POST", "links")["removed"] == [], "what was added by command stays"
    of_file = (
        '[[link]]\nname = "mine"\naddress = ["127.0.0.1:1"]\npush-queues = ["q"]\nretry = 30\n'
    )
    configure(near, of_file)
    assert ask(near, "POST", "links")["changed"] == ["mine"]
    assert "configuration file" in ask(near, "DELETE", "links/mine")["reason"]
    configure(near)
    assert ask(near, "POST", "links")["changed"] == ["mine"]
    near.kill("broker", "run")
    near.start_broker()
    shown = ask(near, "GET", "links/mine")["configuration"]
    assert (shown["push-exchanges"], shown["retry"]) == (["news"], 30)
    assert ask(near, "DELETE", "links/mine") == {"kept": {}}
    assert links(near) == []
