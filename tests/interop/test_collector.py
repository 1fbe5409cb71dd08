"""The collector as a process, over real sockets: with a broker that is there, is killed, and comes back."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from urllib.parse import urlencode

import pytest

from agents.config import BrokerSettings
from agents.errors import Refused
from agents.records.files import read_records, send_file
from agents.transport import Incoming, Outgoing, Transport
from tests.support.quiet import Stopwatch
from tests.support.site import ROOT, Site
from tests.support.waiting import PATIENCE_SECONDS, wait_until

FIXTURES = ROOT.parent / "shared/data/gracc"
needs_fixtures = pytest.mark.skipif(
    not FIXTURES.is_dir(), reason="the public GRACC fixtures (../shared/data/gracc) are not here"
)
pytestmark = pytest.mark.interop

RUN = (
    "import sys; from pathlib import Path; from agents.config import read_settings;"
    "from agents.collector.service import run;"
    "run(read_settings(Path(sys.argv[1]), int(sys.argv[2])).collector, Path(sys.argv[3]))"
)
GOOD = "<JobUsageRecord><GlobalJobId>{}</GlobalJobId><EndTime>2024-01-01T00:00:00Z</EndTime></JobUsageRecord>"


def start_collector(site: Site) -> None:
    with (site.folder / "collector.log").open("ab") as out:
        site.processes["collector"] = subprocess.Popen(
            [sys.executable, "-c", RUN, str(site.config), str(site.offset), str(site.data)],
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
        )
    site.wait_for_port(8880)


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path / "site")
    try:
        yield site
    finally:
        site.close()


@pytest.fixture
def running(site):
    site.start_broker()
    start_collector(site)
    return site


def form(records: list[str], command: str = "multiupdate") -> bytes:
    envelope = f"<?xml version='1.0'?><RecordEnvelope>{''.join(records)}</RecordEnvelope>"
    return urlencode({"command": command, "arg1": envelope, "from": "probe:t"}).encode()


def get(site: Site, path: str, method: str = "GET", body: bytes = b"") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", site.port(8880), timeout=PATIENCE_SECONDS)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def stats(site: Site) -> dict[str, int]:
    return json.loads(get(site, "/stats")[1])


def settings(site: Site) -> BrokerSettings:
    return BrokerSettings(addresses=(f"127.0.0.1:{site.port(61613)}",))


def receive(site: Site, count: int) -> list[dict[str, object]]:
    """Take `count` messages from the site's raw queue and acknowledge them."""
    transport = Transport(settings(site), "test")
    got: list[Incoming] = []
    try:
        transport.subscribe("/grace.site.raw", 500, got.append)
        wait_until(lambda: len(got) >= count, f"{count} messages", site)
        transport.acknowledge(got)
    finally:
        transport.stop()
    assert len(got) == count
    return [json.loads(message.body) for message in got]


@needs_fixtures
def test_public_bundles_arrive_as_the_fixtures_say(running):
    url = f"http://127.0.0.1:{running.port(8880)}/any/prefix"
    for name in ("multiupdate-11.xml", "multiupdate-missing-endtime.xml", "replication-15.bundle"):
        assert send_file(FIXTURES / "bundles" / name, url, "probe:t") == "OK"
    sent = [
        found.record
        for name in (
            "multiupdate-11.xml",
            "multiupdate-missing-endtime.xml",
            "replication-15.bundle",
        )
        for found in read_records(FIXTURES / "bundles" / name)
    ]
    got = receive(running, 30)
    key = json.dumps
    assert sorted(key(record, sort_keys=True) for record in got) == sorted(
        key(record, sort_keys=True) for record in sent
    )
    for path in sorted((FIXTURES / "records").glob("*.xml")):
        assert send_file(path, url, "probe:t") == "OK"
    receive(running, 11)


def test_answers_are_exact(running):
    assert running.post(b"command=update&arg1=xxx&from=p") == "OK"
    assert running.post(b"command=nonsense&arg1=xxx&from=p") == "Error: Unknown Command: nonsense"
    assert running.post(b"arg1=xxx") == 'Error handling request: missing key "command"'
    too_large = running.post(b"command=multiupdate&from=p&arg1=" + b"a" * 11_000_000)
    assert "java.lang.IllegalStateException: Post too large" in too_large
    assert (
        running.post(
            form([GOOD.format(1)] * 3 + ["<JobUsageRecord><EndTime>x</EndTime></JobUsageRecord>"])
        )
        == "OK"
    )
    [path] = (running.data / "collector/quarantine").glob("*.json")
    assert "EndTime 'x'" in json.loads(path.read_text())["reason"]
    receive(running, 3)
    assert get(running, "/records", "POST", b'{"EndTime":"2024-01-01T00:00:00Z"}') == (200, b"OK")
    assert get(running, "/gratia-servlets/rmi")[0] == 404
    assert get(running, "/nowhere", "POST")[0] == 404
    status, metrics = get(running, "/metrics")
    assert status == 200 and b"gracc_records_total 4\n" in metrics
    assert b'"probe:t"' in get(running, "/probes")[1]


