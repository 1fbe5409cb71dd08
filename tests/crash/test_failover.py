"""Failover with real processes under load: no confirmed message lost, never two confirming owners, no human act.

GRIDMSG_FAILOVERS sets the length of the long run (11 by default, one of each kind; the promise is held at 200), GRIDMSG_SEED its
seed, GRIDMSG_LEASE_S its lease, GRIDMSG_STORED the backlog of the take-over that is timed.  Limits of time are for a quiet machine: tests/support/quiet.py.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broker.failover import GRACE_SECONDS
from tests.support.failover import Node, Pair, Stomp, fill, first_delivery_seconds
from tests.support.failover_faults import Faults, can_unshare, imitate_hangs
from tests.support.failover_load import Load, assert_one_owner_at_a_time
from tests.support.quiet import Stopwatch
from tests.support.waiting import wait_until

# Their clocks want a quiet machine: `make slow` runs them.
pytestmark = [pytest.mark.crash, pytest.mark.slow]

FAILOVERS = int(os.environ.get("GRIDMSG_FAILOVERS", "11"))
LEASE_S = float(os.environ.get("GRIDMSG_LEASE_S", "1.0"))
SAME_HOST = f'[failover]\nlease = "{LEASE_S}s"\n'
LONG_LEASE = '[failover]\nlease = "5s"\n'
OTHER_HOST = f'[failover]\nlease = "{LEASE_S}s"\nprove-death = false\n'
CHATTR = shutil.which("chattr")


@pytest.fixture
def locker_config() -> str:
    """Lines of [failover] beyond the lease; test_failover_postgresql.py has another."""
    return ""


@pytest.fixture
def make_pair(tmp_path: Path, locker_config: str) -> Iterator:
    made: list[Pair] = []

    def make(config: str) -> Pair:
        pair = Pair(tmp_path, config + locker_config)
        made.append(pair)
        pair.start()
        return pair

    yield make
    for pair in made:
        pair.close()


def test_after_kill_9_on_the_same_host_the_standby_delivers_within_a_second(make_pair):
    pair = make_pair(LONG_LEASE)
    load = Load(pair)
    victim = pair.active()
    heir = pair.other(victim)
    assert not heir.listens(), "a standby must not listen for clients"
    health = heir.health()
    assert health["active"]["pid"] == victim.process.pid and health["epoch"] == 1
    watch = Stopwatch(heir.process.pid)
    victim.kill()
    seconds = first_delivery_seconds(heir.stomp, watch.started_at)
    text = f"{seconds:.3f} s after kill -9 ({watch.waited_seconds():.3f} s waiting for a processor)"
    load.wait_for_confirms()
    confirmed = load.account()
    assert_one_owner_at_a_time(load, 1)
    print(f"first delivery {text}, {confirmed} confirmed")
    watch.judge(seconds, 1.0)


def test_a_silent_host_is_followed_within_lease_and_a_second(make_pair):
    pair = make_pair(OTHER_HOST)
    load = Load(pair)
    victim = pair.active()
    heir = pair.other(victim)
    watch = Stopwatch(heir.process.pid)
    victim.kill()
    seconds = first_delivery_seconds(heir.stomp, watch.started_at)
    load.account()
    print(f"first delivery {seconds:.3f} s after the host's last sign of life, lease {LEASE_S} s")
    watch.judge(seconds, LEASE_S + 1.0)


def test_a_stopped_owner_that_wakes_up_after_the_take_over_promises_nothing_and_stands_by(
    make_pair,
):
    pair = make_pair(SAME_HOST)
    load = Load(pair)
    victim = pair.active()
    heir = pair.other(victim)
    victim.send_signal(signal.SIGSTOP)
    pair.wait_for_role(heir, "active")
    load.wait_for_confirms()
    victim.send_signal(signal.SIGCONT)
    pair.wait_for_role(victim, "standby")
    assert not victim.listens()
    load.wait_for_confirms()
    load.account()
    assert_one_owner_at_a_time(load, 1)


def test_a_clean_stop_hands_over_at_once(make_pair):
    pair = make_pair(OTHER_HOST)
    load = Load(pair)
    victim = pair.active()
    heir = pair.other(victim)
    since = time.monotonic()
    victim.send_signal(signal.SIGTERM)
    assert victim.process.wait(30) == 0
    watch = Stopwatch(heir.process.pid)
    seconds = first_delivery_seconds(heir.stomp, watch.started_at)
    load.account()
    print(f"stopped after {watch.started_at - since:.3f} s, first delivery {seconds:.3f} s later")
    watch.judge(seconds, 1.0)


@pytest.mark.skipif(CHATTR is None, reason="chattr is missing (Debian: apt-get install e2fsprogs)")
def test_an_owner_whose_lease_became_unwritable_is_followed(make_pair):
    pair = make_pair(SAME_HOST)
    load = Load(pair)
    pair.active()
    lease = pair.lease_files()[-1]
    made = subprocess.run([CHATTR, "+i", str(lease)], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("this file system or user cannot make a file immutable (needs root and ext4)")
    try:
        # By the other, or by itself under a new epoch, which is another file.
        wait_until(lambda: pair.lease_files()[-1] != lease, "a claim after the fence")
        load.wait_for_confirms()
    finally:
        subprocess.run([CHATTR, "-i", str(lease)], check=True)
    load.account()
    assert_one_owner_at_a_time(load, 1)


def test_a_lock_left_by_a_foreign_process_holds_nobody_up(make_pair):
    pair = make_pair(SAME_HOST)
    load = Load(pair)
    with contextlib.ExitStack() as held:
        for path in [*pair.lease_files(), *(pair.data / "broker").rglob("*.seg")]:
            file = held.enter_context(path.open("r+b"))
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        victim = pair.active()
        victim.kill()
        pair.wait_for_role(pair.other(victim), "active")
        load.wait_for_confirms()
        load.account()


@pytest.mark.parametrize("left", [b"", b"gridmsg-lease 1\nepoch 1\nclaim", bytes(5120)])
def test_a_torn_lease_file_needs_nobody(make_pair, left):
    pair = make_pair(SAME_HOST)
    load = Load(pair)
    victim = pair.active()
    heir = pair.other(victim)
    watch = Stopwatch(heir.process.pid)
    victim.kill()
    pair.lease_files()[-1].write_bytes(left)
    seconds = first_delivery_seconds(heir.stomp, watch.started_at)
    load.account()
    watch.judge(seconds, LEASE_S + 1.0)


def test_a_half_written_renewal_leaves_the_proof_of_death_readable(make_pair):
    pair = make_pair(LONG_LEASE)
    victim = pair.active()
    heir = pair.other(victim)
    load = Load(pair)
    watch = Stopwatch(heir.process.pid)
    victim.send_signal(signal.SIGSTOP)
    with pair.lease_files()[-1].open("r+b") as file:
        file.seek(4096 + 30)
        file.write(b"\0" * 100)
    victim.kill()
    seconds = first_delivery_seconds(heir.stomp, watch.started_at)
    load.account()
    watch.judge(seconds, 1.0)


@pytest.mark.skipif(
    not can_unshare("--pid", "--fork", "--mount-proc"),
    reason="needs the right to make pid namespaces (root, unshare of util-linux)",
)
def test_another_containers_process_table_proves_nothing(tmp_path):
    """Trap 10: two pid namespaces, one kernel and boot id; the owner's number is another's, or nobody's."""
    pair = Pair(tmp_path, LONG_LEASE)
    for node in pair.nodes:
        node.prefix = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    try:
        pair.start()
        load = Load(pair)
        victim, heir = pair.active(), pair.other(pair.active())
        time.sleep(2.0)
        health = heir.health()
        assert (health["role"], health["active"]["pid"]) == ("standby", 1), "both are process 1"
        assert len(pair.lease_files()) == 1
        watch = Stopwatch(heir.process.pid)
        victim.kill()
        seconds = first_delivery_seconds(heir.stomp, watch.started_at)
        assert seconds > 2.0, "nothing proved that death"
        load.account()
        print(f"first delivery {seconds:.3f} s after kill -9 in another container, lease 5 s")
        watch.judge(seconds, 6.0)
    finally:
        pair.close()


