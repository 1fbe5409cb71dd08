"""broker.management.api: logins, routes, statuses, bounds, and answers that wait for the disk."""

from __future__ import annotations

import pytest

from broker.management import api
from broker.session.auth import Accounts, User
from tests.support.management import Answer, Management


@pytest.fixture
def management():
    return Management()


def test_health(management):
    assert management.ask("GET", "/health/live", login=None).status == 200
    assert management.ask("GET", "/health/ready", login=None).status == 200
    management.description["role"] = "stopping"
    assert management.ask("GET", "/health/live", login=None).status == 200
    ready = management.ask("GET", "/health/ready", login=None)
    assert (ready.status, ready.json["role"]) == (503, "stopping")
    assert management.ask("GET", "/health/what", login=None).status == 404


def test_the_page_is_served(management):
    answer = management.ask("GET", "/", login=None)
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert b"<!doctype html>" in answer.body
    assert b"innerHTML" not in answer.body, "what is shown comes from anybody: text only"
    assert b"fetch(location.origin + path)" in answer.body, "the page's address may hold a login"


@pytest.mark.parametrize("login", [None, "guest:wrong", "nobody:guest", ":", "guest:"])
def test_a_wrong_login_is_refused(management, login):
    answer = management.ask("GET", "/api/overview", login=login)
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == 'Basic realm="gridmsg"'


def test_guest_comes_from_loopback_only(management):
    assert management.ask("GET", "/api/overview").status == 200
    assert management.ask("GET", "/api/overview", host="10.0.0.9").status == 401


def test_metrics_need_a_login_from_elsewhere(management):
    assert management.ask("GET", "/metrics", login=None).status == 200
    elsewhere = management.ask("GET", "/metrics", login=None, host="10.0.0.9")
    assert elsewhere.status == 401 and b"gridmsg_up" not in elsewhere.body


def test_a_password_is_checked_once():
    asked = []
    accounts = Accounts(
        {"ann": "$argon2id$x"},
        {"ann": {"/": (".*", ".*", ".*")}},
        lambda known, password: asked.append(password) or password == "pw",
    )
    management = Management(accounts)
    for _ in range(3):
        assert management.ask("GET", "/api/whoami", login="ann:pw").status == 200
    assert asked == ["pw"]
    assert management.ask("GET", "/api/whoami", login="ann:no").status == 401


def test_unknown_paths_and_methods(management):
    assert management.ask("GET", "/api/nope").status == 404
    assert management.ask("GET", "/nope").status == 404
    answer = management.ask("POST", "/api/overview", {})
    assert (answer.status, answer.headers["allow"]) == (405, "GET")


def test_head_has_no_body(management):
    answer = management.ask("HEAD", "/api/overview")
    assert (answer.status, answer.body) == (200, b"")
    assert int(answer.headers["content-length"]) > 0


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b'"x"'])
def test_bodies_that_are_no_object(management, body):
    answer = management.ask("PUT", "/api/queues/%2F/q", body)
    assert (answer.status, answer.json["error"]) == (400, answer.json["error"])
    assert "q" not in management.core.vhost.queues


def test_a_body_over_the_bound_is_cut_off(management, monkeypatch):
    monkeypatch.setattr(api, "BODY_BYTES_MAX", 100)
    request = (
        b"POST /api/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n" + b"x" * 500
    )
    transport = management.raw(request)
    assert transport.value().startswith(b"HTTP/1.1 413 ")
    assert transport.disconnecting


def test_an_answer_over_the_bound_is_refused(management, monkeypatch):
    monkeypatch.setattr(api, "ANSWER_BYTES_MAX", 10)
    assert management.ask("GET", "/api/overview").status == 413


def test_a_page_of_another_origin_may_change_nothing(management):
    accounts = management.site.resource._register.accounts
    accounts.add(User("ann", "plain:a", "store", ["administrator"], {"/": (".*", ".*", ".*")}))
    evil = {"Origin": "http://evil"}
    answer = management.ask("PUT", "/api/queues/%2F/q", {}, login="ann:a", headers=evil)
    assert answer.status == 403
    assert management.ask("PUT", "/api/queues/%2F/q", {}, headers=evil).status == 401
    assert (
        management.ask(
            "PUT", "/api/queues/%2F/q", {}, headers={"Origin": "http://localhost"}
        ).status
        == 201
    )


