from __future__ import annotations

import pytest

from certs.dn import comma_form, read_name, slash_form
from certs.errors import CertsFailure


@pytest.mark.parametrize(
    "text",
    [
        "/DC=ch/DC=cern/OU=Grid/CN=me",
        "CN=me,OU=Grid,DC=cern,DC=ch",
        "CN=me, OU=Grid, DC=cern, DC=ch",
    ],
)
def test_both_spellings_are_one_name(text):
    name = read_name(text)
    assert slash_form(name) == "/DC=ch/DC=cern/OU=Grid/CN=me"
    assert comma_form(name) == "CN=me,OU=Grid,DC=cern,DC=ch"


def test_a_bare_name_is_a_common_name():
    assert slash_form(read_name("me")) == "/CN=me"


def test_a_slash_inside_a_value_stays():
    assert slash_form(read_name("/DC=org/CN=host/a.example.org")) == "/DC=org/CN=host/a.example.org"
    assert len(read_name("/DC=org/CN=host/a.example.org").rdns) == 2


def test_mail_addresses_have_several_short_names():
    assert slash_form(read_name("/CN=a/emailAddress=a@b.ch")) == "/CN=a/EMAILADDRESS=a@b.ch"
    assert read_name("/CN=a/E=a@b.ch") == read_name("/CN=a/Email=a@b.ch")


@pytest.mark.parametrize(
    "text", ["", "/DC=ch", "/XX=1/CN=a", "CN=", "/CN=", "CN=a,,", "/C=Switzerland/CN=a", "/CN=a\nb"]
)
def test_what_is_no_name_is_refused_with_an_example(text):
    with pytest.raises(CertsFailure, match="such as /DC=ch/DC=site/CN=me"):
        read_name(text)
