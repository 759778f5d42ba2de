"""What a search may try: read strictly, checked against the engine, and nothing executed."""

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner import engines
from tuner.errors import SpecError
from tuner.search.expressions import Relation
from tuner.search.space import SearchSpace
from tuner.search.spec import TuneSpec
from tuner.sweep.spec import make_spec

LLAMACPP = engines.find("llamacpp")


def space(document, constraints=(), engine="llamacpp", gpus=None, **fixed):
    return SearchSpace.parse(document, engines.find(engine), fixed, list(constraints), gpus)


def test_choices_ranges_and_conditions():
    made = space(
        {
            "n_ubatch": {"low": 32, "high": 512, "log": True, "when": {"flash_attn": True}},  # YAML's `on`
            "flash_attn": ["auto", True, False],
            "n_batch": {"low": 64, "high": 256, "step": 64},
        }
    )
    by_name = {dimension.name: dimension for dimension in made.dimensions}
    assert by_name["flash_attn"].choices == ("auto", "on", "off")
    assert by_name["n_batch"].values() == [64, 128, 192, 256]
    assert by_name["n_ubatch"].values()[0] == 32 and by_name["n_ubatch"].values()[-1] == 512
    points = list(made.grid())
    assert all(("n_ubatch" in point) == (point["flash_attn"] == "on") for point in points)
    assert len(points) == 4 * 2 + 4 * 5 and len({str(sorted(point.items())) for point in points}) == len(points)


def test_constraints_bind_searched_fixed_and_default_values():
    sizes = {"n_ubatch": [32, 512, 1024], "n_batch": [64, 512]}
    assert {(p["n_ubatch"], p["n_batch"]) for p in space(sizes, ["n_ubatch <= n_batch"]).grid()} == {
        (32, 64),
        (32, 512),
        (512, 512),
    }
    assert len(list(space({"n_batch": [64, 512, 2048]}, ["n_ubatch <= n_batch"]).grid())) == 2  # default 512
    assert len(list(space({"n_batch": [64, 512, 2048]}, ["n_ubatch <= n_batch"], n_ubatch=64).grid())) == 3


