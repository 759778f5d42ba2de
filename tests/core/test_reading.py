"""The one door through which files are read: what is damaged, endless or hostile costs its own content alone."""

import contextlib
import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest

import tuner
from tuner.cli.tables import print_lines
from tuner.core import documents, files
from tuner.engines.gguf import check_gguf
from tuner.errors import PathError, RequestError, SLOError
from tuner.search.ray.sync import Watch
from tuner.servers import telemetry
from tuner.sweep.spec import make_spec
from tuner.traffic.prompt_file import read_prompt_file

BEFORE = Path(__file__).parents[1] / "data" / "earlier_version" / "20261126T124630Z-sweep-before"
BESIDE = ("experiment.json", "trials/0001/server.json", "trials/0001/trial.json", "trials/0001/telemetry.jsonl")
DAMAGES = {
    "empty": b"",
    "cut": b'{"kind": "swe',
    "null": b"null",
    "a list": b"[1]",
    "nested": b'{"spec": ' + b"[" * 900 + b"]" * 900 + b"}",
    "nested deeper": b'{"spec": ' + b"[" * 100_000,
    "a number of 5,000 digits": b'{"spec": ' + b"9" * 5000 + b"}",
    "zeros": bytes(100),
}


def pipe(path):
    os.mkfifo(path)


def endless(path):
    path.symlink_to("/dev/zero")


def huge(path):
    with open(path, "wb") as file:
        file.truncate(20 << 30)


PLACES = [
    *(pytest.param(lambda path, data=data: path.write_bytes(data), id=name) for name, data in DAMAGES.items()),
    *(pytest.param(make, id=make.__name__) for make in (pipe, endless, huge)),
]


@pytest.fixture
def run(tmp_path):
    """Two runs side by side, of which one is to be damaged."""
    return Path(shutil.copytree(BEFORE, tmp_path / "runs" / "damaged"))


@pytest.mark.parametrize("name", BESIDE)
@pytest.mark.parametrize("put", PLACES)
def test_a_damaged_neighbour_costs_its_own_content_and_a_warning(run, name, put, caplog):
    whole = tuner.load_batches(BEFORE)
    (run / name).unlink()
    put(run / name)
    done = tuner.read_results(run).judged.query("outcome == 'completed'")
    assert done["ttft_p50"].tolist() == whole.query("outcome == 'completed'")["ttft_p50"].tolist()
    assert "telemetry" in name or Path(name).name in caplog.text  # whose last line may be cut


def test_one_damaged_run_leaves_the_others(run):
    shutil.copytree(BEFORE, run.parent / "whole")
    (run / "experiment.json").write_bytes(b"[1]")
    assert set(tuner.load_batches(run.parent)["experiment"]) == {"damaged", "whole"}


@pytest.mark.parametrize("name", ["D100_100_text-to-text_num_concurrency_8_time_30s.json", "x.json"])
def test_a_batch_file_of_20_gb_costs_its_own_row(tmp_path, name):
    level = next(BEFORE.rglob("D20_8*_1_*.json"))
    shutil.copy(level, tmp_path)
    huge(tmp_path / name)
    assert "completed" in set(tuner.load_batches(tmp_path)["outcome"])


@pytest.mark.parametrize("make", [pipe, endless, huge])
@pytest.mark.parametrize("ending", ["yaml", "json"])
def test_a_document_is_a_file_of_its_size(tmp_path, make, ending):
    make(path := tmp_path / f"slo.{ending}")
    with pytest.raises(PathError, match=r"cannot read the SLO .*(pipe|bytes)"):
        tuner.SLO.load(path)


PAIRS = zip("abcdefghi", "bcdefghij", strict=True)
BOMB = "a: &a [x,x]\n" + "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 10)}]\n" for a, b in PAIRS)
DOCUMENTS = {
    "a month 13": "ttft: {threshold: 2026-13-01}",
    "a number that is none": "ttft: {threshold: !!int foo}",
    "a truth that is none": "ttft: {threshold: !!bool foo}",
    "an instant that is none": "ttft: {threshold: !!timestamp foo}",
    "5,000 digits": f"ttft: {{threshold: {'9' * 5000}}}",
    "4,000 digits": f"ttft: {{threshold: {'9' * 4000}}}",
    "hexadecimal": f"ttft: {{threshold: 0x{'f' * 5000}}}",
    "endless": "ttft: {threshold: .inf}",
    "NUL": 'ttft: {threshold: "\\0"}',
    "half a character": 'ttft: {threshold: "\\ud800"}',
    "10,000 levels": "ttft: " + "[" * 10_000,
    "a cycle": "ttft: &a {threshold: *a}",
    "aliases that expand": BOMB + "ttft: {threshold: *j}",
    "merges that expand": "a: &a {x: 1}\nb: &b {<<: [" + ", ".join(["*a"] * 4000) + "]}\nttft: *b",
    "many keys": "ttft: {" + ", ".join(f"k{number}: 1" for number in range(10_000)) + "}",
    "a long text": f"ttft: {{threshold: {'x' * 200_000}}}",
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)
def test_a_hostile_document_is_refused_in_one_line(tmp_path, document):
    (path := tmp_path / "slo.yaml").write_text(document)
    with pytest.raises((SLOError, PathError)) as refused:
        tuner.SLO.load(path)
    assert len(str(refused.value)) < 300_000


