from __future__ import annotations

import pytest

from bench.lab import topology
from broker.errors import ConfigError

THREE = """
[[path]]
between = ["cern", "zagreb"]
round-trip = "63ms"
[[path]]
between = ["zagreb", "lyon"]
round-trip = "20ms"
[[channel]]
from = "cern"
to = ["zagreb", "lyon"]
rate = 500
"""


def test_ten_lines_are_a_topology_of_three_brokers():
    assert len(THREE.strip().splitlines()) == 10
    found = topology.parse(THREE)
    assert found.brokers == ["cern", "zagreb", "lyon"]
    assert found.paths["cern--zagreb"].line.delay_ns == 31_500_000
    (channel,) = found.channels
    assert (channel.name, channel.targets, channel.rate) == ("channel-1", ("zagreb", "lyon"), 500)


@pytest.mark.parametrize(
    ("shape", "pairs"),
    [
        ("chain", "a--b b--c c--d"),
        ("ring", "a--b b--c c--d d--a"),
        ("star", "a--b a--c a--d"),
        ("mesh", "a--b a--c a--d b--c b--d c--d"),
    ],
)
def test_shapes(shape, pairs):
    text = f'[[path]]\nbetween = ["a", "b", "c", "d"]\nshape = "{shape}"\n'
    found = topology.parse(text + '[[channel]]\nfrom = "a"\nto = "d"\n')
    assert " ".join(found.paths) == pairs


def test_a_queue_is_moved_by_the_shortest_way():
    text = '[[path]]\nbetween = ["a", "b", "c", "d", "e"]\nshape = "ring"\n'
    found = topology.parse(text + '[[channel]]\nfrom = "a"\nto = "d"\nby = "queue"\n')
    assert found.channels[0].hops == (("a", "e"), ("e", "d"))


def test_clients_without_a_broker_of_their_own():
    text = """
        [[path]]
        between = ["cern", "farm"]
        link = false
        [[site]]
        name = "farm"
        uses = "cern"
        [[channel]]
        from = "farm"
        to = "cern"
    """
    found = topology.parse(text)
    assert found.brokers == ["cern"]
    assert found.sites["farm"].broker == "cern"


def test_events_come_in_pairs_and_in_order():
    text = (
        THREE
        + """
        [[event]]
        at = "20s"
        kill = "lyon"
        for = "1s"
        [[event]]
        at = "5s"
        cut = ["zagreb", "cern"]
        for = "10s"
        how = "reset"
        [[event]]
        at = "6s"
        change = ["zagreb", "lyon"]
        round-trip = "250ms"
        for = "1s"
        [[event]]
        at = "25s"
        unlink = ["lyon", "zagreb"]
        for = "2s"
        """
    )
    found = topology.parse(text).events
    assert [(one.at, one.kind, one.subject) for one in found] == [
        (5, "cut", "cern--zagreb"),
        (6, "change", "zagreb--lyon"),
        (7, "change", "zagreb--lyon"),
        (15, "mend", "cern--zagreb"),
        (20, "kill", "lyon"),
        (21, "start", "lyon"),
        (25, "unlink", "zagreb--lyon"),
        (27, "link", "zagreb--lyon"),
    ]
    assert found[0].is_reset
    assert [one.fields["delay_ns"] for one in found[1:3]] == [125_000_000, 10_000_000]


def test_bandwidth_is_in_bits():
    found = topology.parse(THREE.replace('"63ms"', '"63ms"\nbandwidth = "100Mbit"'))
    assert found.paths["cern--zagreb"].line.bytes_per_second == 12_500_000


def with_event(line):
    return THREE + "[[event]]\nat = 1\n" + line


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (THREE.replace("round-trip", "round-trp"), r"t:4: path\[0\].round-trp: .*round-trip\?"),
        (THREE.replace('from = "cern"', 'from = "cerm"'), "no site 'cerm': sites are cern, zagreb"),
        (THREE.replace('"lyon"]\nround', '"cern"]\nround'), "have a path already"),
        (THREE.replace('"63ms"', '"fast"'), r't:4: .*"fast" is not allowed: a time such as'),
        (THREE.replace("rate = 500", "rate = -1"), "rate: -1 is not allowed"),
        (THREE.replace("rate = 500", 'size = "10B"'), "size: .* is not allowed"),
        (THREE.replace('"63ms"', '"63ms"\nbandwidth = "fast"'), "such as 100Mbit expected"),
        (THREE.replace('"63ms"', '"63ms"\nlink = false'), "no links lead from cern to zagreb"),
        (THREE.replace("cern", "CERN"), "'CERN' is not allowed: 1 to 20 lower-case"),
        (THREE.replace("cern", "a--b"), "single hyphens"),
        ('[[path]]\nbetween = ["a"]\n', "between"),
        ('[[path]]\nbetween = ["a", "a"]\n', "each site once"),
        ("", "name at least one"),
        ('[[path]]\nbetween = ["a", "b"]\n', "channel: 1 to 50 of them"),
        (THREE + "[labs]\n", "unknown section; did you mean lab"),
        (with_event('kill = "rome"'), "rome has no broker"),
        (with_event('cut = ["cern", "lyon"]'), r"is no path: \[cern, zagreb\]"),
        (with_event('for = "1s"'), "one of cut, kill, change and unlink"),
        (with_event('change = ["cern", "zagreb"]'), "say what changes"),
        (THREE + '[[event]]\nat = "99s"\nkill = "cern"\n', "after the end of publishing"),
        (THREE + '[[site]]\nname = "farm"\nuses = "cern"\n', "no path joins farm and cern"),
        (THREE.replace("rate = 500", 'by = "queue"'), "from one site to one other"),
    ],
)
def test_errors_name_what_where_and_what_is_allowed(text, wanted):
    with pytest.raises(ConfigError, match=wanted) as raised:
        topology.parse(text, "t")
    assert str(raised.value).startswith("t")


def test_what_no_stream_can_do_is_told():
    assert not topology.parse(THREE).needs_packets()
    assert "zagreb" in topology.parse(THREE.replace('"63ms"', '"63ms"\nloss = 0.1')).needs_packets()
    event = with_event('change = ["cern", "zagreb"]\nloss = 0.2')
    assert "event" in topology.parse(event).needs_packets()


@pytest.mark.parametrize("path", topology.shipped_files(), ids=lambda path: path.stem)
def test_what_ships_can_be_read_and_runs_anywhere(path):
    found = topology.read(path)
    assert found.title
    assert not found.needs_packets()


def test_what_ships_is_what_was_promised():
    found = {path.stem: topology.read(path) for path in topology.shipped_files()}
    assert found["pair"].paths["cern--zagreb"].line.delay_ns == 31_500_000
    assert len(found["star"].brokers) == 11
    assert len(found["ring"].paths) == 5
    assert any(one.kind == "cut" for one in found["ring"].events)
    assert len(found["mesh"].paths) == 10
    seven = found["seven-million"]
    assert len(seven.channels) == 3
    assert sum(one.messages for one in seven.channels) > 7_000_000


def test_topologies_are_found_by_name_or_file(tmp_path):
    assert topology.find("pair").name == "pair.toml"
    own = tmp_path / "own.toml"
    own.write_text(THREE)
    assert topology.find(str(own)) == own
    with pytest.raises(ConfigError, match="that ship: mesh, pair"):
        topology.find("triangle")
    with pytest.raises(ConfigError, match="no such file|cannot|Errno"):
        topology.read(tmp_path / "absent.toml")
