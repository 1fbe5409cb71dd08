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
from tests.support.site import ROOT, Site

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


def wait_for(claim, seconds=20):
    deadline = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.05)


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
            transport.publish("/gracc.site.raw", records(range(start, start + 2000)), 30)
            agent.kill()
            agent.wait()
            agent = start_agent(address, data)
        transport.publish("/grace.site.raw", [Outgoing(b"no record")], 30)
        rows = [
            json.dumps({"EndTime": f"{DAY}T00:00:00.000Z", "VOName": f"vo{n}"}).encode()
            for n in range(50)
        ]
        transport.publish("/grace.site.summary", day_messages(DAY, 1, rows), 30)

        def is_complete():
            try:
                return count(path) == 6000 and count(path, "", Kind.SUMMARY) == 50
            except StoreUnavailable:
                return False

        wait_for(is_complete)
        assert count(path, "vo=cms AND WallDuration:>=5000") == 1000
        assert {r.document["LocalJobId"] for r in find(path)} == {str(n) for n in range(6000)}
        wait_for(lambda: list((data / "database" / "quarantine").glob("*.json")))
        started = time.monotonic()
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(5) == 0
        assert time.monotonic() - started < 2
        # Nothing comes again: everything was acknowledged.
        left: list[bytes] = []
        transport.subscribe("/grace.site.raw", 10, lambda message: left.append(message.body))
        time.sleep(0.3)
        assert left == []
    finally:
        agent.kill()
        agent.wait()
        transport.stop()
