"""`gridmsg record`: usage records in files and in the record store.

Only wiring, as `agents.cli`.  Tests: tests/unit/agents/test_cli_records.py, tests/e2e/.
"""

from __future__ import annotations

import getpass
import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agents.cli import (
    SUMMARY_COLUMNS,
    Agents,
    first_moment,
    last_moment,
    name_option,
    one_database,
    print_records,
)
from broker.cli.base import (
    Failure,
    Place,
    expand,
    json_option,
    print_json,
    progress,
    say,
    site_options,
    warn,
)
from broker.cli.site import agent_settings

if TYPE_CHECKING:
    from agents.recordstore.interface import Kind

_FILE = click.Path(dir_okay=False, exists=True, path_type=Path)
COLUMNS = {
    "raw": ("EndTime", "type", "ProbeName", "VOName", "WallDuration", "checksum"),
    "summary": SUMMARY_COLUMNS,
    "quarantine": ("Quarantine", "@timestamp", "type", "ProbeName", "VOName", "checksum"),
}

files_argument = click.argument(
    "files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path), metavar="FILE…"
)


@click.group(cls=Agents)
def record() -> None:
    """Usage records: send, check, convert, find, count."""


@record.command(name="send")
@files_argument
@site_options
@click.option(
    "--url", envvar="GRIDMSG_COLLECTOR", help="Collector to send to.  [default: the site's]"
)
@click.option("--ca", type=_FILE, help="Authorities to trust (https).  [default: the site's]")
@click.option("--certificate", type=_FILE, help="Client certificate (https), in PEM.")
@click.option("--certificate-key", type=_FILE, help="Its private key, in PEM.")
@click.option("--from", "sender", help="Name of the sender.  [default: user@host]")
@json_option
def record_send(
    place: Place,
    files: tuple[Path, ...],
    url: str | None,
    ca: Path | None,
    certificate: Path | None,
    certificate_key: Path | None,
    sender: str | None,
    as_json: bool,
) -> None:
    """Send files to a collector as a probe does: XML records, envelopes, bundles, JSON; folders as a whole."""
    from agents.errors import AgentError
    from agents.records.files import read_records, send_file

    collector = agent_settings(place).collector
    scheme = "https" if collector.tls.certificate else "http"
    where = url or f"{scheme}://{collector.address}"
    context = None
    if where.startswith("https:"):
        if ca is None and url is None and collector.tls.ca:
            ca = place.data_folder / collector.tls.ca
        context = _tls_context(ca, certificate, certificate_key)
    name = sender or f"{getpass.getuser()}@{socket.gethostname()}"
    rows = []
    paths = expand(files)
    with progress("files sent", len(paths), every=100) as advance:
        for number, path in enumerate(paths, 1):
            row = {"file": str(path), "records": 0, "bad": 0, "answer": ""}
            try:
                found = read_records(path)
                row["records"] = len(found)
                row["bad"] = sum(1 for one in found if one.problem)
                row["answer"] = send_file(path, where, name, context)
            except AgentError as error:
                row["answer"] = error.text
            rows.append(row)
            advance(number, None)
    taken = [row for row in rows if row["answer"] == "OK"]
    refused = [row for row in rows if row["answer"] != "OK"]
    count = sum(int(str(row["records"])) - int(str(row["bad"])) for row in taken)
    bad = sum(int(str(row["bad"])) for row in rows)
    if as_json:
        print_json(rows)
    else:
        say(f"{len(taken)} of {len(rows)} files taken by {where}, {count} records")
    if refused:
        raise Failure(f"{len(refused)} files were not taken; the first: {refused[0]['answer']}")
    if bad:
        raise Failure(
            f"{bad} records are bad and lie in the collector's quarantine: `gridmsg record check` tells why"
        )


@record.command(name="check")
@files_argument
@json_option
def record_check(files: tuple[Path, ...], as_json: bool) -> None:
    """Check the records of files without sending them; says what is wrong with each bad one."""
    from agents.errors import AgentError
    from agents.records.files import read_records

    problems = []
    good = 0
    for path in expand(files):
        try:
            for one in read_records(path):
                if one.problem:
                    problems.append(
                        {"file": str(path), "record": one.number, "problem": one.problem}
                    )
                else:
                    good += 1
        except AgentError as error:
            problems.append({"file": str(path), "record": None, "problem": error.text})
    if as_json:
        print_json({"good": good, "problems": problems})
    else:
        for row in problems:
            number = f": record {row['record']}" if row["record"] is not None else ""
            text = str(row["problem"]).removeprefix(f"{row['file']}: ")
            say(f"{row['file']}{number}: {text}")
        say(f"{good} good, {len(problems)} bad")
    if problems:
        raise Failure(f"{len(problems)} problems found")


