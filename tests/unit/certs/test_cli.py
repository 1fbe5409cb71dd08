from __future__ import annotations

import json

from broker import cli


def run(capsys, *words, status=0):
    assert cli.run(["certs", *words]) == status
    found = capsys.readouterr()
    return found.out if status == 0 else found.err


def test_from_nothing_to_a_checked_site(capsys, tmp_path):
    folder = ("--folder", str(tmp_path / "certs"))
    assert "/DC=ch/CN=CA" in run(capsys, "init", "--subject", "/DC=ch/CN=CA", *folder)
    said = run(capsys, "host", "b.example.org", "--also", "10.1.2.3", *folder)
    assert f'certificate = "{tmp_path}/certs/hosts/b.example.org.pem"' in said
    said = run(capsys, "client", "CN=me,DC=ch", *folder)
    assert "gridmsg user add '/DC=ch/CN=me' --no-password" in said and "CN=me,DC=ch" in said
    assert "PRIVATE" not in said
    shown = json.loads(
        run(capsys, "show", str(tmp_path / "certs/hosts/b.example.org.pem"), "--json", *folder)
    )
    assert set(shown[0]["names"]) == {"b.example.org", "localhost", "10.1.2.3", "127.0.0.1", "::1"}
    assert run(capsys, "check", *folder).count("good") == 3


def test_data_folder_is_the_default_place(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("GRIDMSG_DATA", str(tmp_path))
    run(capsys, "init")
    assert (tmp_path / "certs" / "ca.pem").exists()
    assert "gridmsg authority" in run(capsys, "show")


def test_refusals_are_one_line(capsys, tmp_path):
    folder = ("--folder", str(tmp_path))
    said = run(capsys, "host", "h", *folder, status=1)
    assert said.startswith("gridmsg: no authority in") and said.count("\n") == 1
    run(capsys, "init", *folder)
    assert "is there" in run(capsys, "init", *folder, status=1)
    (tmp_path / "ca.key").chmod(0o644)
    assert cli.run(["certs", "check", *folder]) == 1
    assert "chmod 600" in capsys.readouterr().out