def test_gpus_are_a_name_of_constraints():
    made = space("parallelism", ["tp_size * dp_size <= gpus"], engine="sglang", gpus=4)
    assert {(p["tp_size"], p["dp_size"]) for p in made.grid()} == {(1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (4, 1)}


def test_the_baseline_is_what_the_defaults_are():
    made = space({"n_parallel": [1, 4, 8], "flash_attn": ["auto", "on"]}, n_parallel=8)
    assert made.baseline() == {"n_parallel": 8, "flash_attn": "auto"}
    assert space({"n_parallel": [1, 2]}).baseline() is None  # 4 lies outside
    assert space({"max_num_seqs": [1, 2]}, engine="vllm").baseline() is None  # nobody knows vLLM's default


@pytest.mark.parametrize("engine", ["vllm", "sglang", "llamacpp"])
def test_presets_are_what_the_engine_takes(engine):
    for name in engines.find(engine).spaces:
        assert len(list(space(name, engine=engine).grid())) >= 20


@pytest.mark.parametrize("gpus", [None, 1, 4, 8, 16])
def test_parallelism_wants_no_more_gpus_than_there_are(gpus):
    for engine, sizes in (
        ("vllm", ("tensor_parallel_size", "pipeline_parallel_size")),
        ("sglang", ("tp_size", "dp_size")),
    ):
        wanted = {math.prod(point[size] for size in sizes) for point in space("parallelism", (), engine, gpus).grid()}
        assert max(wanted) == (gpus or 8)
        with pytest.raises(SpecError, match="no configuration"):
            space({sizes[0]: [32]}, (), engine, gpus)


@pytest.mark.parametrize(
    ("engine", "document", "fixed", "allowed"),
    [
        (
            "vllm",
            {"enable_chunked_prefill": [True, False]},
            {"max_num_batched_tokens": 2048, "max_model_len": 4096},
            [0],
        ),
        (
            "vllm",
            {"enable_chunked_prefill": [True, False]},
            {"max_num_batched_tokens": 4096, "max_model_len": 4096},
            [0, 1],
        ),
        ("vllm", {"max_num_batched_tokens": [64, 512]}, {"max_num_seqs": 256}, [1]),
        ("sglang", {"dp_size": [1, 4, 8]}, {"tp_size": 4, "enable_dp_attention": True}, [0, 1]),
        ("sglang", {"dp_size": [1, 2, 4]}, {"tp_size": 4}, [0, 1]),
        ("sglang", {"attn_dp_size": [1, 2, 3]}, {"tp_size": 8}, [0, 1]),
        ("sglang", {"dp_size": [1, 8]}, {"tp": 8, "enable_dp_attention": True}, [0, 1]),  # by another name: unknown
        ("llamacpp", {"n_parallel": [1, 8, 16]}, {"n_ctx": 512}, [0, 1]),
        ("llamacpp", {"n_parallel": [1, 16]}, {"n_ctx": 512, "kv_unified": True}, [0, 1]),
    ],
)
def test_an_engines_own_conditions_hold_in_every_space(engine, document, fixed, allowed):
    (values,) = document.values()
    points = list(space(document, engine=engine, **fixed).grid())
    assert points == [{name: values[place]} for name in document for place in allowed]


@pytest.mark.parametrize("engine", ["vllm", "sglang", "llamacpp"])
def test_what_changes_answers_is_in_a_preset_of_its_own(engine):
    found = engines.find(engine)
    changing = {name for name, parameter in found.tunables.items() if parameter.changes_answers}
    assert changing and {name for name, preset in found.spaces.items() if changing & {*preset}} == {"quantised"}


def test_what_vllm_warns_of_is_in_no_preset():
    assert not any("enable_chunked_prefill" in preset for preset in engines.find("vllm").spaces.values())


def test_parameters_stand_as_they_were_written_each_behind_its_condition():
    document = {
        "n_threads": {"choices": [1, 2], "when": {"flash_attn": True}},
        "n_batch": [64, 128],
        "flash_attn": [True, False],
        "n_ubatch": {"choices": [16, 32], "when": {"n_batch": 64}},
    }
    assert [one.name for one in space(document).dimensions] == ["n_batch", "flash_attn", "n_threads", "n_ubatch"]


WRONG = {
    "misspelt": ({"n_bach": [1]}, (), "n_bach.*did you mean n_batch"),
    "a value that the engine refuses": ({"n_batch": [16, 0]}, (), "n_batch: 0 must be at least 1"),
    "an unknown choice": ({"flash_attn": ["maybe"]}, (), "must be one of auto, on, off"),
    "a fraction": ({"n_batch": {"low": 0.5, "high": 4}}, (), "whole number"),
    "no preset": ("defualt", (), "did you mean default"),
    "empty": ({}, (), "give parameters"),
    "no values": ({"n_batch": []}, (), "must be a list"),
    "a text": ({"n_batch": "64"}, (), "give choices"),
    "turned round": ({"n_batch": {"low": 8, "high": 4}}, (), "low must be less than high"),
    "log from 0": ({"n_gpu_layers": {"low": 0, "high": 4, "log": True}}, (), "starts above 0"),
    "NaN": ({"n_batch": {"low": math.nan, "high": 4}}, (), "finite"),
    "unknown key": ({"n_batch": {"low": 1, "hihg": 4}}, (), "did you mean high"),
    "condition on nothing": ({"n_batch": {"choices": [1], "when": {"n_ubatch": 1}}}, (), "no searched or fixed"),
    "condition that never is": (
        {"flash_attn": ["auto"], "n_batch": {"choices": [1], "when": {"flash_attn": "on"}}},
        (),
        "never is 'on'",
    ),
    "circle": (
        {"n_batch": {"choices": [1], "when": {"n_ubatch": 1}}, "n_ubatch": {"choices": [1], "when": {"n_batch": 1}}},
        (),
        "leads back to itself",
    ),
    "constraint's name": ({"n_batch": [1]}, ["n_bach > 1"], "did you mean n_batch"),
    "constraint that nothing meets": ({"n_batch": [1, 2]}, ["n_batch > 2"], "no configuration"),
    "constraint of a text": ({"n_batch": [1]}, ["flash_attn + 1 > n_batch"], "cannot be computed"),
    "not a number": ({"n_batch": [float("nan"), 1]}, (), "is not finite"),
    "more than floats hold": ({"n_batch": {"low": 1, "high": 10**400}}, (), "high must be a finite number"),
    "division by 0": ({"n_batch": [1]}, ["n_batch / 0 > 1"], "cannot be computed"),
}


def test_a_constraint_that_cannot_be_computed_somewhere_costs_that_configuration_only():
    made = space({"n_batch": [1, 2, 3]}, ["12 % (n_batch - 2) == 0"])
    assert [point["n_batch"] for point in made.grid()] == [1, 3]


@pytest.mark.parametrize(("document", "constraints", "message"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_refused_in_one_line(document, constraints, message):
    with pytest.raises(SpecError, match=message) as refused:
        space(document, constraints)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true') < 1",
        "().__class__ == 1",
        "n_batch ** 9 ** 9 > 1",
        "[n for n in n_batch] == 1",
        "(lambda: 1)() < 2",
        "n_batch[0] < 1",
        "f'{n_batch}' == 'x'",
        "n_batch",
        "n_batch := 3",
        "1 <",
        "n_batch < 1\nn_batch < 2",
        "-" * 400 + "1 < 2" + " " * 400,
        "'a' * 999999999 < 'b'",
    ],
)
def test_a_constraint_runs_nothing(text):
    with pytest.raises(SpecError):
        Relation.parse(text).holds({"n_batch": 1})


@given(st.text(max_size=60))
def test_any_text_is_a_constraint_or_refused(text):
    with contextlib.suppress(SpecError):
        Relation.parse(text).holds(dict.fromkeys(("a", "b", "n_batch"), 3))


@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 9))
def test_a_constraint_means_what_python_means(a, b, c):
    values = {"a": a, "b": b, "c": c}
    for text in ("a * b <= 40 + c", "a // c == b % c", "1 < a <= b", "not a > b or c != 3", "-a / c > b - 60"):
        assert Relation.parse(text).holds(values) == eval(text, {}, dict(values))


