"""What all commands share: where the site is, output in two forms, and errors that say what to do.

Exit status: 0 done, 1 failed (one line on stderr), 2 wrong usage (click's).  Imports nothing heavy.
Tests: tests/unit/broker/cli/test_base.py.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, final

import click

from broker import config as broker_config
from broker.config import COLLECTOR_PORT, PORT_OFFSET_MAX, Config

if TYPE_CHECKING:
    from broker.cli.client import Client

F = TypeVar("F", bound=Callable[..., Any])


class Failure(Exception):
    """A command that could not do its work; the text says what to do next."""


@final
@dataclass(frozen=True, slots=True)
class ClientTls:
    """How a command speaks TLS: whom it trusts (None: the system's authorities), and its own certificate."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


@final
class Place:
    """Which site a command is about: `--data`, `--config`, `--port-offset`, and how to log in there."""

    def __init__(
        self,
        data: Path | None,
        config: Path | None,
        port_offset: int,
        url: str | None = None,
        login: str = "guest",
        password: str = "guest",  # noqa: S107 - the built-in login, from loopback only
        tls: ClientTls | None = None,
    ) -> None:
        self.data = data
        self.config_file = config
        self.port_offset = port_offset
        self.login = login
        self.password = password
        self._url = url
        self._tls = tls or ClientTls()
        self._config: Config | None = None

    @property
    def config(self) -> Config:
        """The configuration, read once; raises ConfigError."""
        if self._config is None:
            self._config = broker_config.load(self.config_file, self.data, self.port_offset)
        return self._config

    @property
    def data_folder(self) -> Path:
        """The site's data folder."""
        return self.config.data_folder

    @property
    def url(self) -> str:
        """Where the management API is."""
        if self._url is not None:
            return self._url.rstrip("/")
        listener = self.config.listener("management")
        if listener is None:
            raise Failure("no management listener is configured: name the broker with --url")
        host = f"[{listener.host}]" if ":" in listener.host else listener.host
        if host in ("0.0.0.0", "[::]"):  # noqa: S104 - not bound, only recognised
            host = "127.0.0.1"
        return f"{'https' if listener.tls else 'http'}://{host}:{listener.port}"

    def client(self) -> Client:
        """A client of the management API."""
        from broker.cli.client import Client

        url = self.url
        tls = self._tls
        if tls.ca is None and url.startswith("https:") and self._url is None:
            # Our own broker: its authority is the one that its configuration names.
            listener = self.config.listener("management")
            ca = None if listener is None or listener.tls is None else listener.tls.ca
            tls = ClientTls(ca, tls.certificate, tls.key)
        return Client(url, self.login, self.password, tls)

    def arguments(self) -> list[str]:
        """The same place as arguments of another `gridmsg` process."""
        found = ["--data", str(self.data_folder), "--port-offset", str(self.port_offset)]
        if self.config.file is not None:
            found += ["--config", str(self.config.file)]
        return found

    def collector_url(self) -> str:
        """Address of the site's collector, with http or https."""
        table = self.config.document.tables("collector").get("collector", {})
        tls = table.get("tls") if isinstance(table, dict) else None
        is_tls = isinstance(tls, dict) and bool(tls.get("certificate"))
        return f"{'https' if is_tls else 'http'}://{self.collector_address()}"

    def collector_address(self) -> str:
        """HOST:PORT of the site's collector."""
        table = self.config.document.tables("collector").get("collector", {})
        configured = table.get("address") if isinstance(table, dict) else None
        return (
            configured
            if isinstance(configured, str)
            else f"127.0.0.1:{COLLECTOR_PORT + self.port_offset}"
        )


def site_options(function: F) -> F:
    """Add `--data`, `--config` and `--port-offset`; the command gets a `Place` as `place`."""

    @click.option(
        "--data",
        type=click.Path(file_okay=False, path_type=Path),
        envvar="GRIDMSG_DATA",
        help="Data folder of the site.  [default: ./data]",
    )
    @click.option(
        "--config",
        type=click.Path(dir_okay=False, path_type=Path),
        envvar="GRIDMSG_CONFIG",
        help="Configuration file.  [default: gridmsg.toml in the data folder, if there is one]",
    )
    @click.option(
        "--port-offset",
        type=click.IntRange(0, PORT_OFFSET_MAX),
        default=0,
        envvar="GRIDMSG_PORT_OFFSET",
        help="Added to every default port, so that several sites run on one machine.",
    )
    @functools.wraps(function)
    def wrapped(
        *arguments: Any, data: Path | None, config: Path | None, port_offset: int, **rest: Any
    ) -> Any:
        place = Place(data, config, port_offset)
        return function(*arguments, place=place, **rest)

    return wrapped  # type: ignore[return-value]


def _file_option(name: str, variable: str, text: str) -> Callable[[F], F]:
    kind = click.Path(dir_okay=False, exists=True, path_type=Path)
    return click.option(name, type=kind, envvar=variable, help=text)


def broker_options(function: F) -> F:
    """Like `site_options`, and how to reach the broker's management API."""

    @click.option("--url", envvar="GRIDMSG_URL", help="Management API of another broker.")
    @click.option("--login", envvar="GRIDMSG_LOGIN", default="guest", help="User name.")
    @click.option("--password", envvar="GRIDMSG_PASSWORD", default="guest", help="Password.")
    @_file_option("--ca", "GRIDMSG_CA", "Authorities to trust (https), in PEM.")
    @_file_option("--certificate", "GRIDMSG_CERTIFICATE", "Client certificate (https), in PEM.")
    @_file_option("--certificate-key", "GRIDMSG_CERTIFICATE_KEY", "Its private key, in PEM.")
    @site_options
    @functools.wraps(function)
    def wrapped(
        *arguments: Any,
        place: Place,
        url: str | None,
        login: str,
        password: str,
        ca: Path | None,
        certificate: Path | None,
        certificate_key: Path | None,
        **rest: Any,
    ) -> Any:
        tls = ClientTls(ca, certificate, certificate_key)
        reached = Place(place.data, place.config_file, place.port_offset, url, login, password, tls)
        return function(*arguments, place=reached, **rest)

    return wrapped  # type: ignore[return-value]


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


def say(text: str) -> None:
    """Print one line of output."""
    click.echo(text)


def warn(text: str) -> None:
    """Print one line to stderr."""
    click.echo(text, err=True)


def print_json(value: object) -> None:
    """Print a value as JSON, keys in the order they were made."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def print_rows(
    rows: Sequence[dict[str, Any]], columns: Sequence[str], as_json: bool, nothing: str
) -> None:
    """Print a table, or a JSON list; `nothing` is said when there are no rows."""
    if as_json:
        print_json([{column: row.get(column) for column in columns} for row in rows])
        return
    if not rows:
        say(nothing)
        return
    for line in table_lines(rows, columns):
        say(line)


def table_lines(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> Iterator[str]:
    """The lines of a table with aligned columns, numbers to the right."""
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    is_number = [
        all(isinstance(row.get(column), (int, float)) for row in rows) for column in columns
    ]
    widths = [
        max(len(column), *(len(row[index]) for row in cells))
        for index, column in enumerate(columns)
    ]
    for line in ([column.upper() for column in columns], *cells):
        parts = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, is_number, strict=True)
        ]
        yield "  ".join(parts).rstrip()


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False) if value else "-"
    return str(value)


def is_terminal() -> bool:
    """Whether progress may be drawn: on a terminal only."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


Advance = Callable[[int, "int | None"], None]
"""Called with how many are done, and the total if it is known by now."""


@contextmanager
def progress(title: str, total: int | None = None, every: int = 1000) -> Iterator[Advance]:
    """Show how far long work is: a bar on a terminal, a plain line every `every` steps otherwise."""
    if is_terminal():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

        with Progress(
            "{task.description}",
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        ) as bars:
            task = bars.add_task(title, total=total)

            def draw(done: int, known_total: int | None = None) -> None:
                bars.update(task, completed=done, total=known_total or total)

            yield draw
        return
    last = 0

    def line(done: int, known_total: int | None = None) -> None:
        nonlocal last
        if done // every > last // every:
            of = known_total or total
            warn(f"{title}: {done}" + (f" of {of}" if of else ""))
        last = done

    yield line


def expand(files: Iterable[Path]) -> list[Path]:
    """The files named, folders replaced by what is in them, in order."""
    found: list[Path] = []
    for file in files:
        if file.is_dir():
            found.extend(sorted(inner for inner in file.iterdir() if inner.is_file()))
        else:
            found.append(file)
    return found
