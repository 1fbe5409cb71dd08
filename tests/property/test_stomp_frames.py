"""The frame parser: what it returns does not depend on how the bytes were cut, and it never raises."""

from hypothesis import given
from hypothesis import strategies as st

from broker.wire.stomp import FrameLimits, FrameParser, encode_frame
from broker.wire.stomp_headers import V12, split_block

names = st.sampled_from([b"a", b"b", b"destination", b"k\\ey", b"x:y"])
pairs = st.lists(
    st.tuples(names, st.binary(max_size=8).map(lambda raw: raw.replace(b"\0", b""))), max_size=4
)
commands = st.sampled_from([b"SEND", b"SEND", b"ACK", b"MESSAGE"])
frames = st.tuples(commands, pairs, st.binary(max_size=30))
pieces = st.sampled_from(
    [b"SEND\n", b"ACK\r\n", b"\n", b"\n\n", b"\r\n\r\n", b"\0", b"\r", b"a:b\n", b"content-length:3\n", b"content-length:x\n",
     b"receipt:1\n", b"xyz", b"x" * 40, b"receipt:2\r\n", b":", b"\\"]
) | st.binary(max_size=6)  # fmt: skip
LIMITS = FrameLimits(command_bytes=10, headers=5, header_bytes=100, body_bytes=50)


def parse(chunks, limits=LIMITS, is_single=False):
    parser = FrameParser(limits)
    parser.is_single = is_single
    found = []
    for chunk in chunks:
        got = parser.feed(chunk)
        while got:
            found += got
            got = parser.feed(b"") if is_single else []
    return found, parser.violation is not None


@given(st.lists(frames, max_size=6))
def test_written_frames_are_read(wanted):
    data = b""
    for command, some, body in wanted:
        data += encode_frame(command, some, body if command != b"ACK" else b"")
    found, is_broken = parse([data], FrameLimits())
    assert not is_broken
    assert [(command, body) for command, _, body, _ in found] == [
        (command, body if command != b"ACK" else b"") for command, _, body in wanted
    ]
    for (_, block, _, _), (_, some, _) in zip(found, wanted, strict=True):
        read = [pair for pair in split_block(block, V12) if pair[0] != b"content-length"]
        first = {}
        for name, value in some:
            first.setdefault(name, value)
        assert dict(read) == first


@given(st.lists(pieces, max_size=25).map(b"".join), st.data())
def test_cuts_do_not_matter(data, draw):
    whole = parse([data])
    assert parse([data[i : i + 1] for i in range(len(data))]) == whole
    assert parse([data], is_single=True) == whole
    cut = draw.draw(st.integers(0, len(data)))
    assert parse([data[:cut], data[cut:]]) == whole


@given(st.binary(max_size=10_000), st.integers(1, 5000))
def test_large_rests_do_not_matter(body, size):
    frame = (
        b"SEND\ndestination:/queue/a\nlong:"
        + b"h" * 6000
        + b"\n\n"
        + body.replace(b"\0", b"")
        + b"\0"
    )
    limits = FrameLimits()
    data = frame + frame
    assert parse([data[i : i + size] for i in range(0, len(data), size)], limits) == parse(
        [data], limits
    )
