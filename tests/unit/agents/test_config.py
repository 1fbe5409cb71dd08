from __future__ import annotations

import pytest

from agents.config import BrokerSettings, read_settings, settings_from, split_address
from agents.errors import SettingsError


def test_nothing_is_a_valid_configuration():
    settings = read_settings(None)
    assert settings.collector.address == "127.0.0.1:8880"
    assert settings.collector.destination == "/gracc.site.raw"
    assert [entry.raw_queue for entry in settings.database] == ["/grace.site.raw"]
    assert settings.replay.requests_queue == "/grace.site.requests"


def test_offset_moves_defaults_only():
    settings = settings_from(
        {"collector": {"broker": {"addresses": ["h:1"]}}, "database": [{}, {"name": "b"}]}, 100
    )
    assert settings.collector.broker.addresses == ("h:1",)
    assert settings.collector.address == "127.0.0.1:8980"
    assert [entry.broker.addresses for entry in settings.database] == [("127.0.0.1:61713",)] * 2
    assert settings.summary.broker.addresses == ("127.0.0.1:61713",)


@pytest.mark.parametrize(
    ("tables", "named"),
    [
        ({"collector": {"adress": "x"}}, "adress"),
        ({"collector": {"post-bytes-max": 5}}, "post-bytes-max"),
        ({"collector": {"address": "8880"}}, "host:port"),
        ({"collector": {"broker": {"addresses": []}}}, "addresses"),
        ({"collector": {"broker": {"addresses": ["x:y"]}}}, "host:port"),
        ({"collector": {"broker": {"profile": "activemq"}}}, "profile"),
        ({"database": {}}, "database"),
        ({"database": [{"prefetch": 0}]}, "prefetch"),
        ({"summary": {"interval-seconds": 0}}, "interval-seconds"),
        ({"replay": 3}, "replay"),
    ],
)
def test_what_is_wrong_is_named(tables, named):
    with pytest.raises(SettingsError, match=named):
        settings_from(tables)
    with pytest.raises(SettingsError, match=named):
        settings_from(tables, 7)


def test_tables_of_the_broker_are_not_looked_at():
    settings_from({"broker": {"name": "x"}, "listener": [{"anything": 1}]})


def test_a_file_that_is_no_toml_is_named(tmp_path):
    path = tmp_path / "site.toml"
    path.write_text("[collector\n")
    with pytest.raises(SettingsError, match=r"site\.toml.*line 1"):
        read_settings(path)
    with pytest.raises(SettingsError, match="missing"):
        read_settings(tmp_path / "missing.toml")


def test_names_on_the_wire():
    ours = BrokerSettings()
    assert ours.wire_destination("/gracc.site.raw") == "/gracc.site.raw"
    rabbit = BrokerSettings(profile="rabbitmq", destinations={"/gracc.b.*": "/topic/{name}"})
    assert rabbit.wire_destination("/gracc.site.raw") == "/exchange/gracc.site.raw"
    assert rabbit.wire_destination("/grace.site.requests") == "/amq/queue/grace.site.requests"
    assert rabbit.wire_destination("/gracc.b.raw") == "/topic/gracc.b.raw"
    assert rabbit.wire_destination("/exchange/x/k") == "/exchange/x/k"


def test_addresses():
    assert split_address("[::1]:61613") == ("::1", 61613)
    for text in ("", "h", ":1", "h:", "h:x", "h:65536"):
        with pytest.raises(SettingsError):
            split_address(text)


def test_two_databases_of_one_name_are_refused():
    with pytest.raises(SettingsError, match="two entries are called 'x'"):
        settings_from({"database": [{"name": "x"}, {"name": "y"}, {"name": "x"}]})
