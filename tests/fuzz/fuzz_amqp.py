"""Coverage-guided fuzzing of the AMQP parser and session, with atheris (pip install atheris).

    python tests/fuzz/fuzz_amqp.py [-max_total_time=600] [libFuzzer's options]

The corpus is kept in tests/fuzz/corpus/amqp and begins with the inputs of the conformance cases.  The first byte of an input chooses
how far the connection is before it, and how the rest is cut.  A finding is an exception, output that is not AMQP, an answer that
depends on how the bytes were cut, or something left behind by a connection that is gone.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent))

import atheris  # noqa: E402

with atheris.instrument_imports(include=["broker.wire", "broker.session.amqp", "broker.core"]):
    from broker.session.amqp_limits import AmqpLimits
    from broker.wire.amqp.frames import FrameParser
    from tests.conformance import test_amqp
    from tests.support.amqp import LOGIN, PROTOCOL_HEADER, House, Peer, read_frames

CORPUS = HERE / "corpus" / "amqp"
STARTS = ("new", "header", "login", "open", "channel")
CHUNKS = (0, 1, 5, 64)
LIMITS = AmqpLimits(
    message_bytes_max=4096,
    contents_bytes_max=8192,
    held_bytes_max=65_536,
    transaction_bytes_max=8192,
    channels_max=32,
    channel_consumers_max=8,
)
CONFIRMS = ("basic.ack", "basic.nack")


def pieces(data: bytes, size: int) -> list[bytes]:
    size = size or len(data) or 1
    return [data[at : at + size] for at in range(0, len(data), size)]


def commands(data: bytes, size: int) -> tuple[list, str]:
    parser = FrameParser(4096, 4096, 8192, 8)
    parser.is_stepping = False
    found = []
    for piece in pieces(data, size):
        for channel, method, header, bodies, refused in parser.feed(piece):
            found += [(channel, method, header, body, refused) for body in bodies or (None,)]
    return found, "" if parser.violation is None else parser.violation.text


def talk(data: bytes, size: int, start: str) -> list:
    house = House()
    peer = Peer(house, LIMITS)
    if start != "new":
        peer.feed(PROTOCOL_HEADER)
    if start in ("login", "open", "channel"):
        peer.send(0, "connection.start-ok", {}, "PLAIN", LOGIN, "en_US")
    if start in ("open", "channel"):
        peer.send(0, "connection.tune-ok", 32, 4096, 60)
        peer.send(0, "connection.open", "/", "", False)
    if start == "channel":
        peer.send(1, "channel.open", "")
    for piece in pieces(data, size):
        peer.feed(piece)
    rows, _ = read_frames(peer.raw)
    house.clock.seconds += 4000
    peer.session.tick(house.clock.now())
    if house.broker.needs_ticks:
        house.broker.tick()
        house.turn.schedule()
    house.run()
    read_frames(peer.raw)
    peer.session.connection_lost("gone")
    house.turn.remove(peer.session)
    house.run()
    broker = house.broker
    assert not broker._sinks, "subscriptions left behind"
    assert not broker._owned, "exclusive queues left behind"
    for queue in house.vhost.queues.values():
        assert not queue.subscriptions, "a consumer left behind"
        assert not queue.unsettled_count, "messages in nobody's hands"
        assert queue.ready_bytes >= 0
        assert sum(len(one.message.body) for lane in queue.lanes for one in lane.ready) == sum(
            lane.bytes for lane in queue.lanes
        ), "bytes are miscounted"
    # Confirms and cancel notices come by turns; the order of all else must not depend on how bytes came.
    return [row[:2] for row in rows if row[1] not in CONFIRMS and row[1] != "basic.deliver"]


def check(data: bytes) -> None:
    if not data:
        return
    start = STARTS[data[0] % len(STARTS)]
    size = CHUNKS[data[0] // len(STARTS) % len(CHUNKS)]
    rest = data[1:]
    assert commands(rest, 0) == commands(rest, size), "commands depend on how the bytes were cut"
    whole = talk(rest, 0, start)
    if size and len(rest) < 2000:
        assert sorted(whole) == sorted(talk(rest, size, start)), "answers depend on the cuts"


def seed() -> None:
    CORPUS.mkdir(parents=True, exist_ok=True)
    if any(CORPUS.iterdir()):
        return
    for number, case in enumerate(test_amqp.CASES):
        data = b"".join(map(test_amqp.bytes_of, case["send"]))
        if len(data) < 4096:
            (CORPUS / f"case-{number:03}").write_bytes(
                bytes((STARTS.index(case["start"]) + 5 * (number % len(CHUNKS)),)) + data
            )


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    seed()
    atheris.Setup([sys.argv[0], "-max_len=4096", *sys.argv[1:], str(CORPUS)], check)
    atheris.Fuzz()