def test_nothing_answered_ok_is_lost_while_the_broker_is_killed(running):
    ids: set[str] = set()
    for number in range(60):
        if number == 20:
            running.kill("broker", "run")
        if number == 40:
            running.start_broker()
        records = [GOOD.format(f"{number}-{index}") for index in range(5)]
        if running.post(form(records)) == "OK":
            ids.update(f"{number}-{index}" for index in range(5))
    assert len(ids) == 300, "the spool takes what the broker cannot"
    wait_until(lambda: stats(running)["spool-files"] == 0, "an empty spool", running)
    transport = Transport(settings(running), "test")
    got: set[object] = set()
    try:
        transport.subscribe(
            "/grace.site.raw", 500, lambda message: got.add(json.loads(message.body)["GlobalJobId"])
        )
        wait_until(lambda: ids <= got, "all records", running)
    finally:
        transport.stop()


def test_spooled_records_survive_a_kill_of_the_collector(site):
    start_collector(site)
    assert site.post(form([GOOD.format("kept")])) == "OK"
    site.kill("collector")
    site.start_broker()
    start_collector(site)
    assert [record["GlobalJobId"] for record in receive(site, 1)] == ["kept"]


def test_a_full_spool_makes_probes_keep_their_files(site):
    site.config.write_text("[collector]\nspool-files-max = 1\n")
    start_collector(site)
    assert site.post(form([GOOD.format(1)])) == "OK"
    answer = site.post(form([GOOD.format(2)]))
    assert answer.startswith("Service unavailable right now") and "bound" in answer


def test_stops_within_two_seconds_under_load(running):
    assert running.post(form([GOOD.format(1)] * 100)) == "OK"
    watch = Stopwatch(running.processes["collector"].pid)
    assert running.stop("collector") == 0
    watch.judge(time.monotonic() - watch.started_at, 2.5)


def test_a_port_in_use_is_named(running, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(running.config), str(running.offset), str(tmp_path / "b")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    assert "cannot listen on" in done.stderr and done.returncode


def test_transport_settles_rejects_and_survives_a_restart(running):
    transport = Transport(settings(running), "test")
    got: list[Incoming] = []
    try:
        transport.subscribe("/grace.site.raw", 100, got.append)
        transport.publish(
            "/gracc.site.raw", [Outgoing(b"%d" % n) for n in range(10)], PATIENCE_SECONDS
        )
        wait_until(lambda: len(got) == 10, "ten messages", running)
        assert [message.body for message in got] == [b"%d" % n for n in range(10)]
        transport.acknowledge(got[:8])
        transport.reject(got[8], "not wanted", requeue=False)
        transport.reject(got[9], "again", requeue=True)
        wait_until(lambda: len(got) == 11, "one again", running)
        assert got[10].body == b"9" and got[10].is_redelivered
        running.kill("broker", "run")
        wait_until(lambda: not transport.is_connected(), "the end of the connection", running)
        transport.acknowledge(got[10:])  # Stale: it comes again.
        running.start_broker()
        wait_until(lambda: len(got) >= 12, "one again", running)
        assert got[11].body == b"9" and got[11].is_redelivered
        transport.publish("/gracc.site.raw", [Outgoing(b"after")], PATIENCE_SECONDS)
        wait_until(lambda: got[-1].body == b"after", "what was sent after it", running)
        transport.acknowledge(got[11:])
    finally:
        transport.stop()


def test_what_the_broker_refuses_is_refused_with_its_text(running):
    transport = Transport(settings(running), "test")
    try:
        with pytest.raises(Refused, match="nosuch"):
            transport.publish("/exchange/nosuch/key", [Outgoing(b"x")], PATIENCE_SECONDS)
        transport.publish("/gracc.site.raw", [Outgoing(b"y")], PATIENCE_SECONDS)
    finally:
        transport.stop()
