"""One run from beginning to end: the ground is laid, brokers and agents start, load flows, events happen, the audit decides.

The lab's own process only conducts: it waits for what agents say, does what the schedule says, and samples.  Invariant: whatever
happens, Ctrl-C included, processes, namespaces and devices are gone when `run` returns.
Tests: tests/interop/test_lab_run.py.
"""

from __future__ import annotations

import json
import os
import platform
import select
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, final

from bench.lab.ground import Ground, lay
from bench.lab.namespaces import NoNamespaces
from bench.lab.record import Audit, Record, make_result
from bench.lab.relay import RelayFailed
from bench.lab.schedule import Schedule
from bench.lab.site import (
    AgentProcess,
    BrokerProcess,
    Secret,
    SiteFailed,
    agent_plan,
    broker_config,
    link_row,
    producer_numbers,
)
from bench.lab.topology import Event, Topology
from broker.errors import ConfigError

LEAD_SECONDS: Final = 0.5
"""Between the order to publish and its first moment, so that all agents begin together."""
ANSWER_SECONDS_MAX: Final = 180.0
LINGER_SECONDS: Final = 2.0
"""Waited after everything arrived, for what would come twice."""
ANSWERED_SECONDS_MAX: Final = 120.0
"""For the confirms of the last messages, when publishing is over."""
FAILURES: Final = (SiteFailed, RelayFailed, NoNamespaces)


