"""The SLO file, read strictly, and the verdicts it gives."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import result_files
from support.result_files import add_level, failure, name, request, result, write
from support.result_files import run as run_directory

import tuner
from tuner.errors import PathError, SLOError
from tuner.judging.slo import SLO
from tuner.judging.table import table

WHOLE = """
latency: {p50: {threshold: 2.0, hard_fail: false}, p90: {threshold: 5.0, fail_ratio: 0.2}, p99: {threshold: 10.0}}
ttft:    {threshold: 500 ms, weight: 2.0}
tpot:    {p95: {threshold: 0.05}, mean: {threshold: 20ms}}
error_rate: {threshold: 0.01}
min_throughput: {threshold: 100}
confidence: 0.95
steepness: 0.2
"""


def test_the_whole_file(tmp_path):
    slo = SLO.load(write(tmp_path / "slo.yaml", WHOLE))
    found = {c.column: (c.threshold, c.hard_fail, c.fail_ratio, c.weight) for c in slo.constraints}
    assert found == {
        "e2e_latency_p50": (2.0, False, 0.0, 1.0),
        "e2e_latency_p90": (5.0, True, 0.2, 1.0),
        "e2e_latency_p99": (10.0, True, 0.0, 1.0),
        "ttft_mean": (0.5, True, 0.0, 2.0),
        "tpot_p95": (0.05, True, 0.0, 1.0),
        "tpot_mean": (0.02, True, 0.0, 1.0),
        "error_rate": (0.01, True, 0.0, 1.0),
        "output_throughput": (100.0, True, 0.0, 1.0),
    }
    assert (slo.confidence, slo.steepness) == (0.95, 0.2)
    assert SLO.parse(slo.to_dict()) == slo
    assert SLO.load(write(tmp_path / "slo.json", json.dumps(slo.to_dict()))) == slo


def test_every_part_is_optional():
    assert SLO.parse({}).constraints == ()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (0.5, 0.5),
        (2, 2.0),
        ("500 ms", 0.5),
        ("500ms", 0.5),
        ("0.5 s", 0.5),
        ("1e-3", 0.001),
        (".5s", 0.5),
        (" 7 ms ", 0.007),
    ],
)
def test_thresholds_in_seconds(text, seconds):
    [constraint] = SLO.parse({"ttft": {"threshold": text}}).constraints
    assert constraint.threshold == seconds


#: document → what the message must hold, the place first
WRONG = {
    "an unknown section": ({"letency": {"threshold": 1}}, ["'letency'", "latency, ttft"]),
    "an unknown key": ({"ttft": {"treshold": 1}}, ["ttft", "'treshold'"]),
    "a percentile that does not exist": ({"ttft": {"p75": {"threshold": 1}}}, ["ttft", "'p75'", "p50, p90, p95, p99"]),
    "a percentile above 100": ({"latency": {"p101": {"threshold": 1}}}, ["latency", "'p101'"]),
    "mean and percentiles mixed": ({"ttft": {"threshold": 1, "p90": {"threshold": 2}}}, ["ttft", "'p90'"]),
    "a key of a percentile": ({"latency": {"p90": {"threshold": 1, "hard": True}}}, ["latency.p90", "'hard'"]),
    "no threshold": ({"latency": {"p90": {"weight": 1}}}, ["latency.p90", "no threshold"]),
    "nothing": ({"latency": {}}, ["latency", "no threshold"]),
    "null": ({"latency": None}, ["latency", "expected"]),
    "a bare number": ({"ttft": 1.0}, ["ttft", "expected {threshold"]),
    "a threshold of 0": ({"ttft": {"threshold": 0}}, ["ttft.threshold", "above 0"]),
    "a negative threshold": ({"tpot": {"p95": {"threshold": -0.1}}}, ["tpot.p95.threshold", "above 0", "-0.1"]),
    "NaN": ({"ttft": {"threshold": math.nan}}, ["ttft.threshold"]),
    "infinity": ({"ttft": {"threshold": math.inf}}, ["ttft.threshold"]),
    "a huge number": ({"ttft": {"threshold": 10**400}}, ["ttft.threshold"]),
    "a boolean": ({"ttft": {"threshold": True}}, ["ttft.threshold"]),
    "a list": ({"ttft": {"threshold": [1]}}, ["ttft.threshold"]),
    "a word": ({"ttft": {"threshold": "fast"}}, ["ttft.threshold", "'fast'"]),
    "two numbers": ({"ttft": {"threshold": "1 2"}}, ["ttft.threshold"]),
    "a unit that is none": ({"ttft": {"threshold": "5 parsecs"}}, ["ttft.threshold", "'parsecs'", "s, ms"]),
    "a unit for a share": ({"error_rate": {"threshold": "5 ms"}}, ["error_rate.threshold", "'ms'"]),
    "a share above 1": ({"error_rate": {"threshold": 5}}, ["error_rate", "at most 1"]),
    "a percentile of a share": ({"error_rate": {"p90": {"threshold": 0.1}}}, ["error_rate", "'p90'"]),
    "hard_fail that is no boolean": (
        {"ttft": {"threshold": 1, "hard_fail": "no"}},
        ["ttft.hard_fail", "true or false"],
    ),
    "a negative weight": ({"ttft": {"threshold": 1, "weight": -1}}, ["ttft.weight"]),
    "a negative fail_ratio": ({"ttft": {"threshold": 1, "fail_ratio": -1}}, ["ttft.fail_ratio"]),
    "an infinite fail_ratio": ({"ttft": {"threshold": 1, "fail_ratio": math.inf}}, ["ttft.fail_ratio"]),
    "a confidence of 1": ({"confidence": 1}, ["confidence", "between 0 and 1"]),
    "a steepness of 0": ({"steepness": 0}, ["steepness"]),
    "no mapping": ([1], ["SLO", "mapping"]),
    "a key that is no text": ({1: {}}, ["1"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_slo_names_the_place(case):
    document, parts = WRONG[case]
    with pytest.raises(SLOError) as caught:
        SLO.parse(document)
    assert all(part in str(caught.value) for part in parts), caught.value
    assert "\n" not in str(caught.value)


FILES = {
    "a key that stands twice": ("ttft: {threshold: 1}\nttft: {threshold: 2}", "'ttft' stands twice"),
    "a key twice within": ("ttft: {threshold: 1, threshold: 2}", "'threshold' stands twice"),
    "no YAML": ("ttft: {threshold: 1", "not valid YAML"),
    "a Python object": ("ttft: !!python/object/apply:os.getcwd []", "not valid YAML"),
    "an alias bomb": ("a: &a [1]\nb: *a", "unknown key 'a'"),
    "nothing": ("", "an SLO is a mapping"),
    "nested too deeply": ("[" * 5000, ""),
}


@pytest.mark.parametrize("case", FILES)
@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_a_wrong_file_is_named(tmp_path, case, suffix):
    content, message = FILES[case]
    file = write(tmp_path / f"slo.{suffix}", content)
    with pytest.raises(SLOError) as caught:
        SLO.load(file)
    assert str(file) in str(caught.value)
    assert suffix == "json" or message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_json_keys_that_stand_twice(tmp_path):
    with pytest.raises(SLOError, match="'ttft' stands twice"):
        SLO.load(write(tmp_path / "slo.json", '{"ttft": {"threshold": 1}, "ttft": {"threshold": 2}}'))


def test_a_missing_slo_file(tmp_path):
    with pytest.raises(PathError, match="cannot read the SLO"):
        SLO.load(tmp_path / "slo.yaml")


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(st.sampled_from(["latency", "ttft", "p90", "threshold", "weight", "confidence"]), inner)
        ),
        max_leaves=6,
    )
)
def test_any_document_is_an_slo_or_an_slo_error(document):
    try:
        SLO.parse(document)
    except SLOError as error:
        assert "\n" not in str(error) or "\n" in repr(document)


def frame(**values):
    """One completed batch of 1000 requests in which everything is well, but for `values`."""
    good = {"outcome": "completed", "completed": 1000, "error_rate": 0.0, "output_throughput": 100.0}
    latencies = {f"{m}_{s}": 0.1 for m in ("ttft", "tpot", "e2e_latency") for s in ("mean", "p50", "p90", "p95", "p99")}
    return pd.DataFrame([good | latencies | values])


def verdict(slo, **values):
    [row] = tuner.judge(frame(**values), slo).to_dict("records")
    return row


@pytest.mark.parametrize(
    ("section", "metric", "label"),
    [("latency", "e2e_latency", "e2e latency"), ("ttft", "ttft", "TTFT"), ("tpot", "tpot", "TPOT")],
)
@pytest.mark.parametrize("statistic", ["mean", "p50", "p90", "p95", "p99"])
def test_every_metric_and_statistic(section, metric, label, statistic):
    """Below, at and above the threshold; and each constraint looks at its own column only."""
    slo = {section: {statistic: {"threshold": 0.5}}}
    column = f"{metric}_{statistic}"
    assert verdict(slo, **{column: 0.49})["verdict"] == "pass"
    assert verdict(slo, **{column: 0.5})["verdict"] == "pass"
    row = verdict(slo, **{column: 0.6})
    assert row["verdict"] == "fail"
    [violation] = row["violations"]
    assert violation | {"violation_ratio": 0} == {
        "metric": column,
        "threshold": 0.5,
        "actual": 0.6,
        "violation_ratio": 0,
        "type": "HARD_FAIL",
    }
    assert violation["violation_ratio"] == pytest.approx(0.2)
    assert row["verdict_reason"] == f"{label} {statistic} 0.6 s > 0.5 s (+20 %)"


SOFT = {"ttft": {"threshold": 1.0, "hard_fail": False}}
RATIO = {"ttft": {"threshold": 1.0, "fail_ratio": 0.2}}
VERDICTS = [
    (SOFT, {"ttft_mean": 1.0}, "pass", None),
    (SOFT, {"ttft_mean": 50.0}, "soft", "SOFT_VIOLATION"),
    (RATIO, {"ttft_mean": 1.1}, "soft", "SOFT_VIOLATION"),
    (RATIO, {"ttft_mean": 1.2}, "soft", "SOFT_VIOLATION"),
    (RATIO, {"ttft_mean": 1.21}, "fail", "HARD_FAIL"),
    (SOFT | {"tpot": {"threshold": 0.05}}, {"ttft_mean": 2.0}, "fail", None),
    ({"error_rate": {"threshold": 0.01}}, {"error_rate": 0.01}, "pass", None),
    ({"error_rate": {"threshold": 0.01}}, {"error_rate": 0.02}, "fail", "HARD_FAIL"),
    ({"error_rate": {"threshold": 1.0}}, {"error_rate": 1.0}, "pass", None),
    ({"min_throughput": {"threshold": 100}}, {"output_throughput": 100.0}, "pass", None),
    ({"min_throughput": {"threshold": 100}}, {"output_throughput": 80.0}, "fail", "HARD_FAIL"),
    ({"ttft": {"threshold": 1.0}}, {"ttft_mean": math.nan}, "unknown", None),
    ({"ttft": {"threshold": 1.0}}, {"ttft_mean": None}, "unknown", None),
    ({"ttft": {"threshold": 1.0}}, {"ttft_mean": math.inf}, "unknown", None),
    ({"error_rate": {"threshold": 0.1}}, {"error_rate": math.nan}, "unknown", None),
    (SOFT | {"tpot": {"threshold": 0.05}}, {"ttft_mean": math.nan}, "fail", None),  # a hard violation is one anyway
    ({"ttft": {"threshold": 1.0}}, {"outcome": "server_died"}, "unknown", None),
    ({"ttft": {"threshold": 1.0}}, {"superseded": True}, "unknown", None),
    ({}, {}, "pass", None),
]


@pytest.mark.parametrize(("slo", "values", "expected", "kind"), VERDICTS)
def test_verdicts(slo, values, expected, kind):
    row = verdict(slo, **values)
    assert row["verdict"] == expected
    assert kind is None or [violation["type"] for violation in row["violations"]] == [kind]
    assert (row["verdict_reason"] != "") == (expected != "pass" and "superseded" not in values)
    assert math.isnan(row["penalty"]) == (expected == "unknown")


def test_a_missing_column_is_unknown():
    assert tuner.judge(frame().drop(columns="ttft_mean"), SOFT)["verdict"].tolist() == ["unknown"]


#: the strictest percentile that the SLO names → the most errors it lets pass without naming error_rate
IMPLIED = [
    ({"ttft": {"p99": {"threshold": 9}}}, 0.01),
    ({"ttft": {"p95": {"threshold": 9}}, "latency": {"p50": {"threshold": 9}}}, 0.05),
    ({"ttft": {"p90": {"threshold": 9}}}, 0.1),
    ({"ttft": {"p50": {"threshold": 9}}}, 0.1),
    ({"ttft": {"threshold": 9}}, 0.1),
    ({}, 0.1),
]


@pytest.mark.parametrize(("slo", "room"), IMPLIED)
def test_survivors_do_not_pass_where_nobody_limits_errors(slo, room):
    """A failed request met no latency: a percentile has room for 1 − q of them."""
    assert verdict(slo, error_rate=room)["verdict"] == "pass"
    row = verdict(slo, error_rate=room + 0.01)
    assert row["verdict"] == "fail"
    assert "the SLO names no error_rate" in row["verdict_reason"]
    assert verdict(slo | {"error_rate": {"threshold": 1.0}}, error_rate=0.9)["verdict"] == "pass"


#: (statistic, completed requests, evidence)
EVIDENCE = [
    *(("p90", 28, "weak"), ("p90", 29, "strong"), ("p95", 58, "weak"), ("p95", 59, "strong")),
    *(("p99", 298, "weak"), ("p99", 299, "strong"), ("p50", 4, "weak"), ("p50", 5, "strong"), ("p99", None, "weak")),
]


@pytest.mark.parametrize(("statistic", "completed", "evidence"), EVIDENCE)
def test_evidence(statistic, completed, evidence):
    slo = {"ttft": {statistic: {"threshold": 1.0}}}
    weak = evidence == "weak"
    assert verdict(slo, completed=completed)["evidence"] == evidence
    assert verdict(slo, completed=completed)["verdict"] == "pass"
    row = verdict(slo | {"confidence": 0.95}, completed=completed)
    assert row["verdict"] == ("unknown" if weak else "pass")
    assert ("needs" in row["verdict_reason"]) == weak


NEAR = {"ttft": {"threshold": 1.0, "fail_ratio": 0.2}, "tpot": {"p90": {"threshold": 0.5}}}
#: (values, evidence) where 0.02 s of TTFT and 0.001 s of TPOT are the load generator's own
SHARES = [
    *(({"ttft_mean": 0.97}, "strong"), ({"ttft_mean": 0.99}, "weak"), ({"ttft_mean": 1.01}, "weak")),
    *(({"ttft_mean": 1.1}, "strong"), ({"ttft_mean": 1.19}, "weak"), ({"ttft_mean": 1.23}, "strong")),
    *(({"tpot_p90": 0.4985}, "strong"), ({"tpot_p90": 0.4995}, "weak"), ({"tpot_p90": 0.502}, "strong")),
    ({"tpot_p90": 0.5, "client_tpot": math.nan}, "strong"),
]


@pytest.mark.parametrize(("values", "evidence"), SHARES)
def test_a_verdict_that_turns_on_less_than_the_clients_share_is_weak(values, evidence):
    row = verdict(NEAR, **({"client_ttft": 0.02, "client_tpot": 0.001} | values))
    assert row["evidence"] == evidence
    assert ("own share" in row["evidence_reason"]) == (evidence == "weak")
    assert ("load generator's own" in row["verdict_reason"]) == (evidence == "weak" and row["verdict"] != "pass")


def test_the_reason_of_weak_evidence():
    assert verdict(NEAR)["evidence_reason"] == ""
    assert "too few" in verdict(NEAR, completed=3, client_ttft=9.0)["evidence_reason"]
    assert verdict(NEAR, outcome="timeout", client_ttft=9.0)["evidence_reason"] == ""


@settings(max_examples=100, deadline=None)
@given(st.floats(0, 1e300), st.floats(0.001, 1e3), st.floats(0, 100), st.floats(0.001, 10))
def test_penalties_are_finite_and_begin_at_the_threshold(actual, threshold, weight, steepness):
    constraint = {"threshold": threshold, "hard_fail": False, "weight": weight}
    slo = {"ttft": constraint, "steepness": steepness}
    row = verdict(slo, ttft_mean=actual)
    assert math.isfinite(row["penalty"])
    assert row["penalty"] >= 0
    assert (row["verdict"] == "pass") == (row["violations"] == [])
    just_above = verdict(slo, ttft_mean=threshold * (1 + 1e-8))
    assert just_above["penalty"] <= 1e-8 / steepness * weight * 1.01


def test_the_penalty_is_that_of_the_contract():
    slo = {"ttft": {"threshold": 1.0, "hard_fail": False, "weight": 2.0}, "steepness": 0.1}
    assert verdict(slo, ttft_mean=1.05)["penalty"] == pytest.approx(2 * (math.exp(0.5) - 1))


def test_attainment_counts_failed_requests_as_misses(tmp_path):
    """60 of 100 requests meet both limits: 10 failed, 20 are late, 10 slow."""
    requests = [request()] * 60 + [failure()] * 10 + [request(0.9)] * 20 + [request(tpot=0.2)] * 10
    write(tmp_path / name(1), result(requests))
    slo = {"ttft": {"p50": {"threshold": 0.5}}, "tpot": {"p50": {"threshold": 0.05}}, "error_rate": {"threshold": 0.5}}
    [row] = tuner.judge(tuner.load_batches(tmp_path), slo).to_dict("records")
    assert row["attainment"] == pytest.approx(0.6)


def test_attainment_of_all_errors_is_0_and_without_requests_unknown(tmp_path):
    write(tmp_path / name(1), result([failure()] * 9))
    write(tmp_path / name(2), result(level=2) | {"individual_request_metrics": None})
    judged = tuner.judge(tuner.load_batches(tmp_path), {"ttft": {"threshold": 1}})
    assert judged["attainment"].tolist() == pytest.approx([0.0, math.nan], nan_ok=True)


def test_judging_keeps_rows_order_and_columns():
    batches = pd.concat([frame(ttft_mean=2.0), frame(ttft_mean=0.5)])  # an index that repeats
    judged = tuner.judge(batches, {"ttft": {"threshold": 1}})
    assert judged["verdict"].tolist() == ["fail", "pass"]
    assert list(judged.columns)[: len(batches.columns)] == list(batches.columns)
    assert "verdict" not in batches
    assert tuner.judge(judged, {"ttft": {"threshold": 3}})["verdict"].tolist() == ["pass", "pass"]


def test_no_batches_are_judged_to_nothing():
    assert tuner.judge(frame().iloc[:0], {"ttft": {"threshold": 1}}).empty


class TestOneBatch:
    """`check_batch_slo_compliance`, on what genai-bench writes."""

    def test_a_compliant_batch(self):
        assert tuner.check_batch_slo_compliance(result()["aggregated_metrics"], {"ttft": {"threshold": 1}}) == (
            True,
            {},
        )

    def test_a_hard_violation(self):
        slo = {"latency": {"p90": {"threshold": 0.5}}, "ttft": {"threshold": 1}}
        compliant, details = tuner.check_batch_slo_compliance(result()["aggregated_metrics"], slo)
        assert not compliant
        [(metric, violation)] = details.items()
        assert metric == "p90"
        assert violation["threshold"] == 0.5
        assert violation["actual"] == pytest.approx(1.09)
        assert violation["violation_ratio"] == pytest.approx(1.18)
        assert violation["type"] == "HARD_FAIL"

    def test_without_an_slo_every_batch_counts(self):
        assert tuner.check_batch_slo_compliance(result()["aggregated_metrics"]) == (True, {})

    def test_details_are_called_as_a_log_calls_them(self):
        """A percentile of the whole latency by itself, a mean by its section, all else by metric."""
        slo = {
            **{"latency": {"p50": {"threshold": 0.1}, "p99": {"threshold": 0.1}}, "ttft": {"threshold": 0.01}},
            **{"tpot": {"p95": {"threshold": 0.001}}, "error_rate": {"threshold": 0.001}},
            **{"min_throughput": {"threshold": 1e6}, "min_request_throughput": {"threshold": 1e6}},
        }
        metrics = result([request()] * 290 + [failure()] * 10)["aggregated_metrics"]
        _, details = tuner.check_batch_slo_compliance(metrics, slo)
        throughputs = ["output_throughput", "request_throughput"]
        assert sorted(details) == sorted(["p50", "p99", "ttft", "tpot_p95", "error_rate", *throughputs])
        _, means = tuner.check_batch_slo_compliance(metrics, {"latency": {"threshold": 0.1}})
        assert list(means) == ["latency"]
        assert details["p50"] == {
            "threshold": 0.1,
            "actual": pytest.approx(1.09),
            "violation_ratio": pytest.approx(9.9),
            "type": "HARD_FAIL",
        }

    def test_a_soft_violation_still_counts(self):
        slo = {"ttft": {"threshold": 0.05, "hard_fail": False}}
        compliant, details = tuner.check_batch_slo_compliance(result()["aggregated_metrics"], slo)
        assert compliant
        assert details["ttft"]["type"] == "SOFT_VIOLATION"

    @pytest.mark.parametrize("where", ["file", "dict"])
    def test_milliseconds(self, where):
        content = result([request(100.0, 10.0)] * 300) | {"_time_unit": "ms"}
        metrics = content if where == "file" else content["aggregated_metrics"] | {"_time_unit": "ms"}
        assert tuner.check_batch_slo_compliance(metrics, {"ttft": {"threshold": 0.11}}) == (True, {})
        assert tuner.check_batch_slo_compliance(metrics, {"ttft": {"threshold": 0.09}})[0] is False

    @pytest.mark.parametrize("value", [None, math.nan, "fast"])
    def test_what_is_missing_does_not_count(self, value):
        metrics = result(stats={"ttft": {"mean": value}})["aggregated_metrics"]
        compliant, details = tuner.check_batch_slo_compliance(metrics, {"ttft": {"threshold": 1}})
        assert not compliant
        assert details["ttft"]["actual"] is None
        assert "not known" in details["ttft"]["reason"]

    def test_the_error_rate_is_counted_and_not_believed(self):
        metrics = result([request()] * 50 + [failure()] * 50)["aggregated_metrics"]
        assert metrics["error_rate"] == 0
        compliant, details = tuner.check_batch_slo_compliance(metrics, {"error_rate": {"threshold": 0.1}})
        assert not compliant
        assert details["error_rate"]["actual"] == 0.5

    def test_numbers_of_numpy(self):
        metrics = result(num_completed_requests=np.int64(50), num_error_requests=np.int64(50))["aggregated_metrics"]
        metrics["stats"]["ttft"]["mean"] = np.float64(0.2)
        assert tuner.check_batch_slo_compliance(metrics, {"ttft": {"threshold": 1}})[0] is False

    def test_the_batch_is_left_as_it_was(self):
        metrics = result()["aggregated_metrics"]
        before = json.dumps(metrics)
        tuner.check_batch_slo_compliance(metrics, SLO.parse({"ttft": {"threshold": 1}}))
        assert json.dumps(metrics) == before

    def test_what_is_no_batch_is_refused(self):
        with pytest.raises(SLOError, match="aggregated_metrics"):
            tuner.check_batch_slo_compliance("no", {})


def test_goodput_is_what_met_every_latency_threshold_per_second(tmp_path):
    """Of 10 requests in 4 s one failed, two were slow to begin and one of them slow to go on."""
    requests = [*[request()] * 7, request(ttft=0.5), request(ttft=0.5, tpot=0.5), failure()]
    write(tmp_path / name(1), result(requests, run_duration=4.0))
    slo = {"ttft": {"p90": {"threshold": 0.2}}, "tpot": {"p90": {"threshold": 0.1}}}
    judged = tuner.judge(tuner.load_batches(tmp_path), slo)
    assert judged["attainment"].tolist() == [0.7]
    assert judged["goodput"].tolist() == [pytest.approx(0.7 * 10 / 4)]


def test_goodput_is_not_known_without_requests_or_duration(tmp_path):
    write(tmp_path / name(1), result([request()] * 30, run_duration=0))
    write(tmp_path / name(2), result([request()] * 30, level=2) | {"individual_request_metrics": None})
    judged = tuner.judge(tuner.load_batches(tmp_path), {"ttft": {"threshold": 1}})
    assert judged["goodput"].isna().all()
    assert tuner.judge(pd.DataFrame({"ttft_mean": [1.0]}), {"ttft": {"threshold": 1}})["goodput"].isna().all()


def test_goodput_is_in_the_table_where_there_is_an_slo(tmp_path):
    write(tmp_path / name(1), result())
    batches, column = tuner.load_batches(tmp_path), "goodput (requests/s)"
    assert column in table(tuner.judge(batches, {"ttft": {"threshold": 1}}))
    assert column not in table(tuner.judge(batches, {}))


@pytest.mark.parametrize("column", ["request_throughput", "total_throughput"])
def test_a_limit_on_another_column_is_one_line_in_the_table_of_metrics(column, tmp_path, monkeypatch):
    """Judged, bounded, summarised, said in words and shown in a report; `PLAIN_SECTIONS` once made a KeyError of it."""
    from dataclasses import replace

    from tuner.core.metrics import METRICS
    from tuner.judging import slo as reader
    from tuner.judging.intervals import intervals
    from tuner.report.results import read_results
    from tuner.report.write import write_report

    monkeypatch.setitem(METRICS, column, replace(METRICS[column], section="least"))  # the one line
    monkeypatch.setattr(reader, "SECTIONS", reader.SECTIONS | {"least": column})
    trial = run_directory(tmp_path / "run", [1, 2])
    for level in (1, 2):
        add_level(trial, level, result(level=level))
    batches = tuner.load_batches(tmp_path / "run")
    limit = float(batches[column].mean())
    slo = SLO.parse({"least": {"threshold": limit}})
    assert SLO.parse(slo.to_dict()) == slo
    judged = tuner.judge(batches, slo)
    assert judged["verdict"].tolist() == ["fail", "pass"]
    unit = METRICS[column].unit
    assert f"{METRICS[column].name} " in judged["verdict_reason"][0] and f" {unit} < " in judged["verdict_reason"][0]
    assert list(intervals(batches, [column])) == [f"{column}_low", f"{column}_high", "interval_over"]
    results = read_results(tmp_path / "run", slo=slo)
    assert results.summary.best_level == 2 and f"{METRICS[column].name} ≥ {limit:g} {unit}" in " ".join(results.answer)
    report = write_report(tmp_path / "run", tmp_path / "r.html", slo)
    assert f"{METRICS[column].name} ≥ " in report.read_text()


def test_the_least_requests_per_second_can_be_limited():
    limit = SLO.parse({"min_request_throughput": {"threshold": 2}}).constraints[0]
    assert (limit.column, limit.sign, str(limit)) == ("request_throughput", -1, "request throughput ≥ 2 requests/s")


def test_a_level_in_which_every_request_failed_violates_the_slo(tmp_path):
    trial = run_directory(tmp_path, [1, 2])
    add_level(trial, 1, result([request(0.1 + n * 1e-4) for n in range(300)]))
    add_level(trial, 2, outcome="all_errors", reason="503: overloaded")
    for extra in ({}, {"error_rate": {"threshold": 0.01}}, {"confidence": 0.95}):
        judged = tuner.judge(tuner.load_batches(tmp_path), {"ttft": {"p90": {"threshold": 1.0}}} | extra)
        assert judged["verdict"].tolist() == ["pass", "fail"]
        [violation] = judged["violations"].iloc[1]
        assert (violation["metric"], violation["actual"]) == ("error_rate", 1.0)
        assert judged["verdict_reason"].iloc[1] == "all errors: 503: overloaded"
        assert tuner.summarize(judged).bracket == "bracketed"


def test_no_completed_request_never_complies():
    for aggregates in (
        {"num_completed_requests": 0},
        {"num_requests": 0},
        {"num_requests": 5, "num_error_requests": 5},
        result([failure()] * 3)["aggregated_metrics"],
    ):
        for slo in (
            {},
            {"error_rate": {"threshold": 0.1, "hard_fail": False}},
            {"error_rate": {"threshold": 0.5, "fail_ratio": 9}},
        ):
            complies, details = tuner.check_batch_slo_compliance(aggregates, slo)
            assert not complies and (details["error_rate"]["actual"], details["error_rate"]["type"]) == (
                1.0,
                "HARD_FAIL",
            )


def judge_errors(slo, errors, requests):
    counts = {"requests": requests, "completed": requests - errors, "errors": errors, "error_rate": errors / requests}
    return tuner.judge(pd.DataFrame([counts]), slo).to_dict("records")


#: (limit, errors of 300 or fewer requests) → (verdict, its evidence)
ERRORS = [
    (0.01, 0, 298, "pass", "weak"),
    (0.01, 0, 299, "pass", "strong"),
    (0.01, 3, 6, "fail", "strong"),  # few requests do not exclude errors, but show them
    (0.1, 0, 28, "pass", "weak"),
    (0.1, 0, 29, "pass", "strong"),
    (0.05, 0, 58, "pass", "weak"),
    (0.05, 0, 59, "pass", "strong"),
    (0.0, 0, 6, "pass", "strong"),
    (0.0, 1, 1000, "fail", "strong"),
    (1.0, 5, 6, "pass", "strong"),
]


@pytest.mark.parametrize(("limit", "errors", "requests", "verdict", "evidence"), ERRORS)
def test_an_error_rate_needs_its_number_of_requests(limit, errors, requests, verdict, evidence):
    slo = {"error_rate": {"threshold": limit}}
    [row] = judge_errors(slo, errors, requests)
    assert (row["verdict"], row["evidence"]) == (verdict, evidence)
    assert json.dumps(row["violations"], allow_nan=False)
    [strict] = judge_errors(slo | {"confidence": 0.95}, errors, requests)
    assert strict["verdict"] == ("unknown" if evidence == "weak" else verdict)


#: (limit, errors, requests) → (verdict, its evidence): so few errors may be chance on either side of the limit
NEAR_ERRORS = [
    (0.01, 2, 302, "pass", "weak"),
    (0.01, 1, 473, "pass", "strong"),
    (0.01, 1, 472, "pass", "weak"),
    (0.01, 5, 302, "fail", "weak"),
    (0.01, 9, 302, "fail", "strong"),
    (0.01, 3, 310, "pass", "weak"),
    (0.1, 10, 20, "fail", "strong"),
    (0.1, 20, 302, "pass", "strong"),
]


@pytest.mark.parametrize(("limit", "errors", "requests", "verdict", "evidence"), NEAR_ERRORS)
def test_errors_near_their_limit_are_weak_evidence(limit, errors, requests, verdict, evidence):
    [row] = judge_errors({"error_rate": {"threshold": limit}}, errors, requests)
    assert (row["verdict"], row["evidence"]) == (verdict, evidence)
    assert ("on both sides of the threshold" in row["evidence_reason"]) == (evidence == "weak")


def test_at_99_percent_an_error_rate_of_1_percent_needs_459_requests():
    slo = {"error_rate": {"threshold": 0.01}, "confidence": 0.99}
    rows = pd.DataFrame({"completed": [458, 459], "error_rate": [0.0, 0.0]})
    assert tuner.judge(rows, slo)["verdict"].tolist() == ["unknown", "pass"]


@pytest.mark.parametrize("number", ["010", "1:30", "1:30.5", "+0777", "'010'", "007", "1:02:03"])
def test_a_number_that_yaml_reads_otherwise_is_refused_with_how_to_write_it(number, tmp_path):
    path = write(tmp_path / "slo.yaml", f"ttft: {{threshold: {number}}}")
    with pytest.raises(SLOError, match=r"ambiguous.*write a plain decimal number|must be a number") as refused:
        SLO.load(path)
    assert number.strip("'") in str(refused.value)


def test_a_plain_zero_and_decimals_stay(tmp_path):
    path = write(
        tmp_path / "slo.yaml", "ttft: {threshold: 0.5}\nerror_rate: {threshold: 0}\nlatency: {p90: {threshold: 10}}"
    )
    assert sorted(limit.threshold for limit in SLO.load(path).constraints) == [0, 0.5, 10]


@pytest.mark.parametrize("kind", ["all the same", "in one piece"])
def test_ttfts_that_cannot_be_measurements_are_believed_nowhere(tmp_path, kind):
    """Row, verdict, attainment, requests, summary, comparison, figures and the report's own script."""
    slo = {"ttft": {"p90": {"threshold": 5.0}}}
    first, later = ([0.05] * 60, 1.0) if kind == "all the same" else ([1 + n / 100 for n in range(60)], 0.0)
    for side in "ab":
        trial = result_files.run(tmp_path / side, [1])
        requests = [
            result_files.request() | {"ttft": ttft, "tpot": later / 99, "e2e_latency": ttft + later} for ttft in first
        ]
        content = result_files.result(requests, level=1) | {"individual_request_metrics": requests}
        result_files.add_level(trial, 1, content)
    sides = [tuner.judge(tuner.load_batches(tmp_path / side), slo) for side in "ab"]
    (row,) = sides[0].to_dict("records")
    assert row["verdict"] == "unknown" and "TTFT and TPOT are unknown" in " ".join(row["warnings"])
    assert pd.isna([row[name] for name in ("ttft_mean", "ttft_p90", "tpot_p50", "attainment", "goodput")]).all()
    assert tuner.load_requests(tmp_path / "a")[["ttft", "tpot"]].isna().all(axis=None)
    assert tuner.summarize(sides[0]).max_throughput is None
    rows = tuner.compare(*sides).differences
    told = rows[rows["metric"].str.startswith(("ttft", "tpot", "attainment"))]
    assert set(told["verdict"]) == {"unknown"} and told["baseline"].isna().all()
    results = tuner.read_results(tmp_path / "a", slo=tuner.SLO.parse(slo))
    titles = " ".join(figure.layout.title.text for figure in results.figures)
    assert "TTFT" not in titles and "TPOT" not in titles
    carried = results.carried()
    assert carried.attainment == [None] and carried.rows[0][carried.columns.index("ttft_p90")] is None


