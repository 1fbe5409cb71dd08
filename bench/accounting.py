"""How many usage records a second the collector takes and the database agent stores.

A fresh site in a folder of its own: first broker and collector alone while senders post bundles as probes do,
each waiting for its `OK`; then the database agent alone, from its first commit (and, told beside it, from its start) to the
last record stored.  Both figures include the broker's share of the two cores.
"""

from __future__ import annotations

import http.client
import json
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

import click

from broker.config import COLLECTOR_PORT, DEFAULT_PORTS

WAIT_SECONDS_MAX: Final = 120.0
STOP_SECONDS_MAX: Final = 30.0

_RECORD: Final = """<JobUsageRecord xmlns:urwg="http://www.gridforum.org/2003/ur-wg">
<RecordIdentity urwg:recordId="bench:{number}" urwg:createTime="2026-03-01T12:00:00Z"/>
<JobIdentity><GlobalJobId>bench.{seed}.{number}</GlobalJobId><LocalJobId>{number}</LocalJobId></JobIdentity>
<UserIdentity><GlobalUsername>user{user}</GlobalUsername><LocalUserId>u{user}</LocalUserId>
<VOName>/cms/Role=pilot</VOName><ReportableVOName>cms</ReportableVOName>
<CommonName>/CN=user {user}</CommonName></UserIdentity>
<JobName>bench</JobName><Charge urwg:unit="units" urwg:formula="f">0</Charge><Status urwg:description="ok">0</Status>
<WallDuration urwg:description="wall">PT{wall}S</WallDuration>
<CpuDuration urwg:usageType="user">PT{cpu}S</CpuDuration><CpuDuration urwg:usageType="system">PT3S</CpuDuration>
<EndTime urwg:description="end">2026-03-01T{hour:02}:{minute:02}:00Z</EndTime>
<StartTime urwg:description="start">2026-03-01T00:00:00Z</StartTime>
<MachineName>bench.example.org</MachineName><Host primary="true">node{user}.example.org</Host><Queue>bench</Queue>
<NodeCount urwg:metric="total">1</NodeCount><Processors urwg:metric="total">{cores}</Processors>
<ProjectName urwg:description="project">bench</ProjectName><ProbeName>condor:bench.example.org</ProbeName>
<SiteName>Bench</SiteName><Grid>OSG</Grid><Resource urwg:description="ResourceType">Batch</Resource>
</JobUsageRecord>"""


def bundles(record_count: int, bundle_records: int, seed: int) -> Iterator[bytes]:
    """Yield forms as a probe posts them; each record differs from all others."""
    chance = random.Random(seed)
    for first in range(0, record_count, bundle_records):
        numbers = range(first, min(first + bundle_records, record_count))
        records = "".join(
            _RECORD.format(
                number=number,
                seed=seed,
                user=number % 50,
                wall=chance.randrange(1, 80_000),
                cpu=chance.randrange(1, 80_000),
                hour=number % 24,
                minute=number % 60,
                cores=1 + number % 8,
            )
            for number in numbers
        )
        payload = f"<?xml version='1.0'?><RecordEnvelope>{records}</RecordEnvelope>"
        form = {
            "command": "multiupdate",
            "arg1": payload,
            "from": "condor:bench",
            "bundlesize": "100",
        }
        yield urlencode(form).encode()


def send_all(port: int, forms: list[bytes], sender_count: int) -> float:
    """Post all forms by several senders, each waiting for its answers; return the seconds it took."""
    waiting = iter(forms)
    lock = threading.Lock()
    problems: list[str] = []

    def sender() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        with closing(connection):
            while not problems:
                with lock:
                    form = next(waiting, None)
                if form is None:
                    return
                kind = {"Content-Type": "application/x-www-form-urlencoded"}
                connection.request("POST", "/gratia-servlets/rmi", form, kind)
                answer = connection.getresponse().read()
                if answer != b"OK":
                    problems.append(answer[:200].decode("utf-8", "replace"))

    threads = [threading.Thread(target=sender) for _ in range(sender_count)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise click.ClickException(f"the collector answered {problems[0]!r}")
    return time.perf_counter() - begin


def stored_count(path: Path) -> int:
    """How many records the store holds; 0 before there is one."""
    from agents.errors import AgentError
    from agents.recordstore import find

    try:
        return find.count(path) if path.exists() else 0
    except AgentError:
        return 0


@click.command()
@click.option("--records", default=40_000, show_default=True, help="Records sent.")
@click.option("--bundle", default=100, show_default=True, help="Records in one POST.")
@click.option("--senders", default=4, show_default=True, help="Senders at a time.")
@click.option("--seed", default=1, show_default=True, help="Of the made-up records.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def accounting(records: int, bundle: int, senders: int, seed: int, as_json: bool) -> None:
    """Records a second: the collector in bundles, then the database agent."""
    forms = list(bundles(records, bundle, seed))
    with tempfile.TemporaryDirectory(prefix="gridmsg-bench-") as folder:
        offset = free_offset()
        options = ["--data", folder, "--port-offset", str(offset)]
        rest = ["--without", "database", "--without", "summary", "--without", "replay"]
        port = COLLECTOR_PORT + offset
        with running("up", *options, *rest):
            wait_until(lambda: is_open(port), "the collector does not listen")
            collector_seconds = send_all(port, forms, senders)
            path = Path(folder) / "records.sqlite"
            begin = time.perf_counter()
            with running("database", "run", *options):
                first_count, steady_seconds = watch_storing(path, records)
                database_seconds = time.perf_counter() - begin
    found = {
        "records": records,
        "bundle": bundle,
        "senders": senders,
        "collector_records_per_second": round(records / collector_seconds),
        "database_records_per_second": round((records - first_count) / steady_seconds),
        "database_records_per_second_from_start": round(records / database_seconds),
    }
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    click.echo(
        f"collector  {found['collector_records_per_second']} records/s in bundles of {bundle}"
    )
    click.echo(
        f"database   {found['database_records_per_second']} records/s from its first commit on,"
        f" {found['database_records_per_second_from_start']} with its start"
    )


def watch_storing(path: Path, record_count: int) -> tuple[int, float]:
    """Wait for all records; return how many were there when the first were, and the seconds from then on."""
    wait_until(lambda: stored_count(path) > 0, "no record is stored")
    begin = time.perf_counter()
    first_count = stored_count(path)
    # Counting reads the whole index: seldom, so that it takes little from what it measures.
    wait_until(lambda: stored_count(path) >= record_count, "records are missing", 0.25)
    return first_count, time.perf_counter() - begin


@contextmanager
def running(*words: str) -> Iterator[None]:
    """A `gridmsg` command for as long as the block runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "broker", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until(is_true: Callable[[], bool], problem: str, pause_seconds: float = 0.05) -> None:
    """Wait for a condition; raises ClickException when it never comes."""
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while not is_true():
        if time.monotonic() > deadline:
            raise click.ClickException(f"{problem} after {WAIT_SECONDS_MAX:.0f} s")
        time.sleep(pause_seconds)


def is_open(port: int) -> bool:
    """Whether something listens on the port of this machine."""
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True


def free_offset() -> int:
    """A port offset at which every default port is free."""
    for _ in range(100):
        offset = random.randrange(100, 3900)
        if not any(is_open(port + offset) for port in (*DEFAULT_PORTS.values(), COLLECTOR_PORT)):
            return offset
    raise click.ClickException("no free port offset found")
