"""What an AMQP connection promised and may not say before the disk has it: confirms, and one held reply.

Confirms queue up by commit; the held reply stops the connection's input, so there is never a second one.
Tests: tests/unit/broker/session/test_amqp_channel.py.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from broker.session.amqp_channel import AmqpChannel


@final
class Promises:
    """The promises of one connection.

    `confirming`: channels with publishes of this turn to confirm.  `held_reply`: the frame that waits, or None.
    """

    __slots__ = ("_held_commit", "_waiting", "confirming", "held_reply")

    def __init__(self) -> None:
        self.confirming: dict[AmqpChannel, None] = {}
        self.held_reply: bytes | None = None
        self._held_commit: int | None = None
        self._waiting: deque[tuple[int, list[tuple[AmqpChannel, int]]]] = deque()

    def note(self, commit: int) -> bool:
        """What was promised in this turn is in that commit; True if anything was."""
        is_new = False
        if self.confirming:
            promised = [(channel, channel.promised_seq) for channel in self.confirming]
            self._waiting.append((commit, promised))
            self.confirming.clear()
            is_new = True
        if self.held_reply is not None and self._held_commit is None:
            self._held_commit = commit
            is_new = True
        return is_new

    def release(self, commit: int) -> bytes | None:
        """Confirm what is in commits up to this one, once a channel; return the held reply if it may go."""
        waiting = self._waiting
        if waiting:
            seqs: dict[AmqpChannel, int] = {}
            while waiting and waiting[0][0] <= commit:
                seqs.update(waiting.popleft()[1])
            for channel, seq in seqs.items():
                channel.confirm(seq)
        if self._held_commit is None or self._held_commit > commit:
            return None
        reply = self.held_reply
        self.held_reply = None
        self._held_commit = None
        return reply

    def forget(self) -> None:
        """The connection ends: nothing more is promised."""
        self.confirming.clear()
        self.held_reply = None
        self._held_commit = None
        self._waiting.clear()
