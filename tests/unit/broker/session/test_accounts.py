from __future__ import annotations

import json

import pytest

from broker.errors import NotFound, PreconditionFailed
from broker.session.accounts import AccountRegister
from broker.session.auth import ALL_RIGHTS, Accounts
from tests.support.core import Core

HASH = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$aGFzaGhhc2hoYXNoaGFzaA"


class Place:
    """A register over a core; `again` is the same store after a restart."""

    def __init__(self, definitions=None, configured=(), guest=True):
        self.core = Core()
        passwords = dict.fromkeys(configured, HASH)
        permissions = {name: {"/": ALL_RIGHTS} for name in configured}
        if guest:
            passwords["guest"] = "plain:guest"
            permissions["guest"] = {"/": ALL_RIGHTS}
        self.accounts = Accounts(
            passwords, permissions, lambda known, given: True, frozenset({"guest"})
        )
        self.register = AccountRegister(self.core.broker, self.accounts, ["/", "fixed"])
        self.core.broker.add_vhost("fixed")
        self.changes = 0
        self.definitions = dict(definitions or {})
        self.register.restore(self.definitions)
        self.register.on_changed = self.count

    def count(self):
        self.changes += 1

    def again(self, **options):
        for change in self.core.broker.take_unit().changes:
            kind, key, value = change[:3] if len(change) > 2 else (*change, None)
            if kind == 1 and value is None:
                self.definitions.pop(key, None)
            elif kind == 1:
                self.definitions[key] = value
        return Place(self.definitions, **options)

    def rights(self, name):
        found = self.accounts.users[name].rights
        return {vhost: (one.patterns, one.topics) for vhost, one in found.items()}


def test_users_survive_a_restart():
    place = Place()
    place.register.put_user("ann", HASH, ["administrator"])
    place.register.set_rights("ann", "/", "a", "b", "c")
    place.register.set_topic_rights("ann", "/", "amq.topic", "w", "r")
    place.register.put_user("/DC=ch/CN=x", "")
    assert place.changes == 4
    place = place.again()
    ann = place.accounts.users["ann"]
    assert (ann.password_hash, ann.tags, ann.origin) == (HASH, ("administrator",), "store")
    assert place.rights("ann") == {"/": (("a", "b", "c"), {"amq.topic": ("w", "r")})}
    assert place.accounts.users["/DC=ch/CN=x"].subject is not None
    place.register.clear_topic_rights("ann", "/")
    place.register.set_rights("ann", "/", "x", "", "")
    place = place.again()
    assert place.rights("ann") == {"/": (("x", "", ""), {})}
    place.register.clear_rights("ann", "/")
    place.register.put_user("ann", tags=[])
    place = place.again()
    assert place.rights("ann") == {} and place.accounts.users["ann"].tags == ()
    assert place.accounts.users["ann"].password_hash == HASH
    place.register.delete_user("ann")
    place = place.again()
    assert "ann" not in place.accounts.users
    assert [json.loads(key)[:2] for key in place.definitions] == [["user", "/DC=ch/CN=x"]]


def test_nothing_is_written_for_a_fresh_broker():
    place = Place()
    place.again()
    assert place.definitions == {}


def test_guest_can_be_removed_for_good():
    place = Place()
    place.register.delete_user("guest")
    place = place.again()
    assert "guest" not in place.accounts.users
    place.register.put_user("guest", HASH)
    place = place.again()
    assert place.accounts.users["guest"].password_hash == HASH and place.rights("guest") == {}


def test_guest_that_was_changed_stays_changed():
    place = Place()
    place.register.set_rights("guest", "/", "", "", "r")
    place = place.again()
    assert place.rights("guest") == {"/": (("", "", "r"), {})}
    assert place.accounts.login("guest", "guest", True).is_administrator
    place.register.put_user("guest", HASH)
    assert place.again().accounts.users["guest"].password_hash == HASH


def test_a_guest_switched_off_by_the_configuration_stays_off():
    place = Place()
    place.register.set_rights("guest", "/", "", "", "r")
    assert "guest" not in place.again(guest=False).accounts.users


def test_the_configuration_file_stands_above(caplog):
    place = Place()
    place.register.put_user("ann", "")
    place.register.set_rights("ann", "/", "", "", "")
    place = place.again(configured=["ann"])
    assert "configuration file stands above" in caplog.text
    assert place.accounts.users["ann"].password_hash == HASH
    assert place.rights("ann") == {"/": (ALL_RIGHTS, {})}
    for change in (
        lambda: place.register.put_user("ann", ""),
        lambda: place.register.delete_user("ann"),
        lambda: place.register.set_rights("ann", "/", "", "", ""),
        lambda: place.register.clear_rights("ann", "/"),
        lambda: place.register.set_topic_rights("ann", "/", "t", "", ""),
    ):
        with pytest.raises(PreconditionFailed, match="in the configuration file"):
            change()
    assert place.rights("ann") == {"/": (ALL_RIGHTS, {})} and place.changes == 0


def test_vhosts_survive_a_restart_and_go_with_all_in_them():
    place = Place()
    place.register.add_vhost("v", "guest")
    assert "v" in place.rights("guest")
    place.register.add_vhost("v", "guest")
    place = place.again()
    vhost = place.core.broker.vhosts["v"]
    assert "v" in place.rights("guest")
    vhost.declare_queue("q", durable=True)
    vhost.declare_exchange("x", "fanout", durable=True)
    vhost.bind_queue("q", "x", "")
    place.register.delete_vhost("v")
    place = place.again()
    assert "v" not in place.core.broker.vhosts and "v" not in place.rights("guest")
    assert all('"v"' not in key for key in place.definitions)


@pytest.mark.parametrize("name", ["/", "fixed"])
def test_vhosts_of_the_configuration_stay(name):
    place = Place()
    with pytest.raises(PreconditionFailed, match="in the configuration file"):
        place.register.delete_vhost(name)
    assert name in place.core.broker.vhosts


def test_what_is_refused():
    register = Place().register
    refused = (
        (PreconditionFailed, lambda: register.put_user("", HASH)),
        (PreconditionFailed, lambda: register.put_user("a\nb", HASH)),
        (PreconditionFailed, lambda: register.put_user("x" * 256, HASH)),
        (PreconditionFailed, lambda: register.put_user("ann", "secret")),
        (PreconditionFailed, lambda: register.put_user("ann", HASH, ["king"])),
        (PreconditionFailed, lambda: register.set_rights("guest", "/", "(", "", "")),
        (PreconditionFailed, lambda: register.set_topic_rights("guest", "/", "t", "(", "")),
        (PreconditionFailed, lambda: register.add_vhost("", "guest")),
        (NotFound, lambda: register.delete_user("nobody")),
        (NotFound, lambda: register.set_rights("nobody", "/", "", "", "")),
        (NotFound, lambda: register.set_rights("guest", "none", "", "", "")),
        (NotFound, lambda: register.clear_rights("guest", "none")),
        (NotFound, lambda: register.set_topic_rights("guest", "none", "t", "", "")),
        (NotFound, lambda: register.clear_topic_rights("guest", "/")),
        (NotFound, lambda: register.delete_vhost("none")),
    )
    for error, change in refused:
        with pytest.raises(error):
            change()
    assert set(register.accounts.users) == {"guest"}


def test_the_same_subject_twice_is_refused():
    register = Place().register
    register.put_user("/DC=ch/CN=x", "")
    with pytest.raises(PreconditionFailed, match="same distinguished name"):
        register.put_user("CN=x,DC=ch", "")
