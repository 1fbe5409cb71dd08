"""Usage records of our own, as a probe would write them, and the probe that sends them."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http.client import HTTPException
from urllib.parse import urlencode

DAY = datetime(2026, 3, 14, tzinfo=UTC)
VOS = ("cms", "atlas", "ligo", "icecube")
PROBE_BUNDLE = 15


def record_xml(
    number: int, *, day: datetime = DAY, sender: str = "gw", vo: str | None = None
) -> str:
    """One JobUsageRecord; everything follows from `number`."""
    end = day + timedelta(seconds=(number * 37) % 86_400)
    wall = 60 + number % 5000
    start = end - timedelta(seconds=wall)
    vo = vo or VOS[number % len(VOS)]
    return (
        '<JobUsageRecord xmlns="http://www.gridforum.org/2003/ur-wg" '
        'xmlns:urwg="http://www.gridforum.org/2003/ur-wg">'
        f'<RecordIdentity urwg:recordId="{sender}:{number}.0" urwg:createTime="{_iso(end)}"/>'
        f"<JobIdentity><GlobalJobId>{sender}#{number}</GlobalJobId>"
        f"<LocalJobId>{number}</LocalJobId></JobIdentity>"
        f"<UserIdentity><LocalUserId>user{number % 7}</LocalUserId>"
        f"<VOName>/{vo}/Role=production</VOName><ReportableVOName>{vo}</ReportableVOName>"
        f"<DN>/DC=org/CN=user {number % 7}</DN></UserIdentity>"
        f"<Status>0</Status><WallDuration>PT{wall}S</WallDuration>"
        f'<CpuDuration urwg:usageType="user">PT{wall // 2}S</CpuDuration>'
        '<CpuDuration urwg:usageType="system">PT3S</CpuDuration>'
        f"<EndTime>{_iso(end)}</EndTime><StartTime>{_iso(start)}</StartTime>"
        f"<Processors>{1 + number % 8}</Processors><ProjectName>project{number % 3}</ProjectName>"
        f"<ProbeName>condor:{sender}.example.org</ProbeName><SiteName>EXAMPLE</SiteName>"
        "<Grid>OSG</Grid><Njobs>1</Njobs>"
        '<Resource urwg:description="ResourceType">Batch</Resource></JobUsageRecord>'
    )


def bundle_form(records: list[str], sender: str = "gw") -> bytes:
    """The body of a probe's `multiupdate` POST."""
    envelope = '<?xml version="1.0"?><RecordEnvelope>' + "".join(records) + "</RecordEnvelope>"
    return urlencode(
        {"command": "multiupdate", "arg1": envelope, "from": sender, "bundlesize": "100"}
    ).encode()


class Probe(threading.Thread):
    """A probe that sends bundles at a steady rate and resends what was not answered OK.

    `post` sends a form and gives the answer's text; `accepted` has the job ids of what was answered OK.
    """

    def __init__(self, post: Callable[[bytes], str], name: str, records_per_s: float) -> None:
        super().__init__(daemon=True)
        self.post = post
        self.sender = name
        self.period_s = PROBE_BUNDLE / records_per_s
        self.accepted: list[str] = []
        self.accepted_at = 0.0
        self.answers: Counter[str] = Counter()
        self.is_stopped = threading.Event()

    def run(self) -> None:
        number = 0
        due = time.monotonic()
        while not self.is_stopped.is_set():
            numbers = range(number, number + PROBE_BUNDLE)
            form = bundle_form([record_xml(n, sender=self.sender) for n in numbers], self.sender)
            while not self.is_stopped.is_set():
                try:
                    answer = self.post(form)
                except (OSError, HTTPException) as error:
                    answer = type(error).__name__
                self.answers[answer[:60]] += 1
                if answer == "OK":
                    self.accepted.extend(f"{self.sender}#{n}" for n in numbers)
                    self.accepted_at = time.monotonic()
                    break
                time.sleep(0.2)
            number += PROBE_BUNDLE
            due += self.period_s
            time.sleep(max(0.0, due - time.monotonic()))


def _iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