@given(st.floats(0, 1), st.integers(1, 60), st.integers(61, 5000), st.booleans())
def test_every_place_of_a_range_is_a_value_of_it(share, low, high, log):
    (dimension,) = space({"n_batch": {"low": low, "high": high, "log": log}}).dimensions
    value = dimension.at(share)
    assert dimension.contains(value) and isinstance(value, int)
    assert dimension.at(0) == low and dimension.at(1) == high


def test_every_field_takes_text_too():
    as_text = make_spec(
        {
            "space": "{n_parallel: [1, 2], n_batch: {low: 64, high: 128}}",
            "constraints": "n_parallel < 3; n_batch > 1",
            "objective": "max_throughput, min_ttft",
            "objective_level": "2",
            "levels": "1,2",
            "trials": "7",
            "max_minutes": "1.5",
            "early_stop": "false",
            "on": "ray://10.0.0.1:10001",
            "seed": "3",
        },
        TuneSpec,
    )
    as_is = make_spec(
        {
            "space": {"n_parallel": [1, 2], "n_batch": {"low": 64, "high": 128}},
            "constraints": ["n_parallel < 3", "n_batch > 1"],
            "objective": ["max_throughput", "min_ttft"],
            "objective_level": 2,
            "levels": [1, 2],
            "trials": 7,
            "max_minutes": 1.5,
            "early_stop": False,
            True: "ray://10.0.0.1:10001",  # how YAML reads `on:`
            "seed": 3,
        },
        TuneSpec,
    )
    assert as_text == as_is
    assert make_spec(as_is.model_dump(mode="json"), TuneSpec) == as_is


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"objective": "min_ttft"}, "objective_level: min_ttft is read at one level"),
        ({"objective": "min_ttft", "objective_level": 3}, "none of the levels"),
        ({"objective": "max_throughput,max_throughput"}, "stands twice"),
        ({"objective": "fastest"}, "max_throughput"),
        ({"max_cost": 3}, "price_per_gpu_hour"),
        ({"on": "cloud"}, "local, ray"),
        ({"sampler": "tpo"}, "sampler"),
        ({"sampler": "gp"}, "'grid', 'random', 'tpe' or 'climb'"),
        ({"space": "{n_batch: [1"}, "not valid YAML"),
        ({"trials": 0}, "trials"),
    ],
)
def test_a_wrong_search_is_refused(asked, message):
    with pytest.raises(SpecError, match=message):
        make_spec(asked, TuneSpec)
