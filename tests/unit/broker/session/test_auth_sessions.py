"""Sessions while a password is checked elsewhere, with certificates, and when accounts change under them."""

from __future__ import annotations

import pytest

from broker.session.accounts import AccountRegister
from broker.session.auth import ALL_RIGHTS, Accounts, LoggedIn, User
from broker.session.dn import parse
from tests.support import amqp, stomp_house

PLAIN_REFUSED = (
    "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. "
    "For details see the broker logfile."
)
SUBJECT = parse("/DC=ch/CN=me")
CONNECT = b"CONNECT\naccept-version:1.2\nhost:/\nlogin:ann\npasscode:%b\n\n\0"


class Later:
    def __init__(self):
        self.waiting = []

    def __call__(self, check, done):
        self.waiting.append((check, done))

    def run(self):
        waiting, self.waiting = self.waiting, []
        for check, done in waiting:
            done(check())


@pytest.fixture
def accounts():
    made = Accounts(
        {"guest": "plain:guest", "ann": "$argon2$pw"},
        {"guest": {"/": ALL_RIGHTS}, "ann": {"/": ALL_RIGHTS}},
        lambda known, password: known == "$argon2$" + password,
        subjects={SUBJECT: "ann"},
    )
    made.check_later = Later()
    return made


# STOMP


def test_stomp_waits_for_its_password(accounts):
    house = stomp_house.House(accounts=accounts)
    session = house.peer()
    ahead = CONNECT % b"pw" + b"SEND\ndestination:/queue/q\nreceipt:1\n\nx\0SEND\ndestina"
    assert house.say(ahead) == b"" and session.is_holding and not session.is_closing
    assert house.say(b"tion:/queue/q\nreceipt:2\n\ny\0") == b""
    accounts.check_later.run()
    assert session in house.woken
    house.turn()
    said = house.read()
    assert said.startswith(b"CONNECTED\n") and not session.is_holding
    assert said.index(b"receipt-id:1\n") < said.index(b"receipt-id:2\n")
    assert session.user == "ann"


def test_stomp_refuses_a_wrong_password_later(accounts):
    house = stomp_house.House(accounts=accounts)
    assert house.say(CONNECT % b"no" + b"SEND\ndestination:/queue/q\n\nx\0") == b""
    accounts.check_later.run()
    house.turn()
    said = house.read()
    assert b"message:Bad CONNECT\n" in said and b"Access refused for user 'ann'" in said
    assert house.peers["a"].is_closing and "q" not in house.core.vhost.queues


def test_what_stomp_sends_ahead_is_bounded(accounts):
    house = stomp_house.House(accounts=accounts)
    house.say(CONNECT % b"pw")
    said = house.say(b"\n" * 300_000)
    assert b"Too much was sent before the login" in said
    accounts.check_later.run()
    house.turn()
    assert house.read() == b"" and house.peers["a"].is_closing


def test_a_stomp_peer_that_goes_while_it_waits(accounts):
    house = stomp_house.House(accounts=accounts)
    house.say(CONNECT % b"pw")
    house.lose()
    accounts.check_later.run()
    house.turn()
    assert house.core.broker.touched == []


def test_a_check_that_takes_long_is_not_the_peers_fault(accounts):
    house = stomp_house.House(accounts=accounts)
    house.say(CONNECT % b"pw")
    session = house.peers["a"]
    assert session.next_deadline() is None
    session.tick(house.core.clock.now() + 100)
    accounts.check_later.run()
    house.turn()
    assert house.read().startswith(b"CONNECTED")

    house = amqp.House(accounts=accounts)
    accounts._remembered.clear()
    peer = begin(house)
    house.clock.seconds += 100
    assert peer.session.next_deadline() is None
    peer.session.tick(house.clock.now())
    accounts.check_later.run()
    house.run()
    assert peer.got()[-1][1] == "connection.tune"
    assert peer.session.next_deadline() == house.clock.now() + peer.session.limits.login_seconds