def shares(tmp_path, *good, slo):
    """Levels 1, 2, 4 … of 200 requests of which so many meet TTFT 0.5 s and one fails, judged."""
    trial = run_directory(tmp_path / "run", [2**n for n in range(len(good))])
    for place, met in enumerate(good):
        times = [0.1 + n * 1e-5 for n in range(met)] + [0.9 + n * 1e-5 for n in range(199 - met)]
        add_level(trial, 2**place, result([*(request(ttft=ttft) for ttft in times), failure()], level=2**place))
    return tuner.judge(tuner.load_batches(tmp_path / "run"), slo)


ATTAINED = {"ttft": {"p50": {"threshold": 0.5}}, "error_rate": {"threshold": 0.1}, "attainment": {"threshold": 0.95}}


def test_the_share_of_requests_that_meet_every_latency_threshold_can_be_limited(tmp_path):
    judged = shares(tmp_path, 199, 190, 189, slo=ATTAINED)
    assert judged["attainment"].tolist() == [0.995, 0.95, 0.945]
    assert judged["verdict"].tolist() == ["pass", "pass", "fail"]
    assert judged["verdict_reason"].iloc[2] == "attainment 0.945 < 0.95 (+0.53 %)"
    summary = tuner.summarize(judged)
    assert (summary.best_level, summary.bracket) == (2, "bracketed")  # it is no limit that more load helps to reach


