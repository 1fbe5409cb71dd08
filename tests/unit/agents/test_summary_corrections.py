"""Corrections of rows: tables, patterns, Raw fields, projects."""

import json

import pytest

from agents.config import CorrectionSettings
from agents.errors import SettingsError
from agents.summaries.corrections import Corrections

VO = CorrectionSettings(
    match_fields=("VOName", "ReportableVOName"),
    source_field="CorrectedVOName",
    dest_field="VOName",
    table="vo.json",
)
HOST = CorrectionSettings(
    match_fields=("Host_description",),
    source_field="Corrected_OIM_Site",
    dest_field="OIM_Site",
    regex=True,
    table="host.json",
)


def write(folder, name, entries):
    (folder / name).write_text(json.dumps(entries))


def test_a_table_changes_a_field_and_keeps_the_old_value(tmp_path):
    entry = {"VOName": "/cms/x", "ReportableVOName": "cms", "CorrectedVOName": "cms"}
    write(tmp_path, "vo.json", [entry])
    corrections = Corrections.load([VO], tmp_path)
    row = {"VOName": "/cms/x", "ReportableVOName": "cms", "ProjectName": "N/A"}
    corrections.apply(row)
    assert row["VOName"] == row["ProjectName"] == "cms"
    assert (row["RawVOName"], row["RawProjectName"], row["RawOIM_Site"]) == ("/cms/x", "N/A", "")
    other = {"VOName": "/cms/x", "ReportableVOName": "atlas", "ProjectName": "P"}
    corrections.apply(other)
    assert (other["VOName"], other["ProjectName"]) == ("/cms/x", "P")


def test_patterns_take_the_first_that_matches(tmp_path):
    entries = [
        {"Host_description": r"^gpu\d+", "Corrected_OIM_Site": "GPU"},
        {"Host_description": r"example", "Corrected_OIM_Site": "EX"},
    ]
    write(tmp_path, "host.json", entries)
    corrections = Corrections.load([HOST], tmp_path)
    for host, site in (("gpu7.example", "GPU"), ("a.example", "EX"), ("other", None)):
        row = {"VOName": "v", "ProjectName": "p", "Host_description": host}
        corrections.apply(row)
        assert (row.get("OIM_Site"), row["RawOIM_Site"]) == (site, "")


@pytest.mark.parametrize("project", ["", "n/a", "N/A", "Unknown"])
def test_without_a_project_the_vo_stands_in(project):
    row = {"VOName": "cms", "ProjectName": project}
    Corrections().apply(row)
    assert (row["ProjectName"], row["RawProjectName"]) == ("cms", project)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "vo.json"),
        ("{", "vo.json"),
        ("{}", "JSON list"),
        ("[5]", "entry 1: not an object"),
        ('[{"VOName":"x","ReportableVOName":"y"}]', "entry 1: CorrectedVOName is missing"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_by_name(tmp_path, text, says):
    if text is not None:
        (tmp_path / "vo.json").write_text(text)
    with pytest.raises(SettingsError, match=says):
        Corrections.load([VO], tmp_path)


def test_a_bad_pattern_is_refused_by_name(tmp_path):
    write(tmp_path, "host.json", [{"Host_description": "(", "Corrected_OIM_Site": "x"}])
    with pytest.raises(SettingsError, match="entry 1"):
        Corrections.load([HOST], tmp_path)


def test_a_changed_table_changes_the_digest(tmp_path):
    write(tmp_path, "host.json", [])
    before = Corrections.load([HOST], tmp_path).digest
    write(tmp_path, "host.json", [{"Host_description": "x", "Corrected_OIM_Site": "y"}])
    assert Corrections.load([HOST], tmp_path).digest != before
    assert Corrections.load([], tmp_path).digest == ""
