from __future__ import annotations

import base64

import argon2
import pytest

from broker.management import api
from broker.session import fairness
from broker.session.auth import ALL_RIGHTS, Accounts
from tests.support.management import Management

HASH = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$aGFzaGhhc2hoYXNoaGFzaA"


@pytest.fixture
def management():
    return Management()


def test_users(management):
    put = management.ask("PUT", "/api/users/ann", {"password_hash": HASH, "tags": "management"})
    assert put.status == 201 and put.headers["content-length"] == "0"
    assert management.ask("GET", "/api/users").json == [
        {"name": "ann", "tags": ["management"], "password": "argon2", "origin": "store"},
        {"name": "guest", "tags": ["administrator"], "password": "built-in", "origin": "built-in"},
    ]
    assert management.ask("PUT", "/api/users/ann", {"tags": []}).status == 204
    assert management.ask("GET", "/api/users/ann").json["password"] == "argon2"
    assert management.ask("DELETE", "/api/users/ann").status == 204
    assert management.ask("GET", "/api/users/ann").status == 404


def test_a_plain_password_is_hashed(management, monkeypatch):
    cheap = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    monkeypatch.setattr(argon2, "PasswordHasher", lambda *_: cheap)
    assert management.ask("PUT", "/api/users/ann", {"password": "pw"}).status == 201
    assert management.ask("PUT", "/api/users/ann", {"password": "pw"}).status == 204
    shown = management.ask("GET", "/api/users/ann")
    assert b"argon2id" not in shown.body and b"pw" not in shown.body.replace(b"password", b"")
    assert management.ask("PUT", "/api/users/ann", {"password": ""}).status == 400


def test_rights(management):
    management.ask("PUT", "/api/users/ann", {"password_hash": ""})
    body = {"configure": "a", "write": "b", "read": "c"}
    path = "/api/permissions/%2F/ann"
    assert [management.ask("PUT", path, body).status for _ in range(2)] == [201, 204]
    row = {"user": "ann", "vhost": "/", **body}
    assert management.ask("GET", path).json == row
    assert management.ask("GET", "/api/users/ann/permissions").json == [row]
    assert row in management.ask("GET", "/api/permissions").json
    assert row in management.ask("GET", "/api/vhosts/%2F/permissions").json
    assert management.ask("PUT", path, {**body, "read": "("}).status == 400
    assert management.ask("PUT", path, {"configure": "a"}).status == 400
    assert management.ask("DELETE", path).status == 204
    assert management.ask("GET", path).status == 404


def test_topic_rights(management):
    management.ask("PUT", "/api/users/ann", {"password_hash": ""})
    path = "/api/topic-permissions/%2F/ann"
    body = {"exchange": "amq.topic", "write": "^w", "read": "^r"}
    assert management.ask("PUT", path, body).status == 404
    management.ask("PUT", "/api/permissions/%2F/ann", {"configure": "", "write": "", "read": ""})
    assert [management.ask("PUT", path, body).status for _ in range(2)] == [201, 204]
    row = {"user": "ann", "vhost": "/", **body}
    assert management.ask("GET", path).json == [row]
    assert management.ask("GET", "/api/topic-permissions").json == [row]
    assert management.ask("GET", "/api/users/ann/topic-permissions").json == [row]
    assert management.ask("DELETE", path + "?exchange=other").status == 404
    assert management.ask("DELETE", path + "?exchange=amq.topic").status == 204
    assert management.ask("GET", path).json == []


def test_vhosts(management):
    assert [management.ask("PUT", "/api/vhosts/v").status for _ in range(2)] == [201, 204]
    assert management.ask("PUT", "/api/queues/v/q", {"durable": True}).status in (201, 204)
    assert management.ask("GET", "/api/vhosts/v").json == {"name": "v"}
    assert management.ask("DELETE", "/api/vhosts/v").status == 204
    assert management.ask("GET", "/api/queues/v/q").status == 404
    assert management.ask("DELETE", "/api/vhosts/%2F").status == 400


ACCOUNTS = ("users", "permissions", "topic-permissions")


def bob():
    made = Accounts(
        {"guest": "plain:guest", "bob": "plain:b"},
        {"guest": {"/": ALL_RIGHTS}, "bob": {"/": ALL_RIGHTS}},
        lambda *_: False,
        frozenset({"guest"}),
    )
    return Management(made)


