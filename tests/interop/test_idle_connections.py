"""What an idle connection costs a real broker: at most 15 kB with STOMP, and no more with AMQP and one channel open.

By default 400 connections; with GRIDMSG_SLOW=1 9,000, as far as this process may open so many files.
"""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.broker_process import memory_bytes
from bench.connections import Amqp, Stomp, open_all
from tests.support.site import Site, is_slow_wanted

pytestmark = pytest.mark.interop

BYTES_MAX = 15_000
IDLE_BROKER_BYTES_MAX = 80_000_000
SLACK_BYTES = 1_000_000
"""What a few hundred connections do not share: growth of the broker's own tables."""
BATCH = 100


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    try:
        made.start_broker()
        yield made
    finally:
        made.close()


@pytest.mark.parametrize(
    ("port", "protocol"), [(61613, Stomp()), (5672, Amqp())], ids=["STOMP", "AMQP"]
)
def test_an_idle_connection_is_small(site: Site, port: int, protocol: Stomp | Amqp) -> None:
    count = 9000 if is_slow_wanted() else 400
    files_max = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files_max < count + BATCH:
        pytest.skip(f"{count} connections take more than {files_max} open files; raise `ulimit -n`")
    pid = site.processes["broker run"].pid
    with contextlib.ExitStack() as stack:
        before_bytes = 0
        # The first ones load what all share.
        for at in range(0, count + BATCH, BATCH):
            for peer in open_all(site.port(port), protocol, BATCH):
                stack.enter_context(peer)
            before_bytes = before_bytes or memory_bytes(pid)[0]
            assert at or before_bytes <= IDLE_BROKER_BYTES_MAX
        grown_bytes = memory_bytes(pid)[0] - before_bytes
        print(f"{grown_bytes / count:.0f} bytes a connection")
        assert grown_bytes <= count * BYTES_MAX + SLACK_BYTES
