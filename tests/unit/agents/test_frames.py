from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.frames import RunReader, read_headers
from broker.errors import ProtocolViolation

MESSAGE = b"MESSAGE\nsubscription:0\nack:7\nx\\cy:a\\nb\ncontent-length:3\n\n1\x002\x00\n"
RECEIPT = b"RECEIPT\nreceipt-id:p1\n\n\x00"
CONNECTED = b"CONNECTED\nversion:1.2\nheart-beat:0,0\n\n\x00"
ERROR = b"ERROR\nmessage:no\nreceipt:p2\ncontent-length:4\n\nwhy\x00\x00"


def test_runs_are_taken_out_and_the_rest_is_left_as_it_came():
    runs, others = RunReader().feed(CONNECTED + MESSAGE + RECEIPT + MESSAGE)
    assert [run.is_message for run in runs] == [True, False, True]
    assert runs[0].body == b"1\x002" and runs[1].headers == {"receipt-id": "p1"}
    assert runs[0].headers == {
        "subscription": "0",
        "ack": "7",
        "x:y": "a\nb",
        "content-length": "3",
    }
    assert others == CONNECTED


def test_an_error_keeps_all_its_headers():
    _, others = RunReader().feed(ERROR)
    head, _, body = others.partition(b"\n\n")
    assert sorted(head.split(b"\n")) == sorted(ERROR.partition(b"\n\n")[0].split(b"\n"))
    assert body == b"why\x00\x00"


def test_what_makes_no_frame_for_others_is_a_sign_of_life():
    reader = RunReader()
    assert reader.feed(b"\n") == ([], b"\n")
    assert reader.feed(MESSAGE[:20]) == ([], b"\n")
    assert len(reader.feed(MESSAGE[20:])[0]) == 1


@given(cuts=st.lists(st.integers(0, 300), max_size=20))
def test_how_the_bytes_were_cut_makes_no_difference(cuts):
    stream = CONNECTED + MESSAGE * 2 + RECEIPT + ERROR + MESSAGE
    whole = RunReader().feed(stream)
    reader = RunReader()
    runs, others = [], b""
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    for start, end in zip(edges, edges[1:], strict=False):
        some, rest = reader.feed(stream[start:end])
        runs += some
        others += rest if rest != b"\n" else b""
    assert (runs, others) == whole


def test_what_is_no_frame_is_refused():
    reader = RunReader()
    with pytest.raises(ProtocolViolation):
        reader.feed(b"MESSAGE\ncontent-length:x\n\n")
    with pytest.raises(ProtocolViolation):
        reader.feed(b"more")


def test_the_first_of_two_headers_counts_and_unknown_escapes_stay():
    block = b"a:1\na:2\nb:c:d\ne:\\t\\\\\nno colon\nf:g\r\n"
    assert read_headers(block) == {"a": "1", "b": "c:d", "e": "\\t\\", "f": "g"}
