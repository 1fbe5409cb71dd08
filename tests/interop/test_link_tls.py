"""Links over TLS: certificates on both sides, and who is refused with which words, at both ends."""

from __future__ import annotations

import contextlib
import datetime as dt
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from certs.authority import LOOPBACK_NAMES, Authority
from tests.interop.test_links import PERSISTENT, channel, links
from tests.support.ports import free_offset
from tests.support.secure import Certificates
from tests.support.site import Site
from tests.support.waiting import wait_until

FAR = """
[broker]
name = "far"

[tls]
certificate = "{folder}/ours/hosts/localhost.pem"
key = "{folder}/ours/hosts/localhost.key"
ca = "{folder}/ours/ca.pem"

[auth.users."CN=named,DC=site,DC=ch"]
link = true

[auth.dn-map]
"CN=mapped,DC=site,DC=ch" = "mapped"

[auth.users.mapped]

[[listener]]
protocol = "amqp"
address = "127.0.0.1:{port}"
tls = true
[[listener]]
protocol = "management"
"""
LINK = """
[[link]]
name = "{name}"
address = ["localhost:{port}"]
tls = true
user = ""
ca = "{ca}"
push-queues = ["{name}"]
retry = 0.3
retry-max = 1
"""


class Pair:
    """A far broker that takes links over TLS, and a near one that dials it in all ways."""

    def __init__(self, folder: Path) -> None:
        self.certificates = Certificates(folder)
        offset = free_offset()
        self.port = 5671 + offset
        self.far = Site(folder / "far", FAR.format(folder=folder, port=self.port), offset)
        self.near = Site(folder / "near")
        self.rows = ['[broker]\nname = "near"\n']

    def add(
        self, name: str, client: str | None, *rest: str, ca: Path | None = None, port: int = 0
    ) -> None:
        """A link with a client's certificate."""
        text = LINK.format(name=name, port=port or self.port, ca=ca or self.certificates.ca)
        if client is not None:
            made = self.certificates.clients[client]
            text += f'certificate = "{made.certificate}"\nkey = "{made.key}"\n'
        self.rows.append(text + "".join(f"{one}\n" for one in rest))

    def start(self) -> None:
        self.far.start_broker()
        self.near.config.write_text("".join(self.rows))
        self.near.start_broker()

    def row(self, name: str) -> dict[str, Any]:
        return next(one for one in links(self.near) if one["link"] == name)

    @staticmethod
    def log(site: Site) -> str:
        return (site.folder / "broker.log").read_text()

    def close(self) -> None:
        for site in (self.near, self.far):
            site.close()


class ExpiredServer:
    """A TLS listener whose certificate was good 800 days ago."""

    def __init__(self, folder: Path) -> None:
        past = Authority(folder / "ours", dt.datetime.now(dt.UTC) - dt.timedelta(days=800))
        made = past.host("expired.localhost", LOOPBACK_NAMES)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(made.certificate, made.key)
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                raw, _ = self._listener.accept()
                with (
                    contextlib.suppress(OSError),
                    self._context.wrap_socket(raw, server_side=True) as one,
                ):
                    one.recv(1)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("links")
    made = Pair(folder)
    expired = ExpiredServer(folder)
    made.add("good", "named")
    made.add("other-host", "named", 'server-name = "broker.example"')
    made.add("foreign-host", "named", ca=made.certificates.foreign_ca)
    made.add("expired-host", "named", port=expired.port)
    for client in ("foreign", "expired", "early", "nobody", "mapped"):
        made.add(client, client)
    made.add("missing", None)
    others = made.certificates.clients
    files = (others["named"].certificate, others["mapped"].key)
    made.add("key-of-another", None, f'certificate = "{files[0]}"', f'key = "{files[1]}"')
    made.add("no-file", "named", ca=folder / "no.pem")
    made.rows.append(
        f'[[link]]\nname = "in-the-clear"\naddress = ["127.0.0.1:{made.port}"]\npush-queues = ["clear"]\n'
        "retry = 0.3\nretry-max = 1\n"
    )
    try:
        made.start()
        yield made
        assert "Traceback" not in made.log(made.near) + made.log(made.far)
    finally:
        made.close()
        expired.close()


def test_certificates_on_both_sides_carry_messages(pair: Pair) -> None:
    wait_until(lambda: pair.row("good")["state"] == "up", "the link", pair.near, pair.far)
    on_near = channel(pair.near)
    for number in range(50):
        on_near.basic_publish("", "good", b"%d" % number, PERSISTENT)
    wait_until(
        lambda: pair.row("good")["streams"][0]["settled"] == 50, "the move", pair.near, pair.far
    )
    (row,) = links(pair.far)
    assert (row["direction"], row["state"]) == ("accepted", "up")
    assert row["streams"][0]["messages"] == 50
    assert pair.row("good")["peer"] == "far"


REFUSED = {
    # Name of the link: what its last error says, and what the far side's log says of it.
    "other-host": ("is not for broker.example: dial it by a name that is in it", "wrong host name"),
    "foreign-host": ("is no authority of ours: if it should be, name its file in ca", "unknown to it"),
    "expired-host": ("CN=expired.localhost,DC=site,DC=ch expired 20", ""),
    "foreign": ("its [tls] ca must have it", "is foreign: CN=Authority,DC=other,DC=ch is no authority"),
    "expired": ("our certificate expired: renew it", "CN=expired,DC=site,DC=ch expired 20"),
    "early": ("not valid yet", "CN=early,DC=site,DC=ch is not valid yet (it begins 20"),
    "nobody": ("refused for user 'CN=nobody,DC=site,DC=ch'", "'CN=nobody,DC=site,DC=ch'"),
    "mapped": ("'mapped' may not open links: it lacks the tag link", "it lacks the tag link"),
    "missing": ("neither a user name nor a client certificate", "neither a user name nor a client"),
    "key-of-another": ("or not that of", ""),
    "no-file": ("no.pem: No such file", ""),
    "in-the-clear": ("does it speak TLS there (tls = true)?", "it does not speak TLS"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_words_at_both_ends(pair: Pair, name: str) -> None:
    near_text, far_text = REFUSED[name]
    wait_until(lambda: near_text in pair.row(name)["last_error"], near_text, pair.near, pair.far)
    row = pair.row(name)
    assert (row["state"], row["peer"]) == ("failing", "")
    assert row["failing_since_ms"] > 0
    wait_until(lambda: near_text in pair.log(pair.near), near_text, pair.near)
    wait_until(lambda: far_text in pair.log(pair.far), far_text, pair.far)


def test_the_list_shows_why(pair: Pair) -> None:
    wait_until(lambda: "renew" in pair.row("expired")["last_error"], "the refusal", pair.near)
    assert "expired: TLS: our certificate expired: renew it" in pair.near.run("link", "list").stdout
