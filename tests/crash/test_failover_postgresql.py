"""The failover tests again, with the lease in a row of a real PostgreSQL server, started here in a temporary folder.

Skipped by name where the server or psycopg is missing: apt-get install postgresql; pip install "psycopg[binary]".
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.test_failover import (
    SAME_HOST,
    make_pair,  # noqa: F401 - a fixture
    test_a_clean_stop_hands_over_at_once,  # noqa: F401
    test_a_lock_left_by_a_foreign_process_holds_nobody_up,  # noqa: F401
    test_a_silent_host_is_followed_within_lease_and_a_second,  # noqa: F401
    test_a_stopped_owner_that_wakes_up_after_the_take_over_promises_nothing_and_stands_by,  # noqa: F401
    test_a_torn_lease_file_needs_nobody,  # noqa: F401
    test_after_kill_9_on_the_same_host_the_standby_delivers_within_a_second,  # noqa: F401
    test_an_owner_whose_lease_became_unwritable_is_followed,  # noqa: F401
    test_failovers_in_a_row_lose_nothing_confirmed,  # noqa: F401
)
from tests.support.failover_load import Load
from tests.support.ports import free_port
from tests.support.waiting import wait_until

pytest.importorskip("psycopg", reason='psycopg is missing: pip install "psycopg[binary]"')
BIN = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.crash,
    pytest.mark.skipif(BIN is None, reason="no PostgreSQL server: apt-get install postgresql"),
]


def unprivileged() -> dict[str, object]:
    """The server refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    pytest.skip("no user to run PostgreSQL as")


class Postgresql:
    """A server of our own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.who = unprivileged()
        if self.who:
            os.chown(folder, self.who["user"], self.who["group"])
        self.port = free_port()
        self.run("initdb", "-D", f"{folder}/db", "-U", "postgres", "-A", "trust", "--no-sync")
        self.start()

    def run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [str(BIN / program), *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self.folder,
            **self.who,
        )

    def start(self) -> None:
        """Start it as our own child, so that it ends with us, and wait until it answers."""
        arguments = ["-D", f"{self.folder}/db", "-p", str(self.port), "-k", str(self.folder)]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(BIN / "postgres"), *arguments, "-c", "listen_addresses=127.0.0.1"],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                **self.who,
            )
        ask = [str(BIN / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]

        def answers() -> bool:
            assert self.process.poll() is None, (self.folder / "log").read_text()
            return not subprocess.run(ask, check=False).returncode

        wait_until(answers, "PostgreSQL")

    def stop(self) -> None:
        """Fast shutdown: sessions are ended."""
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="module")
def server() -> Iterator[Postgresql]:
    # Below the system's temporary folder: pytest's own cannot be entered by another user.
    folder = Path(tempfile.mkdtemp(prefix="gridmsg-pg-"))
    made = Postgresql(folder)
    yield made
    made.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def locker_config(server: Postgresql, request: pytest.FixtureRequest) -> str:
    address = f"host=127.0.0.1 port={server.port} user=postgres dbname=postgres"
    name = request.node.name[:150].replace('"', "").replace("\\", "")
    return f'locker = "postgresql"\npostgresql = "{address}"\nname = "{name}"\n'


def test_a_database_that_restarts_within_the_lease_moves_nothing(make_pair, server):  # noqa: F811
    pair = make_pair(SAME_HOST.replace("1.0s", "6s"))
    load = Load(pair)
    before = pair.active()
    server.stop()
    server.start()
    load.wait_for_confirms(200)
    assert pair.active() is before
    load.account()


def test_without_the_database_nobody_owns_and_with_it_somebody_does_again(make_pair, server):  # noqa: F811
    pair = make_pair(SAME_HOST)
    load = Load(pair)
    server.stop()
    try:
        gone = "no listener of an owner without a lease"
        wait_until(lambda: not any(node.listens() for node in pair.nodes), gone, pair)
    finally:
        server.start()
    pair.active()
    load.wait_for_confirms()
    load.account()
