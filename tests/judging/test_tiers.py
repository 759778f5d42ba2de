"""Several SLOs in one pass: the first gives the verdicts, each has its best level."""

import json

import pytest
from support import result_files
from support.commands import run

import tuner
from tuner.errors import SLOError
from tuner.judging.costs import Price
from tuner.judging.table import table
from tuner.report.results import read_results
from tuner.report.write import write_report

CHAT = {"ttft": {"p90": {"threshold": 0.25}}}
BATCH = {"latency": {"p90": {"threshold": 60}}, "min_throughput": {"threshold": 10}}
NOBODY = {"ttft": {"threshold": "1 ms"}}
TIERS = {"tiers": {"chat": CHAT, "batch": BATCH, "nobody": NOBODY}}


@pytest.fixture
def folder(tmp_path):
    """Three levels, whose TTFT grows with the level."""
    trial = result_files.run(tmp_path / "run", [1, 2, 4])
    for level in (1, 2, 4):
        result_files.add_level(
            trial, level, result_files.result([result_files.request(ttft=0.1 * level)] * 60, level=level)
        )
    return tmp_path / "run"


def test_each_tier_is_as_if_it_were_alone(folder):
    batches = tuner.load_batches(folder)
    found = tuner.tiers(batches, TIERS)
    assert list(found.tiers) == ["chat", "batch", "nobody"]
    for name, document in TIERS["tiers"].items():
        alone = tuner.summarize(tuner.judge(batches, document))
        assert found.tiers[name].summary.text == alone.text
    assert {name: tier.summary.best_level for name, tier in found.tiers.items()} == {
        "chat": 2,
        "batch": 4,
        "nobody": None,
    }


def test_a_plain_slo_is_its_only_tier(folder):
    found = tuner.tiers(tuner.load_batches(folder), CHAT)
    assert list(found.tiers) == ["SLO"] and found.tiers["SLO"].summary.best_level == 2


def test_an_slo_with_tiers_is_its_first_one_and_knows_all(tmp_path):
    slo = tuner.SLO.load(result_files.write(tmp_path / "slo.json", TIERS))
    assert slo.constraints == tuner.SLO.parse(CHAT).constraints
    assert [name for name, _ in slo.tiers] == ["chat", "batch", "nobody"]
    assert tuner.SLO.parse(slo.to_dict()) == slo
    assert tuner.SLO.parse(CHAT).tiers == ()


WRONG = {
    "beside others": ({"tiers": {"a": CHAT}, "ttft": {"threshold": 1}}, ["'ttft'", "beside tiers"]),
    "none": ({"tiers": {}}, ["tiers", "names no tier"]),
    "null": ({"tiers": None}, ["tiers", "names no tier"]),
    "a list": ({"tiers": [CHAT]}, ["tiers", "expected {name of the tier"]),
    "a tier that is no SLO": ({"tiers": {"a": 1}}, ["tiers.a", "an SLO is a mapping"]),
    "a wrong SLO in one": ({"tiers": {"a": CHAT, "b": {"ttft": {"threshold": 0}}}}, ["tiers.b.ttft.threshold"]),
    "tiers of tiers": ({"tiers": {"a": {"tiers": {"b": CHAT}}}}, ["tiers.a", "unknown key 'tiers'"]),
    "a name that is none": ({"tiers": {1: CHAT}}, ["tiers", "has a name"]),
    "a name without end": ({"tiers": {"a" * 41: CHAT}}, ["tiers", "at most 40"]),
    "a name of two lines": ({"tiers": {"a\nb": CHAT}}, ["tiers", "has a name"]),
}


@pytest.mark.parametrize(("document", "said"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said_with_its_place(document, said):
    with pytest.raises(SLOError) as error:
        tuner.SLO.parse(document, "slo.yaml")
    for word in ["slo.yaml", *said]:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_the_answer_begins_with_the_best_of_each_tier_and_its_cost(folder):
    results = read_results(folder, slo=tuner.SLO.parse(TIERS), price=Price(2.0, 1))
    assert [line.split(":")[0] for line in results.answer[:3]] == ["chat", "batch", "nobody"]
    assert "at concurrency 2" in results.answer[0] and "at concurrency 4" in results.answer[1]
    assert results.answer[2] == "nobody: No batch meets the SLO, so there is no maximum"
    assert ["Cost" in line for line in results.answer[3:6]] == [True, True, False]
    assert results.judged["verdict"].tolist() == ["pass", "pass", "fail"]
    assert results.judged["verdict_of_batch"].tolist() == ["pass"] * 3
    assert {"verdict", "verdict, batch", "verdict, nobody"} <= set(table(results.judged))


def test_report_and_command_line_say_the_same(folder, tmp_path):
    slo = result_files.write(tmp_path / "slo.yaml", json.dumps(TIERS))
    expected = read_results(folder, slo=tuner.SLO.load(slo)).answer
    code, out, _ = run(tmp_path, "load", folder, "--slo", slo)
    assert code == 0 and out.strip().splitlines()[-len(expected) :] == expected
    report = write_report(folder, tmp_path / "r.html", tuner.SLO.load(slo))
    assert read_results(report).answer == expected
    for line in expected[:3]:
        assert line.replace("'", "&#39;") in report.read_text()


def test_names_of_tiers_are_no_markup(folder, tmp_path):
    name = "<b>[red]x[/]"
    slo = result_files.write(tmp_path / "slo.json", {"tiers": {"a": CHAT, name: BATCH}})
    code, out, _ = run(tmp_path, "load", folder, "--slo", slo)
    assert code == 0 and f"verdict, {name}" in out and f"{name}: " in out
    assert "<b>[red]" not in write_report(folder, tmp_path / "r.html", tuner.SLO.load(slo)).read_text()


@pytest.mark.parametrize(("document", "times"), [(TIERS, 3), (CHAT, 1)], ids=["three tiers", "a plain SLO"])
def test_each_tier_is_judged_once(document, times, folder, monkeypatch):
    from tuner.judging import tiers
    from tuner.report import results

    judged = []
    for module in (tiers, results):
        once = module.judge
        monkeypatch.setattr(module, "judge", lambda *given, once=once: judged.append(given) or once(*given))
    assert read_results(folder, slo=tuner.SLO.parse(document)).judged["verdict"].tolist() == ["pass", "pass", "fail"]
    assert len(judged) == times
