"""For all tests: hypothesis without a stopwatch, pika with patience, and the list of what could not run at the end."""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict

import pytest
from hypothesis import HealthCheck, settings

from tests.support.waiting import PATIENCE_SECONDS

# Two shared cores: a slow example says nothing about the code.  `make test`, and so CI, gives the same examples each
# time, as it gives the same order: what nobody changed does not fail.  All others draw new ones.
settings.register_profile(
    "gridmsg",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
    derandomize=os.environ.get("GRIDMSG_SAME_EXAMPLES") == "1",
)
settings.load_profile("gridmsg")

with contextlib.suppress(ImportError):
    # pika gives a broker 10 seconds to answer, which a busy machine may take.
    from pika.connection import Parameters

    Parameters.DEFAULT_SOCKET_TIMEOUT = PATIENCE_SECONDS
    Parameters.DEFAULT_STACK_TIMEOUT = PATIENCE_SECONDS


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name what was skipped, with the reason, which says what would provide it."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for report in terminalreporter.stats.get("skipped", []):
        where = report.longrepr
        reason = where[2] if isinstance(where, tuple) else str(where)
        reasons[reason.removeprefix("Skipped: ")].append(report.nodeid)
    if not reasons:
        return
    terminalreporter.section("not run here")
    for reason, names in sorted(reasons.items()):
        terminalreporter.write_line(f"{reason}")
        for name in sorted(names)[:20]:
            terminalreporter.write_line(f"    {name}")
        if len(names) > 20:
            terminalreporter.write_line(f"    … and {len(names) - 20} more")
