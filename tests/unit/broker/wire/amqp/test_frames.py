"""Frames: runs, bounds, and what is held; refusals with their texts are in tests/conformance/amqp.json."""

from __future__ import annotations

from broker.wire.amqp import methods
from broker.wire.amqp.frames import Command, FrameParser, content_frames, method_frame
from tests.support.amqp import published


def parser(**limits: int) -> FrameParser:
    made = FrameParser(
        limits.get("frame", 4096),
        limits.get("message", 100_000),
        limits.get("contents", 100_000),
        limits.get("count", 10),
    )
    made.is_stepping = False
    return made


def test_equal_publishes_come_as_one_run() -> None:
    """The first two are parsed, the rest is found by comparing; sizes may differ."""
    sent = [b"a" * (1 + n % 3) for n in range(50)]
    commands = parser().feed(b"".join(published("k", body, message_id="m") for body in sent))
    assert [body for command in commands for body in command[3] or []] == sent
    assert len(commands) == 3
    assert len({id(command[1]) for command in commands[1:]}) == 1


def test_a_run_goes_on_in_the_next_read() -> None:
    one = parser()
    frame = published("k", b"body")
    data = frame * 10
    first = one.feed(data[: 5 * len(frame) + 9])
    second = one.feed(data[5 * len(frame) + 9 :])
    assert sum(len(command[3] or []) for command in first) == 5
    [run] = second
    assert run[3] == [b"body"] * 5


def test_channels_keep_apart() -> None:
    commands = parser().feed(
        b"".join(published("k", b"%d" % n, channel=1 + n % 2) for n in range(12))
    )
    assert [(command[0], command[3]) for command in commands] == [
        (1 + n % 2, [b"%d" % n]) for n in range(12)
    ]


def test_interleaved_contents_are_put_together() -> None:
    a = published("k", b"a" * 9000, channel=1, frame_bytes_max=4096)
    b = published("k", b"b" * 9000, channel=2, frame_bytes_max=4096)
    cut_a, cut_b = len(a) - 4096, len(b) - 4096
    commands = parser().feed(a[:cut_a] + b[:cut_b])
    assert commands == []
    one = parser()
    heads = frames_of(a), frames_of(b)
    mixed = b"".join(frame for pair in zip(*heads, strict=True) for frame in pair)
    assert [(c[0], c[3]) for c in one.feed(mixed)] == [(1, [b"a" * 9000]), (2, [b"b" * 9000])]


def frames_of(data: bytes) -> list[bytes]:
    found: list[bytes] = []
    at = 0
    while at < len(data):
        end = at + 8 + int.from_bytes(data[at + 3 : at + 7], "big")
        found.append(data[at:end])
        at = end
    return found


def test_a_too_large_body_is_announced_and_never_held() -> None:
    one = parser(message=10_000, contents=0)
    frames = frames_of(published("k", b"a" * 10_001, frame_bytes_max=4096))
    first: list[Command] = one.feed(b"".join(frames[:3]))
    assert [(command[3], command[4]) for command in first] == [(None, 10_001)]
    assert one.feed(b"".join(frames[3:])) == []
    assert one.violation is None
    assert [command[3] for command in one.feed(published("k", b"next"))] == [[b"next"]]


def test_unfinished_contents_are_bounded_together() -> None:
    one = parser(contents=8000)
    for channel in (1, 2):
        frames = frames_of(published("k", b"a" * 9000, channel=channel, frame_bytes_max=4096))
        one.feed(b"".join(frames[:3]))
    assert one.violation is not None
    assert one.violation.amqp_code == 506


def test_the_bound_forgets_what_was_finished() -> None:
    one = parser(contents=9000)
    for _ in range(5):
        assert len(one.feed(published("k", b"a" * 9000, frame_bytes_max=4096))) == 1
    assert one.violation is None


def test_begun_contents_are_bounded_in_number() -> None:
    one = parser(count=3)
    publish = methods.encode("basic.publish", 0, "", "k", False, False)
    one.feed(b"".join(method_frame(channel, publish) for channel in range(1, 4)))
    assert one.violation is None
    one.feed(method_frame(4, publish))
    assert one.violation is not None
    assert one.violation.amqp_code == 506


def test_eight_bytes_over_frame_max_are_tolerated() -> None:
    def body_frame(size: int) -> bytes:
        return content_frames(
            1,
            methods.encode("basic.publish", 0, "", "k", False, False),
            b"\0\0",
            b"a" * size,
            1 << 20,
        )

    assert len(parser().feed(body_frame(4096))) == 1
    one = parser()
    assert one.feed(body_frame(4097)) == []
    assert one.violation is not None
    assert "{frame_too_large,4097,4088}" in one.violation.text


def test_a_frame_that_is_too_large_is_refused_by_its_head() -> None:
    one = parser()
    one.feed(b"\x03\x00\x01\x00\xff\xff\xff")
    assert one.violation is not None


def test_stepping_gives_one_command_a_call() -> None:
    one = parser()
    one.is_stepping = True
    data = b"".join(method_frame(0, bytes((0, 10, 0, n))) for n in range(3))
    assert [command[1] for command in one.feed(data)] == [b"\0\n\0\0"]
    assert [command[1] for command in one.feed(b"")] == [b"\0\n\0\1"]
    one.is_stepping = False
    assert [command[1] for command in one.feed(b"")] == [b"\0\n\0\2"]
    assert one.feed(b"") == []


def test_after_a_violation_nothing_is_parsed() -> None:
    one = parser()
    assert len(one.feed(published("k", b"a") + b"\x09" + bytes(6) + b"\xce")) == 1
    assert one.violation is not None
    assert one.feed(published("k", b"a")) == []
