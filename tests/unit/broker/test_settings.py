"""broker.settings and broker.setting_types: what is taken, what is refused, and how the refusal reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from msgspec import Meta, field

from broker.errors import ConfigError
from broker.setting_types import (
    Duration,
    Port,
    Secret,
    Section,
    Size,
    declared_keys,
    parse_duration,
    parse_size,
)
from broker.settings import Document


class User(Section, frozen=True, kw_only=True):
    password: Secret
    tags: list[str] = field(default_factory=list)


class Store(Section, frozen=True, kw_only=True):
    sync: Annotated[Literal["always", "never"], Meta(description="When to sync.")] = "always"
    segment_size: Size = 64 << 20
    pause: Duration = 0.25
    port: Port = 5672
    folder: Path | None = None
    users: dict[str, User] = field(default_factory=dict)


def read(text: str, **environment: str) -> Store:
    return Document(text, "x.toml", environment).section("store", Store)


def refusal(text: str, **environment: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(text, **environment)
    return str(caught.value)


def test_an_empty_file_is_valid():
    assert read("") == Store()


def test_units_are_parsed():
    store = read('[store]\nsegment-size = "1MiB"\npause = "250ms"\nfolder = "/tmp/x"\n')
    assert (store.segment_size, store.pause, store.folder) == (1 << 20, 0.25, Path("/tmp/x"))


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("10 B", 10), ("1.5KiB", 1536), ("2MB", 2_000_000)]
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "-1", "1XB", "1MiB2"])
def test_sizes_refused(text):
    with pytest.raises(ValueError):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("250ms", 0.25), ("5s", 5), ("2min", 120), ("1h", 3600)]
)
def test_durations(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds)


def test_unknown_key_names_file_line_and_the_near_one():
    assert (
        refusal("[store]\n\nsnyc = 1\n") == "x.toml:3: store.snyc: unknown key; did you mean sync?"
    )


def test_wrong_value_names_what_is_allowed():
    assert refusal('[store]\nsync = "some"\n') == (
        'x.toml:2: store.sync: "some" is not allowed: one of "always", "never" expected'
    )


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("port = 70000", "a whole number from 0 to 65535"),
        ("port = true", "a whole number from 0 to 65535"),
        ('segment-size = "64XB"', 'a size such as "64MiB", or a number of bytes'),
        ("segment-size = -1", "a size"),
        ("segment-size = true", "a size"),
        ('pause = "soon"', "a time such as"),
        ("folder = 5", "a path in quotes"),
    ],
)
def test_wrong_types(line, wanted):
    text = refusal(f"[store]\n{line}\n")
    assert text.startswith("x.toml:2: store.")
    assert wanted in text


def test_broken_toml_names_the_line():
    assert refusal("[store]\nsync = \n").startswith("x.toml:2: not TOML")


def test_section_written_as_rows():
    assert "write [store] once" in refusal("[[store]]\n")


def test_rows_keep_their_own_lines():
    document = Document("[[row]]\nport = 1\n[[row]]\nport = -2\n", "x.toml")
    with pytest.raises(ConfigError, match=r"^x.toml:4: row\[1\].port: -2 is not allowed"):
        document.rows("row", Store)


def test_environment_wins_and_is_told_as_origin():
    document = Document('[store]\nsync = "always"\n', "x.toml", {"GRIDMSG_STORE__SYNC": "never"})
    assert document.section("store", Store).sync == "never"
    assert document.values["store.sync"].origin == "environment GRIDMSG_STORE__SYNC"
    assert document.values["store.pause"].origin == "default"


def test_environment_is_typed():
    store = read("", GRIDMSG_STORE__SEGMENT_SIZE="1KiB", GRIDMSG_STORE__PORT="99")
    assert (store.segment_size, store.port) == (1024, 99)


def test_environment_refused_by_name():
    assert refusal("", GRIDMSG_STORE__PORT="many").startswith("environment: GRIDMSG_STORE__PORT: ")
    assert "unknown key" in refusal("", GRIDMSG_STORE__SNYC="x")


def test_environment_adds_a_row():
    document = Document("", "", {"GRIDMSG_ROW__0__PORT": "7"})
    assert [row.port for row in document.rows("row", Store)] == [7]
    with pytest.raises(ConfigError, match="row 0 to 0"):
        Document("", "", {"GRIDMSG_ROW__3__PORT": "7"}).rows("row", Store)


def test_tables_by_name_and_secrets_are_not_shown():
    document = Document('[store.users.ann]\npassword = "pw"\n', "x.toml")
    assert document.section("store", Store).users["ann"].password == "pw"
    assert document.values["store.users.ann.password"].shown() == "…"
    assert "pw7" not in refusal("[store.users.ann]\npassword = 777\n")
    assert "store.users.bob.password: is missing" in refusal("[store.users.bob]\ntags = []\n")


def test_unknown_sections_are_refused():
    document = Document("[store]\n[stroe]\n", "x.toml")
    document.section("store", Store)
    with pytest.raises(ConfigError, match="^x.toml:2: stroe: unknown section; did you mean store"):
        document.refuse_rest(())
    document.refuse_rest(("stroe",))


def test_a_section_can_be_refused_with_words():
    with pytest.raises(ConfigError, match="x.toml:1: link: not yet"):
        Document("[[link]]\n", "x.toml").refuse("link", "not yet")
    Document("", "x.toml").refuse("link", "not yet")


def test_lines_are_not_misled_by_text_blocks():
    text = 'a = """\n[store]\nport = 1\n"""\n[store]\nport = "x"\n'
    with pytest.raises(ConfigError, match=r"^x.toml:6: store.port"):
        Document(text, "x.toml").section("store", Store)


def test_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        Document.load(tmp_path / "none.toml")


def test_declared_keys_tell_type_default_and_help():
    keys = {key.name: key for key in declared_keys(Store)}
    assert keys["sync"].allowed == 'one of "always", "never"'
    assert keys["sync"].default == '"always"'
    assert (keys["segment-size"].default, keys["pause"].default) == ('"64MiB"', '"250ms"')
    assert keys["sync"].help == "When to sync."
    assert keys["users.NAME.password"].default == "required"
    assert keys["folder"].default == "not set"
