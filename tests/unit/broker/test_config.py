"""broker.config: defaults, the port offset, derived routes, and refusals."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker import config
from broker.errors import AccessRefused, ConfigError


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def loaded(text="", port_offset=0, data=None, **environment):
        file = tmp_path / "x.toml"
        file.write_text(text)
        return config.load(file, data, port_offset, environment)

    return loaded


def refusal(load, text, **environment):
    with pytest.raises(ConfigError) as caught:
        load(text, **environment)
    return str(caught.value).replace(str(Path.cwd()) + "/", "")


def test_nothing_given(load):
    found = load()
    assert [(one.protocol, one.host, one.port) for one in found.listeners] == [
        ("amqp", "127.0.0.1", 5672),
        ("stomp", "127.0.0.1", 61613),
        ("websocket", "127.0.0.1", 15674),
        ("management", "127.0.0.1", 15672),
    ]
    assert found.data_folder == Path("data")
    assert found.routes == (
        config.Route("gracc.site.raw", "grace.site.raw", ""),
        config.Route("", "grace.site.summary", ""),
        config.Route("", "grace.site.requests", ""),
    )


def test_port_offset_shifts_only_defaults(load):
    text = '[[listener]]\nprotocol = "stomp"\naddress = "0.0.0.0:7000"\n[[listener]]\nprotocol = "amqp"\n'
    found = load(text, 7)
    assert [(one.host, one.port) for one in found.listeners] == [
        ("0.0.0.0", 7000),
        ("127.0.0.1", 5679),
    ]
    assert [one.port for one in load("", 3921).listeners] == [9593, 65534, 19595, 19593]


@pytest.mark.parametrize("offset", [-1, 3922])
def test_port_offset_out_of_range(load, offset):
    with pytest.raises(ConfigError, match="from 0 to 3921"):
        load("", offset)


def test_a_second_database_has_its_own_queues(load):
    found = load(
        '[[database]]\n[[database]]\nname = "two"\n[collector]\ndestination = "/gracc.x.raw"\n'
    )
    assert config.Route("gracc.x.raw", "grace.site.raw", "") in found.routes
    assert config.Route("gracc.x.raw", "grace.two.raw", "") in found.routes
    assert config.Route("", "grace.two.summary", "") in found.routes


def test_rows_of_addresses_go_before_the_defaults(load):
    found = load('[[address]]\npattern = "/grace.*.raw"\nkind = "queue"\ndurable = false\n')
    assert found.addresses[0].is_durable is False
    assert len(found.addresses) == 1 + len(config.DEFAULT_ADDRESSES)


def test_data_folder_of_the_file_is_taken_from_its_own_folder(load, tmp_path):
    assert load('[broker]\ndata = "d"\n').data_folder == tmp_path / "d"
    assert load('[broker]\ndata = "d"\n', data=Path("/e")).data_folder == Path("/e")


def test_file_in_the_data_folder_is_found(tmp_path):
    (tmp_path / "gridmsg.toml").write_text('[broker]\nname = "here"\n')
    assert config.load(None, tmp_path, 0, {}).broker.name == "here"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("[[listener]]\n", "x.toml:1: listener[0].protocol: is missing"),
        (
            '[[listener]]\nprotocol = "mqtt"\n',
            'one of "amqp", "stomp", "websocket", "management" expected',
        ),
        (
            '[[listener]]\nprotocol = "amqp"\nprofile = "rabbitmq"\n',
            "only for protocol stomp and websocket",
        ),
        (
            '[[listener]]\nprotocol = "stomp"\norigins = ["https://a"]\n',
            "only for protocol websocket",
        ),
        ('[[listener]]\nprotocol = "amqp"\naddress = "5672"\n', "x.toml:3: listener[0].address"),
        ("[link]\n", "x.toml:1: link: is a list of tables: write [[link]]"),
        ("[brokr]\n", "x.toml:1: brokr: unknown section; did you mean broker?"),
        ('[broker]\nnmae = "x"\n', "x.toml:2: broker.nmae: unknown key; did you mean name?"),
        ('[[address]]\npattern = "a"\nkind = "queue"\n', "x.toml:2: address[0].pattern"),
        ('[auth.users.ann]\npassword = "secret1"\n', "auth.users.ann.password: this value"),
        (
            '[auth.users.ann]\npassword = "$argon2id$x"\npermissions = {"/" = [".*"]}\n',
            "three patterns expected",
        ),
    ],
)
def test_refusals(load, text, wanted):
    found = refusal(load, text)
    assert wanted in found
    assert "secret1" not in found


def test_two_listeners_on_one_port(load):
    text = '[[listener]]\nprotocol = "amqp"\naddress = "127.0.0.1:1"\n[[listener]]\nprotocol = "stomp"\naddress = "127.0.0.1:1"\n'
    assert "x.toml:6: listener[1].address: 127.0.0.1:1 is taken" in refusal(load, text)


def test_environment(load):
    assert load("", GRIDMSG_BROKER__NAME="env").broker.name == "env"
    with pytest.raises(ConfigError, match=r"link\[0\].address: is missing"):
        load("", GRIDMSG_LINK__0__NAME="x")


def test_guest_can_be_taken_out(load):
    assert load().accounts().login("guest", "guest", True).name == "guest"
    with pytest.raises(AccessRefused):
        load("[auth]\nguest = false\n").accounts().login("guest", "guest", True)


@pytest.mark.parametrize(
    ("text", "address"),
    [("127.0.0.1:1", ("127.0.0.1", 1)), ("[::1]:2", ("::1", 2)), ("h:0", ("h", 0))],
)
def test_addresses_are_split(text, address):
    assert config.split_address(text) == address


@pytest.mark.parametrize("text", ["", "1", ":1", "h:", "h:x", "h:65536", "::1:2", "[::1:2", "h:-1"])
def test_addresses_refused(text):
    with pytest.raises(ValueError):
        config.split_address(text)


def test_environment_names_reach_the_routes(load):
    found = load("", GRIDMSG_DATABASE__0__NAME="two", GRIDMSG_COLLECTOR__DESTINATION="/gracc.y.raw")
    assert found.routes[0] == config.Route("gracc.y.raw", "grace.two.raw", "")


def test_limits_reach_the_rooms(load):
    found = load(
        '[store]\nsync = "never"\nsegment-size = "2MiB"\n[broker]\ndisk-reserve = "1MiB"\nwindow-messages = 500\n'
        '[[listener]]\nprotocol = "stomp"\n[listener.limits]\nbody-size = "1KiB"\nheart-beat-min = "1s"\n'
        '[[listener]]\nprotocol = "amqp"\n[listener.limits]\nchannels = 3\n'
    )
    store = found.store_settings()
    assert (store.sync, store.segment_bytes, store.free_bytes_min) == ("never", 2 << 20, 1 << 20)
    assert found.core_limits().window_count == 500
    stomp = found.stomp_limits(found.listener("stomp"))
    assert (stomp.body_bytes_max, stomp.heart_beat_ms_min) == (1024, 1000)
    assert found.amqp_limits(found.listener("amqp")).channels_max == 3


def test_defaults_are_those_of_the_rooms(load):
    from broker.core.broker import CoreLimits
    from broker.session.amqp_connection import AmqpLimits
    from broker.session.stomp_connect import StompLimits
    from store.settings import StoreSettings

    found = load()
    assert found.core_limits() == CoreLimits()
    # A broker's start is not to wait for a checkpoint; a store by itself has no start to speak of.
    assert found.store_settings() == StoreSettings(calm_seconds=2.0)
    assert found.stomp_limits(found.listener("stomp")) == StompLimits()
    assert found.amqp_limits(found.listener("amqp")) == AmqpLimits()