def test_both_brokers_tell_from_outside_what_they_are(make_pair):
    pair = make_pair(LONG_LEASE)
    victim = pair.active()
    heir = pair.other(victim)
    pid, heir_pid = victim.process.pid, heir.process.pid
    assert victim.get("/health/ready")[0] == 200
    status, text = heir.get("/health/ready")
    told = json.loads(text)
    assert (status, told["role"], told["active"]["pid"], told["epoch"]) == (503, "standby", pid, 1)
    assert told["renewed_seconds_ago"] < 5.0 and heir.get("/health/live")[0] == 200
    assert {"gridmsg_up 0", "gridmsg_standby 1", "gridmsg_epoch 1"} <= set(
        heir.get("/metrics")[1].splitlines()
    )
    assert "gridmsg_up 1" in victim.get("/metrics")[1].splitlines()
    assert f"active, epoch 1, process {pid}," in victim.status()
    page = heir.status()
    assert f"standby, epoch 1, process {heir_pid}," in page and f"for process {pid} on" in page
    victim.kill()
    pair.wait_for_role(heir, "active")
    assert heir.get("/health/ready")[0] == 200
    assert f"active, epoch 2, process {heir_pid}," in heir.status()
    metrics = heir.get("/metrics")[1].splitlines()
    assert "gridmsg_up 1" in metrics and "gridmsg_epoch 2" in metrics
    # Nobody answers there any more: the store's folder tells.
    assert f"epoch 2 is owned by process {heir_pid}" in victim.status()


