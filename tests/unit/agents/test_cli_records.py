"""`gridmsg record` on files and on a store."""

from __future__ import annotations

import json

import pytest

from agents.recordstore.interface import Kind, StoredRecord
from agents.recordstore.sqlite import SqliteRecordStore
from broker import cli
from tests.support.usage import record_xml


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = SqliteRecordStore(tmp_path / "data" / "records.sqlite")
    for kind, more in ((Kind.RAW, {}), (Kind.QUARANTINE, {"Quarantine": "EpochStartTime"})):
        document = {"EndTime": "2016-05-27T01:00:00Z", "VOName": "cms", **more}
        store.put([StoredRecord.of(kind, f"{kind}{n}", document) for n in range(3)])
    store.close()
    return tmp_path


def ran(capsys, *words):
    status = cli.run(["record", *words])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_each_kind_is_found_and_counted(site, capsys):
    status, out, _ = ran(capsys, "find", "--kind", "quarantine", "VOName:cms")
    assert status == 0
    assert out.splitlines()[0].startswith("QUARANTINE")
    assert out.count("EpochStartTime") == 3
    assert ran(capsys, "count", "--kind", "quarantine")[1] == "3\n"
    assert ran(capsys, "count", "--json")[1] == '{\n  "count": 3\n}\n'
    assert ran(capsys, "find", "VOName:atlas")[1] == "no record fits\n"


def test_a_limit_is_said(site, capsys):
    status, out, err = ran(capsys, "find", "--limit", "2", "--json")
    assert status == 0
    assert len(json.loads(out)) == 2
    assert err == "only the first 2: --limit 0 shows all\n"
    assert ran(capsys, "find", "--limit", "3")[2] == ""


def test_without_a_store(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    status, _, err = ran(capsys, "find")
    assert status == 1
    assert "no record store at data/records.sqlite" in err


def test_files_are_checked_and_converted(tmp_path, capsys):
    good, bad = tmp_path / "good.xml", tmp_path / "bad.xml"
    good.write_text(record_xml(1))
    bad.write_text("<JobUsageRecord><EndTime>x</EndTime></JobUsageRecord>")
    status, out, _ = ran(capsys, "check", str(good), str(bad))
    assert status == 1
    assert out.splitlines()[-1] == "1 good, 1 bad"
    assert f"{bad}: record 1: " in out
    status, out, _ = ran(capsys, "convert", "--no-raw-xml", str(good))
    assert status == 0
    assert "RawXML" not in json.loads(out)
    assert ran(capsys, "convert", str(bad))[0] == 1


def test_nobody_to_send_to(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "one.xml"
    file.write_text(record_xml(1))
    status, out, err = ran(capsys, "send", str(file), "--url", "http://127.0.0.1:1")
    assert status == 1
    assert out.startswith("0 of 1 files taken")
    assert "no answer from the collector" in err
