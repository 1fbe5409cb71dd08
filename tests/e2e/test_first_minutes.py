"""The first five minutes of README.md word by word, and each record on its way: file, exchange, store.

What is expected of a stored record is computed here once more, straight from the rules, and not with the agents' code.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pika
import pytest

from tests.support.site import ROOT, Site
from tests.support.waiting import PATIENCE_SECONDS, wait_until

pytestmark = pytest.mark.interop

FIXTURES = ROOT.parent / "shared/data/gracc"
OWN = Path(__file__).parent / "records"
needs_fixtures = pytest.mark.skipif(
    not FIXTURES.is_dir(), reason="the public GRACC records (../shared/data/gracc) are not here"
)
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
BIN = Path(sys.executable).parent
CORPORA = [
    pytest.param(OWN, id="own"),
    pytest.param(FIXTURES / "records", id="public", marks=needs_fixtures),
]
# Keys of the public reference files that the reference collector itself never writes.
NEVER_WRITTEN = {"ServiceLevel_type", "Memory_type", "Host_primary"}
UNHASHED = (
    "RecordId CreateTime GlobalUsername LocalUserId VOName ReportableVOName CommonName SiteName Grid RawXML type "
    "@timestamp @received @version"
).split()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    yield from running(tmp_path_factory.mktemp("site"))


@pytest.fixture
def fresh_site(tmp_path: Path) -> Iterator[Site]:
    yield from running(tmp_path / "site")


def running(folder: Path) -> Iterator[Site]:
    made = Site(folder)
    try:
        made.start_site()
        yield made
    finally:
        made.close()


def shell(site: Site, text: str, timeout_s: float = PATIENCE_SECONDS) -> str:
    """Run lines as a user would in a terminal of this site, with the installed command."""
    environment = {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "GRIDMSG_DATA": str(site.data),
        "GRIDMSG_PORT_OFFSET": str(site.offset),
    }
    text = shifted(site, text.replace(". .venv/bin/activate\n", ""))
    done = subprocess.run(  # noqa: PLW1510 - the status is looked at
        ["sh", "-ec", text],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}\n{site.logs()}"
    return done.stdout


def find(site: Site, *words: str) -> dict[str, dict[str, object]]:
    """What `gridmsg record find` shows, by checksum; none twice."""
    done = site.run("record", "find", *words, "--json", "--limit", "0", check=False)
    records = json.loads(done.stdout) if done.returncode == 0 else []
    by_id = {str(record["checksum"]): record for record in records}
    assert len(by_id) == len(records)
    return by_id


def found(site: Site, wanted: set[str]) -> dict[str, dict[str, object]]:
    """The wanted records, once the store shows all of them."""
    records: dict[str, dict[str, object]] = {}

    def are_there() -> bool:
        records.update(find(site))
        if not wanted <= records.keys():
            records.update(find(site, "--kind", "quarantine"))
        return wanted <= records.keys()

    wait_until(are_there, f"{len(wanted)} records in the store", site, pause_s=0.2)
    return {name: records[name] for name in wanted}


def shifted(site: Site, text: str) -> str:
    """The text with the ports of this site."""
    return re.sub(r"127\.0\.0\.1:(\d+)", lambda at: f"127.0.0.1:{site.port(int(at[1]))}", text)


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip("\n").splitlines()]


@needs_fixtures
@needs_curl
def test_the_readme_word_by_word(fresh_site: Site) -> None:
    """Each block of commands runs as it stands; what README.md says it prints is what it prints."""
    text = (ROOT / "README.md").read_text().partition("## The first five minutes")[2]
    text = text.partition("\n## ")[0]
    blocks = re.findall(r"```(sh)?\n(.*?)```", text, re.DOTALL)
    assert [kind for kind, _ in blocks] == ["", "sh", "", "sh", "sh", "", "sh"]
    banner, send, sent, post, ask, shown, look = (content for _, content in blocks)

    site = fresh_site
    log = (site.folder / "up.log").read_text()
    banner = banner.replace("/home/me/gridmsg/data", str(site.data))
    banner = shifted(site, banner)
    place = f"--data {site.data} --port-offset {site.offset} "
    banner = banner.replace(".venv/bin/gridmsg status ", f"gridmsg status {place}")
    log = re.sub(r"\S+ status --data", "gridmsg status --data", log)
    said = {" ".join(line.split()) for line in log.splitlines()}
    assert [line for line in lines(banner) if " ".join(line.split()) not in said] == []

    assert lines(shell(site, send)) == lines(shifted(site, sent))
    wait_until(lambda: len(find(site)) == 11, "the records in the store", site)
    assert shell(site, post) == "OK"
    assert lines(shell(site, ask)) == lines(shown)
    looked = shell(site, look)
    assert "grace.site.raw" in looked and "alarms     none" in looked
    assert re.search(r"\bagain\s+2\b", looked), looked


@needs_curl
@pytest.mark.parametrize(
    ("path", "command", "count"),
    [
        pytest.param(OWN / "job.xml", "URLEncodedUpdate", 1, id="own"),
        pytest.param(FIXTURES / "bundles/multiupdate-11.xml", "multiupdate", 11, id="multiupdate"),
        pytest.param(
            FIXTURES / "bundles/multiupdate-missing-endtime.xml", "multiupdate", 4, id="missing"
        ),
        pytest.param(FIXTURES / "bundles/replication-15.bundle", "update", 15, id="replication"),
    ],
)
def test_what_probes_and_collectors_post(site: Site, path: Path, command: str, count: int) -> None:
    """A form by curl with its right command: `OK`, bare, and every distinct record is found."""
    if not path.exists():
        pytest.skip("the public GRACC records (../shared/data/gracc) are not here")
    size = "-d bundlesize=15" if command == "update" else ""
    answer = shell(
        site,
        f"curl -sS -d command={command} -d from=probe:me {size} --data-urlencode 'arg1@{path}'"
        " http://127.0.0.1:8880/gratia-servlets/rmi",
    )
    assert answer == "OK"
    converted = json.loads(site_free("record", "convert", str(path)))
    sent = converted if isinstance(converted, list) else [converted]
    assert len(sent) == count
    found(site, {identity(record) for record in sent})


@pytest.mark.parametrize("folder", CORPORA)
def test_each_record_from_file_to_store(site: Site, folder: Path) -> None:
    """convert = message on the exchange = the expected file; the store has that plus what the rules add."""
    # Nothing is said on it while commands run: no heart-beats.
    connection = pika.BlockingConnection(
        pika.ConnectionParameters("127.0.0.1", site.port(5672), heartbeat=0)
    )
    channel = connection.channel()
    channel.queue_declare("tap")
    channel.queue_bind("tap", "gracc.site.raw")
    wanted = {
        path: json.loads(site_free("record", "convert", str(path))) for path in folder.glob("*.xml")
    }
    began = time.time()
    done = site.run("record", "send", *map(str, wanted))
    assert f", {len(wanted)} records" in done.stdout
    stored = found(site, {identity(record) for record in wanted.values()})
    assert len(stored) == len(wanted)
    messages = {}
    for _ in wanted:
        _, properties, body = channel.basic_get("tap", auto_ack=True)
        assert (properties.content_type, properties.delivery_mode) == ("application/json", 2)
        record = json.loads(body)
        messages[record["RawXML"]] = record
        # The reference collector's layout: keys sorted, four spaces, markup escaped.
        assert list(record) == sorted(record) and body.startswith(b'{\n    "')
        assert not set(b"<>&") & set(body)
    assert channel.basic_get("tap")[0] is None
    channel.queue_delete("tap")
    connection.close()
    for path, converted in wanted.items():
        expected = json.loads(path.with_suffix(".json").read_text())
        bare = {key: value for key, value in converted.items() if key != "RawXML"}
        assert bare == {k: v for k, v in expected.items() if k not in NEVER_WRITTEN}, path.name
        assert messages.pop(converted["RawXML"]) == converted
        record = stored.pop(identity(converted))
        arrival = str(record["@received"])
        assert began - 60 <= datetime.fromisoformat(arrival).timestamp() <= time.time() + 1
        assert record == expected_document(converted, arrival), path.name
    assert not messages and not stored


def site_free(*words: str) -> str:
    """A command that needs no site."""
    done = subprocess.run(  # noqa: PLW1510 - the status is looked at
        [BIN / "gridmsg", *words],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def typed(raw: dict[str, object]) -> dict[str, object]:
    """Steps 1 and 2 of the database: a type for all, numbers for what is counted."""
    record = {"type": "JobUsageRecord", **raw}
    for name in ("Processors", "Njobs", "NodeCount"):
        if name in record:
            record[name] = int(str(record[name]))
    for name in ("Memory", "Swap", "Network"):
        if name in record:
            record[name] = float(str(record[name]))
    return record


def identity(raw: dict[str, object]) -> str:
    """The checksum by which production knows a record."""
    hashed = {key: value for key, value in typed(raw).items() if key not in UNHASHED}
    text = json.dumps(dict(sorted(hashed.items())), separators=(",", ":"), ensure_ascii=False)
    return hashlib.md5(text.encode()).hexdigest()


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def expected_document(raw: dict[str, object], arrival: str) -> dict[str, object]:
    """The stored record: the raw one and what the database agent adds, in production's order."""
    record = typed(raw)
    record["checksum"] = identity(raw)
    record["@received"] = arrival
    if record.get("ResourceType") == "Payload" and "Host_description" in record:
        record["PayloadSiteName"] = record["Host_description"]
    if str(record["type"]).startswith("Storage"):
        moment = instant(str(record["Timestamp"]))
    else:
        wall = float(str(record["WallDuration"]))
        record["CoreHours"] = wall * int(str(record.get("Processors", 1))) / 3600
        moment = instant(str(record["EndTime"]))
        if "StartTime" not in record:
            start = moment - timedelta(seconds=wall)
            record["StartTime"] = start.strftime("%Y-%m-%dT%H:%M:%SZ")
    record["@timestamp"] = moment.strftime("%Y-%m-%dT%H:%M:%S.000Z")
    return record