@pytest.mark.parametrize(
    ("kind", "limit_s"), [("hung disk", LEASE_S), ("hung reactor", LEASE_S + GRACE_SECONDS + 1.0)]
)
def test_a_process_that_hangs_past_the_lease_ends_itself(tmp_path, kind, limit_s):
    """Its sockets go first: clients are not held by a broker that can promise nothing.

    Trap 11: with the reactor hung, the renewing thread is well.
    """
    pair = Pair(tmp_path, OTHER_HOST)
    imitate_hangs(pair, tmp_path)
    try:
        pair.start()
        load = Load(pair)
        victim = pair.active()
        client = Stomp(victim.stomp, timeout_s=limit_s + 1.0)
        watch = Stopwatch(victim.process.pid)
        with Faults(pair, random.Random(0)).kinds[kind](victim):
            with pytest.raises(ConnectionError):
                client.frame()
            closed = time.monotonic() - watch.started_at
            watch.judge(closed, limit_s)
            pair.wait_for_role(pair.other(victim), "active")
        load.wait_for_confirms()
        load.account()
        print(f"{kind}: sockets closed after {closed:.2f} s, lease {LEASE_S} s")
    finally:
        pair.close()


def judge_take_over(pair: Pair, victim: Node, end: Callable[[], None], limit_s: float) -> None:
    """Have the other broker take over from one that has GRIDMSG_STORED messages of 256 B in one queue (20,000 by default)."""
    stored = int(os.environ.get("GRIDMSG_STORED", "20000"))
    heir = pair.other(victim)
    fill(victim.stomp, stored, b"x" * 256)
    watch = Stopwatch(heir.process.pid)
    end()
    seconds = first_delivery_seconds(heir.stomp, watch.started_at)
    text = f"({watch.waited_seconds():.3f} s waiting for a processor)"
    print(f"first delivery {seconds:.3f} s after the owner's end {text} with {stored} stored")
    watch.judge(seconds, limit_s)


def test_the_time_of_a_take_over_does_not_grow_with_the_store(make_pair):
    pair = make_pair(LONG_LEASE)
    victim = pair.active()
    judge_take_over(pair, victim, victim.kill, 1.0)


def test_the_time_of_a_take_over_from_a_silent_owner_does_not_grow_with_the_store(make_pair):
    """Nothing can be proved of the owner: the lease is waited for."""
    pair = make_pair(OTHER_HOST)
    victim = pair.active()
    try:
        judge_take_over(pair, victim, lambda: victim.send_signal(signal.SIGSTOP), LEASE_S + 1.0)
    finally:
        victim.send_signal(signal.SIGCONT)


def test_failovers_in_a_row_lose_nothing_confirmed(tmp_path, locker_config):
    """Every kind of fault of tests/support/failover_faults.py, again and again, in the order of the seed."""
    seed = int(os.environ.get("GRIDMSG_SEED", str(random.randrange(1 << 30))))
    dice = random.Random(seed)
    pair = Pair(tmp_path, SAME_HOST + locker_config, is_mounted=can_unshare("-m"))
    imitate_hangs(pair, tmp_path)
    faults = Faults(pair, dice)
    gaps: dict[str, list[float]] = {}
    try:
        pair.start()
        load = Load(pair, has_consumer=True)
        pair.is_kept = True
        for kind in faults.order(FAILOVERS):
            victim, heir = pair.roles()
            load.wait_for_confirms(5)
            time.sleep(dice.random() * 0.2)
            since = time.monotonic()
            with faults.kinds[kind](victim):
                pair.active(besides=victim)
                gaps.setdefault(kind, []).append(load.wait_for_delivery(heir.stomp, since))
        pair.roles()
        confirmed = load.account()
        # On a machine too busy to renew in a second there are more ownerships than failovers we caused.
        epochs = int(pair.lease_files()[-1].name.removeprefix("epoch-"))
        assert_one_owner_at_a_time(load, epochs - 1)
    except BaseException:
        print(f"seed {seed}, after { ({k: len(v) for k, v in gaps.items()}) }")
        raise
    finally:
        pair.close()
    tally = "; ".join(
        f"{kind} {len(rows)} ({statistics.median(rows):.2f} s, at most {max(rows):.2f} s)"
        for kind, rows in sorted(gaps.items())
    )
    print(
        f"seed {seed}: {FAILOVERS} failovers, lease {LEASE_S:g} s, {epochs} epochs, {confirmed} confirmed, "
        f"{len(load.consumer.confirmed)} acknowledged, none lost or back; to the next delivery: {tally}"
    )
