"""`gridmsg up`, `gridmsg broker …` and `gridmsg status`: the site as a whole.

Tests: tests/unit/broker/cli/test_site.py, tests/e2e/.
"""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

import click

from broker.cli.base import (
    Failure,
    Place,
    broker_options,
    json_option,
    print_json,
    say,
    site_options,
    table_lines,
)
from broker.cli.links import kept_lines
from broker.cli.routes import apply_routes

if TYPE_CHECKING:
    from agents.config import AgentSettings

STOP_SECONDS = 30.0
LOG_LEVELS = ("debug", "info", "warning", "error")

log_option = click.option(
    "--log-level",
    type=click.Choice(LOG_LEVELS),
    default="info",
    envvar="GRIDMSG_LOG_LEVEL",
    help="Least important lines to log.",
)


@click.command()
@site_options
@click.option(
    "--without",
    multiple=True,
    type=click.Choice(["collector", "database", "summary", "replay"]),
    help="Leave an agent out; may be given more than once.",
)
def up(place: Place, without: tuple[str, ...]) -> int:
    """Run the whole site: the broker and its agents, until Ctrl-C or SIGTERM."""
    from broker import up as supervision

    return supervision.run(place, agent_settings(place), without)


@click.group()
def broker() -> None:
    """The broker itself: run, check, reload, stop."""


@broker.command(name="run")
@site_options
@log_option
def broker_run(place: Place, log_level: str) -> int:
    """Run the broker alone, in the foreground; where another one is active on the folder, as its standby."""
    start_logging(log_level)
    config = place.config
    # The agents' tables of the file are not the broker's, but a slip in them is better told now.
    agent_settings(place)
    from broker import duty

    return duty.run(config)


@broker.command(name="check")
@site_options
@json_option
@click.option("--all", "show_all", is_flag=True, help="Also show what is left at its default.")
def broker_check(place: Place, as_json: bool, show_all: bool) -> None:
    """Check the configuration without starting, and show where each value came from."""
    config = place.config
    agent_settings(place)
    values = config.document.values.values()
    rows = [
        {"key": one.key, "value": one.shown(), "origin": one.origin}
        for one in values
        if show_all or as_json or one.origin != "default"
    ]
    listeners = [
        {"protocol": one.protocol, "address": f"{one.host}:{one.port}"} for one in config.listeners
    ]
    if as_json:
        print_json(
            {
                "file": str(config.file) if config.file else None,
                "data": str(config.data_folder),
                "listeners": listeners,
                "values": rows,
            }
        )
        return
    say(f"configuration: {config.file or 'defaults only'}, data folder {config.data_folder}")
    for one in listeners:
        say(f"listens: {one['protocol']} on {one['address']}")
    for line in table_lines(rows, ("key", "value", "origin")) if rows else ():
        say(line)
    if not show_all:
        say("everything else is at its default (--all shows it)")
    say("good")


@broker.command(name="stop")
@site_options
def broker_stop(place: Place) -> None:
    """Stop the broker that runs on the data folder, and wait until it is gone.

    One that `gridmsg up` runs is started again by it: end that instead.
    """
    pid = running_pid(place)
    if pid is None:
        raise Failure(f"no broker runs on {place.data_folder}: nothing to stop")
    try:
        os.kill(pid, signal.SIGTERM)
    except PermissionError:
        raise Failure(f"process {pid} belongs to another user: stop it as that user") from None
    deadline = time.monotonic() + STOP_SECONDS
    while time.monotonic() < deadline:
        if not is_alive(pid):
            say(f"stopped process {pid}")
            return
        time.sleep(0.05)
    raise Failure(f"process {pid} still runs after {STOP_SECONDS:.0f} s: look at its log")


