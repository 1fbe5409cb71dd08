"""For all tests: hypothesis without a stopwatch, and the list of what could not run at the end."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import HealthCheck, settings

# Two shared cores: a slow example says nothing about the code.
settings.register_profile(
    "gridmsg", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("gridmsg")


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
