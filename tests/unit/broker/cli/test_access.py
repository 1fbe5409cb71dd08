"""`gridmsg user`, `permission`, `vhost` and `connection` against a management API without a port."""

from __future__ import annotations

import io
import json

import pytest

from broker import cli
from broker.cli import client as client_module
from broker.cli.base import ClientTls, Failure
from broker.session import passwords
from certs.authority import Authority
from tests.support.management import Management

HASH = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$aGFzaGhhc2hoYXNoaGFzaA"


@pytest.fixture
def management(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    made = Management()
    made.sent = []

    class Connection:
        def __init__(self, host, port, timeout):
            pass

        def request(self, method, target, sent, headers):
            made.sent.append(sent or b"")
            login = {"Authorization": headers["Authorization"]}
            self.answer = made.ask(method, target, sent, None, headers=login)
            made.core.turn()

        def getresponse(self):
            self.status = self.answer.status
            return self

        def read(self, count):
            return self.answer.body

        def close(self):
            pass

    monkeypatch.setattr(client_module.http.client, "HTTPConnection", Connection)
    monkeypatch.setattr(passwords, "hash_password", lambda text: HASH)
    return made


def run(capsys, *words, status=0):
    assert cli.run(list(words)) == status
    found = capsys.readouterr()
    return found.out if status == 0 else found.err


def test_a_user_from_adding_to_deleting(management, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("sys.stdin", io.StringIO("s3cret\n"))
    said = run(capsys, "user", "add", "ann", "--password-file", "-", "--tag", "monitoring")
    assert "it has no rights yet" in said
    user = management.site.resource._register.accounts.users["ann"]
    assert (user.password_hash, user.tags) == (HASH, ("monitoring",))
    assert not any(b"s3cret" in sent for sent in management.sent)
    assert "is there" in run(capsys, "user", "add", "ann", "--no-password", status=1)
    run(capsys, "user", "tags", "ann", "administrator")
    assert user.tags == ("administrator",)
    run(capsys, "user", "password", "ann", "--no-password")
    assert user.password_hash == ""
    (tmp_path / "pw").write_text("other\nsecond line\n")
    run(capsys, "user", "password", "ann", "--password-file", str(tmp_path / "pw"))
    assert user.password_hash == HASH
    rows = json.loads(run(capsys, "user", "list", "--json"))
    assert [row["name"] for row in rows] == ["ann", "guest"]
    run(capsys, "user", "delete", "ann")
    assert "no user 'ann'" in run(capsys, "user", "delete", "ann", status=1)


def test_rights(management, capsys):
    run(capsys, "user", "add", "ann", "--no-password")
    run(capsys, "permission", "set", "ann", "^a", "", ".*")
    rows = json.loads(run(capsys, "permission", "list", "--user", "ann", "--json"))
    assert rows == [{"user": "ann", "vhost": "/", "configure": "^a", "write": "", "read": ".*"}]
    run(capsys, "permission", "set-topic", "ann", "amq.topic", "^w", "^r")
    assert "amq.topic" in run(capsys, "permission", "topics", "--user", "ann")
    run(capsys, "permission", "clear-topic", "ann", "amq.topic")
    assert "no topic rights" in run(capsys, "permission", "topics")
    assert "is no pattern" in run(capsys, "permission", "set", "ann", "(", "", "", status=1)
    run(capsys, "permission", "clear", "ann")
    assert "no rights" in run(capsys, "permission", "list", "--user", "ann")


def test_vhosts(management, capsys):
    run(capsys, "vhost", "add", "v")
    assert "v" in run(capsys, "vhost", "list").split()
    run(capsys, "vhost", "delete", "v", "--yes")
    assert "v" not in management.core.broker.vhosts
    assert "vhost v not found" in run(capsys, "vhost", "delete", "v", "--yes", status=1)


def test_connections(management, capsys):
    (row,) = json.loads(run(capsys, "connection", "list", "--json"))
    assert row["name"] == "127.0.0.1:40000"
    assert "127.0.0.1:40000" in run(capsys, "connection", "list")
    run(capsys, "connection", "delete", "127.0.0.1:40000")
    run(capsys, "connection", "delete", "127.0.0.1:40000", "--reason", "for a while")
    assert [text for _, text in management.closed] == ["Closed via rabbitmqctl", "for a while"]
    assert "no connection 'x'" in run(capsys, "connection", "delete", "x", status=1)


def test_a_hash_for_the_configuration_file(management, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("s3cret\n"))
    assert run(capsys, "user", "hash", "--password-file", "-") == HASH + "\n"


def test_https_wants_files_that_are_certificates(tmp_path):
    junk = tmp_path / "junk"
    junk.write_text("junk")
    with pytest.raises(Failure, match="not what TLS needs"):
        client_module.Client("https://h", "a", "b", ClientTls(ca=junk))


def test_our_own_brokers_authority_is_trusted(tmp_path, monkeypatch):
    import datetime as dt

    from broker.cli.base import Place

    authority = Authority(tmp_path / "certs", dt.datetime.now(dt.UTC))
    authority.init("/CN=CA")
    authority.host("h")
    config = tmp_path / "gridmsg.toml"
    config.write_text(
        '[tls]\ncertificate = "certs/hosts/h.pem"\nkey = "certs/hosts/h.key"\nca = "certs/ca.pem"\n'
        '[[listener]]\nprotocol = "management"\ntls = true\n'
    )
    seen = []
    monkeypatch.setattr(client_module, "_tls_context", lambda tls: seen.append(tls.ca))
    place = Place(tmp_path, config, 5)
    assert place.url == "https://127.0.0.1:15676"
    place.client()
    assert seen == [tmp_path / "certs" / "ca.pem"]
