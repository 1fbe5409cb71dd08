import pytest

from broker.errors import ProtocolViolation
from broker.wire.stomp_headers import V10, V11, V12, convert_block, escape, split_block, unescape


def test_escapes_by_version():
    raw = b"a:b\nc\\d\re"
    assert escape(raw, V12) == b"a\\cb\\nc\\\\d\\re"
    assert escape(raw, V11) == b"a\\cb\\nc\\\\d\re"
    assert escape(raw, V10) == b"a:b\\nc\\d\re"


@pytest.mark.parametrize(
    ("raw", "version"), [(b"\\t", V12), (b"\\r", V11), (b"end\\", V12), (b"\\C", V12)]
)
def test_undefined_escapes(raw, version):
    with pytest.raises(ProtocolViolation):
        unescape(raw, version)


def test_backslash_is_plain_in_1_0():
    assert unescape(b"a\\t\\n", V10) == b"a\\t\\n"


def test_split():
    assert split_block(b"a:1\r\nb: 2:3\na:9\n", V12) == [(b"a", b"1"), (b"b", b" 2:3")]
    assert split_block(b"b: 2 \n", V10) == [(b"b", b"2 ")]
    assert split_block(b"a:x\\ty\n", V12, has_escapes=False) == [(b"a", b"x\\ty")]


@pytest.mark.parametrize("block", [b"nothing\n", b":v\n", b"a:\0\n"])
def test_lines_that_are_no_headers(block):
    with pytest.raises(ProtocolViolation):
        split_block(block, V12)


def test_convert_leaves_what_needs_nothing():
    block = b"a:1\n"
    assert convert_block(block, V10) is block
    assert convert_block(b"a:x\\cy\\\\\n", V10) == b"a:x:y\\\n"
