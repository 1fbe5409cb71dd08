"""Any table and any properties come back as they went; any bytes decode or are refused."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.errors import BrokerError
from broker.wire.amqp import methods, values
from broker.wire.properties import Properties

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
decimals = st.builds(
    lambda unscaled, scale: Decimal(unscaled).scaleb(-scale),
    st.integers(-(2**31), 2**31 - 1),
    st.integers(0, 255),
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | texts
    | st.binary(max_size=20)
    | decimals
    | st.builds(values.Timestamp, st.integers(0, 2**64 - 1))
    | st.builds(values.Long, st.integers(-(2**63), 2**63 - 1))
)
fields = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(names, inner), max_leaves=20
)
tables = st.dictionaries(names, fields, max_size=5)


@given(tables)
def test_tables_come_back(table: dict[str, Any]) -> None:
    raw = values.encode_table(table)
    back, end = values.decode_table(raw, 0)
    assert back == table
    assert end == len(raw)
    assert values.encode_table(back) == raw


@given(
    st.builds(
        Properties,
        content_type=st.none() | texts,
        content_encoding=st.none() | texts,
        headers=st.none() | tables,
        delivery_mode=st.none() | st.integers(0, 255),
        priority=st.none() | st.integers(0, 255),
        correlation_id=st.none() | texts,
        reply_to=st.none() | texts,
        expiration=st.none() | texts,
        message_id=st.none() | texts,
        timestamp=st.none() | st.integers(0, 2**64 - 1),
        type=st.none() | texts,
        user_id=st.none() | texts,
        app_id=st.none() | texts,
        cluster_id=st.none() | texts,
    )
)
def test_properties_come_back(properties: Properties) -> None:
    back = values.decode_properties(values.encode_properties(properties))
    for name in Properties.__slots__:
        assert getattr(back, name) == getattr(properties, name), name


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_any_bytes_decode_and_encode_again_or_are_refused(raw: bytes) -> None:
    for head in (b"", b"\x20\x00" + len(raw).to_bytes(4, "big")):
        try:
            properties = values.decode_properties(head + raw)
        except BrokerError as refused:
            code = refused.amqp_code
        else:
            code = 502
            again = values.encode_properties(properties)
            assert values.encode_properties(values.decode_properties(again)) == again
        assert code in (501, 502)


KINDS = {
    "bit": st.booleans(),
    "octet": st.integers(0, 255),
    "short": st.integers(0, 65535),
    "long": st.integers(0, 2**32 - 1),
    "longlong": st.integers(0, 2**64 - 1),
    "shortstr": texts,
    "name": st.text("abc.#é", max_size=20),
    "longstr": st.binary(max_size=20),
    "table": tables,
}


@given(st.data())
def test_each_method_comes_back(data: st.DataObject) -> None:
    method = data.draw(st.sampled_from(sorted(methods.METHODS.values(), key=lambda one: one.code)))
    sent = [data.draw(KINDS[kind]) for kind in method.types]
    payload = method.encode(*sent)
    assert methods.find_method(payload) is method
    assert method.decode(payload) == sent
