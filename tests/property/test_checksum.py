"""The quick way to a record's checksum gives the bytes that json.dumps gives."""

from __future__ import annotations

import json

from hypothesis import example, given, settings
from hypothesis import strategies as st

from agents.records.checksum import _compact_json

VALUES = st.one_of(
    st.text(st.characters(), max_size=20),
    st.integers(),
    st.floats(allow_nan=True),
    st.booleans(),
    st.none(),
    st.lists(st.floats(), max_size=3),
)


@settings(max_examples=500, deadline=None)
@given(st.dictionaries(st.text(st.characters(), max_size=8), VALUES, max_size=6))
@example({chr(code): chr(code) for code in range(0x300)})
@example({"a": "\ud800", "b": 1 << 80, "c": 1e16, "d": 1e-5, "e": -0.0, "f": 5e-324})
@example({"a": 1e15, "b": 123456789012345.67, "c": 0.1 + 0.2, "d": 1e-4, "e": -0.0})
@example({"line": "\u2028\u2029\x7f/</script>"})
def test_quick_and_plain_bytes_agree(values: dict[str, object]) -> None:
    """Whatever a record may hold: one text, one id."""
    plain = json.dumps(values, separators=(",", ":"), ensure_ascii=False)
    assert _compact_json(values) == plain.encode("utf-8", "surrogatepass")
