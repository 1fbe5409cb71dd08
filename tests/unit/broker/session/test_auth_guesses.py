"""Logins of who guesses: they wait, they are refused late, and they hold up nobody else."""

from __future__ import annotations

import heapq

import pytest

from broker.errors import AccessRefused
from broker.session.auth import ALL_RIGHTS, REFUSAL_SECONDS, Accounts, User
from broker.session.guesses import NAME_PACE
from broker.session.sasl import PasswordLogin

CHECK_SECONDS = 0.03


class World:
    """A clock, timers, and a thread for checks that takes its time."""

    def __init__(self):
        self.now = 1000.0
        self.calls = []
        self.number = 0
        self.looks = []
        self.logins = []
        self.told_at = {}
        self.accounts = Accounts(
            {"guest": "plain:guest", "ann": "$argon2$pw", "bob": "$argon2$b"},
            {name: {"/": ALL_RIGHTS} for name in ("guest", "ann", "bob")},
            self.verify,
        )
        self.accounts.check_later = lambda work, done: self.later(
            CHECK_SECONDS, lambda: done(work())
        )
        self.accounts.slow_down(lambda: self.now, self.later)

    def later(self, seconds, call):
        self.number += 1
        heapq.heappush(self.calls, (self.now + seconds, self.number, call))

    def verify(self, known, password):
        self.looks.append((self.now, password))
        return known == "$argon2$" + password

    def log_in(self, name, password, peer="192.0.2.7:1000"):
        login = self.accounts.authenticate(PasswordLogin(name, password), True, peer)
        if login.is_settled:
            self.told_at[id(login)] = self.now
        login.on_settled = lambda: self.told_at.update({id(login): self.now})
        self.logins.append(login)
        return login

    def seconds(self, login, began):
        """How long a login took."""
        return self.told_at[id(login)] - began

    def run(self, until=None):
        while self.calls and (until is None or self.calls[0][0] <= until):
            self.now, _, call = heapq.heappop(self.calls)
            call()
        if until is not None:
            self.now = until

    def guess(self, name="ann", count=30, peer="192.0.2.7:1000"):
        """Guess one password after the other; returns how long that took."""
        began = self.now
        for number in range(count):
            self.log_in(name, f"guess {number} at {self.now}", peer)
            self.run()
        return self.now - began


def is_refused(login):
    try:
        login.identity()
    except AccessRefused as error:
        return "Access refused for user" in error.text
    return False


@pytest.mark.parametrize("name", ["ann", "guest", "nobody"])
def test_a_refusal_comes_at_one_time_whoever_is_asked_for(name):
    world = World()
    login = world.log_in(name, "wrong")
    assert not login.is_settled
    world.run()
    assert is_refused(login) and world.seconds(login, 1000) == pytest.approx(REFUSAL_SECONDS)


def test_a_refusal_is_no_sooner_when_the_right_password_is_remembered():
    world = World()
    world.log_in("ann", "pw")
    world.run()
    began = world.now
    login = world.log_in("ann", "wrong")
    world.run()
    assert is_refused(login) and world.seconds(login, began) == pytest.approx(REFUSAL_SECONDS)


@pytest.mark.parametrize("name", ["ann", "guest", "nobody"])
def test_guessing_slows_down(name):
    world = World()
    quick_s = world.guess(name, NAME_PACE.free_count)
    assert quick_s < NAME_PACE.free_count * (REFUSAL_SECONDS + 0.1)
    assert world.guess(name, 30) > 20 * NAME_PACE.longest_seconds


def test_many_guesses_at_one_time_are_not_looked_at():
    world = World()
    world.guess(count=30)
    looked_at = len(world.looks)
    logins = [world.log_in("ann", f"parallel {number}") for number in range(1000)]
    world.run(world.now + 60)
    assert all(map(is_refused, logins))
    assert len(world.looks) - looked_at <= 3


def test_the_right_password_comes_through_and_makes_good():
    world = World()
    world.guess(count=10)
    began = world.now
    login = world.log_in("ann", "pw")
    assert not login.is_settled
    world.run()
    assert not is_refused(login) and world.seconds(login, began) <= 2 * NAME_PACE.longest_seconds
    again = world.log_in("ann", "pw")
    assert again.is_settled and not is_refused(again)


def test_others_are_not_held_up():
    world = World()
    world.guess(count=30)
    for name, password, peer in (
        ("ann", "pw", "192.0.2.8:1"),
        ("bob", "b", "192.0.2.7:1"),
        ("guest", "guest", "192.0.2.7:1"),
    ):
        began = world.now
        login = world.log_in(name, password, peer)
        world.run()
        assert not is_refused(login) and world.seconds(login, began) <= 1.01 * CHECK_SECONDS


def test_the_same_old_password_again_and_again_is_no_guess():
    """A hundred clients of a site with last year's password, behind one address: who has the new one gets in at once."""
    world = World()
    for _ in range(300):
        world.log_in("ann", "old")
        world.run(world.now + 0.01)
    world.run()
    assert len(world.looks) == 1
    began = world.now
    login = world.log_in("ann", "pw")
    world.run()
    assert not is_refused(login) and world.seconds(login, began) <= 1.01 * CHECK_SECONDS


def test_a_password_that_was_wrong_may_become_the_right_one():
    world = World()
    assert world.log_in("ann", "soon") and world.log_in("new", "soon")
    world.run()
    world.accounts.users["ann"].password_hash = "$argon2$soon"
    world.accounts.add(User("new", "$argon2$soon", "store"))
    logins = [world.log_in("ann", "soon"), world.log_in("new", "soon")]
    world.run()
    assert not any(map(is_refused, logins))


def test_a_password_that_becomes_right_while_it_is_checked_is_not_held_against_it():
    world = World()
    login = world.log_in("ann", "soon")
    world.accounts.users["ann"].password_hash = "$argon2$soon"
    world.run()
    assert is_refused(login)
    login = world.log_in("ann", "soon")
    world.run()
    assert not is_refused(login)


def test_a_flood_from_one_address_does_not_take_the_places_of_another():
    world = World()
    for number in range(1000):
        world.log_in("ann", f"flood {number}")
    began = world.now
    login = world.log_in("bob", "b", "192.0.2.8:1")
    world.run()
    assert not is_refused(login) and world.seconds(login, began) <= 3 * CHECK_SECONDS


def test_a_password_is_not_kept_while_its_refusal_waits():
    world = World()
    world.log_in("nobody", "s3cret")
    closures = [call.__closure__ or () for _, _, call in world.calls]
    cells = [cell.cell_contents for cells in closures for cell in cells]
    assert cells and "s3cret" not in repr([getattr(one, "password", one) for one in cells])


def test_a_broker_without_a_reactor_answers_at_once():
    world = World()
    with pytest.raises(AccessRefused):
        world.accounts.login("ann", "wrong", True)
    assert world.accounts.login("ann", "pw", True).name == "ann"
