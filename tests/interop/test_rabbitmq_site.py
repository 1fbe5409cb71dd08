"""The agents on Debian's RabbitMQ with its STOMP plugin: collector, exchange, database, summary and replay.

The node gets docs/rabbitmq/definitions.json, and once more its queues for a second database, as docs/rabbitmq.md says.
"""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from collections.abc import Iterator
from datetime import date

import pika
import pytest

from agents.config import BrokerSettings
from agents.requests import Asked, ReplayFailed, follow
from agents.transport import Transport
from tests.support.rabbitmq import RabbitMq
from tests.support.site import ROOT, Site, raw_job_ids, wait_until_stored
from tests.support.usage import DAY, VOS, Probe, bundle_form, record_xml
from tests.support.waiting import PATIENCE_SECONDS, wait_until

pytestmark = pytest.mark.interop

COUNT = 1_200
BUNDLE = 100
BROKER = """addresses = ["127.0.0.1:{port}"]
profile = "rabbitmq"
reconnect-min-seconds = 0.1
reconnect-max-seconds = 1.0
"""
CONFIG = """
[collector.broker]
{broker}
[[database]]
[database.broker]
{broker}
[[database]]
name = "other"
[database.broker]
{broker}
[summary]
interval-seconds = 0.5
destinations = ["/grace.other.summary"]
[summary.broker]
{broker}
[replay]
batch-records = 20
progress-seconds = 0.01
[replay.broker]
{broker}
"""


def definitions() -> dict[str, object]:
    """The file that the project ships, with its queues a second time for the database `other`."""
    shipped = json.loads((ROOT / "docs/rabbitmq/definitions.json").read_text())
    names = [each for each in shipped["queues"] if each["name"].startswith("grace.site.")]
    assert len(names) == 3
    shipped["queues"] += [
        {**each, "name": each["name"].replace("grace.site.", "grace.other.")} for each in names
    ]
    return shipped


@pytest.fixture(scope="module")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMq]:
    node = RabbitMq(tmp_path_factory.mktemp("rabbit") / "node", definitions())
    try:
        node.start()
        node.import_definitions()
        yield node
    finally:
        node.close()


@pytest.fixture
def site(rabbit: RabbitMq, tmp_path) -> Iterator[Site]:
    broker = BROKER.format(port=rabbit.stomp_port)
    made = Site(tmp_path / "site", CONFIG.format(broker=broker))
    try:
        yield made
    finally:
        made.close()
        with on_rabbit(rabbit) as connection:
            channel = connection.channel()
            for name in definitions()["queues"]:
                channel.queue_purge(name["name"])


@pytest.fixture
def wire(rabbit: RabbitMq) -> Iterator[Transport]:
    settings = BrokerSettings(
        addresses=(f"127.0.0.1:{rabbit.stomp_port}",), profile="rabbitmq", reconnect_min_seconds=0.1
    )
    transport = Transport(settings, "test")
    transport.start()
    yield transport
    transport.stop()


def on_rabbit(rabbit: RabbitMq) -> pika.BlockingConnection:
    """Nothing is said on it while others are waited for: no heart-beats."""
    return pika.BlockingConnection(
        pika.ConnectionParameters("127.0.0.1", rabbit.amqp_port, heartbeat=0)
    )