@final
class Experiment:
    """A run of a topology; `on_change(phase)` is called whenever there is something new to show.

    The brokers' stores are removed after a run without fault, unless they are to be kept.
    """

    def __init__(
        self,
        topology: Topology,
        relay: str,
        folder: Path,
        on_change: Callable[[str], None],
        *,
        keeps_stores: bool = False,
    ) -> None:
        self.topology = topology
        self.folder = folder
        self.record = Record(topology, producer_numbers(topology))
        self.schedule = Schedule(topology)
        self.phase = "laying the ground"
        self._wanted_relay = relay
        self._keeps_stores = keeps_stores
        self._on_change = on_change
        self._ground: Ground | None = None
        self._brokers: dict[str, BrokerProcess] = {}
        self._agents: dict[str, AgentProcess] = {}
        self._answered: dict[str, set[str]] = {}
        self._next_sample = 0.0
        self._secret = Secret()

    @property
    def ground(self) -> Ground:
        """What it stands on."""
        assert self._ground is not None, "the run has begun"
        return self._ground

    def run(self) -> dict[str, Any]:
        """Run it, and return the result; raises ConfigError or one of FAILURES."""
        if self.folder.exists() and any(self.folder.iterdir()):
            raise ConfigError(
                f"{self.folder}: holds something already: name a new folder with --out"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        with ExitStack() as stack:
            self._ground = lay(self.topology, self._wanted_relay, self.folder)
            stack.callback(self._ground.close)
            stack.callback(self._close_processes)
            self._start_sites()
            begin = time.monotonic()
            self._publish()
            self._settle()
            audit = self._audit()
            more = {
                "started": started,
                "seconds": round(time.monotonic() - begin, 1),
                "relay": self.ground.kind,
                "relay_stats": self.ground.relay.stats(),
                "machine": machine(),
                "brokers": {
                    name: {
                        "kills": one.kill_count,
                        **one.usage(),
                        "peak_memory_mb": one.peak_bytes / 1e6,
                    }
                    for name, one in self._brokers.items()
                },
                "agents_cpu_seconds": {
                    name: sample["cpu_seconds"] for name, sample in self.record.samples.items()
                },
            }
            self._show("stopping")
        result = make_result(self.record, audit, more)
        (self.folder / "result.json").write_text(json.dumps(result))
        if not result["lost"] and not result["doubled"] and not self._keeps_stores:
            for site in self._brokers:
                shutil.rmtree(self.folder / site / "store", ignore_errors=True)
        return result

    # -- beginning -----------------------------------------------------------------------------

    def _start_sites(self) -> None:
        topology = self.topology
        secret = self._secret
        self._show("starting the brokers")
        for site in topology.brokers:
            config = broker_config(site, topology, self.ground, secret)
            broker = BrokerProcess(site, self.ground.places[site], self.folder / site, config)
            self._brokers[site] = broker
            broker.start()
        for broker in self._brokers.values():
            broker.wait(self.ground)
        self._show("starting the load")
        for site in topology.sites:
            plan = agent_plan(site, topology, self.ground, secret, self.record.numbers)
            namespace = self.ground.places[site].namespace
            self._agents[site] = AgentProcess(site, namespace, plan, self.folder / site)
        self._order("declare")
        self._order("connect")
        self._order("consume", channels=[one.name for one in topology.channels])
        self._open_ways()

    def _open_ways(self) -> None:
        """Send scouts until one of each producer has come to each target: links are up and know what is wanted."""
        self._show("waiting for the links")
        for agent in self._agents.values():
            agent.order("scout", wanted=True)
        deadline = time.monotonic() + ANSWER_SECONDS_MAX
        while self.record.unreached() or self.record.links_down():
            self._listen(0.1)
            if time.monotonic() > deadline:
                unreached = ", ".join(self.record.unreached()) or "nothing"
                down = ", ".join(self.record.links_down()) or "none"
                raise SiteFailed(
                    f"the ways do not open: not reached: {unreached}; links down: {down}"
                )
        later = [one.name for one in self.topology.channels if not one.is_live]
        for agent in self._agents.values():
            agent.order("scout", wanted=False)
            agent.order("pause", channels=later)

    def _order(self, what: str, **fields: Any) -> None:
        """Tell all agents, and wait until all have done it."""
        self._answered[what] = set()
        for agent in self._agents.values():
            agent.order(what, **fields)
        deadline = time.monotonic() + ANSWER_SECONDS_MAX
        while len(self._answered[what]) < len(self._agents):
            self._listen(0.1)
            if time.monotonic() > deadline:
                missing = sorted(self._agents.keys() - self._answered[what])
                errors = ", ".join(self.record.errors) or "no error was told"
                raise SiteFailed(f"{what}: no answer from {', '.join(missing)}: {errors}")

    # -- the middle ----------------------------------------------------------------------------

    def _publish(self) -> None:
        begin_ns = time.monotonic_ns() + int(LEAD_SECONDS * 1e9)
        stop_ns = begin_ns + int(self.topology.duration * 1e9)
        self.record.begin_ns = begin_ns
        for agent in self._agents.values():
            agent.order("publish", begin_ns=begin_ns, stop_ns=stop_ns)
        self._show("publishing")
        for sample in self.record.samples.values():
            sample["is_finished"] = False
        give_up = self.topology.duration + ANSWERED_SECONDS_MAX
        while True:
            now = self.record.seconds(time.monotonic_ns())
            for event in self.schedule.take(now):
                self._happen(event)
            next_at = self.schedule.next_at
            nap = 0.2 if next_at is None else min(0.2, max(0.0, next_at - now))
            self._listen(nap)
            if self.schedule.is_over and self.record.are_producers_done() and now > 0:
                return
            if now > give_up and self.schedule.is_over:
                for agent in self._agents.values():
                    agent.order("halt")
                return

    def _happen(self, event: Event) -> None:
        now_ns = time.monotonic_ns()
        how = ""
        if event.kind in ("cut", "mend", "change"):
            path = self.topology.paths[event.subject]
            if event.kind == "cut":
                how = "reset" if event.is_reset else "silent"
                self.ground.cut(path, is_reset=event.is_reset)
            elif event.kind == "mend":
                self.ground.relay.mend(path.name)
            else:
                how = ", ".join(f"{name} {value:g}" for name, value in event.fields.items())
                self.ground.relay.set(path.name, **event.fields)
        elif event.kind in ("unlink", "link"):
            self._change_link(event)
        elif event.kind == "kill":
            self._brokers[event.subject].kill()
        else:
            self._brokers[event.subject].start()
        self.record.note_event(now_ns, event.kind, event.subject, how)

    def _change_link(self, event: Event) -> None:
        """Take a link away, or put it back, by the API of the broker that dials."""
        path = self.topology.paths[event.subject]
        row = link_row(path, self.topology, self.ground, self._secret)
        method, body = ("DELETE", None) if event.kind == "unlink" else ("PUT", row)
        self._agents[path.first].order(
            "call", method=method, path=f"/api/links/{path.name}", body=body
        )

    def _listen(self, seconds: float) -> None:
        """Take what agents say for a while; sample when it is time."""
        by_fd = {agent.fd: agent for agent in self._agents.values()}
        readable, _, _ = select.select(list(by_fd), [], [], seconds)
        for fd in readable:
            agent = by_fd[fd]
            for said in agent.read():
                if "sample" in said:
                    self.record.note(agent.site, said["sample"])
                elif "did" in said and said["did"] in self._answered:
                    self._answered[said["did"]].add(agent.site)
        now = time.monotonic()
        if now >= self._next_sample:
            self._next_sample = now + self.topology.sample
            self._look_at_brokers()
            self._on_change(self.phase)

    def _look_at_brokers(self) -> None:
        now_ns = time.monotonic_ns()
        down = {one.subject for one in self.schedule.events if one.kind == "kill"}
        for site, broker in self._brokers.items():
            self.record.note_broker(site, now_ns, broker.usage())
            if not broker.is_running and site not in down:
                raise SiteFailed(f"the broker of {site} ended by itself: {broker.log()}")

    # -- the end -------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Wait until everything arrived, or nothing did for as long as the topology says."""
        self._show("settling")
        later = [one.name for one in self.topology.channels if not one.is_live]
        if later:
            self._order("consume", channels=later)
        quiet_since = time.monotonic()
        last = self.record.arrived_count()
        whole_since = 0.0
        while True:
            self._listen(0.1)
            now = time.monotonic()
            count = self.record.arrived_count()
            if count != last:
                last, quiet_since = count, now
            if self.record.is_all_there():
                whole_since = whole_since or now
                if now - max(whole_since, quiet_since) > LINGER_SECONDS:
                    if not self._audit().lost:
                        return
                    whole_since = now + self.topology.settle / 10
            else:
                whole_since = 0.0
            if now - quiet_since > self.topology.settle:
                return

    def _audit(self) -> Audit:
        files = {site: self.folder / site / "audit.json" for site in self._agents}
        self._answered["audit"] = set()
        for site, agent in self._agents.items():
            agent.order("audit", file=str(files[site]))
        deadline = time.monotonic() + ANSWER_SECONDS_MAX
        while len(self._answered["audit"]) < len(self._agents):
            self._listen(0.1)
            if time.monotonic() > deadline:
                raise SiteFailed("an agent does not answer the audit")
        accounts = {site: json.loads(path.read_text()) for site, path in files.items()}
        return Audit(self.topology, self.record.numbers, accounts)

    def _close_processes(self) -> None:
        for agent in self._agents.values():
            agent.close()
        for broker in self._brokers.values():
            broker.stop()

    def _show(self, phase: str) -> None:
        self.phase = phase
        self._on_change(phase)


def machine() -> dict[str, Any]:
    """What the run ran on."""
    try:
        congestion = Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
    except OSError:
        congestion = ""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "cores": os.cpu_count() or 0,
        "congestion_control": congestion,
        "load_average": round(os.getloadavg()[0], 2),
    }