def test_an_attainment_is_judged_of_the_mean_of_a_levels_runs(tmp_path):
    trial = run_directory(tmp_path / "run", [1], repeats=2)
    for repeat, met in ((1, 199), (2, 189)):  # 0.995 and 0.945: 0.97
        times = [0.1 + n * 1e-5 for n in range(met)] + [0.9 + n * 1e-5 for n in range(199 - met)]
        content = result([*(request(ttft=ttft) for ttft in times), failure()], level=1)
        add_level(trial, 1, content, repeat=repeat)
    judged = tuner.judge(tuner.load_batches(tmp_path / "run"), ATTAINED)
    assert judged["verdict"].tolist() == ["pass", "fail"]
    assert tuner.summarize(judged).best["attainment"] == pytest.approx(0.97)


@pytest.mark.parametrize(("requests", "evidence"), [(58, "weak"), (59, "strong")])
def test_an_attainment_needs_as_many_requests_as_would_show_one_that_missed(requests, evidence, tmp_path):
    trial = run_directory(tmp_path / "run", [1])
    add_level(trial, 1, result([request(ttft=0.1 + n * 7 % 10 * 1e-5) for n in range(requests)]))
    judged = tuner.judge(tuner.load_batches(tmp_path / "run"), ATTAINED | {"error_rate": {"threshold": 0.2}})
    assert judged["evidence"].tolist() == [evidence]