def records(site: Site, name: str, *words: str) -> list[dict[str, object]]:
    done = site.run("record", "find", "--name", name, "--json", "--limit", "0", *words, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else []


def start_agents(site: Site) -> None:
    site.start("collector", "run")
    site.start("database", "run", "--name", "site")
    site.start("database", "run", "--name", "other")
    site.start("summary", "run")
    site.start("replay", "run")
    site.wait_for_port(8880)


def test_the_whole_scenario(site: Site, rabbit: RabbitMq, wire: Transport) -> None:
    """Records in, stored once through a kill of the database, summarized, replayed with a filter; nonsense set aside."""
    start_agents(site)
    numbers = range(COUNT)
    for start in range(0, COUNT, BUNDLE):
        form = bundle_form([record_xml(n) for n in numbers[start : start + BUNDLE]])
        assert site.post(form) == "OK"
        if start == COUNT // 2:
            site.kill("database", "run", "--name", "site")
    site.start("database", "run", "--name", "site")
    expected = {f"gw#{n}" for n in numbers}
    stored = wait_until_stored(site, expected)
    assert set(stored) == expected and len(stored) == COUNT, site.logs()

    wanted = {str(each["checksum"]) for each in records(site, "site", "vo=cms")}
    assert len(wanted) == COUNT // len(VOS)
    asked = Asked(DAY.date(), DAY.date(), "grace.other.raw", filter_text="vo=cms")
    heard, is_killed = [], False
    for message in follow(wire, "/grace.site.requests", asked, silence_seconds=PATIENCE_SECONDS):
        heard.append(message)
        if message.stage == "progress" and not is_killed:
            is_killed = True
            site.kill("replay", "run")
            site.start("replay", "run")
    assert is_killed and (heard[0].stage, heard[-1].stage) == ("starting", "finished")
    counts = heard[-1].counts
    assert (counts.expected, counts.sent, counts.failed) == (len(wanted), len(wanted), 0)
    wait_until(lambda: len(records(site, "other")) >= len(wanted), "the replay's records", site)
    assert {str(each["checksum"]) for each in records(site, "other")} == wanted

    rows = Counter((VOS[n % 4], 1 + n % 8) for n in numbers)

    def is_summarized() -> bool:
        found: Counter[tuple[str, int]] = Counter()
        for row in records(site, "other", "--kind", "summary"):
            found[str(row["ReportableVOName"]), int(str(row["Processors"]))] += int(
                str(row["Count"])
            )
        return found == rows

    wait_until(is_summarized, "the summary's copy", site)

    with on_rabbit(rabbit) as connection:
        channel = connection.channel()
        channel.basic_publish("gracc.site.raw", "", b"no record at all")
        letter = wait_until(
            lambda: channel.basic_get("dead-letter", auto_ack=True)[2], "a dead letter", site
        )
        assert letter == b"no record at all"
    with pytest.raises(ReplayFailed, match="missing"):
        asked = Asked(date(2026, 3, 14), date(2026, 3, 14), "/exchange/missing/key")
        list(follow(wire, "/grace.site.requests", asked, silence_seconds=PATIENCE_SECONDS))
    assert sorted(raw_job_ids(site.data / "records.sqlite")) == sorted(expected)


def test_unbound_records_are_kept(site: Site, rabbit: RabbitMq) -> None:
    """RabbitMQ confirms what reached no queue; the alternate exchange of the definitions keeps it."""
    with on_rabbit(rabbit) as connection:
        channel = connection.channel()
        channel.queue_unbind("grace.site.raw", "gracc.site.raw", "")
        try:
            site.start("collector", "run")
            site.wait_for_port(8880)
            assert site.post(bundle_form([record_xml(1)])) == "OK"
            # The collector says OK also from its spool, before it has a connection.
            letter = wait_until(
                lambda: channel.basic_get("dead-letter", auto_ack=True)[2], "the record", site
            )
            assert json.loads(letter)["GlobalJobId"] == "gw#1"
        finally:
            channel.queue_bind("grace.site.raw", "gracc.site.raw", "")


@pytest.mark.slow
def test_nothing_is_lost_while_rabbitmq_is_killed(site: Site, rabbit: RabbitMq) -> None:
    """The collector spools while the broker is away; every OK is in the database once."""
    site.start("collector", "run")
    site.start("database", "run", "--name", "site")
    site.wait_for_port(8880)
    probes = [Probe(site.post, f"probe{n}", 50) for n in range(4)]
    for probe in probes:
        probe.start()
    time.sleep(3)
    rabbit.end(signal.SIGKILL)
    time.sleep(2)
    rabbit.start()
    time.sleep(5)
    for probe in probes:
        probe.is_stopped.set()
    for probe in probes:
        probe.join(60)
    expected = {job for probe in probes for job in probe.accepted}
    stored = wait_until_stored(site, expected)
    assert expected <= set(stored), f"{len(expected - set(stored))} lost\n{site.logs()}"
    assert len(stored) == len(set(stored))
