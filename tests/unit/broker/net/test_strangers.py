"""broker.net.strangers: counts by source, which end with a login or the connection."""

from __future__ import annotations

import pytest

from broker.net.links import Links
from broker.net.strangers import STRANGERS_MAX, Strangers
from broker.session.auth import Accounts
from broker.session.sasl import PasswordLogin


def test_each_source_has_its_bound():
    strangers = Strangers(2)
    assert [strangers.come(f"192.0.2.7:{port}") for port in range(4)] == [True, True, False, False]
    assert strangers.come("192.0.2.8:1")
    assert (strangers.count("192.0.2.7:9"), strangers.count("192.0.2.8:9")) == (2, 1)


def test_an_ipv6_network_is_one_source():
    strangers = Strangers(2)
    assert strangers.come("2001:db8::1:1") and strangers.come("2001:db8::2:1")
    assert not strangers.come("2001:db8::3:1")
    assert strangers.come("2001:db8:0:1::1:1")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_proxy_on_this_machine_may_stand_for_many(host):
    strangers = Strangers(2)
    assert [strangers.come(f"{host}:{port}") for port in range(21)] == [True] * 20 + [False]


def test_going_twice_is_once_and_leaves_nothing():
    strangers = Strangers(1)
    assert strangers.come("192.0.2.7:1")
    strangers.go("192.0.2.7:2")
    assert not strangers.come("192.0.2.7:3"), "who was never there does not make room"
    strangers.go("192.0.2.7:1")
    strangers.go("192.0.2.7:1")
    assert strangers._peers == {}
    assert strangers.come("192.0.2.7:3")


def test_the_default():
    strangers = Strangers()
    assert all(strangers.come(f"192.0.2.7:{port}") for port in range(STRANGERS_MAX))
    assert not strangers.come("192.0.2.7:0")


@pytest.mark.parametrize(("password", "is_known"), [("guest", True), ("wrong", False)])
def test_a_login_makes_a_stranger_known_and_a_refused_one_does_not(password, is_known):
    accounts, strangers = Accounts.guest_only(), Strangers(1)
    accounts.on_entered = strangers.go
    assert strangers.come("127.0.0.1:1")
    accounts.authenticate(PasswordLogin("guest", password), True, "127.0.0.1:1")
    assert strangers.count("127.0.0.1:1") == (0 if is_known else 1)


def test_a_link_that_logs_in_is_no_stranger_and_its_guesses_have_an_address():
    accounts, strangers = Accounts.guest_only(), Strangers(1)
    accounts.on_entered = strangers.go
    links = Links.__new__(Links)
    links._accounts = accounts
    assert strangers.come("127.0.0.1:1")
    assert links._authenticator("127.0.0.1:1")("guest", "guest", None).is_settled
    assert strangers.count("127.0.0.1:1") == 0
