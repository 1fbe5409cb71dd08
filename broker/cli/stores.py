"""`gridmsg store`: look at a store on disk, without a broker and without changing anything.

Tests: tests/unit/broker/cli/test_stores.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from broker.cli.base import Failure, Place, json_option, print_json, say, site_options


@click.group()
def store() -> None:
    """The store of a stopped broker, on disk: read-only."""


@store.command(name="stat")
@site_options
@json_option
def store_stat(place: Place, as_json: bool) -> None:
    """Show what the store holds, as of its last checkpoint."""
    from store import inspect

    with _store_of(place) as folder:
        figures = inspect.stat(folder)
    if as_json:
        print_json(figures)
        return
    for key, value in figures.items():
        say(f"{key:<24}{_shown(value)}")


@store.command(name="verify")
@site_options
@json_option
def store_verify(place: Place, as_json: bool) -> int:
    """Check every checksum; each damage is named with file and offset.  Status 1 if there is any."""
    from store import inspect

    with _store_of(place) as folder:
        report = inspect.verify(folder)
    found = {
        "segments": report.segment_count,
        "batches": report.batch_count,
        "messages": report.message_count,
        "checkpoints": report.checkpoint_count,
        "damage": [
            {"file": str(one.path), "offset": one.offset, "reason": one.reason}
            for one in report.damage
        ],
    }
    if as_json:
        print_json(found)
    else:
        say(
            f"{report.segment_count} segments, {report.batch_count} batches, {report.message_count} messages, "
            f"{report.checkpoint_count} checkpoints"
        )
        for one in report.damage:
            say(str(one))
        say("damaged" if report.damage else "intact")
    return 1 if report.damage else 0


@store.command(name="dump")
@site_options
def store_dump(place: Place) -> None:
    """Print every intact batch as one line of JSON."""
    from store import inspect

    with _store_of(place) as folder:
        for batch in inspect.dump(folder):
            click.echo(json.dumps(batch, ensure_ascii=False, default=_plain))


@contextmanager
def _store_of(place: Place) -> Iterator[str]:
    """The store's folder; what is wrong with it becomes one line that says what to do."""
    from store.errors import StoreError

    folder: Path = place.config.broker_folder
    if not folder.is_dir():
        raise Failure(f"no store at {folder}: name the site's folder with --data")
    try:
        yield str(folder)
    except StoreError as error:
        raise Failure(str(error)) from None


def _plain(value: Any) -> Any:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def _shown(value: object) -> str:
    return json.dumps(value, default=str) if isinstance(value, (dict, list)) else str(value)
