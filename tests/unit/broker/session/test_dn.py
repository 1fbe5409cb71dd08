from __future__ import annotations

import pytest

from broker.session import dn

SITE = (("DC", "ch"),), (("DC", "cern"),), (("CN", "me"),)


@pytest.mark.parametrize(
    "text",
    [
        "/DC=ch/DC=cern/CN=me",
        "CN=me,DC=cern,DC=ch",
        "cn=me, dc=cern , dc=ch",
        "  /dc=ch/dc=cern/cn=me  ",
        'CN="me",DC=cern,DC=ch',
        r"CN=\6De,DC=cern,DC=ch",
        "2.5.4.3=me,0.9.2342.19200300.100.1.25=cern,DC=ch",
    ],
)
def test_all_spellings_are_one_name(text):
    assert dn.parse(text) == SITE


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("/DC=ch/DC=cern/CN=me", "/DC=cern/DC=ch/CN=me"),
        ("/DC=ch/CN=me", "/DC=ch/CN=Me"),
        ("/DC=ch/CN=me", "/DC=ch/CN=me/CN=proxy"),
        ("CN=me,DC=ch", r"CN=me\ ,DC=ch"),
        ("CN=a+CN=b", "CN=a,CN=b"),
    ],
)
def test_names_that_differ(one, other):
    assert dn.parse(one) != dn.parse(other)


def test_a_value_can_not_pretend_to_be_a_level():
    """A certificate's common name with "/CN=admin" in it is one attribute, whatever it looks like in a slash spelling."""
    shown = dn.from_attributes(
        [[("0.9.2342.19200300.100.1.25", "ch")], [("2.5.4.3", "x/CN=admin")]]
    )
    assert dn.slash_form(shown) == "/DC=ch/CN=x/CN=admin"
    assert shown != dn.parse(dn.slash_form(shown))
    assert shown == dn.parse("CN=x/CN=admin,DC=ch")
    comma = dn.from_attributes([[("2.5.4.3", "x,DC=ch")]])
    assert dn.parse(dn.comma_form(comma)) == comma != dn.parse("CN=x,DC=ch")


def test_service_names_keep_their_slash():
    assert dn.parse("/DC=org/CN=host/a.example.org") == (
        (("DC", "org"),),
        (("CN", "host/a.example.org"),),
    )


def test_aliases_and_unknown_types():
    assert dn.parse("/E=a@b") == dn.parse("emailAddress=a@b") == dn.parse("/Email=a@b")
    assert dn.parse("/USERID=u") == dn.parse("UID=u")
    assert (
        dn.from_attributes([[("1.2.3.4", "v")]]) == dn.parse("/1.2.3.4=v") == dn.parse("1.2.3.4=v")
    )


def test_several_values_in_a_level_have_no_order():
    assert dn.parse("CN=a+UID=b,DC=ch") == dn.parse("UID=b+CN=a,DC=ch")


@pytest.mark.parametrize(
    "text", ["", "me", "/", "/me", "CN", "=x", "CN=a,,DC=b", "a b=c", "CN=a" * 1000]
)
def test_what_is_no_name(text):
    with pytest.raises(ValueError):
        dn.parse(text)


def test_control_characters_are_never_shown():
    name = dn.from_attributes([[("2.5.4.3", "a\nb\x1b")]])
    assert dn.comma_form(name).isprintable()
    assert dn.parse(dn.comma_form(name)) == name
