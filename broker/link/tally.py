"""What the receiving end of a stream counts, whatever the far side speaks: shown by status, API and metrics.

Tests: tests/unit/broker/link/test_session.py, tests/interop/test_foreign_links.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.link.settings import Stream


class Tally:
    """The counts of one received stream, since its connection came up.

    Messages: `applied_count` published here; of the others, `repeat_count` came before on this link, `second_copy_count` by
    another path, `circled_count` from here; `unroutable_count` and `refused_count` found no queue, or none that took them;
    `unknown_count` may be doubled.  `behind`: how many sequences below the highest of its origin the latest message came
    (exchange streams between ours; the window of `trace` is the bound).  `refusal`: why the stream cannot go on, empty while it can.
    """

    def __init__(self, number: int, stream: Stream) -> None:
        self.number = number
        self.stream = stream
        self.name = stream.name
        self.applied_count = 0
        self.applied_bytes = 0
        self.repeat_count = 0
        self.second_copy_count = 0
        self.circled_count = 0
        self.unroutable_count = 0
        self.refused_count = 0
        self.unknown_count = 0
        self.behind = 0
        self.refusal = ""