def test_an_attainment_without_the_single_requests_is_unknown():
    row = {"outcome": "completed", "completed": 900, "errors": 0, "error_rate": 0.0, "ttft_p50": 0.1}
    judged = tuner.judge(pd.DataFrame([row]), ATTAINED)
    assert judged["verdict"].tolist() == ["unknown"] and "attainment is not known" in judged["verdict_reason"][0]


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"attainment": {"threshold": 0.95}}, "attainment: is the share of requests that meet every latency threshold"),
        ({"ttft": {"threshold": 1}, "attainment": {"threshold": 95}}, "at most 1, not 95"),
        ({"ttft": {"threshold": 1}, "attainment": {"p90": {"threshold": 0.9}}}, "unknown key 'p90'"),
    ],
)
def test_an_attainment_that_says_nothing_is_refused(document, said):
    with pytest.raises(SLOError, match=said):
        SLO.parse(document)


def test_a_report_keeps_the_verdict_of_an_attainment(tmp_path):
    shares(tmp_path, 199, 189, slo=ATTAINED)
    report = tuner.write_report(tmp_path / "run", tmp_path / "r.html", SLO.parse(ATTAINED))
    results = tuner.read_results(report)
    assert results.judged["verdict"].tolist() == ["pass", "fail"]
    stricter = tuner.read_results(report, slo=SLO.parse(ATTAINED | {"ttft": {"p50": {"threshold": 0.2}}}))
    assert stricter.judged["verdict"].tolist() == ["unknown", "unknown"]  # of other requests
