"""Summaries of a whole site equal an independent computation row by row, also after corrections and removals.

100,000 records with GRIDMSG_SLOW=1, less otherwise.  The computation here reads the stored documents from the file and
adds up in whole thousandths; it shares no code with the agents.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest

from agents.recordstore.interface import Kind, StoredRecord
from agents.recordstore.sqlite import SqliteRecordStore
from tests.support.site import Site, is_slow_wanted
from tests.support.site import stored_documents as documents
from tests.support.waiting import PATIENCE_SECONDS, wait_until

pytestmark = pytest.mark.interop

COUNT = 100_000 if is_slow_wanted() else 3_000
WAIT_S = 600.0 if is_slow_wanted() else PATIENCE_SECONDS
BATCH = 1_000
DIMENSIONS = {
    "VOName": "N/A",
    "ProjectName": "N/A",
    "DN": "N/A",
    "Processors": 1,
    "GPUs": 0,
    "ResourceType": "N/A",
    "CommonName": "N/A",
    "Host_description": "N/A",
    "Resource_ExitCode": 0,
    "Grid": "N/A",
    "ReportableVOName": "N/A",
    "ProbeName": "N/A",
    "SiteName": "N/A",
}
SUMS = (
    "WallDuration",
    "CpuDuration_user",
    "CpuDuration_system",
    "CpuDuration",
    "CoreHours",
    "Njobs",
)
CONFIG = """
[summary]
interval-seconds = 0.5
"""


def raw_record(number: int, dice: random.Random) -> dict[str, object]:
    """A record with some of the dimensions missing, over three days and the hour around midnight."""
    seconds = dice.randrange(3 * 86_400)
    day, rest = 14 + seconds // 86_400, seconds % 86_400
    record: dict[str, object] = {
        "LocalJobId": str(number),
        "EndTime": f"2026-03-{day}T{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}Z",
        "StartTime": "2026-03-13T00:00:00Z",
        "WallDuration": dice.choice([dice.randrange(100_000), dice.random() * 1e4, 0]),
        "CpuDuration": dice.random() * 1e5,
        "CpuDuration_user": dice.randrange(10_000),
        "ProbeName": f"condor:gw{dice.randrange(2)}",
    }
    if dice.random() < 0.1:
        # The same moment by another clock: it still belongs to its UTC day.
        record["EndTime"] = f"2026-03-{day}T{rest // 3600:02}:30:00-05:00"
    optional = {
        "VOName": dice.choice(["cms", "atlas", "ligo"]),
        "ReportableVOName": "osg",
        "ProjectName": dice.choice(["p1", "p2", "N/A", "unknown"]),
        "Processors": str(dice.choice([1, 2, 8])),
        "Resource_ExitCode": str(dice.choice([0, 1])),
        "Njobs": str(dice.choice([1, 3])),
        "SiteName": dice.choice(["A", "B"]),
    }
    record |= {key: value for key, value in optional.items() if dice.random() < 0.8}
    return record


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path / "site", CONFIG)
    try:
        made.start_site()
        yield made
    finally:
        made.close()


def utc_day(text: str) -> str:
    """The UTC day of an RFC 3339 time that this test wrote."""
    if text.endswith("Z"):
        return text[:10]
    hour = int(text[11:13]) + 5
    return f"{text[:8]}{int(text[8:10]) + hour // 24:02}"


def exact(value: object) -> Fraction:
    return Fraction(value) if isinstance(value, int | float) else Fraction(str(value))


def expected_rows(records: list[dict[str, object]]) -> dict[tuple[object, ...], dict[str, object]]:
    """Group and add up the stored documents, in exact numbers."""
    groups: dict[tuple[object, ...], dict[str, Fraction]] = defaultdict(
        lambda: dict.fromkeys((*SUMS, "Count"), Fraction())
    )
    for record in records:
        key: list[object] = [f"{utc_day(str(record['EndTime']))}T00:00:00.000Z"]
        for name, default in DIMENSIONS.items():
            value = record.get(name, default)
            key.append(int(str(value)) if isinstance(default, int) else value)
        sums = groups[tuple(key)]
        for name in SUMS:
            sums[name] += exact(record.get(name, 1 if name == "Njobs" else 0))
        sums["Count"] += 1
    return {
        key: {name: float(value) for name, value in sums.items()} for key, sums in groups.items()
    }


def found_rows(rows: list[dict[str, object]]) -> dict[tuple[object, ...], dict[str, object]]:
    raw_names = {"VOName": "RawVOName", "ProjectName": "RawProjectName"}
    found = {}
    for row in rows:
        key = (row["EndTime"], *(row[raw_names.get(name, name)] for name in DIMENSIONS))
        assert key not in found, f"two rows of one group: {key}"
        found[key] = {name: row[name] for name in (*SUMS, "Count")}
        assert row["ProjectName"] == (
            row["VOName"] if row["RawProjectName"] in ("N/A", "unknown") else row["RawProjectName"]
        )
        assert row["GPUHours"] == row["WallDuration"] / 3600 * row["GPUs"]
    return found


def await_equal(site: Site, store: Path) -> int:
    """Wait until the rows of both stores (the summary's own, and the copy) are what the records say."""
    wanted = expected_rows(documents(store, "raw"))

    def is_equal() -> bool:
        own = found_rows(documents(site.data / "summary.sqlite", "summary"))
        copy = found_rows(documents(store, "summary"))
        return own == wanted and copy == wanted

    wait_until(is_equal, "rows as they should be", site, timeout_s=WAIT_S, pause_s=0.5)
    return len(wanted)


def test_rows_equal_an_independent_computation(site: Site) -> None:
    dice = random.Random(3)
    sent = [raw_record(number, dice) for number in range(COUNT)]
    for start in range(0, COUNT, BATCH):
        lines = "\n".join(json.dumps(record) for record in sent[start : start + BATCH])
        (site.folder / "batch.ndjson").write_text(lines)
        site.run("record", "send", str(site.folder / "batch.ndjson"))
    store = site.data / "records.sqlite"

    def is_stored() -> bool:
        return len(documents(store, "raw")) >= COUNT

    wait_until(is_stored, "all records in the store", site, timeout_s=WAIT_S, pause_s=0.5)
    assert await_equal(site, store) > 50

    # One group's records are corrected to another VO, another group's are removed: both vanish from the rows.
    records = SqliteRecordStore(store)
    corrected, removed = [], []
    for document in documents(store, "raw"):
        if document.get("VOName") == "atlas":
            document["VOName"] = "cms"
            corrected.append(StoredRecord.of(Kind.RAW, str(document["checksum"]), document))
        elif document.get("VOName") == "ligo":
            removed.append(str(document["checksum"]))
    records.put(corrected)
    records.delete(Kind.RAW, removed)
    records.close()
    assert corrected and removed
    await_equal(site, store)
    vos = {row["RawVOName"] for row in documents(site.data / "summary.sqlite", "summary")}
    assert vos == {"cms", "N/A"}
