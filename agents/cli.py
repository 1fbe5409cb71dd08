"""Commands of the agents: `collector`, `database`, `summary`, `replay`.

Only wiring: options in, one function of the agents called, its answer shown.  Agents are imported when a command
runs, so that `gridmsg --help` stays quick.  Tests: tests/unit/agents/test_cli.py, tests/e2e/.
"""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, final

import click

from broker.cli.base import (
    Failure,
    Place,
    json_option,
    print_json,
    progress,
    say,
    site_options,
    table_lines,
    warn,
)
from broker.cli.site import agent_settings, log_option, start_logging

if TYPE_CHECKING:
    from agents.config import AgentSettings, DatabaseSettings

SUMMARY_COLUMNS = ("EndTime", "ProbeName", "VOName", "Count", "Njobs", "CoreHours")


@final
class Agents(click.Group):
    """A group whose commands turn what agents refuse into one line."""

    def invoke(self, ctx: click.Context) -> Any:
        from agents.errors import AgentError

        try:
            return super().invoke(ctx)
        except AgentError as error:
            raise Failure(error.text) from None


name_option = click.option("--name", help="Which [[database]] entry.  [default: the only one]")


def first_moment(text: str) -> datetime:
    """Read a time with or without zone (UTC), or a day: its first moment."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(
            f"{text!r}: a day or time such as 2026-03-01 or 2026-03-01T12:00:00Z expected"
        ) from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def last_moment(text: str) -> datetime:
    """Read a time as `first_moment` does, or a day: its last moment."""
    moment = first_moment(text)
    if len(text) == len("2026-03-01"):
        moment += timedelta(days=1, microseconds=-1)
    return moment


def one_day(text: str) -> date:
    """Read a day."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(f"{text!r}: a day such as 2026-03-01 expected") from None


# Running one agent


@click.group(cls=Agents)
def collector() -> None:
    """The agent that takes records from probes over HTTP."""


@collector.command(name="run")
@site_options
@log_option
def collector_run(place: Place, log_level: str) -> None:
    """Run the collector alone, until Ctrl-C or SIGTERM."""
    settings = agent_settings(place).collector
    start_logging(log_level)
    from agents.collector import service

    service.run(settings, place.data_folder)


@click.group(cls=Agents)
def database() -> None:
    """The agent that stores records from its queues."""


@database.command(name="run")
@site_options
@name_option
@log_option
def database_run(place: Place, name: str | None, log_level: str) -> None:
    """Run one database agent, until Ctrl-C or SIGTERM."""
    settings = one_database(agent_settings(place), name)
    start_logging(log_level)
    from agents import database as agent

    agent.run(settings, place.data_folder)


@click.group(cls=Agents)
def summary() -> None:
    """Daily summaries: the agent, and its rows."""


@summary.command(name="run")
@site_options
@log_option
def summary_run(place: Place, log_level: str) -> None:
    """Run the summary agent alone, until Ctrl-C or SIGTERM."""
    settings = agent_settings(place).summary
    start_logging(log_level)
    from agents import summary as agent

    agent.run(settings, place.data_folder)


@summary.command(name="rebuild")
@site_options
@click.option("--from", "first", type=one_day, metavar="DAY", required=True, help="First day.")
@click.option(
    "--to", "last", type=one_day, metavar="DAY", required=True, help="Last day, included."
)
@json_option
def summary_rebuild(place: Place, first: date, last: date, as_json: bool) -> None:
    """Compute the summaries of some days again, from the stored records."""
    from agents import summary as agent

    settings = agent_settings(place).summary
    done = 0
    with progress("days", (last - first).days + 1, every=10) as advance:

        def on_day(day: agent.RebuiltDay) -> None:
            nonlocal done
            done += 1
            advance(done, None)

        days = agent.rebuild(settings, place.data_folder, first, last, on_day)
    rows = [{"day": str(d.day), "rows": d.row_count, "changed": d.is_changed} for d in days]
    if as_json:
        print_json(rows)
        return
    changed = sum(1 for one in days if one.is_changed)
    say(f"{len(days)} days computed, {changed} changed; the running agent sends copies")


