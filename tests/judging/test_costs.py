"""What a million tokens cost at the best level, and never at one that doesn't comply."""

import math
from dataclasses import replace

import pandas as pd
import pytest
from support import result_files
from support.commands import run

from tuner.core.files import read_json, write_json
from tuner.errors import RequestError
from tuner.judging.costs import Price, Target, cost_text, fleet_text
from tuner.judging.slo import SLO
from tuner.judging.summary import Summary
from tuner.report.results import read_results
from tuner.report.write import write_report

ROW = {"verdict": "pass", "output_throughput": 1000.0, "input_throughput": 4000.0, "total_throughput": 5000.0}
LIMIT = SLO.parse({"ttft": {"p90": {"threshold": 0.25}}})


def test_the_formula():
    """2 GPUs at 3.60 are 0.002 a second; 1000 output tokens a second make a million in 1000 seconds."""
    assert cost_text(ROW, Price(3.6), 2) == (
        "Cost with 2 GPUs at 3.6 an hour: 2 per million output tokens or 0.5 per million input tokens "
        "(each bears all of it); 0.4 per million of both together."
    )


@pytest.mark.parametrize("verdict", ["fail", "unknown", None])
def test_none_where_the_batch_does_not_comply(verdict):
    assert cost_text(ROW | {"verdict": verdict}, Price(3.6), 2) == ""


@pytest.mark.parametrize("throughput", [math.nan, 0.0, None, math.inf])
def test_none_of_what_is_not_known(throughput):
    found = cost_text(ROW | {"output_throughput": throughput}, Price(1), 1)
    assert "output tokens" not in found and "0.06944 per million input tokens" in found


@pytest.mark.parametrize("price", [0, -1, math.nan, math.inf, "2", True, None])
def test_a_price_that_is_none(price):
    with pytest.raises(RequestError, match="price_per_gpu_hour must be a number above 0"):
        Price(price)


@pytest.mark.parametrize("gpus", [0, -1, 1.5, "1", True])
def test_a_number_of_gpus_that_is_none(gpus):
    with pytest.raises(RequestError, match="gpus must be a whole number"):
        Price(1.0, gpus)


def levels_run(folder, gpus=("GPU-1", "GPU-2")):
    """Three levels, of which two meet `LIMIT`."""
    trial = result_files.run(folder, [1, 2, 4])
    for level in (1, 2, 4):
        result_files.add_level(
            trial, level, result_files.result([result_files.request(ttft=0.1 * level)] * 60, level=level)
        )
    facts = {"engine": "vllm", "model": "m", "state": "stopped", "command": ["vllm", "serve", "my model"]}
    write_json(trial.folder / "server.json", facts | {"gpus": list(gpus)})
    return folder


def test_the_answer_says_what_the_best_level_costs_by_the_gpus_that_the_run_recorded(tmp_path):
    results = read_results(levels_run(tmp_path / "run"), slo=LIMIT, price=Price(2.5))
    assert results.summary.best_level == 2
    assert results.answer[-1] == cost_text(results.summary.best.to_dict(), Price(2.5), 2)
    report = write_report(tmp_path / "run", tmp_path / "r.html", LIMIT, Price(2.5))
    assert results.answer[-1] in report.read_text()
    assert read_results(report, slo=LIMIT, price=Price(2.5)).answer == results.answer


def test_gpus_that_were_given_win(tmp_path):
    results = read_results(levels_run(tmp_path / "run"), slo=LIMIT, price=Price(2.5, 8))
    assert "8 GPUs at 2.5 an hour" in results.answer[-1]


def test_no_compliant_batch_no_cost(tmp_path):
    strict = SLO.parse({"ttft": {"p90": {"threshold": 0.001}}})
    results = read_results(levels_run(tmp_path / "run", gpus=()), slo=strict, price=Price(2.5))
    assert not any("Cost" in line for line in results.answer)


