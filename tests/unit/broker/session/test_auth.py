from __future__ import annotations

import logging

import pytest

from broker.errors import AccessRefused
from broker.session import auth, fairness
from broker.session.auth import ALL_RIGHTS, Accounts, User
from broker.session.dn import parse
from broker.session.sasl import CertificateLogin, PasswordLogin

HASH = "$argon2id$fake$"
SUBJECT = parse("/DC=ch/CN=me")


class Later:
    """Checks that are run when the test says so."""

    def __init__(self):
        self.waiting = []

    def __call__(self, check, done):
        self.waiting.append((check, done))

    def run(self):
        while self.waiting:
            check, done = self.waiting.pop(0)
            done(check())


class Ground:
    def __init__(self, **subjects):
        self.verified = []
        self.later = Later()
        self.accounts = Accounts(
            {"guest": "plain:guest", "ann": HASH + "pw"},
            {"guest": {"/": ALL_RIGHTS}, "ann": {"/": ALL_RIGHTS}},
            self.verify,
            frozenset({"guest"}),
            {SUBJECT: "ann"} if subjects.get("mapped") else None,
        )
        self.accounts.check_later = self.later

    def verify(self, known, password):
        self.verified.append(password)
        return known == HASH + password

    def log_in(self, name, password, is_loopback=True):
        return self.accounts.authenticate(PasswordLogin(name, password), is_loopback)


def refusal(login):
    assert login.is_settled
    with pytest.raises(AccessRefused) as caught:
        login.identity()
    return caught.value.text


def test_guest_is_checked_at_once_and_from_loopback_only():
    ground = Ground()
    assert ground.log_in("guest", "guest").identity().name == "guest"
    assert (
        refusal(ground.log_in("guest", "guest", is_loopback=False)) == "non-loopback access denied"
    )
    # Whether it is the right password is not told elsewhere.
    assert refusal(ground.log_in("guest", "no", is_loopback=False)) == "non-loopback access denied"
    assert refusal(ground.log_in("guest", "no")) == "Access refused for user 'guest'"
    assert not ground.later.waiting


def test_a_password_is_checked_elsewhere_and_then_remembered():
    ground = Ground()
    told = []
    login = ground.log_in("ann", "pw")
    login.on_settled = lambda: told.append(login.identity().name)
    assert not login.is_settled and ground.verified == []
    ground.later.run()
    assert told == ["ann"]
    assert ground.log_in("ann", "pw").identity().name == "ann"
    assert refusal(ground.log_in("ann", "wrong")) == "Access refused for user 'ann'"
    assert ground.verified == ["pw"] and not ground.later.waiting


def test_a_wrong_password_is_not_remembered():
    ground = Ground()
    for _ in range(2):
        login = ground.log_in("ann", "no")
        ground.later.run()
        assert refusal(login) == "Access refused for user 'ann'"
    assert ground.verified == ["no", "no"]


def test_the_same_login_a_hundred_times_is_one_check():
    ground = Ground()
    logins = [ground.log_in("ann", "pw") for _ in range(100)]
    assert len(ground.later.waiting) == 1
    ground.later.run()
    assert {login.identity().name for login in logins} == {"ann"}


def test_logins_that_wait_are_bounded(monkeypatch, caplog):
    monkeypatch.setattr(fairness, "CHECKS_WAITING_MAX", 3)
    ground = Ground()
    waiting = [ground.log_in("ann", f"guess{number}") for number in range(4)]
    with caplog.at_level(logging.WARNING):
        assert refusal(ground.log_in("ann", "one more")) == "Access refused for user 'ann'"
    assert "too many logins" in caplog.text and "one more" not in caplog.text
    ground.later.run()
    assert [refusal(one) for one in waiting] == ["Access refused for user 'ann'"] * 4
    assert not ground.log_in("ann", "pw").is_settled


def test_a_password_changed_while_it_is_checked_counts_as_changed():
    ground = Ground()
    login = ground.log_in("ann", "pw")
    ground.accounts.users["ann"].password_hash = HASH + "new"
    ground.later.run()
    assert refusal(login) == "Access refused for user 'ann'"
    login = ground.log_in("ann", "new")
    ground.later.run()
    assert login.identity().name == "ann"


def test_a_changed_password_is_not_the_remembered_one():
    ground = Ground()
    ground.log_in("ann", "pw")
    ground.later.run()
    ground.accounts.users["ann"].password_hash = HASH + "new"
    login = ground.log_in("ann", "pw")
    ground.later.run()
    assert refusal(login) == "Access refused for user 'ann'"


def test_who_is_not_there_or_has_no_password():
    ground = Ground()
    ground.accounts.add(User("cert", "", "store"))
    for name in ("nobody", "cert", ""):
        assert refusal(ground.log_in(name, "")) == f"Access refused for user '{name}'"
    assert refusal(ground.log_in("ann", "x" * 5000)) == "Access refused for user 'ann'"
    assert not ground.later.waiting


def test_names_cannot_write_into_the_log():
    text = refusal(Ground().log_in("a\nroot logged in\x1b[2J" + "x" * 500, "x"))
    assert text.isprintable() and len(text) < 350


def test_passwords_are_kept_as_keyed_hashes_only():
    ground = Ground()
    ground.log_in("ann", "pw")
    ground.later.run()
    kept = repr(ground.accounts._remembered) + repr(ground.accounts._waiting)
    assert "'pw'" not in kept and "b'pw'" not in kept.replace(repr(HASH + "pw"), "")