def test_aliases_and_merges_of_a_person_are_read():
    text = "base: &base {hard_fail: false}\np90: {threshold: 1, <<: *base}\np50: *base"
    assert documents.parse_yaml(text)["p90"] == {"threshold": 1, "hard_fail": False}


def test_a_damaged_line_of_telemetry_costs_itself(tmp_path, caplog):
    lines = [
        '{"at": "2026-11-24T04:15:30Z", "memory": 5}',
        "{",
        "null",
        '{"memory": 1}',
        '{"at": "2026-11-24T04:15:31Z"}',
    ]
    (tmp_path / telemetry.TELEMETRY_FILE).write_text("\n".join(lines) + "\n")
    assert len(telemetry.load(tmp_path)) == 2
    assert "3 damaged lines" in caplog.text


def test_a_report_is_read_from_itself_alone(tmp_path):
    """Another file that lies where the report's batches lay is none of its batches."""
    run = Path(shutil.copytree(BEFORE, tmp_path / "run"))
    page = tuner.write_report(run, tmp_path / "r.html")
    before = tuner.read_results(page, slo=tuner.SLO.parse({"ttft": {"p90": {"threshold": 5.0}}})).judged
    for path in run.rglob("D20_8*.json"):
        path.unlink()
        endless(path)
    after = tuner.read_results(page, slo=tuner.SLO.parse({"ttft": {"p90": {"threshold": 5.0}}})).judged
    pd.testing.assert_series_equal(before["attainment"], after["attainment"])


@pytest.mark.parametrize("make", [pipe, lambda path: path.mkdir()], ids=["pipe", "folder"])
def test_only_files_are_replaced(tmp_path, make):
    make(target := tmp_path / "out.html")
    with pytest.raises(PathError, match="no file, but"):
        files.write_atomically(target, "x")
    assert not target.is_file()


def test_a_link_is_no_place_for_a_report(run, tmp_path):
    (target := tmp_path / "latest.html").write_text("mine")
    (link := tmp_path / "link.html").symlink_to(target)
    with pytest.raises(PathError, match="is a link"):
        tuner.write_report(run, link)
    assert link.is_symlink() and target.read_text() == "mine"


def test_a_terminal_gets_no_escape_sequence(capsys):
    print_lines("na\x1b]52;c;aGk=\x07\x9b31m\u202eme")
    out = capsys.readouterr().out
    assert "me" in out and not {"\x1b", "\x07", "\x9b", "\u202e"} & {*out}


READERS = {
    "server.log": lambda run: tuner.write_report(run, run / "r.html"),
    "chat.jsonl": lambda run: read_prompt_file(run / "chat.jsonl"),
    "chat.csv.gz": lambda run: read_prompt_file(run / "chat.csv.gz"),
    "model.gguf": lambda run: check_gguf(run / "model.gguf"),
    "trial.json": lambda run: [*Watch(run / "trials" / "0001").changes()],
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", READERS)
def test_nobody_waits_at_a_pipe(run, name):
    place = next(run.rglob(name), run / name)
    place.unlink(missing_ok=True)
    pipe(place)
    with contextlib.suppress(RequestError):
        READERS[name](run)


@pytest.mark.parametrize("ending", ["yaml", "json"])
def test_json_that_tabs_indent_is_read_whatever_it_is_called(tmp_path, ending):
    (path := tmp_path / f"slo.{ending}").write_text('{\n\t"ttft": {\n\t\t"threshold": 1\n\t}\n}\n')
    assert tuner.SLO.load(path).to_dict()["ttft"]
    assert make_spec({"slo": str(path)}).slo == {"ttft": {"threshold": 1}}
    path.write_text('{\n\t"ttft": {\n\t\t"threshold": 1\n')
    with pytest.raises(RequestError):
        make_spec({"slo": str(path)})


def test_a_change_of_what_was_written_is_known():
    sealed = files.seal(b'{"a":1,"checksum":"00000000","b":2}')
    assert not files.is_changed(sealed)
    assert not files.is_changed(b'{"a":1}')  # of an earlier version
    assert files.is_changed(sealed.replace(b'"b":2', b'"b":3'))


@pytest.mark.parametrize("kind", [dict, list])
def test_json_of_ours_is_of_its_kind(tmp_path, kind):
    (path := tmp_path / "a.json").write_text(json.dumps(kind()))
    assert files.read_json(path, kind) == kind()
    with pytest.raises(PathError, match="not valid JSON"):
        files.read_json(path, int)
