from broker.wire.stomp import FrameLimits, FrameParser, encode_frame


def test_frames_and_their_parts():
    parser = FrameParser(FrameLimits())
    data = b"SEND\na:1\nreceipt:r\nb:2\ncontent-length:3\n\nx\0y\0\nACK\nid:1\n\n\0SEND\n\nrest"
    assert parser.feed(data) == [
        (b"SEND", b"a:1\nb:2\ncontent-length:3\n", b"x\0y", b"r"),
        (b"ACK", b"id:1\n", b"", b""),
    ]
    assert parser.feed(b"\0") == [(b"SEND", b"", b"rest", b"")]


def test_a_repeated_head_with_another_receipt_gives_the_same_block():
    parser = FrameParser(FrameLimits())
    frames = parser.feed(b"".join(b"SEND\na:1\nreceipt:%d\n\nx\0" % n for n in range(3)))
    assert [frame[3] for frame in frames] == [b"0", b"1", b"2"]
    assert {frame[1] for frame in frames} == {b"a:1\n"}
    assert frames[1][1] is frames[2][1]


def test_content_length_inside_another_name_is_no_content_length():
    frames = FrameParser(FrameLimits()).feed(b"SEND\nx-content-length:9\n\nab\0")
    assert frames == [(b"SEND", b"x-content-length:9\n", b"ab", b"")]


def test_first_content_length_counts():
    frames = FrameParser(FrameLimits()).feed(b"SEND\ncontent-length:1\ncontent-length:2\n\na\0\0")
    assert [frame[2] for frame in frames] == [b"a"]


def test_mixed_line_ends():
    frames = FrameParser(FrameLimits()).feed(b"SEND\r\na:1\n\r\nx\n\ny\0SEND\nb:2\r\n\nz\0")
    assert [(frame[0], frame[2]) for frame in frames] == [(b"SEND", b"x\n\ny"), (b"SEND", b"z")]


def test_violation_keeps_the_frames_before_it_and_ends_parsing():
    parser = FrameParser(FrameLimits())
    assert len(parser.feed(b"ACK\n\n\0SEND\ncontent-length:-1\n\n\0ACK\n\n\0")) == 1
    assert parser.violation is not None
    assert parser.feed(b"ACK\n\n\0") == []


def test_a_large_body_in_pieces_is_joined_once():
    parser = FrameParser(FrameLimits())
    body = b"x" * 1_000_000
    data = b"SEND\ncontent-length:1000000\n\n" + body + b"\0"
    found = []
    for at in range(0, len(data), 65536):
        found += parser.feed(data[at : at + 65536])
    assert found == [(b"SEND", b"content-length:1000000\n", body, b"")]


def test_an_endless_body_is_stopped_at_its_limit():
    parser = FrameParser(FrameLimits(body_bytes=1000))
    assert parser.feed(b"SEND\n\n") == []
    for _ in range(10):
        parser.feed(b"x" * 100)
        assert parser.violation is None
    parser.feed(b"x")
    assert parser.violation is not None and "1000 bytes" in parser.violation.text


def test_an_endless_header_is_stopped_at_its_limit():
    parser = FrameParser(FrameLimits(header_bytes=10_000))
    parser.feed(b"SEND\na:")
    fed = 0
    while parser.violation is None:
        parser.feed(b"x" * 100)
        fed += 100
    assert 10_000 <= fed <= 10_200


def test_single_gives_one_frame_a_call():
    parser = FrameParser(FrameLimits())
    parser.is_single = True
    assert [frame[0] for frame in parser.feed(b"A\n\n\0B\n\n\0C\n")] == [b"A"]
    assert [frame[0] for frame in parser.feed(b"")] == [b"B"]
    assert parser.feed(b"") == []
    parser.is_single = False
    assert [frame[0] for frame in parser.feed(b"\n\0D\n\n\0")] == [b"C", b"D"]


def test_encode_frame():
    assert encode_frame(b"RECEIPT", [(b"receipt-id", b"a:b")]) == b"RECEIPT\nreceipt-id:a\\cb\n\n\0"
    assert encode_frame(b"CONNECTED", [(b"v", b"a:b")]) == b"CONNECTED\nv:a:b\n\n\0"
    assert encode_frame(b"ERROR", [], b"x\0") == b"ERROR\ncontent-length:2\n\nx\0\0"


LARGE = b"\0\r\n\xff" * (1 << 18)
LARGE_SEND = b"SEND\nreceipt:r\ncontent-length:%d\n\n%b\0" % (len(LARGE), LARGE)
BEHIND = b"\nSEND\n\nnext\0"


def test_a_large_body_is_the_same_wherever_it_is_cut():
    stream = LARGE_SEND + BEHIND
    ends = len(LARGE_SEND)
    for cuts in (
        (40,),
        (40, 41),
        (40, ends - 2),
        (40, ends - 1),
        (40, ends),
        (40, ends + 3),
        (ends - 1,),
    ):
        parser = FrameParser(FrameLimits())
        edges = (0, *cuts, len(stream))
        frames = []
        for start, stop in zip(edges, edges[1:], strict=False):
            frames += parser.feed(stream[start:stop])
        assert frames[0][2] == LARGE and frames[0][3] == b"r", cuts
        assert [frame[2] for frame in frames[1:]] == [b"next"], cuts


def test_a_large_body_without_its_nul_is_a_violation():
    parser = FrameParser(FrameLimits())
    assert parser.feed(LARGE_SEND[:40]) == []
    assert parser.feed(LARGE_SEND[40:-1] + b"x") == []
    assert f"No NUL after the {len(LARGE)} bytes" in str(parser.violation)


def test_single_holds_behind_a_large_body():
    parser = FrameParser(FrameLimits())
    parser.is_single = True
    assert parser.feed(LARGE_SEND[:40]) == [] == parser.feed(b"")
    assert len(parser.feed(LARGE_SEND[40:] + BEHIND)) == 1
    assert [frame[2] for frame in parser.feed(b"")] == [b"next"]