def test_logins_that_wait_for_one_check_are_bounded(monkeypatch, caplog):
    monkeypatch.setattr(auth, "JOINED_MAX", 2)
    ground = Ground()
    waiting = [ground.log_in("ann", "pw") for _ in range(2)]
    assert refusal(ground.log_in("ann", "pw")) == "Access refused for user 'ann'"
    ground.later.run()
    assert [one.identity().name for one in waiting] == ["ann"] * 2


# Certificates


def by_certificate(accounts, subject=SUBJECT, is_loopback=True):
    return accounts.authenticate(CertificateLogin(subject), is_loopback)


def test_a_subject_in_the_map_is_that_user():
    assert by_certificate(Ground(mapped=True).accounts).identity().name == "ann"


@pytest.mark.parametrize("name", ["/DC=ch/CN=me", "CN=me,DC=ch", "cn=me, dc=ch"])
def test_a_user_may_be_a_subject_in_either_spelling(name):
    accounts = Ground().accounts
    assert refusal(by_certificate(accounts)) == "Access refused for user 'CN=me,DC=ch'"
    accounts.add(User(name, "", "store"))
    assert by_certificate(accounts).identity().name == name
    accounts.remove(name)
    assert refusal(by_certificate(accounts)) == "Access refused for user 'CN=me,DC=ch'"


def test_one_subject_is_one_user():
    accounts = Ground().accounts
    accounts.add(User("/DC=ch/CN=me", "", "store"))
    with pytest.raises(ValueError, match="same distinguished name"):
        accounts.add(User("CN=me,DC=ch", "", "store"))
    assert list(accounts.users) == ["guest", "ann", "/DC=ch/CN=me"]


def test_a_mapped_user_must_exist():
    ground = Ground(mapped=True)
    ground.accounts.remove("ann")
    assert "refused" in refusal(by_certificate(ground.accounts))


def test_guest_by_certificate_comes_from_loopback_too():
    accounts = Accounts({"guest": "plain:guest"}, {}, lambda *_: False, subjects={SUBJECT: "guest"})
    assert by_certificate(accounts).identity().name == "guest"
    assert refusal(by_certificate(accounts, is_loopback=False)) == "non-loopback access denied"


# Rights


def test_rights_are_those_of_now():
    accounts = Ground().accounts
    identity = by_certificate(Ground(mapped=True).accounts).identity()
    assert not identity.is_administrator and identity.may_enter("/") and identity.is_valid
    guest = accounts.login("guest", "guest", True)
    assert guest.is_administrator
    guest.check("/", "read", "queue", "q")
    del accounts.users["guest"].rights["/"]
    with pytest.raises(
        AccessRefused, match="read access to queue 'q' in vhost '/' refused for user 'guest'"
    ):
        guest.check("/", "read", "queue", "q")
    assert not guest.may_enter("/")
    accounts.users["guest"].rights["/"] = auth.Rights(ALL_RIGHTS)
    accounts.remove("guest")
    assert not guest.is_valid and not guest.is_administrator and not guest.may_enter("/")
    with pytest.raises(AccessRefused):
        guest.check("/", "read", "queue", "q")
    with pytest.raises(AccessRefused):
        guest.check_topic("/", "read", "amq.topic", "k")


@pytest.mark.parametrize(
    ("pattern", "name", "is_allowed"),
    [
        (".*", "q", True),
        ("", "q", False),
        ("", "", True),
        ("^$", "q", False),
        ("mine", "this is mine too", True),
        ("^mine$", "mine too", False),
        ("^mine$", "mine", True),
    ],
)
def test_patterns_are_rabbitmqs(pattern, name, is_allowed):
    rights = auth.Rights((pattern, "", ""))
    assert rights.allow("configure", name) is is_allowed
    assert not rights.allow("write", "q")


@pytest.mark.parametrize("pattern", ["(", "x" * 2000, "*"])
def test_patterns_that_are_none(pattern):
    with pytest.raises(ValueError):
        auth.Rights((pattern, "", ""))


def test_topic_rights():
    user = User("ann", "", "store", rights={"/": ALL_RIGHTS})
    identity = auth.Identity(user)
    identity.check_topic("/", "write", "amq.topic", "anything")
    user.rights["/"].topics["amq.topic"] = (r"^{username}\.", "")
    identity.check_topic("/", "write", "amq.topic", "ann.x")
    identity.check_topic("/", "write", "other", "anything")
    for operation, key in (("write", "bob.x"), ("read", "ann.x"), ("write", "annx")):
        with pytest.raises(AccessRefused) as caught:
            identity.check_topic("/", operation, "amq.topic", key)
        assert caught.value.text == (
            f"{operation} access to topic '{key}' in exchange 'amq.topic' in vhost '/' refused for user 'ann'"
        )


def test_a_name_in_a_topic_pattern_is_no_pattern():
    user = User("a.*", "", "store", rights={"/": ALL_RIGHTS})
    user.rights["/"].topics["t"] = ("^{username}$", "")
    auth.Identity(user).check_topic("/", "write", "t", "a.*")
    with pytest.raises(AccessRefused):
        auth.Identity(user).check_topic("/", "write", "t", "abc")