def test_stomp_by_certificate(accounts):
    house = stomp_house.House(accounts=accounts)
    house.peer().certificate = SUBJECT
    assert house.say(b"CONNECT\naccept-version:1.2\nhost:/\n\n\0").startswith(b"CONNECTED\n")
    assert house.peers["a"].user == "ann"


def test_stomp_with_a_certificate_that_is_nobody_is_not_guest(accounts):
    house = stomp_house.House(accounts=accounts)
    house.peer().certificate = parse("/DC=ch/CN=stranger")
    said = house.say(b"CONNECT\naccept-version:1.2\nhost:/\n\n\0")
    assert (
        b"message:Bad CONNECT\n" in said and b"Access refused for user 'CN=stranger,DC=ch'" in said
    )


def test_stomp_login_headers_go_before_the_certificate(accounts):
    house = stomp_house.House(accounts=accounts)
    house.peer().certificate = SUBJECT
    house.say(b"CONNECT\naccept-version:1.2\nhost:/\nlogin:guest\npasscode:guest\n\n\0")
    assert house.peers["a"].user == "guest"


# AMQP


def begin(house, mechanism="PLAIN", response=b"\0ann\0pw", certificate=None, capabilities=None):
    peer = amqp.Peer(house)
    peer.session.certificate = certificate
    peer.feed(amqp.PROTOCOL_HEADER)
    capabilities = amqp.CAPABILITIES if capabilities is None else capabilities
    peer.send(
        0, "connection.start-ok", {"capabilities": capabilities}, mechanism, response, "en_US"
    )
    return peer


def test_amqp_waits_for_its_password(accounts):
    house = amqp.House(accounts=accounts)
    peer = begin(house)
    assert [got[1] for got in peer.got()] == ["connection.start"] and peer.session.is_holding
    # Sent ahead: kept, in order.
    peer.send(0, "connection.tune-ok", 2047, 131072, 60)
    peer.send(0, "connection.open", "/", "", False)
    assert peer.got() == []
    accounts.check_later.run()
    house.run()
    assert [got[1] for got in peer.got()] == ["connection.tune", "connection.open-ok"]
    assert not peer.session.is_holding and peer.session.identity.name == "ann"


@pytest.mark.parametrize("capable", [True, False])
def test_amqp_refuses_a_wrong_password_later(accounts, capable):
    house = amqp.House(accounts=accounts)
    peer = begin(house, response=b"\0ann\0no", capabilities=None if capable else {})
    peer.got()
    accounts.check_later.run()
    house.run()
    got = peer.got()
    if capable:
        assert got[0][1:4] == (
            "connection.close",
            403,
            PLAIN_REFUSED,
        )
    else:
        assert got == [] and not peer.is_closing
        house.clock.seconds += 3.1
        peer.session.tick(house.clock.now())
        assert peer.is_closing


def test_an_amqp_peer_that_goes_while_it_waits(accounts):
    house = amqp.House(accounts=accounts)
    peer = begin(house)
    peer.session.connection_lost("gone")
    accounts.check_later.run()
    house.run()
    assert peer.session.identity is None


def test_what_amqp_sends_ahead_is_bounded(accounts):
    house = amqp.House(accounts=accounts)
    peer = begin(house)
    peer.got()
    peer.feed(b"\x08\0\0\0\0\0\0\xce" * 40_000)
    assert peer.got()[0][1:3] == ("connection.close", 506) and peer.is_closing


def test_external(accounts):
    house = amqp.House(accounts=accounts)
    peer = begin(house, "EXTERNAL", b"", SUBJECT)
    start, tune = peer.got()
    assert start[5] == b"PLAIN AMQPLAIN EXTERNAL" and tune[1] == "connection.tune"
    assert peer.session.identity.name == "ann"


def test_external_of_nobody(accounts):
    house = amqp.House(accounts=accounts)
    peer = begin(house, "EXTERNAL", b"", parse("/CN=stranger"))
    assert "mechanism EXTERNAL" in peer.got()[1][3]


def test_external_is_not_offered_without_a_certificate(accounts):
    peer = begin(amqp.House(accounts=accounts), "EXTERNAL", b"")
    start, close = peer.got()
    assert start[5] == b"PLAIN AMQPLAIN"
    assert close[1:3] == ("connection.close", 503)


