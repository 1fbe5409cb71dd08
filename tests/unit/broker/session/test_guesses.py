from __future__ import annotations

import pytest

from broker.session import guesses
from broker.session.guesses import ADDRESS_PACE, NAME_PACE, FailedLogins, source_of


def fail(failed, count, source="1.2.3.4", name="ann", now=0.0):
    for number in range(count):
        failed.failed(source, name, b"digest %d" % number, now)


def test_the_first_failures_cost_nothing():
    failed = FailedLogins()
    assert failed.wait_seconds("1.2.3.4", "ann", 0.0) == 0
    fail(failed, NAME_PACE.free_count - 1)
    assert failed.wait_seconds("1.2.3.4", "ann", 0.0) == 0
    assert failed.wait_seconds("1.2.3.4", "bob", 0.0) == 0


def test_then_each_doubles_the_wait_up_to_a_bound():
    failed = FailedLogins()
    waits = []
    now = 0.0
    fail(failed, NAME_PACE.free_count)
    for number in range(8):
        waits.append(failed.wait_seconds("1.2.3.4", "ann", now))
        now += waits[-1]
        failed.failed("1.2.3.4", "ann", b"next %d" % number, now)
    # In turn: each looks as if it had begun right after the one before was looked at.
    assert waits[0] == 0.25 and waits == sorted(waits)
    assert waits[-1] <= 2 * NAME_PACE.longest_seconds
    assert failed.wait_seconds("1.2.3.4", "bob", now) == 0
    assert failed.wait_seconds("5.6.7.8", "ann", now) == 0


def test_guesses_at_one_time_wait_for_each_other_and_soon_are_not_looked_at():
    failed = FailedLogins()
    fail(failed, 1000)
    waits = [failed.wait_seconds("1.2.3.4", "ann", 0.0) for _ in range(100)]
    looked_at = [wait for wait in waits if wait is not None]
    assert looked_at == [5.0, 10.0] and waits[2:] == [None] * 98
    # What was refused took no turn.
    assert failed.wait_seconds("1.2.3.4", "ann", 5.0) == 10.0


def test_an_address_with_many_names_gets_slow_too_but_less():
    failed = FailedLogins()
    for number in range(1000):
        failed.failed("1.2.3.4", f"user {number}", b"", 0.0)
    assert failed.wait_seconds("1.2.3.4", "another", 0.0) == ADDRESS_PACE.longest_seconds
    assert failed.wait_seconds("1.2.3.5", "another", 0.0) == 0


def test_failures_are_forgotten_with_time():
    failed = FailedLogins()
    fail(failed, 1000)
    worst_s = NAME_PACE.count_max * NAME_PACE.forget_seconds
    assert failed.wait_seconds("1.2.3.4", "ann", worst_s / 2) > 0
    assert failed.wait_seconds("1.2.3.4", "ann", worst_s + 1) == 0


def test_a_right_password_makes_up_for_the_name_not_for_the_address():
    failed = FailedLogins()
    fail(failed, 1000)
    failed.succeeded("1.2.3.4", "ann")
    assert failed.wait_seconds("1.2.3.4", "ann", 0.0) == ADDRESS_PACE.longest_seconds
    assert not failed.is_known_wrong("1.2.3.4", "ann", b"digest 999")


def test_the_same_wrong_password_is_known():
    failed = FailedLogins()
    fail(failed, 1)
    assert failed.is_known_wrong("1.2.3.4", "ann", b"digest 0")
    assert not failed.is_known_wrong("1.2.3.4", "ann", b"digest 1")
    assert not failed.is_known_wrong("1.2.3.4", "bob", b"digest 0")
    assert not failed.is_known_wrong("1.2.3.5", "ann", b"digest 0")
    fail(failed, 100)
    assert not failed.is_known_wrong("1.2.3.4", "ann", b"digest 0")


def test_the_table_is_bounded(monkeypatch):
    monkeypatch.setattr(guesses, "TALLIES_MAX", 10)
    failed = FailedLogins()
    for number in range(1000):
        failed.failed(f"10.0.{number}.1", "ann", b"x", 0.0)
        assert len(failed) <= 10
    fail(failed, 100, source="last")
    assert failed.wait_seconds("last", "ann", 0.0) == NAME_PACE.longest_seconds


@pytest.mark.parametrize(
    ("peer", "source"),
    [
        ("192.0.2.7:1234", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6:1234", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9:1234", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7:1234", "192.0.2.7"),
        ("fe80::1%eth0:1234", "fe80::/64"),
        ("::1:1234", "::/64"),
        ("unix socket", "unix socket"),
        ("", ""),
        ("host:1", "host"),
    ],
)
def test_where_a_peer_comes_from(peer, source):
    assert source_of(peer) == source