@broker.command(name="reload")
@broker_options
def broker_reload(place: Place) -> None:
    """Check the configuration anew, follow its [[link]]s, make what is missing of its [[route]]s, and say what waits for a restart.

    Everything else of the file is read at start only.  Users, rights and vhosts made by commands are live anyway.
    """
    config = place.config
    agent_settings(place)
    client = place.client()
    made = apply_routes(client, config)
    links = client.post("links")
    for what in ("added", "changed", "removed"):
        for name in links[what]:
            say(f"{what} link {name}")
    for line in kept_lines(links["kept"]):
        say(line)
    for line in made:
        say(f"made {line}")
    say(
        f"the configuration is good; {len(made)} parts of [[route]] were missing and are there now\n"
        "listeners, limits, addresses, accounts of the file and the tables of the agents wait for the next start: "
        "end `gridmsg up` (or `gridmsg broker stop`) and start it again if any of them changed"
    )


@click.command()
@broker_options
@json_option
def status(place: Place, as_json: bool) -> None:
    """Show the broker on one page: role, listeners, queues, dead letters, store."""
    client = place.client()
    try:
        overview = client.get("overview")
    except Failure as error:
        known = lease_in_folder(place)
        if known is None:
            raise
        raise Failure(f"{error}; the store's folder says: {known}") from None
    queues = client.get("queues")
    if as_json:
        print_json({"overview": overview, "queues": queues})
        return
    for line in status_lines(overview, queues):
        say(line)


def lease_in_folder(place: Place) -> str | None:
    """Who owns the store by the lease in its folder; None when that cannot be told."""
    from store.errors import StoreError
    from store.files import RealFiles
    from store.lease.directory import highest_epoch, read_lease
    from store.lease.host import RealHost

    folder = str(place.config.broker_folder / "lease")
    try:
        epoch = highest_epoch(RealFiles(), folder)
        block = read_lease(RealFiles(), folder, epoch).latest if epoch else None
    except (OSError, StoreError):
        return None
    if block is None:
        return None
    where = f"process {block.owner.pid} on {block.owner.host}"
    if block.is_released:
        return f"epoch {epoch} was released by {where}"
    if RealHost().is_dead(block.owner):
        return f"epoch {epoch} was owned by {where}, which is dead"
    return f"epoch {epoch} is owned by {where} ({block.addresses or 'addresses unknown'})"


def lease_lines(site: dict[str, Any]) -> list[str]:
    """What the page says of the lease: the owner's, or who a standby stands by for."""
    found = []
    active = site.get("active")
    if active:
        found.append(
            f"stands by  for process {active.get('pid')} on {active.get('host')}, lease {active.get('lease_seconds'):g} s, "
            f"renewed {site.get('renewed_seconds_ago')} s ago ({active.get('addresses') or 'addresses unknown'})"
        )
    if site.get("reason"):
        barred = "; claims no more by itself" if site.get("is_barred") else ""
        found.append(f"because    {site['reason']}{barred}")
    held = site.get("failover") or {}
    if held.get("lease_seconds"):
        found.append(
            f"lease      {held['lease_seconds']:g} s, renewed {held.get('renewed_seconds_ago')} s ago"
        )
    found += [f"failover   {text}" for text in held.get("warnings") or site.get("warnings") or []]
    return found


