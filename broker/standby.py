"""Whether this process serves: STANDBY → RECOVERING → ACTIVE → FENCED → STANDBY, as a pure state machine.

Time, chance and what was seen of the lease come as arguments; looking, claiming, opening and closing sockets are others'
work.  A claim that finds damage is not repeated without a person.  Design: docs/failover.md.
Tests: tests/unit/broker/test_standby.py, tests/sim/test_lease.py.
"""

from __future__ import annotations

import enum
from typing import Any, Final, final

from store.lease.block import Block
from store.lease.watch import Sight, Verdict, Watch

LOOK_SECONDS: Final = 0.1
"""Between two looks at the lease of the active broker; the protocol wants at most 0.25 s."""
PAUSE_SECONDS_MIN: Final = 0.5
PAUSE_SECONDS_MAX: Final = 30.0


class Phase(enum.Enum):
    """What this process is."""

    STANDBY = "standby"
    RECOVERING = "recovering"
    ACTIVE = "active"
    FENCED = "fenced"


_NEXT: Final = {
    Phase.STANDBY: (Phase.RECOVERING,),
    Phase.RECOVERING: (Phase.ACTIVE, Phase.FENCED, Phase.STANDBY),
    Phase.ACTIVE: (Phase.FENCED,),
    Phase.FENCED: (Phase.STANDBY,),
}


@final
class Standby:
    """The part of one process in the failover of a store."""

    __slots__ = (
        "_drift",
        "_duration_seconds",
        "_pause_seconds",
        "_quiet_until",
        "_sight",
        "_watch",
        "epoch",
        "is_barred",
        "phase",
        "reason",
        "verdict",
    )

    def __init__(self, duration_seconds: float, drift: float) -> None:
        self._duration_seconds = duration_seconds
        self._drift = drift
        self._watch = Watch(duration_seconds, drift)
        self._sight: Sight | None = None
        self._pause_seconds = PAUSE_SECONDS_MIN
        self._quiet_until = 0.0
        self.phase = Phase.STANDBY
        self.verdict = Verdict.HELD
        self.epoch = 0
        self.reason = ""
        self.is_barred = False

    def _turn_to(self, phase: Phase, reason: str) -> None:
        assert phase in _NEXT[self.phase], f"{self.phase} does not become {phase}"
        self.phase = phase
        self.reason = reason

    def saw(self, sight: Sight, now: float) -> bool:
        """Take in a look at the lease; True: claim it now."""
        assert self.phase is Phase.STANDBY, "only a standby looks"
        self._sight = sight
        self.verdict = self._watch.judge(sight)
        self.reason = "" if not self.is_barred else self.reason
        return self.verdict.is_claimable and not self.is_barred and now >= self._quiet_until

    def missed(self, reason: str) -> None:
        """A look or a claim did not succeed; the next one comes as usual."""
        self.reason = reason

    def won(self, epoch: int) -> None:
        """The claim is ours."""
        self._turn_to(Phase.RECOVERING, "")
        self.epoch = epoch

    def opened(self) -> None:
        """The store is open and clients may come."""
        self._turn_to(Phase.ACTIVE, "")
        self._pause_seconds = PAUSE_SECONDS_MIN

    def gave_up(self, reason: str, now: float, is_damage: bool) -> None:
        """The store could not be opened and the lease was released: wait longer each time, after damage for ever."""
        self._turn_to(Phase.STANDBY, reason)
        self._watch = Watch(self._duration_seconds, self._drift)
        self.is_barred = self.is_barred or is_damage
        self._quiet_until = now + self._pause_seconds
        self._pause_seconds = min(self._pause_seconds * 2, PAUSE_SECONDS_MAX)

    def fenced(self, reason: str) -> None:
        """The guard is closed: sockets go first."""
        self._turn_to(Phase.FENCED, reason)

    def let_go(self) -> None:
        """Nothing is open any more, to the outside or in the store."""
        self._turn_to(Phase.STANDBY, self.reason)
        self._watch = Watch(self._duration_seconds, self._drift)
        self._sight = None

    def describe(self, now: float) -> dict[str, Any]:
        """What health, status and metrics tell of a process that is not active."""
        block: Block | None = self._sight.block if self._sight is not None else None
        described: dict[str, Any] = {
            "role": self.phase.value,
            "epoch": self._sight.epoch if self._sight is not None else self.epoch,
            "reason": self.reason,
            "is_barred": self.is_barred,
            "verdict": self.verdict.value,
            "renewed_seconds_ago": None,
            "active": None,
        }
        if block is not None:
            described["renewed_seconds_ago"] = round(max(0.0, now - self._watch.since), 2)
            described["active"] = {
                "host": block.owner.host,
                "pid": block.owner.pid,
                "addresses": block.addresses,
                "lease_seconds": block.duration_seconds,
                "is_released": block.is_released,
            }
        return described
