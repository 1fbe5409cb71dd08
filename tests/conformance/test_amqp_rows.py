"""docs/amqp-codes.md against the tables of cases: each row has cases, and they show each code and text that it promises."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from broker.session.amqp_handshake import CAPABILITIES
from tests.conformance.test_amqp import CASES, HERE, STEPPED
from tests.support.site import ROOT

NAMED = json.loads((HERE / "amqp_rows.json").read_text())
BY_NAME = {f"{case['clause']}: {case['name']}": case for case in [*CASES, *STEPPED]}
LINES = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in (ROOT / "docs" / "amqp-codes.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith(("| when |", "| what |"))
]
REFUSALS = {cells[0]: (int(cells[1]), cells[2]) for cells in LINES if len(cells) == 3}


def said(case: dict[str, Any]) -> list[list[Any]]:
    """What the broker says in a case."""
    rows = list(case.get("expect") or [])
    for step in case.get("steps", []):
        rows += step.get("out", [])
    return rows


def is_in(text: str, told: list[str]) -> bool:
    """Whether one of them has the text, where `…` stands for anything."""
    pattern = ".*".join(re.escape(part) for part in text.split("…"))
    return any(re.search(pattern, one) for one in told)


def test_the_page_and_the_list_have_the_same_rows() -> None:
    assert [cells[0] for cells in LINES] == list(NAMED["rows"])
    assert len(REFUSALS) >= 30


@pytest.mark.parametrize("row", NAMED["rows"])
def test_each_row_has_its_cases(row: str) -> None:
    names = NAMED["rows"][row]
    assert names
    assert not set(names) - set(BY_NAME)


@pytest.mark.parametrize("row", REFUSALS)
def test_each_code_and_text_is_shown_by_a_case(row: str) -> None:
    code, texts = REFUSALS[row]
    told = [
        one[3]
        for name in NAMED["rows"][row]
        for one in said(BY_NAME[name])
        if one[1] in ("channel.close", "connection.close", "basic.return") and one[2] == code
    ]
    missing = [text for text in re.findall(r"`([^`]+)`", texts) if not is_in(text, told)]
    assert told and not missing


def test_no_case_ends_with_a_code_that_is_not_on_the_page() -> None:
    codes = {
        one[2]
        for case in BY_NAME.values()
        for one in said(case)
        if one[1] in ("channel.close", "connection.close")
    }
    assert codes <= {code for code, _ in REFUSALS.values()}


def test_each_capability_that_is_announced_has_its_cases() -> None:
    assert set(NAMED["capabilities"]) == set(CAPABILITIES)
    assert all(set(names) <= set(BY_NAME) for names in NAMED["capabilities"].values())
    assert set(CAPABILITIES.values()) == {True}
