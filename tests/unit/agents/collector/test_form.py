from __future__ import annotations

from urllib.parse import urlencode

import pytest

from agents.collector.form import decode_value, parse_form


def test_encoded_form_and_query_string():
    body = urlencode({"arg1": "<a b='c & d=é%'>+</a>", "from": "me"}).encode()
    fields = parse_form(b"command=update&from=query", body)
    assert fields == {
        "command": b"update",
        "from": b"me",
        "arg1": "<a b='c & d=é%'>+</a>".encode(),
    }


@pytest.mark.parametrize("tail", [b"", b"&from=me&bundlesize=3"])
def test_unencoded_form_takes_ampersands_as_payload(tail):
    record = b"<JobUsageRecord>a&amp;from=you +%41=</JobUsageRecord>"
    fields = parse_form(b"", b"command=update&arg1=" + record + tail)
    assert fields["arg1"] == record and fields["command"] == b"update"
    assert fields.get("from") == (b"me" if tail else None)
    assert fields.get("bundlesize") == (b"3" if tail else None)


def test_unencoded_replication_and_arg1_first():
    fields = parse_form(b"", b"arg1=replication|<a>&amp;</a>|||&command=update&from=x%20y")
    assert fields == {"arg1": b"replication|<a>&amp;</a>|||", "command": b"update", "from": b"x y"}


def test_the_first_of_a_name_counts():
    assert parse_form(b"", b"a=1&a=2&=3&&b") == {"a": b"1", "b": b""}


@pytest.mark.parametrize(
    ("value", "decoded"),
    [
        (b"a+b", b"a b"),
        (b"%41%2b%2B", b"A++"),
        (b"%", b"%"),
        (b"%4", b"%4"),
        (b"%zz%41", b"%zzA"),
        (b"%%41", b"%A"),
        (b"=%3D==", b"===="),
        (b"%0A%0d\n\r", b"\n\r\n\r"),
        (b"%\n", b"%\n"),
        (b"a %41 \n%20", b"a A \n "),
        (b"_%5F", b"__"),
        (b"%00%ff", b"\x00\xff"),
    ],
)
def test_values(value, decoded):
    assert decode_value(value) == decoded


def test_many_fields_end_soon():
    assert len(parse_form(b"", b"&".join(b"a%d=1" % i for i in range(10_000)))) <= 65
