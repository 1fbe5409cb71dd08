"""What the measurement of connections says and understands; the broker's own parsers read it."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from bench.connections import QUEUE, WINDOW, Amqp, Stomp, connections
from broker.wire.amqp import methods
from broker.wire.amqp.frames import method_frame
from broker.wire.stomp import FrameLimits, FrameParser


def ack(tag: int) -> bytes:
    return method_frame(1, methods.encode("basic.ack", tag, True))


def test_a_stomp_window_is_confirmed_by_the_receipt_of_its_last_message() -> None:
    frames = FrameParser(FrameLimits()).feed(Stomp().window(b"x" * 100))
    assert [frame[0] for frame in frames] == [b"SEND"] * WINDOW
    assert [bool(frame[3]) for frame in frames] == [False] * (WINDOW - 1) + [True]
    receipt = b"RECEIPT\nreceipt-id:r\n\n\0\n"
    assert not Stomp().is_confirmed(b"", 1)
    assert not Stomp().is_confirmed(receipt[:-3], 1)
    assert Stomp().is_confirmed(receipt, 1)


@pytest.mark.parametrize("cut", range(1, 21))
def test_an_amqp_window_is_confirmed_by_the_tag_of_its_last_message(cut: int) -> None:
    answer = ack(WINDOW - 1) + ack(WINDOW)
    assert Amqp().window(b"x" * 100).count(QUEUE.encode()) == WINDOW
    assert Amqp().is_confirmed(answer, 1)
    assert not Amqp().is_confirmed(answer[:-cut], 1), "not whole yet"
    assert not Amqp().is_confirmed(answer, 2), "one window more"


def test_the_frame_after_confirm_select_is_not_taken_for_a_confirm() -> None:
    selected = method_frame(1, methods.encode("confirm.select-ok"))
    assert not Amqp().is_confirmed(selected, 1)


def test_fewer_must_publish_than_there_are() -> None:
    result = CliRunner().invoke(connections, ["--count", "200", "--publishing", "200"])
    assert result.exit_code == 2
    assert "--publishing must be below --count" in result.output
