"""A store that forgets: it numbers commits and makes them durable when told (or at once)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from store.interface import Recovered, StoredMessage, UnitOfWork


class FakeStore:
    """Commits are durable at once, or with `is_slow` when `sync` is called."""

    def __init__(self, *, is_slow: bool = False) -> None:
        self.durable = 0
        self.is_blocked = False
        self.is_slow = is_slow
        self.committed = 0
        self.units: list[UnitOfWork] = []
        self.on_durable: Callable[[int], None] = lambda commit: None

    def open(self, *callbacks: Any) -> Recovered:
        return Recovered({}, {}, 1, 1, "fake")

    def commit(self, unit: UnitOfWork) -> int:
        if unit:
            self.committed += 1
            self.units.append(unit)
            if not self.is_slow:
                self.durable = self.committed
        return self.committed

    def hurry(self) -> None:
        return

    def sync(self) -> None:
        self.durable = self.committed
        self.on_durable(self.durable)

    def read(
        self, lane: int, first: int, count_max: int, bytes_max: int
    ) -> list[tuple[int, StoredMessage, int]]:
        return []

    def close(self) -> None:
        return

    def stat(self) -> dict[str, Any]:
        return {}
