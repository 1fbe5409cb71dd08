"""Replays and copies of summaries through a real broker, with the agents killed half-way."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, date, datetime, timedelta

import pytest

from agents.config import BrokerSettings
from agents.records.stored import stored_record
from agents.recordstore.interface import Kind, Selection, StoredRecord, StoreUnavailable
from agents.recordstore.sqlite import SqliteRecordStore
from agents.requests import Asked, ReplayFailed, follow
from agents.transport import Outgoing, Transport
from tests.support.site import Site, is_slow_wanted
from tests.support.waiting import PATIENCE_SECONDS, wait_until

DAY = date(2016, 5, 27)
VOS = ("cms", "osg", "atlas", "ligo")
COUNT = 100_000 if is_slow_wanted() else 4_000
WAIT_SECONDS = 300.0 if is_slow_wanted() else PATIENCE_SECONDS
RECEIVED = datetime(2026, 1, 1, tzinfo=UTC)

CONFIG = """
[[database]]
name = "other"
[summary]
interval-seconds = 1.0
destinations = ["/grace.other.summary"]
[summary.broker]
reconnect-min-seconds = 0.1
[replay]
batch-records = 20
progress-seconds = 0.01
[replay.broker]
reconnect-min-seconds = 0.1
"""


def raw_record(number: int) -> dict[str, object]:
    vo = VOS[number % len(VOS)]
    end = datetime(2016, 5, 27, tzinfo=UTC) + timedelta(seconds=number % 86_400)
    return {
        "type": "JobUsageRecord",
        "LocalJobId": str(number),
        "VOName": f"/{vo}/Role=production",
        "ReportableVOName": vo,
        "ProbeName": f"condor:gw{number % 3}",
        "SiteName": f"S{number % 5}",
        "EndTime": end.isoformat().replace("+00:00", "Z"),
        "StartTime": "2016-05-26T00:00:00Z",
        "WallDuration": 600.5 + number % 100,
        "CpuDuration": number % 10,
        "Processors": "2",
        "RawXML": "<JobUsageRecord>" + "x" * 500 + "</JobUsageRecord>",
    }


def fill(store: SqliteRecordStore) -> None:
    for start in range(0, COUNT, 5_000):
        documents = [
            stored_record(raw_record(n), RECEIVED) for n in range(start, min(COUNT, start + 5_000))
        ]
        store.put([StoredRecord.of(Kind.RAW, str(d["checksum"]), d) for d in documents])


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path, CONFIG)
    site.start_broker()
    store = SqliteRecordStore(site.data / "records.sqlite")
    fill(store)
    store.close()
    yield site
    site.close()


@pytest.fixture
def wire(site):
    settings = BrokerSettings(
        addresses=(f"127.0.0.1:{site.port(61613)}",), reconnect_min_seconds=0.1
    )
    transport = Transport(settings, "test")
    transport.start()
    yield transport
    transport.stop()


def scanned(site, name, kind):
    """What the store file `name` holds of `kind`; nothing while its agent is still making it."""
    try:
        store = SqliteRecordStore(site.data / name, is_read_only=True)
    except StoreUnavailable:
        return []
    try:
        return list(store.scan(Selection(kind)))
    finally:
        store.close()


def ids(site, name, kind=Kind.RAW, vo=None):
    found = scanned(site, name, kind)
    return {each.id for each in found if vo is None or f'"ReportableVOName":"{vo}"' in each.text}


def documents(site, name):
    return {r.id: r.document for r in scanned(site, name, Kind.SUMMARY)}


def await_true(site, claim, text):
    wait_until(claim, text, site, timeout_s=WAIT_SECONDS, pause_s=0.1)


@pytest.mark.interop
def test_a_filtered_replay_survives_kills_with_exact_counts(site, wire):
    site.start("replay", "run")
    site.start("database", "run")
    wanted = ids(site, "records.sqlite", vo="cms")
    asked = Asked(DAY, DAY, "grace.other.raw", filter_text="vo=cms")
    heard, kills_left = [], 2
    for message in follow(wire, "/grace.site.requests", asked, silence_seconds=WAIT_SECONDS):
        heard.append(message)
        if message.stage == "progress" and kills_left:
            kills_left -= 1
            site.kill("replay", "run")
            site.start("replay", "run")
    assert kills_left == 0, "the replay was over before it could be killed twice"
    assert (heard[0].stage, heard[-1].stage) == ("starting", "finished")
    counts = heard[-1].counts
    assert (counts.expected, counts.sent, counts.failed) == (len(wanted), len(wanted), 0)
    assert counts.first_end_time == "2016-05-27T00:00:00Z"
    sent = [message.counts.sent for message in heard]
    assert sent == sorted(sent)
    await_true(site, lambda: len(ids(site, "other.sqlite")) >= len(wanted), "the records' arrival")
    assert ids(site, "other.sqlite") == wanted
    assert site.stop("replay", "run") == 0


@pytest.mark.interop
def test_a_replay_survives_its_broker(site, wire):
    site.start("replay", "run")
    site.start("database", "run")
    wanted = ids(site, "records.sqlite")
    heard, is_killed = [], False
    for message in follow(
        wire,
        "/grace.site.requests",
        Asked(DAY, DAY, "grace.other.raw"),
        silence_seconds=WAIT_SECONDS,
    ):
        heard.append(message)
        if message.stage == "progress" and not is_killed:
            is_killed = True
            site.kill("broker", "run")
            site.start_broker()
    counts = heard[-1].counts
    assert is_killed and heard[-1].stage == "finished"
    assert (counts.expected, counts.sent, counts.failed) == (COUNT, COUNT, 0)
    await_true(site, lambda: len(ids(site, "other.sqlite")) >= COUNT, "the records' arrival")
    assert ids(site, "other.sqlite") == wanted


@pytest.mark.interop
def test_refusals_reach_the_sender(site, wire):
    site.start("replay", "run")
    refused = [
        (Asked(DAY, DAY, "/grace.nowhere"), "make the exchange or queue first"),
        (Asked(DAY, DAY, "/exchange/missing/key"), "missing"),
    ]
    for asked, says in refused:
        with pytest.raises(ReplayFailed, match=says):
            list(follow(wire, "/grace.site.requests", asked, silence_seconds=WAIT_SECONDS))
    asked = Asked(DAY, DAY, "/grace.other.raw")
    fields = {**json.loads(asked.body), "filter": {"query": {"fuzzy": {"VOName": "x"}}}}
    asked.body = json.dumps(fields).encode()
    with pytest.raises(ReplayFailed, match="write term or wildcard"):
        list(follow(wire, "/grace.site.requests", asked, silence_seconds=WAIT_SECONDS))
    # Nonsense is kept with its reason, and the agent goes on.
    wire.publish("/grace.site.requests", [Outgoing(b"{nonsense")], WAIT_SECONDS)
    folder = site.data / "replay" / "quarantine"
    await_true(site, lambda: len(list(folder.glob("*.json"))) == 2, "two kept")
    reasons = [json.loads(path.read_text())["reason"] for path in folder.glob("*.json")]
    assert any("not JSON" in reason for reason in reasons)
    answer = list(
        follow(
            wire,
            "/grace.site.requests",
            Asked(DAY, DAY, "/queue/there"),
            silence_seconds=WAIT_SECONDS,
        )
    )
    assert answer[-1].counts.sent == COUNT


@pytest.mark.interop
def test_summaries_follow_corrections_and_removals_to_the_other_database(site, wire):
    site.start("summary", "run")
    site.start("database", "run")

    def is_same():
        rows = documents(site, "summary.sqlite")
        return rows == documents(site, "other.sqlite") and totals(rows) == wanted

    def totals(rows):
        found = Counter()
        for row in rows.values():
            found[row["ReportableVOName"], row["SiteName"]] += row["Count"]
        return found

    store = SqliteRecordStore(site.data / "records.sqlite")
    numbers = range(COUNT)
    wanted = Counter((VOS[n % 4], f"S{n % 5}") for n in numbers)
    await_true(site, is_same, "the first summary")
    records = list(store.scan(Selection(Kind.RAW)))
    removed = [r.id for r in records if r.document["ReportableVOName"] == "ligo"]
    corrected = []
    for record in records:
        document = record.document
        if document["ReportableVOName"] == "atlas":
            document["ReportableVOName"] = "cms"
            corrected.append(StoredRecord.of(Kind.RAW, record.id, document))
    site.kill("summary", "run")
    store.delete(Kind.RAW, removed)
    store.put(corrected)
    store.close()
    wanted = Counter(
        ({"atlas": "cms"}.get(VOS[n % 4], VOS[n % 4]), f"S{n % 5}")
        for n in numbers
        if VOS[n % 4] != "ligo"
    )
    site.start("summary", "run")
    await_true(site, is_same, "the corrected summary")
    assert site.stop("summary", "run") == 0