def test_of_several_runs_the_gpus_are_those_of_the_best_ones_server(tmp_path):
    levels_run(tmp_path / "runs" / "slow", gpus=["GPU-1"])
    fast = levels_run(tmp_path / "runs" / "fast", gpus=["GPU-1", "GPU-2", "GPU-3"])
    file = next(fast.rglob("concurrency-2/*text-to-text*.json"))
    whole = read_json(file)
    write_json(file, whole | {"aggregated_metrics": whole["aggregated_metrics"] | {"run_duration": 10.0}})
    assert "with 3 GPUs" in read_results(tmp_path / "runs", slo=LIMIT, price=Price(2.5)).answer[-1]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--price-per-gpu-hour", "2"], "records no GPUs"),
        (["--price-per-gpu-hour", "0", "--gpus", "1"], "must be a number above 0"),
        (["--price-per-gpu-hour", "nan"], "must be a number above 0"),
        (["--price-per-gpu-hour", "1", "--gpus", "0"], "whole number from 1"),
        (["--gpus", "2"], "give price_per_gpu_hour too"),
    ],
)
def test_wrong_input_is_one_line(flags, said, tmp_path):
    code, out, err = run(tmp_path, "load", levels_run(tmp_path / "run", gpus=()), *flags)
    assert (code, out) == (2, "")
    assert said in err and len(err.strip().splitlines()) == 1


def test_the_command_line_says_it_below_the_table_and_beside_json(tmp_path):
    folder = levels_run(tmp_path / "run")
    code, out, _ = run(tmp_path, "load", folder, "--price-per-gpu-hour", "2.5")
    assert code == 0 and "Cost with 2 GPUs" in out.strip().splitlines()[-1]
    _, out, err = run(tmp_path, "load", folder, "--price-per-gpu-hour", "2.5", "--format", "json")
    assert out.startswith("[") and out.strip().endswith("]") and "Cost with 2 GPUs" in err


#: of `levels_run`: 0.25 s TTFT holds at 2; 60 requests in its duration
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--target-users", "500"], "For 500 users at once: 250 servers of 2 each, 500 GPUs."),
        (["--target-users", "3"], "For 3 users at once: 2 servers of 2 each, 4 GPUs."),
        (
            ["--target-users", "4", "--price-per-gpu-hour", "2.5"],
            "For 4 users at once: 2 servers of 2 each, 4 GPUs at 10.00 an hour, 7,300 a month of 730 hours.",
        ),
    ],
)
def test_how_many_servers_a_load_takes(flags, said, tmp_path):
    levels_run(tmp_path / "run")
    slo = tmp_path / "slo.yaml"
    slo.write_text("ttft: {p90: {threshold: 0.25}}")
    _, output, _ = run(tmp_path, "load", tmp_path / "run", "--slo", slo, *flags)
    assert said in " ".join(output.split())
    assert "Each is started by: vllm serve 'my model'" in output
    assert "no router was measured" in output


def summary_of(**best):
    row = pd.Series({"output_throughput": 100.0, "request_throughput": 3.2, "verdict": "pass"} | best)
    return Summary(row["output_throughput"], 8, best.get("bracket", "bracketed"), 1, 1, row)


def test_the_interval_of_the_throughput_is_carried_through():
    """40/s by 3.2 a server are 12.5, so 13; at ±10 % 2.88 to 3.52 a server, so 11.4 to 13.9."""
    wide = summary_of(output_throughput_low=90.0, output_throughput_high=110.0)
    (line, _) = fleet_text(wide, Target(rate=40), 0, None)
    assert line == "For 40 requests/s: 13 servers (12 to 14 at 95 %) of 3.2 each."
    (open_end, _) = fleet_text(summary_of(bracket="open"), Target(rate=40), 0, None)
    assert open_end == "For 40 requests/s: at most 13 servers of 3.2 each."


def test_no_servers_where_no_level_meets_the_slo():
    nothing = Summary(None, None, "none", 0, 3)
    assert fleet_text(nothing, Target(rate=40), 2, None) == ["For 40 requests/s: none, since no level meets the SLO."]


def test_of_a_rate_nobody_knows_how_many_users_it_is():
    by_rate = replace(summary_of(request_rate=5.0, iteration_type="request_rate", concurrency=None), best_level=5.0)
    rate, users, _ = fleet_text(by_rate, Target(rate=12, users=100), 0, None)
    assert rate == "For 12 requests/s: 3 servers of 5 each."
    assert users == "For 100 users at once: none, since nobody measured how many users at once one carries."


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf])
def test_a_load_that_is_none(value):
    with pytest.raises(RequestError, match="target_rate must be a number above 0"):
        Target(rate=value)
