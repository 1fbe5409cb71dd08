"""The database agent as a process of its own against our broker."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import pytest

from agents.config import BrokerSettings
from agents.recordstore.find import count, find
from agents.recordstore.interface import Kind, StoreUnavailable
from agents.summaries.messages import day_messages
from agents.transport import Outgoing, Transport
from tests.support.quiet import Stopwatch
from tests.support.site import ROOT, Site
from tests.support.waiting import PATIENCE_SECONDS, wait_until

pytestmark = pytest.mark.interop

AGENT = """
import logging, pathlib, sys
from agents.config import BrokerSettings, DatabaseSettings
from agents.database import run
logging.basicConfig(level=logging.INFO)
run(DatabaseSettings(broker=BrokerSettings(addresses=(sys.argv[1],), reconnect_min_seconds=0.1)), pathlib.Path(sys.argv[2]))
"""
DAY = date(2026, 3, 14)


def start_agent(address: str, data: Path) -> subprocess.Popen[bytes]:
    with (data / "database.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-c", AGENT, address, str(data)], cwd=ROOT, stderr=log
        )


def records(numbers):
    return [
        Outgoing(
            json.dumps(
                {
                    "EndTime": "2026-03-14T01:00:00Z",
                    "WallDuration": n,
                    "LocalJobId": str(n),
                    "VOName": "/cms/x",
                }
            ).encode()
        )
        for n in numbers
    ]


@pytest.fixture
def site(tmp_path):
    made = Site(tmp_path / "site")
    made.start_broker()
    yield made
    made.close()


def test_records_and_days_reach_the_store_through_kills(site, tmp_path):
    data = tmp_path / "db"
    data.mkdir()
    address = f"127.0.0.1:{site.port(61613)}"
    transport = Transport(BrokerSettings(addresses=(address,)), "test")
    path = data / "records.sqlite"
    agent = start_agent(address, data)
    try:
        for round_number in range(3):
            start = round_number * 2000
            transport.publish(
                "/gracc.site.raw", records(range(start, start + 2000)), PATIENCE_SECONDS
            )
            agent.kill()
            agent.wait()
            agent = start_agent(address, data)
        transport.publish("/grace.site.raw", [Outgoing(b"no record")], PATIENCE_SECONDS)
        rows = [
            json.dumps({"EndTime": f"{DAY}T00:00:00.000Z", "VOName": f"vo{n}"}).encode()
            for n in range(50)
        ]
        transport.publish("/grace.site.summary", day_messages(DAY, 1, rows), PATIENCE_SECONDS)

        def is_complete():
            try:
                return count(path) == 6000 and count(path, "", Kind.SUMMARY) == 50
            except StoreUnavailable:
                return False

        wait_until(is_complete, "all records and rows in the store", site)
        assert count(path, "vo=cms AND WallDuration:>=5000") == 1000
        assert {r.document["LocalJobId"] for r in find(path)} == {str(n) for n in range(6000)}
        kept = data / "database" / "quarantine"
        wait_until(lambda: list(kept.glob("*.json")), "the bad message put aside", site)
        watch = Stopwatch(agent.pid)
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(PATIENCE_SECONDS) == 0
        watch.judge(time.monotonic() - watch.started_at, 2)
        # Nothing comes again: everything was acknowledged.
        left: list[bytes] = []
        transport.subscribe("/grace.site.raw", 10, lambda message: left.append(message.body))
        transport.publish("/grace.site.raw", [Outgoing(b"last")], PATIENCE_SECONDS)
        wait_until(lambda: left, "what is sent now", site)
        assert left == [b"last"]
    finally:
        agent.kill()
        agent.wait()
        transport.stop()
