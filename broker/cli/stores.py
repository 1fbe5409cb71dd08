"""`gridmsg store`: look at a store on disk, without a broker; only `salvage` changes anything.

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

HIDDEN = "(hidden)"


@click.group()
def store() -> None:
    """The store of a stopped broker, on disk: all but `salvage` only read."""


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
    """Print every intact batch as one line of JSON; what a password is known by is left out."""
    from store import inspect

    with _store_of(place) as folder:
        for batch in inspect.dump(folder):
            click.echo(json.dumps(_without_passwords(batch), ensure_ascii=False, default=_plain))


@store.command(name="salvage")
@site_options
@json_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def store_salvage(place: Place, as_json: bool, yes: bool) -> int:
    """Make a sound store of what is intact in a damaged one; the old files go to `quarantine`.

    Needs as much free space as the messages take.  Without an intact checkpoint acknowledged messages may come
    back.  Status 1 if anything is lost.
    """
    from store import salvage

    with _store_of(place) as folder:
        if not yes:
            click.confirm(f"Rebuild the store in {folder}?", abort=True)
        found = salvage.salvage(folder, settings=place.config.store_settings())
    lost = [
        {
            "lane": one.lane,
            "queue": found.lane_names.get(one.lane, ""),
            "first": one.first,
            "last": one.last,
            "messages": one.count,
            "file": one.path,
            "reason": one.reason,
        }
        for one in found.losses
    ]
    rows = {
        "messages": found.message_count,
        "definitions": found.definition_count,
        "from_checkpoint": found.has_checkpoint,
        "quarantine": found.quarantine,
        "damage": [str(one) for one in found.damage],
        "missing_batches": [list(one) for one in found.missing_batches],
        "lost": lost,
    }
    if as_json:
        print_json(rows)
    else:
        _tell_salvaged(rows, lost)
    return 1 if lost or found.missing_batches else 0


def _tell_salvaged(rows: dict[str, Any], lost: list[dict[str, Any]]) -> None:
    for text in rows["damage"]:
        say(f"damaged: {text}")
    for first, last in rows["missing_batches"]:
        say(f"batches {first} to {last} are missing: what they said is not known")
    for one in lost:
        say(
            f"lost: {one['messages']} messages of lane {one['lane']} {one['queue']}, "
            f"positions {one['first']} to {one['last']}: {one['file']}: {one['reason']}"
        )
    say(f"saved {rows['messages']} messages and {rows['definitions']} definitions")
    if not rows["from_checkpoint"]:
        say("no checkpoint was intact: messages that were acknowledged may have come back")
    say(f"the old files are in {rows['quarantine']}")


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


def _without_passwords(value: Any) -> Any:
    """The value with the hashes of users' passwords hidden: a dump is shown around."""
    if isinstance(value, dict):
        return {
            key: HIDDEN if key == "password" and one else _without_passwords(one)
            for key, one in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_without_passwords(one) for one in value]
    return value


def _plain(value: Any) -> Any:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def _shown(value: object) -> str:
    return json.dumps(value, default=str) if isinstance(value, (dict, list)) else str(value)
