"""How the load generator is found, told what to ask, and read; it is not here itself."""

import base64
import json

import pytest

from benchmarks.vegeta import Answer, Report, Target, attack, find_vegeta

REPORT = {"latencies": {"50th": 2_500_000, "99th": 31_000_000}, "requests": 4, "throughput": 19.5}


def test_where_there_is_none_it_says_how_it_is_installed(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="no vegeta here; .*go install .*vegeta"):
        find_vegeta(None)
    with pytest.raises(SystemExit, match="--vegeta elsewhere/vegeta: no program there; .*go install"):
        find_vegeta("elsewhere/vegeta")


def test_it_is_told_what_to_ask_and_its_report_is_read(monkeypatch, tmp_path):
    program = tmp_path / "vegeta"
    report = json.dumps(REPORT | {"status_codes": {"200": 3, "0": 1}})
    program.write_text(f"#!/bin/sh\nif [ $1 = report ]; then echo '{report}'; else echo \"$@\" > {tmp_path}/said; fi\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    found = attack(find_vegeta(None), 80, [Target("/a")], 2, rate=200)
    assert (found.p50_ms, found.p99_ms, found.rate, found.failed) == (2.5, 31.0, 19.5, 1)
    assert "-rate=200" in (tmp_path / "said").read_text() and "-max-workers" not in (tmp_path / "said").read_text()
    attack(str(program), 80, [Target("/a")], 2, clients=3)
    assert "-rate=0 " in (tmp_path / "said").read_text() and "-max-workers=3" in (tmp_path / "said").read_text()


def test_targets_and_answers_are_as_vegeta_writes_them():
    assert json.loads(Target("/a?k=1").line(81)) == {"method": "GET", "url": "http://127.0.0.1:81/a?k=1"}
    asked = json.loads(Target("/b", b'{"ids": [1]}').line(81))
    assert asked["method"] == "POST" and base64.b64decode(asked["body"]) == b'{"ids": [1]}'
    # Kept from vegeta 12.13.
    headers = base64.b64encode(b"Content-Length: 2\nPinnerformer-Release: 2017-11-01\n\n").decode()
    row = ["1795712181624490574", "200", "2118603", "0", "0", "", "", "", "0", "GET", "http://127.0.0.1:81/a", headers]
    assert Answer.parse(row) == Answer(1795712181.6244906, 2.118603, 200, "2017-11-01")
    assert Report.parse(json.dumps(REPORT | {"status_codes": {}}), 0.5).failed == 4
