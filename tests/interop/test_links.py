"""Links between real brokers: exchanges and queues, added and taken away live, killed, cut, over TLS."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pika
import pytest

from tests.support.site import Site
from tests.support.waiting import PATIENCE_SECONDS, wait_until

PERSISTENT = pika.BasicProperties(delivery_mode=2)


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[Callable[[str, str], Site]]:
    made: list[Site] = []

    def make(name: str, config: str = "") -> Site:
        site = Site(tmp_path / name, f'[broker]\nname = "{name}"\n{config}')
        made.append(site)
        return site

    yield make
    for site in made:
        for words in list(site.processes):
            site.kill(*words.split())


class Proxy:
    """Carries bytes between two ports, and cuts all connections when told."""

    def __init__(self, target: int) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.target = target
        self.pairs: list[tuple[socket.socket, socket.socket]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self.target), PATIENCE_SECONDS)
                    far.settimeout(None)
                except OSError:
                    near.close()
                    continue
                self.pairs.append((near, far))
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    @staticmethod
    def _carry(one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := one.recv(65536):
                other.sendall(piece)
        for end in (one, other):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        pairs, self.pairs = self.pairs, []
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.listener.close()
        self.cut()


def channel(site: Site) -> Any:
    parameters = pika.ConnectionParameters("127.0.0.1", site.port(5672), heartbeat=0)
    return pika.BlockingConnection(parameters).channel()


def api(site: Site, path: str) -> Any:
    """Ask the management API; quicker than a command."""
    connection = http.client.HTTPConnection("127.0.0.1", site.port(15672), timeout=PATIENCE_SECONDS)
    login = base64.b64encode(b"guest:guest").decode()
    connection.request("GET", f"/api/{path}", headers={"Authorization": f"Basic {login}"})
    found = json.loads(connection.getresponse().read())
    connection.close()
    return found


def links(site: Site) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = api(site, "links")
    return found


def is_bound(site: Site, key: str) -> bool:
    """Whether a link's buffer is bound with a key."""
    return any(
        one["routing_key"] == key and one["destination"].startswith("link.")
        for one in api(site, "bindings")
    )


def depth(on: Any, queue: str) -> int:
    return int(on.queue_declare(queue, passive=True).method.message_count)


def drain(on: Any, queue: str) -> Counter[bytes]:
    found: Counter[bytes] = Counter()
    while True:
        method, _, body = on.basic_get(queue, auto_ack=True)
        if method is None:
            return found
        found[body] += 1


def collect(on: Any, queue: str, wanted: set[bytes], *sites: Site) -> Counter[bytes]:
    """Take from a queue until all that is wanted was there; what comes late or twice among it is counted too."""
    found: Counter[bytes] = Counter()

    def is_whole() -> bool:
        found.update(drain(on, queue))
        return wanted <= set(found)

    wait_until(is_whole, f"{len(wanted)} messages in {queue}", *sites)
    return found


def test_add_watch_change_and_delete_a_link(sites) -> None:
    """All by command, while the brokers run: exchange both ways over one dialed connection."""
    a, b = sites("a"), sites("b")
    a.start_broker()
    b.start_broker()
    for site in (a, b):
        on = channel(site)
        on.exchange_declare("news", "topic", durable=True)
        on.queue_declare("inbox", durable=True)
        on.queue_bind("inbox", "news", f"for.{'a' if site is a else 'b'}.#")
    address = f"127.0.0.1:{a.port(5672)}"
    both = ("--pull-exchange", "news", "--push-exchange", "news")
    b.run("link", "add", "ab", address, *both, "--option", "retry=0.1")
    wait_until(lambda: links(a) != [] and links(b)[0]["state"] == "up", "the link", a, b)
    (row,) = links(b)
    assert (row["link"], row["direction"], row["peer"]) == ("ab", "dialed", "a")
    assert links(a)[0]["direction"] == "accepted"
    assert "up" in b.run("link", "list").stdout
    on_a, on_b = channel(a), channel(b)

    wait_until(lambda: is_bound(a, "for.b.#") and is_bound(b, "for.a.#"), "demand", a, b)
    on_a.basic_publish("news", "for.b.x", b"to b", PERSISTENT)
    on_b.basic_publish("news", "for.a.x", b"to a", PERSISTENT)
    on_b.basic_publish("news", "for.nobody", b"to nobody", PERSISTENT)
    wait_until(lambda: depth(on_a, "inbox") == 1 and depth(on_b, "inbox") == 1, "arrival", a, b)
    assert drain(on_a, "inbox") == {b"to a": 1}
    assert drain(on_b, "inbox") == {b"to b": 1}
    # Demand follows what is bound.
    on_b.queue_bind("inbox", "news", "more.#")
    wait_until(lambda: is_bound(a, "more.#"), "more demand", a, b)
    on_b.queue_unbind("inbox", "news", "more.#")
    wait_until(lambda: not is_bound(a, "more.#"), "less demand", a, b)
    assert "link       ab dialed, up with a" in b.run("status").stdout
    b.run("link", "set", "ab", "rate=1000000")
    shown = json.loads(b.run("link", "show", "ab", "--json").stdout)["configuration"]
    assert shown["rate"] == 1000000
    assert "password" not in shown
    wait_until(lambda: links(b)[0]["state"] == "up", "the changed link", a, b)
    b.run("link", "delete", "ab", "--yes")
    wait_until(lambda: links(a) == [], "the end of the link", a, b)
    assert links(b) == []

    def names() -> list[str]:
        return [one["name"] for one in api(a, "queues")]

    wait_until(lambda: not [name for name in names() if name.startswith("link.")], "no buffer", a)


