"""The import rule of ARCHITECTURE.md: a module imports its own room or a lower rank."""

from __future__ import annotations

import pytest

from tests.support.source import imports, module_name, python_files, relative

RANKS = {
    "broker.errors": -1,
    "broker.clock": -1,
    "broker.metrics": -1,
    "broker.settings": -1,
    "broker.setting_types": -1,
    "store": 0,
    "broker.wire": 0,
    "broker.core": 1,
    "broker.session": 2,
    "broker.link": 2,
    "broker.standby": 2,
    "broker.net": 3,
    "broker.management": 3,
    "broker.config": 4,
    "broker.link_config": 4,
    "broker.sections": 4,
    "broker.server": 4,
    "broker.up": 4,
    "broker.cli": 4,
    "broker.__main__": 4,
    "broker": 4,
}
BELOW = {
    "broker.errors",
    "broker.clock",
    "broker.metrics",
    "broker.settings",
    "broker.setting_types",
}
WIRING = {"broker.cli", "broker.up", "broker.server", "broker.config", "broker.__main__"}
LIBRARIES = {
    "twisted": (
        "broker.net",
        "broker.management",
        "broker.listening",
        "broker.cli",
        "agents",
        "bench",
    ),
    "OpenSSL": ("broker.net", "broker.cli", "agents", "bench", "certs"),
    "cryptography": ("certs",),
    "msgpack": ("store.record", "broker.link", "agents"),
    "click": ("broker.cli", "agents.cli", "certs.cli", "bench"),
    "elasticsearch": ("agents.elastic",),
    "stomp": ("agents.session", "bench"),
    "pika": ("bench",),
}
FILES = python_files()


def room(module: str) -> str | None:
    """The room a module of ours belongs to, by the longest known prefix; None for other people's modules."""
    parts = module.split(".")
    for end in range(len(parts), 0, -1):
        name = ".".join(parts[:end])
        if name in RANKS or name in ("agents", "certs", "bench", "tests"):
            return name
    return None


def is_in(module: str, places: tuple[str, ...]) -> bool:
    return any(module == one or module.startswith((one + ".", one + "_")) for one in places)


def objection(importer: str, imported: str) -> str | None:
    """Why a module may not import another, or None."""
    mine, other = room(importer), room(imported)
    if other is None or mine == other:
        return None
    if mine == "bench":
        return None
    if other in ("bench", "tests"):
        return "nobody imports bench or tests"
    if mine == "agents":
        if is_in(importer, ("agents.cli",)) and other in (*WIRING, *BELOW):
            return None
        if other in ("broker.settings", "broker.wire", "broker.errors"):
            return None
        if imported.startswith("broker.net.tls"):
            return None  # knows nothing of the broker
        return "agents reach the broker through a socket only (broker.wire and broker.settings excepted)"
    if mine == "certs":
        return "certs stands alone"
    assert mine is not None, importer
    if other in ("agents", "certs"):
        return None if mine in ("broker.cli", "broker.up") else "only the command line loads agents"
    if mine == "store":
        return "the store imports nothing of the broker"
    if mine in BELOW:
        if other == "broker.errors" or (mine, other) == ("broker.settings", "broker.setting_types"):
            return None
        return f"{mine} lies below the rooms"
    if mine == "broker.core" and other == "store":
        return None if imported.startswith("store.interface") else "core sees store.interface only"
    if RANKS[mine] == 4 or RANKS[other] < RANKS[mine]:
        return None
    return f"rank {RANKS[mine]} may not import rank {RANKS[other]}"


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_a_module_imports_its_own_room_or_a_lower_rank(path):
    importer = module_name(path)
    wrong = [
        f"{relative(path)}:{line}: imports {imported}: {why}"
        for imported, line in imports(path)
        if (why := objection(importer, imported))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_libraries_stay_in_their_rooms(path):
    importer = module_name(path)
    wrong = [
        f"{relative(path)}:{line}: {library} belongs in {', '.join(LIBRARIES[library])}"
        for imported, line in imports(path)
        if (library := imported.split(".")[0]) in LIBRARIES
        and not is_in(importer, LIBRARIES[library])
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("broker.wire.stomp", "broker.core.queue"),
        ("broker.core.queue", "store.journal"),
        ("broker.core.queue", "broker.session.stomp"),
        ("broker.session.stomp", "broker.net.turn"),
        ("broker.net.turn", "broker.management.api"),
        ("broker.session.stomp", "broker.config"),
        ("store.journal", "broker.errors"),
        ("agents.database", "store.journal"),
        ("agents.database", "broker.core.queue"),
        ("broker.server", "agents.config"),
        ("broker.settings", "broker.clock"),
        ("broker.core.queue", "bench.loads"),
    ],
)
def test_the_rule_objects(importer, imported):
    assert objection(importer, imported) is not None


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("broker.core.queue", "store.interface"),
        ("broker.core.queue", "broker.errors"),
        ("broker.server", "store.journal"),
        ("agents.cli", "broker.cli.base"),
        ("broker.cli.site", "agents.config"),
        ("broker.net.turn", "broker.session.base"),
    ],
)
def test_the_rule_allows(importer, imported):
    assert objection(importer, imported) is None
