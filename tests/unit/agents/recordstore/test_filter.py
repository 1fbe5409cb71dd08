"""JSON filters: what is refused with which advice, options, wrapping, the alias of the VO."""

from __future__ import annotations

import json

import pytest

from agents.recordstore.condition import AllOf, Everything, Like, Not, Nothing, OneOf
from agents.recordstore.fields import FieldType, field_type
from agents.recordstore.filter import condition_of, read_filter
from agents.recordstore.interface import Kind, Selection, StoredRecord
from agents.recordstore.sqlite import SqliteRecordStore
from agents.recordstore.terms import UntranslatableFilter


@pytest.mark.parametrize(
    ("query", "advice"),
    [
        ({"match": {"VOName": "cms"}}, "match is not taken: write term"),
        ({"regexp": {"VOName": "c.*"}}, "write wildcard"),
        ({"simple_query_string": {"query": "x"}}, "write query_string"),
        ({"nothing_known": {}}, "write bool, exists"),
        ({"term": {"VOName": "a"}, "range": {}}, "an object with one key"),
        ({"query": {"match_all": {}}, "size": 5}, "leave out size"),
        ([], "an object with one key"),
        (5, "an object with one key"),
        ({"term": {"VOName": None}}, "must_not with exists"),
        ({"term": {"VOName": ["a"]}}, "is not a value"),
        ({"term": {"VOName": "a", "Grid": "b"}}, "name one field"),
        ({"term": {"WallDuration": "x"}}, "is not a number"),
        ({"term": {"WallDuration": True}}, "is not a number"),
        ({"term": {"WallDuration": float("inf")}}, "is not a number"),
        ({"term": {"EndTime": 1.5}}, "is not a date"),
        ({"term": {"WallDuration": {"value": 1, "case_insensitive": True}}}, "keyword fields only"),
        ({"term": {"Memory_description": "x"}}, "analyzed text"),
        ({"terms": {"VOName": "a"}}, '["a", "b"]'),
        ({"terms": {"VOName": ["a"] * 10_001}}, "the limit is 10000"),
        ({"terms": {"VOName": {"index": "x", "id": "1", "path": "y"}}}, '["a", "b"]'),
        ({"range": {"WallDuration": 5}}, '{"gte": 1}'),
        ({"range": {"WallDuration": {"from": 5}}}, "write gte, gt, lte, lt"),
        ({"range": {"EndTime": {"gte": "2026", "time_zone": "+01:00"}}}, "time_zone is not taken"),
        ({"range": {"WallDuration": {"gt": 5, "gte": 5}}}, "one of gt and gte"),
        ({"exists": {"field": 5}}, '{"exists": {"field": "VOName"}}'),
        ({"exists": {"field": "RawXML"}}, "leave it out"),
        ({"exists": {"field": 'a"b'}}, "not the name of a field"),
        ({"bool": {"must": {"match_all": {}}, "other": 1}}, "other is not taken"),
        ({"bool": {"should": [], "minimum_should_match": "75%"}}, "a number of queries"),
        ({"wildcard": {"WallDuration": "5*"}}, "patterns are for keywords"),
        ({"wildcard": {"VOName": 5}}, "write a text"),
        ({"query_string": {"query": 5}}, 'write {"query_string"'),
        ({"query_string": {"query": "a:1", "lenient": True}}, "lenient is not taken"),
        ({"query_string": {"query": "a:1", "fields": ["a", "b"]}}, "name one"),
        ({"query_string": {"query": "a:1", "default_operator": "XOR"}}, "write AND or OR"),
        ({"query_string": "a:1"}, "write an object"),
        ({"ids": {"values": "x"}}, '{"ids"'),
    ],
)
def test_refused_with_what_to_write_instead(query, advice):
    with pytest.raises(UntranslatableFilter) as caught:
        condition_of(query)
    assert advice in caught.value.text


