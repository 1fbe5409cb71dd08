from __future__ import annotations

import random

import pytest

from bench.lab.client import HEAD, MARK, PROTOCOL_HEADER, Client, Refused, Template, filling
from broker.wire.amqp import methods
from broker.wire.amqp.frames import FrameParser, content_frames, method_frame
from broker.wire.amqp.values import encode_properties
from broker.wire.properties import Properties

SIZE = 200
HEADER = encode_properties(Properties(delivery_mode=2))


def client(steps=(), promises=None):
    found = [] if promises is None else promises
    return Client(("lab", "secret"), list(steps), SIZE, lambda *one: found.append(one))


def body(producer, sequence, time_ns=7, size=SIZE):
    return HEAD.pack(MARK, producer, sequence, time_ns) + filling(size)


def delivery(tag, payload, header=HEADER, key="k"):
    method = methods.encode("basic.deliver", "lab", tag, False, "lab.x", key)
    return content_frames(1, method, header, payload, 131_072)


def fed(pieces, one=None):
    one = one or client()
    runs, times, corrupt, tag = [], 0, 0, 0
    for piece in pieces:
        got = one.feed(piece)
        for producer, first, stop in got.runs:
            if runs and runs[-1][0] == producer and runs[-1][2] == first:
                runs[-1] = (producer, runs[-1][1], stop)
            else:
                runs.append((producer, first, stop))
        times += sum(count for _, count in got.times)
        corrupt += got.corrupt_count
        tag = got.last_tag or tag
    return runs, times, corrupt, tag


def answered(one, *said):
    one.output.clear()
    for channel, name, *fields in said:
        one.feed(method_frame(channel, methods.encode(name, *fields)))
    raw = b"".join(one.output)
    parser = FrameParser(131_072, 1 << 20, 1 << 20, 10)
    parser.is_stepping = False
    return [methods.find_method(payload).name for _, payload, *_ in parser.feed(raw)]


def test_login_and_steps():
    one = client([("basic.qos", (0, 10, False)), ("confirm.select", (False,))])
    assert one.output == [PROTOCOL_HEADER]
    start = (0, "connection.start", 0, 9, {}, b"PLAIN", b"en_US")
    assert answered(one, start) == ["connection.start-ok"]
    tune = (0, "connection.tune", 2047, 131_072, 60)
    assert answered(one, tune) == ["connection.tune-ok", "connection.open"]
    assert answered(one, (0, "connection.open-ok", "")) == ["channel.open"]
    assert answered(one, (1, "channel.open-ok", b"")) == ["basic.qos"]
    assert not one.is_ready
    assert answered(one, (1, "basic.qos-ok")) == ["confirm.select"]
    assert answered(one, (1, "confirm.select-ok")) == []
    assert one.is_ready


def test_deliveries_become_runs_however_they_are_cut():
    stream = b"".join(delivery(tag, body(3, tag - 1)) for tag in range(1, 61))
    chance = random.Random(1)
    for _ in range(20):
        cuts = sorted(chance.sample(range(len(stream)), 12))
        pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
        assert fed(pieces) == ([(3, 0, 60)], 60, 0, 60)


def test_producers_gaps_and_repeats_are_runs_of_their_own():
    sequence = [(1, 0), (1, 1), (2, 0), (1, 2), (1, 4), (1, 4), (2, 1)]
    stream = b"".join(delivery(tag, body(*one)) for tag, one in enumerate(sequence, 1))
    runs, times, corrupt, tag = fed([stream])
    assert runs == [(1, 0, 2), (2, 0, 1), (1, 2, 3), (1, 4, 5), (1, 4, 5), (2, 1, 2)]
    assert (times, corrupt, tag) == (7, 0, 7)


def test_a_change_of_headers_is_noticed():
    long = encode_properties(Properties(delivery_mode=2, headers={"x": "y" * 30}))
    stream = b"".join(
        delivery(tag, body(1, tag), HEADER if tag % 3 else long, "k" if tag % 5 else "key")
        for tag in range(1, 40)
    )
    assert fed([stream]) == ([(1, 1, 40)], 39, 0, 39)


@pytest.mark.parametrize("at", [0, 2, 40, SIZE - 1])
def test_a_damaged_body_is_corrupt_and_counts_as_no_arrival(at):
    wrong = bytearray(body(1, 5))
    wrong[at] ^= 1
    stream = b"".join(
        delivery(tag, bytes(wrong) if tag == 5 else body(1, tag)) for tag in range(1, 10)
    )
    runs, _, corrupt, tag = fed([stream])
    assert (runs, corrupt, tag) == ([(1, 1, 5), (1, 6, 10)], 1, 9)


def test_bodies_of_several_frames():
    big = 300_000
    one = Client(("a", "b"), [], big, lambda *_: None)
    stream = b"".join(delivery(tag, body(1, tag, size=big)) for tag in (1, 2))
    assert fed([stream[:200_000], stream[200_000:]], one) == ([(1, 1, 3)], 2, 0, 2)


def test_an_empty_body_is_corrupt():
    assert fed([delivery(1, b"") + delivery(2, body(1, 0))]) == ([(1, 0, 1)], 1, 1, 2)


def test_promises_are_handed_on():
    promises = []
    one = client(promises=promises)
    one.feed(method_frame(1, methods.encode("basic.ack", 9, True)))
    one.feed(method_frame(1, methods.encode("basic.nack", 10, False, False)))
    assert promises == [(9, True, True), (10, False, False)]


def test_a_refusal_tells_the_brokers_words():
    close = methods.encode("channel.close", 404, "no queue 'x'", 60, 20)
    with pytest.raises(Refused, match="channel.close 404: no queue 'x'"):
        client().feed(method_frame(1, close))


@pytest.mark.parametrize("size", [24, SIZE, 200_000])
def test_a_batch_of_publishes_is_what_the_broker_reads(size):
    template = Template("lab.x", "k", 5, size)
    raw = template.batch(70, [11, 12, 13])
    assert len(raw) == 3 * template.size_bytes
    parser = FrameParser(131_072, 1 << 20, 1 << 24, 10)
    parser.is_stepping = False
    bodies = [one for command in parser.feed(raw) for one in command[3]]
    assert bodies == [body(5, 70 + index, 11 + index, size) for index in range(3)]


def test_an_acknowledgement_is_for_all_up_to_it():
    one = client()
    one.output.clear()
    one.acknowledge(77)
    assert one.output == [method_frame(1, methods.encode("basic.ack", 77, True))]