def test_rights_are_asked_for():
    accounts = Accounts(
        {"bob": "plain:b"},
        {"bob": {"/": ("^mine", "^$", "^$")}},
        lambda known, password: False,
    )
    management = Management(accounts)
    refused = management.ask("PUT", "/api/queues/%2F/other", {}, login="bob:b")
    assert (refused.status, "refused" in refused.json["reason"]) == (403, True)
    assert management.ask("PUT", "/api/queues/%2F/mine", {}, login="bob:b").status == 201
    assert management.ask("DELETE", "/api/queues/%2F/mine/contents", login="bob:b").status == 403
    assert management.ask("GET", "/api/definitions", login="bob:b").status == 403


def test_what_fails_inside_is_500_without_a_trace(management):
    def broken():
        raise RuntimeError("secret")

    management.site.resource._describe = broken
    answer = management.ask("GET", "/api/overview")
    assert answer.status == 500 and b"secret" not in answer.body


class SlowTurn:
    """Keeps the woken sessions until the test says that the disk has it."""

    def __init__(self):
        self.woken = []

    def begin(self):
        pass

    def wake(self, session):
        self.woken.append(session)


def test_a_change_is_answered_when_it_is_durable():
    turn = SlowTurn()
    management = Management(turn=turn)
    request = (
        b"PUT /api/queues/%2F/q HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\n"
        b"Content-Length: 16\r\n\r\n" + b'{"durable":true}'
    )
    transport = management.raw(request)
    assert transport.value() == b""
    (promise,) = turn.woken
    promise.end_turn(7)
    promise.on_durable(6)
    assert transport.value() == b""
    promise.on_durable(7)
    assert Answer(transport.value()).status == 201
    written = transport.value()
    promise.end_turn(9)
    promise.on_durable(9)
    assert transport.value() == written


def test_a_caller_who_left_is_not_answered():
    turn = SlowTurn()
    management = Management(turn=turn)
    request = (
        b"PUT /api/queues/%2F/q HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\n"
        b"Content-Length: 16\r\n\r\n" + b'{"durable":true}'
    )
    transport = management.raw(request)
    from twisted.internet.error import ConnectionDone
    from twisted.python.failure import Failure

    transport.protocol = None
    for channel in [management.last_protocol]:
        channel.connectionLost(Failure(ConnectionDone()))
    (promise,) = turn.woken
    promise.end_turn(1)
    promise.on_durable(1)
    assert transport.value() == b""


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"Content-Length: 5\r\n", b"401 Unauthorized"),
        (b"Content-Length: 4000000000\r\nAuthorization: Basic x\r\n", b"413 Content Too Large"),
        (b"Transfer-Encoding: chunked\r\nAuthorization: Basic x\r\n", b"411 Length Required"),
    ],
    ids=["no login", "too long", "chunks"],
)
def test_a_body_that_is_refused_before_it_comes(management, head, status):
    """Nobody without a login makes the broker keep a body; chunks cost the reader more than the sender."""
    transport = management.raw(b"PUT /api/users/x HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n")
    assert transport.value().startswith(b"HTTP/1.1 " + status + b"\r\n")
    assert transport.disconnecting
    before = transport.value()
    management.last_protocol.dataReceived(b"5\r\nxxxxx\r\n0\r\n\r\n")
    assert transport.value() == before


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example:15672"},
        {"Host": "localhost", "Origin": "http://evil.example"},
        {"Host": "localhost", "X-Forwarded-For": "192.0.2.7"},
        {"Host": "localhost", "Via": "1.1 proxy"},
    ],
    ids=["a name that somebody else owns", "a page of somebody else", "a proxy", "via"],
)
def test_guest_is_no_page_of_elsewhere_and_comes_through_no_proxy(management, headers):
    """Everybody knows its password; a browser of this machine, or a proxy, has a loopback address."""
    lines = "".join(f"{name}: {text}\r\n" for name, text in headers.items())
    login = "Authorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\n"
    for path in ("/api/overview", "/metrics"):
        asked = f"GET {path} HTTP/1.1\r\n{lines}{login}\r\n".encode()
        assert b" 401 " in management.raw(asked).value().partition(b"\r\n")[0]
    # Metrics want a login from elsewhere.
    asked = f"GET /metrics HTTP/1.1\r\n{lines}\r\n".encode()
    assert b" 401 " in management.raw(asked).value().partition(b"\r\n")[0]
