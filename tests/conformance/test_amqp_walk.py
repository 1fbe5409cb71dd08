"""Every method in every state of a connection and of a channel: an answer of the protocol, never an exception, nothing left behind."""

from __future__ import annotations

import pytest

from broker.session.amqp_handshake import TRANSITIONS, State
from broker.session.amqp_operations import OPERATIONS
from broker.wire.amqp import methods
from broker.wire.amqp.frames import PUBLISH, method_frame
from tests.conformance.test_amqp import started
from tests.support.amqp import Peer

VALUES = {"table": {}, "longstr": b"", "shortstr": "", "name": "w", "bit": False}
CONNECTION = {
    "new": State.AWAITING_HEADER,
    "header": State.STARTING,
    "login": State.TUNING,
    "opening": State.OPENING,
    "open": State.OPEN,
    "closing": State.CLOSING,
}
CHANNEL = ("none", "open", "confirming", "transactional", "closing")
LEGAL_ERRORS = {311, 312, 313, 403, 404, 405, 406, 320, 402, *range(501, 507), 530, 540}


def in_state(start: str) -> Peer:
    if start in ("opening", "closing"):
        peer = started("login")
        peer.send(0, "connection.tune-ok", 2047, 131072, 0)
        if start == "closing":
            peer.send(0, "connection.open", "/", "", False)
            peer.send(9, "basic.qos", 0, 1, False)
        peer.got()
    else:
        peer = started(start)
    assert peer.session.state is CONNECTION[start]
    return peer


def on_channel(state: str) -> Peer:
    peer = started("open" if state == "none" else "channel")
    if state == "confirming":
        peer.send(1, "confirm.select", False)
    elif state == "transactional":
        peer.send(1, "tx.select")
    elif state == "closing":
        peer.send(1, "basic.ack", 7, False)
    peer.got()
    return peer


def frame(channel: int, method: methods.Method) -> bytes:
    fields = [VALUES.get(kind, 1) for kind in method.types]
    return method_frame(channel, method.encode(*fields))


def check_answers(peer: Peer) -> list[str]:
    """Names of what was answered; every close has a code of the specification."""
    rows = peer.got()
    for row in rows:
        if row[1] in ("connection.close", "channel.close"):
            assert row[2] in LEGAL_ERRORS, row
            assert row[3], "a text"
    peer.session.connection_lost("gone")
    peer.house.run()
    assert not peer.house.broker._sinks
    assert all(not queue.subscriptions for queue in peer.house.vhost.queues.values())
    return [row[1] for row in rows]


@pytest.mark.parametrize("name", methods.METHODS)
@pytest.mark.parametrize("start", [name for name in CONNECTION if name != "new"])
def test_on_channel_zero(start: str, name: str) -> None:
    peer = in_state(start)
    peer.feed(frame(0, methods.METHODS[name]))
    state = CONNECTION[start]
    is_closing = state is State.CLOSING
    answers = check_answers(peer)
    if is_closing:
        assert answers in ([], ["connection.close-ok"])
    elif (state, name) in TRANSITIONS:
        if name == "connection.close":
            assert answers == ["connection.close-ok"]
    elif methods.METHODS[name].code != PUBLISH:
        assert answers == ["connection.close"]


@pytest.mark.parametrize("name", methods.METHODS)
@pytest.mark.parametrize("state", CHANNEL)
def test_on_a_channel(state: str, name: str) -> None:
    peer = on_channel(state)
    peer.feed(frame(1, methods.METHODS[name]))
    answers = check_answers(peer)
    if name == "basic.publish":
        assert answers == [], "it is not whole without its content"
    elif state == "none":
        expected = {"channel.open": ["channel.open-ok"], "channel.close-ok": []}
        assert answers == expected.get(name, ["connection.close"])
    elif state == "closing":
        assert answers == (["channel.close-ok"] if name == "channel.close" else [])
    elif name in OPERATIONS:
        asks_no_answer = name in ("basic.recover-async",)
        assert asks_no_answer or answers, f"{name} is answered or refused"
    elif name == "channel.close":
        assert answers == ["channel.close-ok"]
    else:
        assert answers == ["connection.close"]
