"""The management listener of a standby, and how status shows it."""

from __future__ import annotations

import pytest
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from broker.cli.site import status_lines
from broker.management.standby import GAUGES, standby_site
from broker.session.auth import Accounts
from tests.support.management import Management
from tests.support.source import ROOT

DESCRIBED = {
    "role": "standby",
    "name": "gridmsg@second",
    "pid": 99,
    "data": "data",
    "epoch": 4,
    "reason": "",
    "is_barred": False,
    "renewed_seconds_ago": 0.31,
    "warnings": ["mount it with lookupcache=positive"],
    "active": {
        "host": "first",
        "pid": 7,
        "addresses": "stomp=first:61613",
        "lease_seconds": 5.0,
        "is_released": False,
    },
}


@pytest.fixture
def standby():
    made = Management()
    made.site = standby_site(Accounts.guest_only(), lambda: DESCRIBED)
    return made


def test_health_is_live_but_not_ready_and_tells_who_is_active(standby):
    assert standby.ask("GET", "/health/live", login=None).status == 200
    ready = standby.ask("GET", "/health/ready", login=None)
    assert ready.status == 503
    assert ready.json["role"] == "standby" and ready.json["epoch"] == 4
    assert ready.json["active"]["host"] == "first" and ready.json["renewed_seconds_ago"] == 0.31


def test_metrics(standby):
    text = standby.ask("GET", "/metrics", login=None).body.decode()
    assert "gridmsg_up 0\n" in text and "gridmsg_standby 1\n" in text
    assert "gridmsg_epoch 4\n" in text and "gridmsg_lease_age_seconds 0.31\n" in text
    page = (ROOT / "docs" / "operating.md").read_text()
    assert [name for name in GAUGES if f"`{name}`" not in page] == []


def test_the_overview_is_what_status_shows(standby):
    answer = standby.ask("GET", "/api/overview")
    assert answer.status == 200
    lines = "\n".join(status_lines(answer.json, standby.ask("GET", "/api/queues").json))
    assert "gridmsg@second  standby, epoch 4, process 99" in lines
    assert (
        "stands by  for process 7 on first, lease 5 s, renewed 0.31 s ago (stomp=first:61613)"
        in lines
    )
    assert "lookupcache=positive" in lines and "holds" not in lines


def test_nothing_is_changed_or_shown_beyond(standby):
    answer = standby.ask("PUT", "/api/queues/%2F/q")
    assert answer.status == 503 and "process 7 on first is active" in answer.json["reason"]
    assert standby.ask("GET", "/api/definitions").status == 503


def test_from_elsewhere_a_login_is_needed_for_all_but_health(standby):
    assert standby.ask("GET", "/health/ready", login=None, host="10.0.0.9").status == 503
    assert standby.ask("GET", "/metrics", login=None, host="10.0.0.9").status == 401
    assert standby.ask("GET", "/api/overview", login="guest:wrong").status == 401


def test_status_of_an_owner_tells_its_lease():
    site = {
        "role": "active",
        "failover": {"lease_seconds": 5.0, "renewed_seconds_ago": 0.4, "warnings": ["slow disk"]},
    }
    lines = status_lines({"gridmsg": site}, [])
    assert "lease      5 s, renewed 0.4 s ago" in lines and "failover   slow disk" in lines


def test_status_of_one_that_found_damage_says_so():
    site = {**DESCRIBED, "reason": "segment x is damaged", "is_barred": True}
    assert "because    segment x is damaged; claims no more by itself" in status_lines(
        {"gridmsg": site}, []
    )


def test_a_password_is_checked_elsewhere():
    """Argon2 in the reactor thread would hold up a take-over."""
    accounts = Accounts({"ann": "$argon2$pw"}, {}, lambda known, given: known == "$argon2$" + given)
    waiting = []
    accounts.check_later = lambda check, done: waiting.append((check, done))
    standby = Management()
    standby.site = standby_site(accounts, lambda: DESCRIBED)
    for login, status in ((b"YW5uOm5v", b"401"), (b"YW5uOnB3", b"200")):
        request = b"GET /metrics HTTP/1.1\r\nHost: h\r\nAuthorization: Basic " + login + b"\r\n\r\n"
        transport = standby.raw(request, "192.0.2.7")
        assert transport.value() == b"" and len(waiting) == 1
        check, done = waiting.pop()
        done(check())
        assert transport.value().split(b" ")[1] == status


def test_a_caller_that_has_gone_is_not_answered():
    accounts = Accounts({"ann": "$argon2$pw"}, {}, lambda *_: True)
    waiting = []
    accounts.check_later = lambda check, done: waiting.append((check, done))
    standby = Management()
    standby.site = standby_site(accounts, lambda: DESCRIBED)
    request = b"GET /metrics HTTP/1.1\r\nHost: h\r\nAuthorization: Basic YW5uOnB3\r\n\r\n"
    transport = standby.raw(request, "192.0.2.7")
    standby.last_protocol.connectionLost(Failure(ConnectionDone()))
    check, done = waiting.pop()
    done(check())
    assert transport.value() == b""