@summary.command(name="show")
@site_options
@click.option("--from", "first", type=one_day, metavar="DAY", required=True, help="First day.")
@click.option(
    "--to", "last", type=one_day, metavar="DAY", help="Last day, included.  [default: the first]"
)
@json_option
def summary_show(place: Place, first: date, last: date | None, as_json: bool) -> None:
    """Show the summary rows of some days."""
    from agents import summary as agent

    settings = agent_settings(place).summary
    rows = [
        record.document for record in agent.show(settings, place.data_folder, first, last or first)
    ]
    print_records(rows, SUMMARY_COLUMNS, as_json, "no summary rows on these days")


@click.group(cls=Agents)
def replay() -> None:
    """Sending stored records again."""


@replay.command(name="run")
@site_options
@log_option
def replay_run(place: Place, log_level: str) -> None:
    """Run the replay agent alone, until Ctrl-C or SIGTERM."""
    settings = agent_settings(place).replay
    start_logging(log_level)
    from agents import replay as agent

    agent.run(settings, place.data_folder)


@replay.command(name="request")
@site_options
@click.option(
    "--from", "start", type=first_moment, metavar="TIME", required=True, help="First EndTime."
)
@click.option("--to", "end", type=last_moment, metavar="TIME", required=True, help="Last EndTime.")
@click.option("--kind", type=click.Choice(["raw", "summary"]), default="raw", show_default=True)
@click.option("--destination", required=True, help="Exchange or queue that gets the records.")
@click.option("--routing-key", default="", help="Routing key at the destination.")
@click.option("--filter", "filter_text", default="", help="Lucene text or Elasticsearch JSON.")
@click.option("--silence", default=60.0, help="Give up after so many seconds without a message.")
@json_option
def replay_request(
    place: Place,
    start: datetime,
    end: datetime,
    kind: str,
    destination: str,
    routing_key: str,
    filter_text: str,
    silence: float,
    as_json: bool,
) -> None:
    """Ask the replay agent for stored records, and follow its control messages to the end."""
    from agents.replays.control import Counts
    from agents.requests import Asked, follow
    from agents.transport import Transport

    settings = agent_settings(place).replay
    try:
        asked = Asked(
            start, end, destination, kind=kind, routing_key=routing_key, filter_text=filter_text
        )
    except ValueError as error:
        raise Failure(str(error)) from None
    transport = Transport(settings.broker, "replay-request")
    transport.start()
    counts = Counts()
    told = ""
    try:
        with progress("records") as advance:
            for message in follow(
                transport, settings.requests_queue, asked, silence_seconds=silence
            ):
                counts = message.counts
                if message.message and message.message != told:
                    told = message.message
                    warn(f"the request {told}")
                advance(counts.sent, counts.expected or None)
    finally:
        transport.stop()
    if as_json:
        print_json(
            {
                "id": asked.request_id,
                "expected": counts.expected,
                "sent": counts.sent,
                "failed": counts.failed,
                "first_end_time": counts.first_end_time,
                "last_end_time": counts.last_end_time,
            }
        )
    else:
        say(f"{counts.sent} of {counts.expected} records sent to {destination}")
    if counts.failed:
        raise Failure(f"{counts.failed} records could not be sent: see the replay agent's log")


def one_database(settings: AgentSettings, name: str | None) -> DatabaseSettings:
    """The database entry of that name, or the only one; raises Failure."""
    names = [one.name for one in settings.database]
    if name is None and len(names) == 1:
        return settings.database[0]
    for one in settings.database:
        if one.name == name:
            return one
    listed = ", ".join(names)
    if name is None:
        raise Failure(f"there are several databases: say which with --name ({listed})")
    raise Failure(f"no database is called {name}: --name takes {listed}")


def print_records(
    rows: list[dict[str, object]], columns: tuple[str, ...], as_json: bool, nothing: str
) -> None:
    """Print records as a table of some columns, or whole as a JSON list."""
    if as_json:
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False, sort_keys=True))
        return
    if not rows:
        say(nothing)
        return
    for line in table_lines(rows, columns):
        say(line)