def test_a_queue_link_survives_restarts_and_is_kept(sites) -> None:
    a, b = sites("a"), sites("b")
    a.start_broker()
    b.start_broker()
    on_a = channel(a)
    on_a.queue_declare("work", durable=True)
    b.run("link", "add", "ab", f"127.0.0.1:{a.port(5672)}", "--pull-queue", "work")
    b.kill("broker", "run")
    # All are there before the link is again.
    on_a.confirm_delivery()
    for number in range(100):
        on_a.basic_publish("", "work", b"%d" % number, PERSISTENT)
    b.start_broker()
    wait_until(lambda: depth(on_a, "work") == 0 and links(b)[0]["sent"] == 0, "the move", a, b)
    on_b = channel(b)
    wait_until(lambda: depth(on_b, "work") == 100, "arrival", a, b)
    assert drain(on_b, "work") == {b"%d" % number: 1 for number in range(100)}


KINDS = ["pull-exchanges", "push-queues", "push-exchanges", "pull-queues"]


@pytest.mark.parametrize("kind", KINDS if os.environ.get("GRIDMSG_LONG") else KINDS[:2])
def test_cuts_and_kills_lose_and_double_nothing(sites, kind: str) -> None:
    """Messages flow while the line is cut and either broker is killed."""
    a = sites("a")
    proxy = Proxy(a.port(5672))
    b = sites(
        "b",
        f'[[link]]\nname = "ab"\naddress = ["127.0.0.1:{proxy.port}"]\n{kind} = ["flow"]\n'
        'connections = 2\nretry = 0.1\nretry-max = 0.3\nwindow = "64KiB"\nheart-beat = 1\n',
    )
    try:
        a.start_broker()
        b.start_broker()
        source, target = (b, a) if kind.startswith("push") else (a, b)
        for site in (a, b):
            on = channel(site)
            if kind.endswith("exchanges"):
                on.exchange_declare("flow", "topic", durable=True)
            on.queue_declare("flow", durable=True)
        if kind.endswith("exchanges"):
            channel(target).queue_bind("flow", "flow", "#")
            wait_until(lambda: is_bound(source, "#"), "demand", a, b)
        exchange = "flow" if kind.endswith("exchanges") else ""
        confirmed: set[bytes] = set()
        number = 0
        for round in range(6):
            on = channel(source)
            on.confirm_delivery()
            with contextlib.suppress(pika.exceptions.AMQPError):
                for _ in range(150):
                    body = b"%d-" % number + b"x" * 500
                    number += 1
                    on.basic_publish(exchange, "flow", body, PERSISTENT)
                    confirmed.add(body)
                    if number % 40 == 0:
                        proxy.cut()
            if round in (1, 3):
                site = (a, b)[round // 2]
                site.kill("broker", "run")
                site.start_broker()
        on_target = channel(target)
        found = collect(on_target, "flow", confirmed, a, b)
        # What was sent before is settled once the last one is: then nothing more comes, or comes again.
        on = channel(source)
        on.confirm_delivery()
        on.basic_publish(exchange, "flow", b"last", PERSISTENT)
        found += collect(on_target, "flow", {b"last"}, a, b)
        assert [body for body, count in found.items() if count > 1] == []
    finally:
        proxy.close()
