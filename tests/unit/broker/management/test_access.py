from __future__ import annotations

import base64

import argon2
import pytest

from broker.management import api
from broker.session.auth import ALL_RIGHTS, Accounts
from tests.support.management import Management

HASH = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$aGFzaGhhc2hoYXNoaGFzaA"


@pytest.fixture
def management():
    return Management()


def test_users(management):
    put = management.ask("PUT", "/api/users/ann", {"password_hash": HASH, "tags": "management"})
    assert put.status == 204
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
    assert management.ask("PUT", "/api/users/ann", {"password": "pw"}).status == 204
    shown = management.ask("GET", "/api/users/ann")
    assert b"argon2id" not in shown.body and b"pw" not in shown.body.replace(b"password", b"")
    assert management.ask("PUT", "/api/users/ann", {"password": ""}).status == 400


def test_rights(management):
    management.ask("PUT", "/api/users/ann", {"password_hash": ""})
    body = {"configure": "a", "write": "b", "read": "c"}
    path = "/api/permissions/%2F/ann"
    assert management.ask("PUT", path, body).status == 204
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
    assert management.ask("PUT", path, body).status == 204
    row = {"user": "ann", "vhost": "/", **body}
    assert management.ask("GET", path).json == [row]
    assert management.ask("GET", "/api/topic-permissions").json == [row]
    assert management.ask("GET", "/api/users/ann/topic-permissions").json == [row]
    assert management.ask("DELETE", path + "?exchange=other").status == 404
    assert management.ask("DELETE", path + "?exchange=amq.topic").status == 204
    assert management.ask("GET", path).json == []


def test_vhosts(management):
    assert management.ask("PUT", "/api/vhosts/v").status == 204
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
            b"GET /api/whoami HTTP/1.1\r\nHost: t\r\nAuthorization: Basic " + token + b"\r\n\r\n"
        )
        assert transport.value() == b""
        check, done = waiting.pop()
        done(check())
        assert transport.value().split(b" ")[1] == status
