"""Durations, form values and payloads of any shape."""

from __future__ import annotations

from urllib.parse import quote_plus, unquote_to_bytes

from hypothesis import given
from hypothesis import strategies as st

from agents.collector.form import decode_value, parse_form
from agents.errors import BadRecord, BadRequest
from agents.records.duration import SECONDS_MAX, duration_seconds
from agents.records.parse import parse_record
from agents.records.payload import split_payload
from agents.records.wire import decode_record, encode_record

small = st.integers(0, 999)
text = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=30)


def escaped(value: str) -> str:
    return value.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")


@st.composite
def job_records(draw) -> bytes:
    root = draw(st.sampled_from(["JobUsageRecord", "UsageRecord", "x:JobUsageRecord"]))
    inside = draw(
        st.lists(
            st.one_of(
                text.map(lambda value: f"<Host>{escaped(value)}</Host>"),
                text.map(lambda value: f'<y:Queue y:description="{escaped(value)}">q|"</y:Queue>'),
                st.sampled_from(
                    [
                        "<!-- </JobUsageRecord> -->",
                        "<![CDATA[</UsageRecord><JobUsageRecord>|replication|]]>",
                        "<a><JobUsageRecord/></a>",
                        "<Resource/>",
                    ]
                ),
            ),
            max_size=4,
        )
    )
    return f"<{root}>{''.join(inside)}</{root}>".encode()


@given(small, small, small, small, small, st.integers(0, 99))
def test_durations_add_up(days, hours, minutes, seconds, weeks, hundredths):
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    assert duration_seconds(f"P{days}DT{hours}H{minutes}M{seconds}S") == total
    found = duration_seconds(f"P{days}DT{hours}H{minutes}M{seconds}.{hundredths:02}S")
    assert abs(found - (total + hundredths / 100)) < 2e-9 * max(1, total)
    assert duration_seconds(f"P{weeks}W") == weeks * 604_800


@given(st.text(st.sampled_from("PYMDTHSW0123456789. -x"), max_size=40))
def test_any_duration_is_a_bounded_number(value):
    assert 0 <= duration_seconds(value) <= SECONDS_MAX


@given(st.text(st.sampled_from("%=+&abAB012 \n\r\t_z."), max_size=60).map(str.encode))
def test_form_values_decode_as_the_library_does(value):
    assert decode_value(value) == unquote_to_bytes(value.replace(b"+", b" "))


@given(st.binary(max_size=200))
def test_form_fields_come_back(value):
    body = f"command=x&arg1={quote_plus(value)}&from=y".encode()
    assert parse_form(b"", body)["arg1"] == value


@given(st.lists(job_records(), max_size=6))
def test_envelope_gives_back_its_records(records):
    payload = split_payload(b"<RecordEnvelope>\n" + b"\n".join(records) + b"</RecordEnvelope>")
    assert [item.source for item in payload.items] == records
    assert not any(item.problem for item in payload.items)
    for item in payload.items:
        record = parse_record(item.source)
        assert decode_record(encode_record(record)) == record


@given(
    st.lists(st.tuples(job_records(), st.one_of(st.none(), job_records())), min_size=1, max_size=5)
)
def test_replication_gives_back_its_records(pairs):
    bundle = b"".join(b"replication|" + one + b"|" + (raw or b"null") + b"||" for one, raw in pairs)
    items = split_payload(bundle).items
    assert [(item.source, item.problem) for item in items] == [(one, "") for one, _ in pairs]


@given(
    st.lists(job_records(), max_size=3),
    st.text(st.sampled_from("<>/!JobUsageRecord &;\"'a|"), max_size=40).map(str.encode),
    st.lists(job_records(), max_size=3),
)
def test_rubbish_between_never_costs_a_byte(before, rubbish, after):
    source = b"<RecordEnvelope>" + b"".join([*before, rubbish, *after]) + b"</RecordEnvelope>"
    try:
        items = split_payload(source).items
    except BadRequest:
        return
    kept = b"".join(item.source for item in items)
    for record in before:
        assert record in kept
    for record in after:
        assert record in kept


@given(st.binary(max_size=300))
def test_any_bytes_end_in_an_answer(payload):
    try:
        items = split_payload(payload).items
    except BadRequest:
        return
    for item in items:
        try:
            parse_record(item.source)
        except BadRecord:
            pass