@record.command(name="convert")
@files_argument
@click.option("--raw-xml/--no-raw-xml", default=True, help="Keep the RawXML key.")
def record_convert(files: tuple[Path, ...], raw_xml: bool) -> None:
    """Convert files to JSON: one object if there is one record, else a list."""
    from agents.records.files import read_records

    found: list[dict[str, object]] = []
    bad = 0
    for path in expand(files):
        for one in read_records(path):
            if one.record is None:
                warn(f"{path}: record {one.number}: {one.problem}")
                bad += 1
                continue
            if not raw_xml:
                one.record.pop("RawXML", None)
            found.append(one.record)
    whole: object = found[0] if len(found) == 1 else found
    click.echo(json.dumps(whole, indent=4, ensure_ascii=False, sort_keys=True))
    if bad:
        raise Failure(f"{bad} records could not be converted")


@record.command(name="find")
@click.argument("filter_text", metavar="FILTER", default="")
@site_options
@name_option
@click.option("--kind", type=click.Choice(["raw", "summary", "quarantine"]), default="raw")
@click.option("--from", "start", type=first_moment, metavar="TIME", help="Earliest time.")
@click.option("--to", "end", type=last_moment, metavar="TIME", help="Latest time.")
@click.option(
    "--limit", default=100, type=click.IntRange(0), show_default=True, help="0: no limit."
)
@json_option
def record_find(
    place: Place,
    filter_text: str,
    name: str | None,
    kind: str,
    start: datetime | None,
    end: datetime | None,
    limit: int,
    as_json: bool,
) -> None:
    """Find stored records.  FILTER is Lucene text such as 'VOName:*cms*', or Elasticsearch JSON; none: all."""
    from agents.recordstore import find

    with _quiet_store(place, name, kind) as (path, wanted):
        found = find.find(
            path,
            filter_text,
            wanted,
            (limit + 1) or None if limit else None,
            from_ms=_milliseconds(start),
            to_ms=_milliseconds(end, 1),
        )
        rows: list[dict[str, object]] = []
        for one in found:
            if limit and len(rows) == limit:
                warn(f"only the first {limit}: --limit 0 shows all")
                break
            rows.append(one.document)
    print_records(rows, COLUMNS[kind], as_json, "no record fits")


@record.command(name="count")
@click.argument("filter_text", metavar="FILTER", default="")
@site_options
@name_option
@click.option("--kind", type=click.Choice(["raw", "summary", "quarantine"]), default="raw")
@click.option("--from", "start", type=first_moment, metavar="TIME", help="Earliest time.")
@click.option("--to", "end", type=last_moment, metavar="TIME", help="Latest time.")
@json_option
def record_count(
    place: Place,
    filter_text: str,
    name: str | None,
    kind: str,
    start: datetime | None,
    end: datetime | None,
    as_json: bool,
) -> None:
    """Count stored records.  FILTER as for `record find`."""
    from agents.recordstore import find

    with _quiet_store(place, name, kind) as (path, wanted):
        number = find.count(
            path, filter_text, wanted, from_ms=_milliseconds(start), to_ms=_milliseconds(end, 1)
        )
    if as_json:
        print_json({"count": number})
    else:
        say(str(number))


@contextmanager
def _quiet_store(place: Place, name: str | None, kind: str) -> Iterator[tuple[Path, Kind]]:
    """The record store's file and the kind to look for; raises Failure if there is no store yet."""
    from agents.recordstore.interface import Kind

    settings = agent_settings(place)
    database_settings = one_database(settings, name)
    path = database_settings.store_path(place.data_folder)
    if kind == "summary" and name is None:
        path = place.data_folder / settings.summary.summary_path
    elif database_settings.store != "sqlite":
        raise Failure(f"database {database_settings.name} is not an SQLite store: ask it itself")
    if not path.exists():
        raise Failure(
            f"no record store at {path}: name the site's folder with --data, or start it with `gridmsg up`"
        )
    yield path, Kind(kind)


def _milliseconds(moment: datetime | None, more: int = 0) -> int | None:
    return None if moment is None else int(moment.timestamp() * 1000) + more


def _tls_context(ca: Path | None, certificate: Path | None, key: Path | None) -> ssl.SSLContext:
    """Whom to trust (None: the system's authorities) and what to show; host names are always checked."""
    try:
        context = ssl.create_default_context(cafile=None if ca is None else str(ca))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if certificate is not None:
            context.load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        files = ", ".join(str(one) for one in (ca, certificate, key) if one is not None)
        raise Failure(f"{files}: not what TLS needs: {error.reason or error}") from None
    return context