@pytest.mark.parametrize(
    "route",
    [
        route
        for route in api.ROUTES
        if route[1][0] in ACCOUNTS or (route[1][0] == "vhosts" and route[0] != "GET")
    ],
    ids=lambda route: f"{route[0]} {'/'.join(route[1])}",
)
def test_accounts_are_the_administrators_affair(route):
    method, parts, _ = route
    management = bob()
    path = "/api/" + "/".join("%2F" if part == "*" else part for part in parts)
    refused = management.ask(method, path, {}, login="bob:b")
    assert (refused.status, refused.json["reason"]) == (403, "'bob' is not an administrator")
    assert management.ask(method, path, {}, login="bob:wrong").status == 401


def test_an_administrator_that_is_one_no_longer():
    management = bob()
    assert management.ask("PUT", "/api/users/guest", {"tags": []}).status == 204
    assert management.ask("GET", "/api/users").status == 403


def test_topic_rights_count_here_too():
    management = bob()
    body = {"exchange": "amq.topic", "write": "^mine", "read": "^mine"}
    users = management.site.resource._register.accounts.users
    users["bob"].rights["/"].topics["amq.topic"] = (body["write"], body["read"])
    management.ask("PUT", "/api/queues/%2F/q", {}, login="bob:b")
    for key, status in (("mine.1", 200), ("other", 403)):
        published = management.ask(
            "POST",
            "/api/exchanges/%2F/amq.topic/publish",
            {"routing_key": key, "payload": "x"},
            login="bob:b",
        )
        bound = management.ask(
            "POST", "/api/bindings/%2F/e/amq.topic/q/q", {"routing_key": key}, login="bob:b"
        )
        assert published.status == status
        assert bound.status in ((201, 204) if status == 200 else (403,))


def test_a_login_that_is_checked_elsewhere():
    made = Accounts(
        {"ann": "$argon2$x"}, {"ann": {"/": ALL_RIGHTS}}, lambda known, given: given == "pw"
    )
    waiting = []
    made.check_later = lambda check, done: waiting.append((check, done))
    management = Management(made)
    for password, status in (("pw", b"200"), ("no", b"401")):
        made._remembered.clear()
        token = base64.b64encode(f"ann:{password}".encode())
        transport = management.raw(
            b"GET /api/whoami HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic "
            + token
            + b"\r\n\r\n"
        )
        assert transport.value() == b""
        check, done = waiting.pop()
        done(check())
        assert transport.value().split(b" ")[1] == status


# Slow work


class Work:
    """A management site whose slow work is done when the test says so."""

    def __init__(self, monkeypatch):
        cheap = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
        monkeypatch.setattr(argon2, "PasswordHasher", lambda *_: cheap)
        accounts = Accounts.guest_only()
        self.waiting = []
        accounts.check_later = lambda work, done: self.waiting.append((work, done))
        self.management = Management(accounts)
        self.users = accounts.users

    def put(self, name, password="pw"):
        body = b'{"password": "%b", "tags": ""}' % password.encode()
        return self.management.raw(
            b"PUT /api/users/%b HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic %b\r\nContent-Length: %d\r\n\r\n%b"
            % (name.encode(), base64.b64encode(b"guest:guest"), len(body), body)
        )

    def run(self):
        work, done = self.waiting.pop(0)
        done(work())


def status(transport):
    return transport.value().split(b" ")[1] if transport.value() else b""


def test_a_plain_password_is_hashed_elsewhere(monkeypatch):
    ground = Work(monkeypatch)
    first, second = ground.put("ann"), ground.put("ann")
    assert status(first) == b"" and "ann" not in ground.users
    # One at a time: the second is handed over when the first is done.
    assert len(ground.waiting) == 1
    ground.run()
    assert status(first) == b"201" and len(ground.waiting) == 1
    ground.run()
    assert status(second) == b"204" and ground.users["ann"].password_hash.startswith("$argon2id$")


def test_what_is_wrong_with_a_user_is_said_before_anything_is_hashed(monkeypatch):
    ground = Work(monkeypatch)
    assert status(ground.put("x" * 300)) == b"400" and status(ground.put("ann", "")) == b"400"
    assert not ground.waiting


def test_a_right_that_was_lost_while_it_was_hashed(monkeypatch):
    ground = Work(monkeypatch)
    asked = ground.put("ann")
    ground.users["guest"].tags = ()
    ground.run()
    assert status(asked) == b"403" and "ann" not in ground.users


def test_hashing_is_bounded(monkeypatch):
    monkeypatch.setattr(fairness, "CHECKS_WAITING_MAX", 2)
    ground = Work(monkeypatch)
    asked = [ground.put(f"u{number}") for number in range(4)]
    assert [status(one) for one in asked] == [b"", b"", b"", b"429"]
    for _ in range(3):
        ground.run()
    assert [status(one) for one in asked] == [b"201", b"201", b"201", b"429"]
    assert "u3" not in ground.users