def test_update_secret_waits_too(accounts):
    house = amqp.House(accounts=accounts)
    peer = begin(house)
    accounts.check_later.run()
    house.run()
    peer.send(0, "connection.tune-ok", 2047, 131072, 60)
    peer.send(0, "connection.open", "/", "", False)
    peer.got()
    accounts.users["ann"].password_hash = "$argon2$new"
    peer.send(0, "connection.update-secret", b"new", "expired")
    assert peer.got() == []
    accounts.check_later.run()
    house.run()
    assert peer.got()[0][1] == "connection.update-secret-ok"
    peer.send(0, "connection.update-secret", b"wrong", "expired")
    accounts.check_later.run()
    house.run()
    assert peer.got()[0][1] == "connection.update-secret-ok", "only tokens run out (RabbitMQ)"


# Accounts that change


def test_both_sessions_can_be_told():
    assert isinstance(stomp_house.House().peer(), LoggedIn)
    assert isinstance(amqp.Peer(amqp.House()).session, LoggedIn)


CHANGES = {
    "user deleted": (lambda register: register.delete_user("bob"), "bob"),
    "rights taken": (lambda register: register.clear_rights("bob", "v"), "v"),
    "vhost deleted": (lambda register: register.delete_vhost("v"), "v"),
}


def changed(house_accounts, broker):
    register = AccountRegister(broker, house_accounts)
    house_accounts.add(User("bob", "plain:b", "store"))
    register.add_vhost("v", "nobody")
    register.set_rights("bob", "v", *ALL_RIGHTS)
    return register


@pytest.mark.parametrize(("change", "named"), CHANGES.values(), ids=CHANGES)
def test_amqp_connections_that_may_not_be_here_any_more_are_closed(change, named):
    house = amqp.House()
    register = changed(house.accounts, house.broker)
    peer = begin(house, response=b"\0bob\0b")
    peer.send(0, "connection.tune-ok", 2047, 131072, 60)
    peer.send(0, "connection.open", "v", "", False)
    peer.got()
    register.on_changed = peer.session.recheck
    change(register)
    house.turn.wake(peer.session)
    house.run()
    close = peer.got()[-1]
    assert close[1:3] == ("connection.close", 320) and f"'{named}'" in close[3]


@pytest.mark.parametrize(("change", "named"), CHANGES.values(), ids=CHANGES)
def test_stomp_connections_that_may_not_be_here_any_more_are_closed(change, named):
    house = stomp_house.House()
    register = changed(house.accounts, house.core.broker)
    said = house.say(b"CONNECT\naccept-version:1.2\nhost:v\nlogin:bob\npasscode:b\n\n\0")
    assert said.startswith(b"CONNECTED")
    register.on_changed = house.peers["a"].recheck
    change(register)
    house.turn()
    said = house.read()
    assert said.startswith(b"ERROR\nmessage:access_refused\n") and f"'{named}'".encode() in said
    assert house.peers["a"].is_closing


def test_rights_that_change_count_from_the_next_frame_on():
    """Cached routes and plans are asked for anew."""
    house = amqp.House()
    register = AccountRegister(house.broker, house.accounts)
    peer = amqp.Peer(house).login().channel()
    peer.publish("q", b"m")
    register.on_changed = peer.session.recheck
    register.set_rights("guest", "/", ".*", "^$", ".*")
    assert peer.got() == []
    peer.publish("q", b"m")
    assert peer.got()[0][1:3] == ("channel.close", 403)

    stomp = stomp_house.House()
    register = AccountRegister(stomp.core.broker, stomp.accounts)
    stomp.connect()
    send = b"SEND\ndestination:/queue/q\nreceipt:1\n\nx\0"
    assert stomp.say(send).startswith(b"RECEIPT")
    register.on_changed = stomp.peers["a"].recheck
    register.set_rights("guest", "/", ".*", "^$", ".*")
    assert b"write access to exchange 'amq.default'" in stomp.say(send)
