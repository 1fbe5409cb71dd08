"""Query strings: what is refused with which advice, and forms that a reading could get wrong."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from agents.recordstore.condition import (
    AllOf,
    AtLeast,
    Between,
    Everything,
    Exists,
    Like,
    Not,
    OneOf,
)
from agents.recordstore.filter import read_filter
from agents.recordstore.lucene import with_colons
from agents.recordstore.terms import UntranslatableFilter

NOW = datetime(2026, 3, 14, 12, 30, tzinfo=UTC)


def read(text):
    return read_filter(text, NOW)


@pytest.mark.parametrize(
    ("query", "advice"),
    [
        ("cms", "write FIELD:cms, for example VOName:cms or vo:cms"),
        ("VOName:cms and SiteName:x", "AND, OR, NOT in capitals"),
        ("VOName:cms SiteName", "a word without a field (SiteName)"),
        ('"a phrase"', "a word without a field"),
        ("VOName:cms~", "fuzzy"),
        ("VOName:cms~2", "VOName:cms*"),
        ('VOName:"a b"~3', "fuzzy and proximity"),
        ("VOName:/c.s/", "regular expression"),
        (
            "VOName:/cms/Role=production",
            'quotes around a value that begins with a slash, VOName:"/cms/…"',
        ),
        ("VOName:cms && Status:1", "write AND"),
        ("VOName:cms || Status:1", "write OR"),
        ("VOName:cms ||Status:1", "write OR"),
        ("!VOName:cms", "write NOT"),
        ("VOName:cms AND !Status:1", "write NOT"),
        ("VOName:(cms AND", "cannot read the query"),
        ("VOName:cms)", "cannot read the query"),
        ('VOName:"cms', "a quote is not closed"),
        ("vo==cms", "write vo:VALUE"),
        ("WallDuration>5", "write WallDuration:>VALUE"),
        ("WallDuration>=5", "write WallDuration:>VALUE"),
        ("WallDuration:long", "'long' is not a number"),
        ("WallDuration:5*", "patterns are for keywords"),
        ("WallDuration:(1 2)", "put OR between the values"),
        ("WallDuration:-5", 'WallDuration:"-5"'),
        ("VOName:(cms atlas OR x)", "put AND or OR between the words"),
        ("ProbeName:condor:gw", 'a value with a colon needs quotes: write ProbeName:"condor:…"'),
        ("EndTime:yesterday", "is not a date"),
        ("EndTime:2026-13-01", "is not a date"),
        ("EndTime:2026*", "patterns are for keywords"),
        ("EndTime:[now-1x TO now]", "is not a date"),
        ("WallDuration_description:total", "_exists_:WallDuration_description"),
        ("checksum:abc", "write _id:CHECKSUM"),
        ("RawXML:*x*", "kept but not searched"),
        ("Resource_ExitBySignal:maybe", "write true or false"),
        ("Resource_ExitBySignal:[false TO true]", "write one value"),
        ("vo:[a TO b]", "write VOName:[a TO b]"),
        ("Resource_*:x", "name each field"),
        ("_exists_:(a OR b)", "_exists_:FIELD for each field"),
        ("(" * 40 + "VOName:a" + ")" * 40, "deeper than 32"),
        ("VOName:" + "x" * 20_000, "the limit is 16384"),
        (" OR ".join(f"a:{n}" for n in range(1100)), "more than 1024 conditions"),
        ("a:\x00 AND", "cannot read the query"),
    ],
)
def test_refused_with_what_to_write_instead(query, advice):
    with pytest.raises(UntranslatableFilter) as caught:
        read(query)
    assert advice in caught.value.text


@pytest.mark.parametrize(
    ("query", "condition"),
    [
        ("", Everything()),
        ("  * ", Everything()),
        ("VOName=cms", OneOf("VOName", ("cms",))),
        ("VOName: cms", OneOf("VOName", ("cms",))),
        ('VOName="a=b"', OneOf("VOName", ("a=b",))),
        ("VOName:Role=production", OneOf("VOName", ("Role=production",))),
        ("VOName:(Role=x)", OneOf("VOName", ("Role=x",))),
        (r"VOName:a\=b", OneOf("VOName", ("a=b",))),
        (r"VOName:a\*b", OneOf("VOName", ("a*b",))),
        (r"VOName:\u0061", OneOf("VOName", ("a",))),
        ('VOName:"a*b"', OneOf("VOName", ("a*b",))),
        ('VOName:"a\\"b"', OneOf("VOName", ('a"b',))),
        ('VOName:"&& || !"', OneOf("VOName", ("&& || !",))),
        ("(VOName=cms)", OneOf("VOName", ("cms",))),
        ("-VOName=cms", Not(OneOf("VOName", ("cms",)))),
        ("NOT VOName=cms", Not(OneOf("VOName", ("cms",)))),
        ("WallDuration:>=5", Between("WallDuration", low=5, includes_high=False)),
        ("WallDuration=5", OneOf("WallDuration", (5,))),
        ("WallDuration:*", Exists("WallDuration")),
        ("WallDuration:[* TO *]", Exists("WallDuration")),
        (
            "WallDuration:5.5 OR Njobs:1",
            AtLeast(
                1, (read("nosuch:[* TO *]") and read('{"match_none": {}}'), OneOf("Njobs", (1,)))
            ),
        ),
        (r"VOName:c\*m*", Like("VOName", ((False, "c*m"), (True, "*")))),
        ("a:1 AND b:2", AllOf((OneOf("a", ("1",)), OneOf("b", ("2",))))),
        ("_id:abc", OneOf("_id", ("abc",))),
    ],
)
def test_read_as(query, condition):
    assert read(query) == condition


def test_equals_sign_is_a_colon_only_after_a_field_name():
    assert with_colons("vo=cms AND (SiteName=x OR -Grid=y)") == "vo:cms AND (SiteName:x OR -Grid:y)"
    assert with_colons('DN="/DC=org/CN=x" a:>=5') == 'DN:"/DC=org/CN=x" a:>=5'
    assert with_colons("VOName:(a=b OR c) AND d=e") == "VOName:(a=b OR c) AND d:e"


def test_the_documented_example():
    example = '{"query":{"query_string":{"query":"vo=cms"}}}'
    assert read(example) == read("vo:cms")
    assert read(example) != read("VOName:cms")


def test_default_field_and_operator():
    options = (
        '{"query_string": {"query": "%s", "default_field": "VOName", "default_operator": "%s"}}'
    )
    cms, atlas = OneOf("VOName", ("cms",)), OneOf("VOName", ("atlas",))
    assert read(options % ("cms", "OR")) == cms
    assert read(options % ("cms OR atlas", "AND")) == AtLeast(1, (cms, atlas))
    assert read(options % ("cms AND atlas", "OR")) == AllOf((cms, atlas))
    assert read(options % ("cms atlas", "AND")) == OneOf("VOName", ("cms atlas",))
    assert read(options % ("cms Grid:x", "AND")) == AllOf((cms, OneOf("Grid", ("x",))))


def test_threads_read_at_once():
    import concurrent.futures

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        texts = [f"a:{n} AND (b:{n} OR c:{n})" for n in range(60)]
        assert list(pool.map(read, texts)) == [read(text) for text in texts]
