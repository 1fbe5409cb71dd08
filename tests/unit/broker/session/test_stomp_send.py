import pytest

from broker.core.destination import Destination
from broker.errors import ProtocolViolation
from broker.session.stomp_destinations import Name
from broker.session.stomp_errors import StompError
from broker.session.stomp_send import SendPlan, checked_receipt, kept_block, read_headers
from broker.wire.stomp_headers import V10, V11, V12


def plan(**headers):
    return SendPlan(Name("/queue/a", "queue", "a"), Destination("", "a"), headers, 0)


def test_expiry_is_the_earlier_of_both():
    assert plan().expires_at(1000) == 0 and not plan().has_expiry
    assert plan(expiration="50").expires_at(1000) == 1050
    assert plan(expiration="0").expires_at(1000) == 1000
    assert plan(expires="1020").expires_at(1000) == 1020
    assert plan(expires="0").expires_at(1000) == 0
    assert plan(expires="1020", expiration="50").expires_at(1000) == 1020


@pytest.mark.parametrize(
    "headers", [{"priority": "256"}, {"priority": "-1"}, {"expiration": "x"}, {"expires": "1.5"}]
)
def test_numbers_out_of_range(headers):
    with pytest.raises(StompError) as caught:
        plan(**headers)
    assert caught.value.message == "Invalid header"


def test_only_the_message_is_kept():
    pairs = [
        (b"destination", b"/queue/a"),
        (b"a", b"1:2"),
        (b"reply-to", b"/temp-queue/x"),
        (b"ack", b"1"),
    ]
    assert kept_block(pairs, None) == b"a:1\\c2\nreply-to:/temp-queue/x\n"
    assert kept_block(pairs, b"/reply-queue/q") == b"a:1\\c2\nreply-to:/reply-queue/q\n"


def test_receipts_are_checked_by_version():
    assert checked_receipt(b" a\\t", V10) == b"a\\t"
    assert checked_receipt(b" a\\n", V11) == b" a\\n"
    with pytest.raises(ProtocolViolation):
        checked_receipt(b"a\\t", V12)


def test_headers_are_utf_8():
    with pytest.raises(StompError):
        read_headers([(b"a", b"\xff")])