def status_lines(overview: dict[str, Any], queues: list[dict[str, Any]]) -> list[str]:
    """The page of `gridmsg status`."""
    site = overview.get("gridmsg", {})
    totals = overview.get("object_totals", {})
    first = f"broker     {overview.get('node')}  {site.get('role')}, epoch {site.get('epoch')}, "
    first += f"process {site.get('pid')}, version {overview.get('product_version')}"
    lines = [first, f"data       {site.get('data')}", *lease_lines(site)]
    if site.get("role") not in ("active", "stopping", None):
        return lines
    lines += [
        f"listens    {one.get('protocol')} {one.get('ip_address')}:{one.get('port')}"
        for one in overview.get("listeners", [])
    ]
    lines.append(
        f"holds      {totals.get('connections', 0)} connections, {totals.get('consumers', 0)} consumers, "
        f"{totals.get('queues', 0)} queues, {totals.get('exchanges', 0)} exchanges"
    )
    reason = site.get("blocked_reason") or "the store waits for space"
    alarms = [f"publishers are blocked: {reason}"] if site.get("is_blocked") else []
    lines.append(f"alarms     {'; '.join(alarms) if alarms else 'none'}")
    letters = next((one["messages"] for one in queues if one["name"] == "dead-letter"), 0)
    lines.append(f"letters    {letters} dead" + (" (`gridmsg deadletter list`)" if letters else ""))
    counts = site.get("counters", {})
    if counts:
        lines.append(
            f"since up   {counts.get('published_count', 0)} published, {counts.get('delivered_count', 0)} delivered, "
            f"{counts.get('unroutable_count', 0)} unroutable"
        )
    lines += link_lines(site.get("links") or [], site.get("link_origins") or {})
    if queues:
        lines.append("")
        lines += table_lines(
            queues, ("name", "messages_ready", "messages_unacknowledged", "consumers")
        )
    return lines


def link_lines(links: list[dict[str, Any]], origins: dict[str, int]) -> list[str]:
    """What the page says of links: state, lag, what is on its way, and what is remembered to know second copies."""
    found = []
    for one in links:
        streams = [stream for stream in one["streams"] if stream["sends"]]
        lag_ms = max([stream["lag_ms"] for stream in streams], default=0)
        backlog = sum(stream["backlog"] + stream["in_flight"] for stream in streams)
        trip = one.get("round_trip_ms")
        text = f"link       {one['link']} {one['direction']}, {one['state']}"
        text += f" with {one['peer']}" if one.get("peer") else f" at {one.get('address')}"
        text += f", {trip:.1f} ms round trip" if trip is not None else ""
        text += f", {backlog} to send, the oldest {lag_ms / 1000:.1f} s old" if backlog else ""
        why = one.get("reason") or (one.get("last_error") if one["state"] != "up" else "")
        found.append(text + (f": {why}" if why else ""))
    if origins.get("count"):
        share = max(
            [stream.get("window_share", 0) for one in links for stream in one["streams"]], default=0
        )
        found.append(
            f"origins    {origins['count']} of {origins['count_max']} remembered, {origins['bytes'] / 1024:.0f} KiB; "
            f"{share:.2%} of the window used"
            + (f"; {origins['unknown']} messages were older" if origins["unknown"] else "")
        )
    return found


def agent_settings(place: Place) -> AgentSettings:
    """The agents' settings, checked; raises ConfigError or Failure."""
    from agents import config as agents_config
    from agents.errors import SettingsError

    config = place.config
    document = config.document
    document.section("collector", agents_config.CollectorSettings)
    document.rows("database", agents_config.DatabaseSettings)
    document.section("summary", agents_config.SummarySettings)
    document.section("replay", agents_config.ReplaySettings)
    try:
        return agents_config.settings_from(
            document.tables("collector", "database", "summary", "replay"),
            config.port_offset,
            str(config.file or "configuration"),
        )
    except SettingsError as error:
        raise Failure(str(error)) from None


def running_pid(place: Place) -> int | None:
    """The process of the broker on the data folder, or None."""
    try:
        pid = int(place.config.pid_file.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None
    return pid if is_alive(pid) else None


def is_alive(pid: int) -> bool:
    """Whether a process of that number is there and has not ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:  # noqa: PTH123 - one read of the kernel's text
            return stream.read().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        return True


def start_logging(level: str) -> None:
    """Log to stderr, one line each, with UTC times."""
    import logging

    from broker.cli.flood import LineBudget

    formatter = logging.Formatter(
        "%(asctime)sZ %(levelname)-7s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S"
    )
    formatter.converter = time.gmtime
    stream = logging.StreamHandler()
    stream.setFormatter(formatter)
    stream.addFilter(LineBudget())
    logging.basicConfig(level=level.upper(), handlers=[stream], force=True)