def test_limits_of_depth_and_number():
    deep: dict = {"match_all": {}}
    for _ in range(40):
        deep = {"bool": {"filter": deep}}
    with pytest.raises(UntranslatableFilter, match="deeper than 32"):
        condition_of(deep)
    with pytest.raises(UntranslatableFilter, match="more than 1024"):
        condition_of({"bool": {"should": [{"term": {"a": 1}}] * 1100}})
    with pytest.raises(UntranslatableFilter, match="the limit is 1048576"):
        read_filter('{"term": {"a": "%s"}}' % ("x" * 1_100_000))
    for broken in ('{"term": ', "{]", '{"a":' * 100_000):
        with pytest.raises(UntranslatableFilter, match="not JSON"):
            read_filter(broken)


def test_bare_wrapped_and_empty_filters():
    assert (
        condition_of(None)
        == condition_of({})
        == condition_of({"query": {"match_all": {"boost": 2}}})
        == Everything()
    )
    term = {"term": {"VOName": "cms"}}
    assert (
        condition_of(term)
        == condition_of({"query": term})
        == condition_of("VOName:cms")
        == OneOf("VOName", ("cms",))
    )
    assert condition_of({"match_none": {}}) == condition_of({"terms": {"a": []}}) == Nothing()
    assert condition_of({"term": {"WallDuration": 1.5}}) == Nothing()


def test_a_bool_of_one_query_without_a_list():
    must_not = {"bool": {"must_not": {"term": {"Grid": "OSG"}}}}
    assert condition_of(must_not) == AllOf((Not(OneOf("Grid", ("OSG",))),))


def test_case_insensitive_and_patterns():
    query = {"term": {"VOName": {"value": "CMS", "case_insensitive": True}}}
    assert condition_of(query) == OneOf("VOName", ("CMS",), ignores_case=True)
    assert condition_of({"prefix": {"VOName": "c*"}}) == Like(
        "VOName", ((False, "c*"), (True, "*"))
    )


@pytest.mark.parametrize(
    ("name", "reportable", "is_cms"),
    [
        ("cms", None, True),
        ("CMS", None, True),
        (None, "cMs", True),
        ("/cms", None, True),
        ("/CMS/Role=production/Capability=NULL", None, True),
        ("/cms/", "atlas", True),
        ("cms/Role=x", None, False),
        ("/atlas/cms", None, False),
        ("/cmsx", None, False),
        ("xcms", "xcms", False),
        (None, "/cms/Role=x", False),
        (None, None, False),
    ],
)
def test_what_vo_equals_means(tmp_path, name, reportable, is_cms):
    document = {"EndTime": "2026-03-14T00:00:00Z"}
    if name is not None:
        document["VOName"] = name
    if reportable is not None:
        document["ReportableVOName"] = reportable
    store = SqliteRecordStore(tmp_path / "r.sqlite")
    store.put([StoredRecord.of(Kind.RAW, "1", document)])
    for text in ("vo=cms", "vo:CMS", '{"term": {"vo": "cms"}}', '{"terms": {"vo": ["x", "cms"]}}'):
        assert store.count(Selection(condition=read_filter(text))) == is_cms, text
        assert (
            store.count(
                Selection(
                    condition=read_filter(json.dumps({"bool": {"must_not": condition_json(text)}}))
                )
            )
            != is_cms
        )
    store.close()


def condition_json(text):
    return json.loads(text) if text.startswith("{") else {"query_string": {"query": text}}


def test_types_of_fields():
    expected = {
        "WallDuration": FieldType.LONG,
        "CpuDuration_user": FieldType.DOUBLE,
        "CpuDuration_user_description": FieldType.TEXT,
        "Host_description": FieldType.KEYWORD,
        "TimeInstant_x": FieldType.DATE,
        "Resource_condor-JobStatus": FieldType.LONG,
        "Status": FieldType.KEYWORD,
        "anything": FieldType.KEYWORD,
    }
    assert {name: field_type(name) for name in expected} == expected
