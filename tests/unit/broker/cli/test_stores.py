"""`gridmsg store …` on a small real store."""

import json

from click.testing import CliRunner

from broker.cli.stores import store
from store.journal import Journal
from tests.support.store_drive import SMALL, message, open_store, unit


def small_store(folder):
    journal = Journal(str(folder / "broker"), SMALL)
    open_store(journal)
    made = unit([(message(b"body %d" % p), 1, p) for p in range(5)])
    made.define(json.dumps(["queue", "/", "q"]), {"lanes": [1]})
    journal.commit(made)
    journal.close()
    return folder / "broker"


def run(folder, *words):
    return CliRunner().invoke(store, [*words, "--data", str(folder)], standalone_mode=False)


def test_stat_verify_and_dump_tell_what_is_there(tmp_path):
    small_store(tmp_path)
    assert "messages                5" in run(tmp_path, "stat").output
    assert run(tmp_path, "verify").output.endswith("intact\n")
    lines = [json.loads(line) for line in run(tmp_path, "dump").output.splitlines()]
    assert [record[0] for record in lines[-1]["records"]] == ["publish", "define"]


def test_a_dump_shows_no_password_hashes(tmp_path):
    """Neither in the record that makes a user, nor in the definitions that begin the next segment."""
    journal = Journal(str(tmp_path / "broker"), SMALL)
    open_store(journal)
    made = unit([(message(b"x"), 1, 0)])
    made.define(json.dumps(["user", "ann"]), {"password": "$argon2id$secret", "tags": ["a"]})
    made.define(json.dumps(["user", "none"]), {"password": "", "tags": []})
    journal.commit(made)
    journal.close()
    for number in (1, 2):
        journal = Journal(str(tmp_path / "broker"), SMALL)
        open_store(journal)
        journal.commit(unit([(message(b"x"), 1, number)]))
        journal.close()
    shown = run(tmp_path, "dump").output
    assert "argon2id" not in shown
    assert "ann" in shown and '"password": "(hidden)"' in shown and '"password": ""' in shown
    records = [one for line in shown.splitlines() for one in json.loads(line)["records"]]
    assert {"define", "definitions"} <= {one[0] for one in records}


def test_salvage_rebuilds_what_verify_found_damaged(tmp_path):
    folder = small_store(tmp_path)
    for path in (folder / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    found = run(tmp_path, "verify")
    assert found.return_value == 1 and "fails its checksum" in found.output
    found = run(tmp_path, "salvage", "--yes", "--json")
    assert found.return_value == 0, found.output
    told = json.loads(found.output)
    assert told["messages"] == 5 and told["definitions"] == 1 and not told["from_checkpoint"]
    assert len(told["damage"]) == 2 and not told["lost"]
    assert run(tmp_path, "verify").return_value == 0
    assert len(list((folder / "quarantine").glob("*/checkpoints/*"))) == 2


def test_salvage_names_what_is_lost(tmp_path):
    folder = small_store(tmp_path)
    (segment,) = (folder / "segments").glob("*.seg")
    raw = segment.read_bytes()
    segment.write_bytes(raw.replace(b"body 3", b"badly!"))
    found = run(tmp_path, "salvage", "--yes")
    assert found.return_value == 1
    assert "lost: 5 messages of lane 1" in found.output and '"q"' in found.output
    assert "saved 0 messages" in found.output
