"""Which segments hold a lane's messages: its runs, and the sidecar pages that tell where in them.

A lane that was filled over a thousand segments has a thousand runs, and ten thousand lanes may have them each: so
they are numbers in two arrays and no objects.  Runs lie by rising position and never overlap.  Pure.  Tests:
tests/unit/store/test_runs.py.
"""

from __future__ import annotations

from array import array
from typing import Any, Final, final

SEGMENT: Final = 0
FIRST: Final = 1
LAST: Final = 2
COUNT: Final = 3
BYTES: Final = 4
PAGE_COUNT: Final = 5
RUN_FIELDS: Final = 6
PAGE_FIELDS: Final = 5

Page = tuple[int, int, int, int, int]
"""(epoch of the sidecar, offset, size_bytes, first, last): where extents of a run are written."""


@final
class Runs:
    """The runs of one lane.

    `figures` holds RUN_FIELDS numbers a run (segment, first and last position, living count and bytes, pages);
    `pages` holds PAGE_FIELDS numbers a page, run after run.  What a page says of positions below its run's first was
    moved away.  A run is named by its place in the table: good until the table changes.
    """

    __slots__ = ("figures", "pages")

    def __init__(self) -> None:
        self.figures: array[int] = array("q")
        self.pages: array[int] = array("q")

    def __len__(self) -> int:
        return len(self.figures) // RUN_FIELDS

    def find_from(self, position: int) -> int:
        """The first run that ends at or above the position; `len` when there is none."""
        figures = self.figures
        low, high = 0, len(figures) // RUN_FIELDS
        while low < high:
            middle = (low + high) >> 1
            if figures[middle * RUN_FIELDS + LAST] < position:
                low = middle + 1
            else:
                high = middle
        return low

    def find(self, position: int) -> int:
        """The run that a living position belongs to; -1 when there is none."""
        figures = self.figures
        if figures and figures[FIRST] <= position <= figures[LAST]:
            # Where most consumers are.
            return 0
        index = self.find_from(position)
        at = index * RUN_FIELDS
        if at < len(figures) and figures[at + FIRST] <= position:
            return index
        return -1

    def run(self, index: int) -> tuple[int, int, int, int, int]:
        """Segment, first, last, count and bytes of a run."""
        at = index * RUN_FIELDS
        segment, first, last, count, size_bytes = self.figures[at : at + PAGE_COUNT]
        return segment, first, last, count, size_bytes

    def insert(
        self, index: int, segment: int, first: int, last: int, count: int, size_bytes: int
    ) -> None:
        """Put a run without pages before the one at `index`."""
        at = index * RUN_FIELDS
        self.figures[at:at] = array("q", (segment, first, last, count, size_bytes, 0))

    def subtract(self, index: int, count: int, size_bytes: int) -> None:
        """Take messages off a run's figures; an empty one goes."""
        figures = self.figures
        at = index * RUN_FIELDS
        figures[at + COUNT] -= count
        figures[at + BYTES] -= size_bytes
        if figures[at + COUNT] <= 0:
            if figures[at + PAGE_COUNT]:
                start = self._page_start(index)
                end = start + PAGE_FIELDS * figures[at + PAGE_COUNT]
                self.pages = self.pages[:start] + self.pages[end:]
            del figures[at : at + RUN_FIELDS]

    def _page_start(self, index: int) -> int:
        return PAGE_FIELDS * sum(self.figures[PAGE_COUNT : index * RUN_FIELDS : RUN_FIELDS])

    def pages_of(self, index: int) -> list[Page]:
        """The pages of a run, by rising position."""
        count = self.figures[index * RUN_FIELDS + PAGE_COUNT]
        if not count:
            return []
        start = self._page_start(index)
        rows = self.pages[start : start + PAGE_FIELDS * count].tolist()
        return [
            (rows[at], rows[at + 1], rows[at + 2], rows[at + 3], rows[at + 4])
            for at in range(0, len(rows), PAGE_FIELDS)
        ]

    def add_pages(self, index: int, pages: list[Page]) -> None:
        """Put pages behind those of a run."""
        at = index * RUN_FIELDS + PAGE_COUNT
        more = array("q", [number for page in pages for number in page])
        if at == len(self.figures) - 1:
            self.pages = self.pages + more
        else:
            end = self._page_start(index) + PAGE_FIELDS * self.figures[at]
            self.pages = self.pages[:end] + more + self.pages[end:]
        self.figures[at] += len(pages)

    def copy(self) -> Runs:
        """A table of its own; the pages are shared, as that array is replaced and never changed."""
        made = Runs.__new__(Runs)
        made.figures = self.figures[:]
        made.pages = self.pages
        return made

    def freeze(self) -> list[Any]:
        """Give the table as two lists of numbers."""
        return [self.figures.tolist(), self.pages.tolist()]

    @classmethod
    def thaw(cls, frozen: list[Any]) -> Runs:
        """Make the table that `freeze` gave."""
        runs = cls.__new__(cls)
        runs.figures = array("q", frozen[0])
        runs.pages = array("q", frozen[1])
        return runs
