"""Frames that leave: in what order, packed where it helps, no faster than allowed."""

from __future__ import annotations

import pytest

from broker.link import frames
from broker.link.frames import FrameParser
from broker.link.outgoing import Allowance, Outgoing
from broker.link.packing import Packing, Zlib
from broker.link.turns import OUTPUT_BYTES
from tests.support.amqp import ToldClock


class Flow:
    """A stream with so many batches."""

    def __init__(self, payload: bytes, count: int) -> None:
        self.payload = payload
        self.count = count

    def next_batch(self) -> bytes | None:
        if not self.count:
            return None
        self.count -= 1
        return self.payload


def taken(outgoing: Outgoing, *flows: Flow) -> list[bytes]:
    made: list[bytes] = []
    outgoing.take_batches(flows, made)
    return made


def unbounded(packing: Packing | None = None) -> Outgoing:
    return Outgoing(Allowance(ToldClock(), 0), packing or Packing())


@pytest.mark.parametrize("mode", ["none", "auto", "always"])
@pytest.mark.parametrize("is_pressed", [False, True])
def test_batches_are_packed_where_it_helps(mode: str, is_pressed: bool) -> None:
    packing = Packing()
    packing.mode = mode
    packing.is_pressed = is_pressed
    payload = bytes(5000)
    (raw,) = taken(unbounded(packing), Flow(payload, 1))
    is_packed = bool(raw[4] & frames.PACKED)
    assert is_packed == (mode == "always" or (mode == "auto" and is_pressed))
    (frame,) = FrameParser(1 << 20).feed(raw)
    assert (Zlib().expand(frame[2]) if is_packed else frame[2]) == payload


def test_streams_take_turns_and_sequences_go_on_from_control_to_batches() -> None:
    outgoing = unbounded()
    outgoing.add_raw(b"opening")
    outgoing.add(frames.PING, b"x")
    outgoing.add(frames.PONG, b"y")
    control = outgoing.take_control()
    assert control[0] == b"opening"
    assert outgoing.take_control() == []
    a, b = Flow(b"a", 3), Flow(b"b", 1)
    batches = taken(outgoing, a, b)
    got = FrameParser().feed(b"".join(control[1:] + batches))
    assert [(kind, sequence) for kind, sequence, _ in got] == [
        (frames.PING, 0),
        (frames.PONG, 1),
        *((frames.BATCH, number) for number in range(2, 6)),
    ]
    assert b"".join(payload for _, _, payload in got[2:]) == b"baaa"


def test_what_is_written_at_a_time_is_bounded() -> None:
    flow = Flow(bytes(100_000), 50)
    made = taken(unbounded(), flow)
    assert OUTPUT_BYTES <= sum(map(len, made)) < OUTPUT_BYTES + 100_100


def test_a_rate_saves_up_for_a_quarter_of_a_second_and_lends_one_frame() -> None:
    clock = ToldClock()
    allowance = Allowance(clock, 1000)
    assert allowance.left(500) == 0
    clock.seconds += 0.1
    assert allowance.left(500) == pytest.approx(100)
    assert allowance.left(50) == 50
    clock.seconds += 60
    assert allowance.left(500) == 250
    allowance.spend(400)
    assert allowance.left(500) == -150
    clock.seconds += 0.2
    assert allowance.left(500) == pytest.approx(50)
    outgoing = Outgoing(allowance, Packing())
    flow = Flow(bytes(100), 2)
    assert len(taken(outgoing, flow)) == 1
    assert flow.count == 1
