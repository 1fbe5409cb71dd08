"""The lease protocol under seeded histories: contenders on several hosts, paused, killed, suspended, cut off, with torn leases.

The contenders run the real code of store/lease and broker/standby.py.  GRIDMSG_LEASE_SEEDS="first:count" or "count" sets the seeds
(short by default); a failure names its seed, and `run_history(seed, RULES[seed % len(RULES)])` replays it.  Tests named after the known traps
show that the judge finds each one when the rule against it is off.
"""

from __future__ import annotations

import pytest

from tests.support.lease_world import Broken, Rules, run_history
from tests.support.seeds import no_logs, seeds

SEEDS = seeds("GRIDMSG_LEASE_SEEDS", 150)
FAIR = ("kill", "stop", "suspend", "unwritable", "handover", "reboot", "hang", "blip", "slow")

RULES = (
    Rules(),
    Rules(lag_seconds=0.3),
    Rules(stale_seconds=0.2, drift=0.05),
    # Either fence alone: the clock's, among claimants that keep the protocol.
    Rules(has_lookup=False, faults=FAIR),
    Rules(drift=0.15),
    Rules(has_lookup=False, drift=0.15, faults=("stop", "suspend", "blip", "slow")),
    Rules(has_lookup=False, stale_seconds=0.3, faults=("blip", "slow", "stop")),
)


@no_logs()
def test_one_owner_nothing_lost_always_a_successor():
    """One confirming owner at a time; what was confirmed is in the history; in bounded time somebody serves."""
    tally: dict[str, int] = {}
    ownerships = confirmed = events = 0
    for seed in SEEDS:
        arena = run_history(seed, RULES[seed % len(RULES)])
        for kind, count in arena.tally.items():
            tally[kind] = tally.get(kind, 0) + count
        ownerships += len(arena.history.served)
        confirmed += len(arena.history.confirmed)
        events += arena.world.event_count
        tally["tidied file"] = tally.get("tidied file", 0) + arena.tidied_count
        tally["late link"] = tally.get("late link", 0) + arena.server.late_count
    print(
        f"seeds {SEEDS[0]} to {SEEDS[-1]}: {ownerships} ownerships, {confirmed} confirmed items, {events} events; faults "
        + ", ".join(f"{kind} {count}" for kind, count in sorted(tally.items()))
    )
    assert ownerships > 2 * len(SEEDS) and confirmed > 10 * len(SEEDS)


def test_a_seed_replays_its_history():
    first, again = run_history(7), run_history(7)
    assert first.history.confirmed == again.history.confirmed
    assert first.history.served == again.history.served


TRAPS = {
    "1: a renewal hangs, returns after the take-over, revives the right": (
        Rules(has_return_check=False, faults=("stop", "suspend")),
        60,
    ),
    "2: margin below V, the contender missed the last renewal": (
        Rules(
            has_margin=False, stale_seconds=0.3, has_lookup=False, faults=("blip", "blip", "stop")
        ),
        400,
    ),
    "3: suspended past D, the clock says that no time has passed": (
        Rules(has_boot_clock=False, faults=("suspend",)),
        60,
    ),
    "10: no such pid here, or another boot id under the same name": (
        Rules(proves_namespace=False),
        20,
    ),
    "11: reactor hung, renewing thread well": (Rules(wants_beats=False, faults=("hang",)), 60),
    "a claimer that lists anew takes the epoch after a fresh owner's": (
        Rules(claims_what_was_judged=False, lag_seconds=0.3, faults=("kill", "stop")),
        400,
    ),
}


@pytest.mark.parametrize("trap", TRAPS)
@no_logs()
def test_with_the_rule_off_the_judge_finds_trap(trap):
    rules, count = TRAPS[trap]
    for seed in range(count):
        try:
            run_history(seed, rules)
        except Broken:
            return
    pytest.fail(f"no history of {count} showed the trap")
