"""Samplers on modelled servers: nothing twice, nothing that is not allowed, away from what fails, and few trials."""

import math
import statistics
import sys

import pytest
from support import CHECKOUT
from support.simulated_servers import SURFACES, Modelled

from tuner import engines
from tuner.errors import SpecError
from tuner.search.samplers import Observation, choose, make
from tuner.search.space import SearchSpace, key_of

sys.path.insert(0, str(CHECKOUT / "benchmarks"))
from search_efficiency import trials_needed

NAMES = ["grid", "random", "tpe", "climb"]
LLAMACPP = SURFACES[2]


def space(document, constraints=(), **fixed):
    return SearchSpace.parse(document, Modelled(), fixed, list(constraints))


def searched(name, where, measure, trials, first=None, objectives=("max_throughput",), seed=0):
    """The trials of a search; `measure` gives (state, values) or (state, values, penalty)."""
    sampler = make(name, where, objectives, seed)
    seen, point = [], first or sampler.next([])
    while point is not None and len(seen) < trials:
        seen.append(Observation(point, *measure(point)))
        point = sampler.next(seen)
    return seen


@pytest.mark.parametrize("name", NAMES)
def test_each_configuration_once_and_only_those_that_are_allowed(name):
    where = space({"a": [1, 2, 3], "b": [1, 2, 3], "c": {"choices": ["x", "y"], "when": {"a": 1}}}, ["b <= a"])
    seen = searched(name, where, lambda point: ("complete", (float(point["a"] + point["b"]),)), 50)
    keys = [key_of(one.point) for one in seen]
    assert len(keys) == len(set(keys)) == len(list(where.grid())) == 7
    assert all(("c" in one.point) == (one.point["a"] == 1) for one in seen)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_and_trials_give_the_same_choice(name):
    seen = searched(name, LLAMACPP.space, lambda point: ("complete", (float(point["n_batch"]),)), 8)
    one, same, other = (make(name, LLAMACPP.space, ["max_throughput"], seed).next(seen) for seed in (0, 0, 1))
    assert one == same and (name == "grid" or other != one)


@pytest.mark.parametrize("name", ["tpe", "climb"])
@pytest.mark.parametrize("state", ["failed", "infeasible"])
def test_a_region_that_fails_is_avoided(name, state):
    where = space({"a": {"low": 0.0, "high": 1.0}, "b": {"low": 0.0, "high": 1.0}})

    def measure(point):
        if point["a"] > 0.4:
            return state, (), 50 * point["a"]
        return "complete", (1 - abs(point["a"] - 0.2) + 0.1 * point["b"],)

    shares = []
    for seed in range(6):
        seen = searched(name, where, measure, 30, {"a": 0.1, "b": 0.5}, seed=seed)
        shares.append(sum(one.state == state for one in seen) / 30)
    assert statistics.mean(shares) < 0.35  # by chance it is 0.6


def test_where_nothing_is_feasible_the_penalty_shows_the_way():
    where = space({"a": {"low": 0, "high": 1000}, "b": {"low": 0, "high": 1000}})
    penalty = lambda point: (abs(point["a"] - 900) + abs(point["b"] - 100)) / 100  # noqa: E731
    measure = lambda point: ("infeasible", (), penalty(point))  # noqa: E731
    found = [min(one.penalty for one in searched("climb", where, measure, 30, seed=seed)) for seed in range(6)]
    chance = [min(one.penalty for one in searched("random", where, measure, 30, seed=seed)) for seed in range(6)]
    assert statistics.median(found) < statistics.median(chance)


def test_trials_that_run_are_not_asked_for_again():
    where = space({"a": [1, 2], "b": [1, 2]})
    for name in ("grid", "random", "tpe", "climb"):
        sampler, seen = make(name, where, ["max_throughput"], 0), []
        while point := sampler.next(seen):
            seen.append(Observation(point, "running"))
        assert len({key_of(one.point) for one in seen}) == len(seen) == 4


def test_less_is_better_where_latency_is_wanted():
    where = space({"a": [2**n for n in range(12)], "b": [2**n for n in range(12)]})
    worth = lambda point: 0.1 + abs(math.log2(point["a"]) - 9) + abs(math.log2(point["b"]) - 2)  # noqa: E731
    seen = searched("climb", where, lambda p: ("complete", (worth(p),)), 30, {"a": 16, "b": 16}, ["min_ttft"])
    assert min(one.values[0] for one in seen) < 0.2


@pytest.mark.parametrize(
    ("baseline", "values"),
    [
        ({}, {2, 8}),  # from halfway
        ({"a": 2}, {1, 4}),
        ({"a": 3, "b": 7.0}, {1, 4}),  # from what is nearest
        ({"c": "z"}, {2, 8}),
        ({"a": 2, "b": 0.5, "c": "x"}, {1, 4}),
    ],
    ids=str,
)
def test_climb_steps_along_every_parameter_whether_the_baseline_names_it_or_not(baseline, values):
    where, stepped = space({"a": [1, 2, 4, 8], "b": {"low": 0.0, "high": 1.0}, "c": ["x", "y"]}, **baseline), set()
    first = where.point_of(baseline)
    for seed in range(20):
        seen = [Observation(first, "complete", (100.0,))]
        for _ in range(2):
            point = make("climb", where, ["max_throughput"], seed).next(seen)
            seen.append(Observation(point, "complete", (90.0,)))
            (changed,) = {name for name in "abc" if point.get(name) != first.get(name)}
            stepped.add((changed, point[changed] if changed != "b" else "some"))
    assert {value for name, value in stepped if name == "a"} == values
    assert ("b", "some") in stepped and ("c", "y") in stepped and (("c", "x") in stepped) == ("c" not in first)


def test_what_the_engine_knows_of_its_defaults_is_where_steps_begin():
    where = SearchSpace.parse({"tensor_parallel_size": [1, 2, 4, 8], "max_num_seqs": [1, 64]}, engines.find("vllm"), {})
    known = SearchSpace.parse({"n_parallel": [1, 2], "n_batch": [512, 2048]}, engines.find("llamacpp"), {})
    for seed in range(10):
        seen = [Observation({}, "complete", (100.0,))]
        assert make("climb", where, ["max_throughput"], seed).next(seen).get("tensor_parallel_size") in (None, 2)
        point = make("climb", known, ["max_throughput"], seed).next(seen)
        assert point in ({"n_parallel": 1}, {"n_parallel": 2}, {"n_batch": 512})  # by default 4 and 2048


def test_two_objectives_are_weighed_by_tpe():
    where = space({"a": {"low": 0.0, "high": 1.0}, "b": {"low": 0.0, "high": 1.0}})
    both = ("max_throughput", "min_ttft")
    assert choose("auto", where, both, 20) == "tpe"
    measure = lambda p: ("complete", (1 + p["a"] - p["b"], 1 + p["a"] ** 2 + p["b"]))  # noqa: E731
    seen = searched("tpe", where, measure, 25, objectives=both)
    assert statistics.mean(one.point["b"] for one in seen[12:]) < 0.35  # it helps neither
    with pytest.raises(SpecError, match="one objective"):
        make("climb", where, both)


def test_auto_is_a_grid_where_the_space_is_small():
    where = space({"a": [1, 2, 3], "b": [1, 2]}, ["a >= b"])
    assert [choose("auto", where, ["max_throughput"], trials) for trials in (4, 5, 6)] == ["climb", "grid", "grid"]
    assert choose("random", where, ["max_throughput"], 99) == "random"
    assert choose("auto", space({"a": {"low": 0.0, "high": 1.0}}), ["max_throughput"], 999) == "climb"


@pytest.mark.parametrize("surface", SURFACES[:4], ids=str)
def test_the_default_needs_at_most_half_of_what_chance_needs(surface):
    """`benchmarks/search_efficiency.py` has the figures over 50 seeds; this is the alarm that something broke."""
    climbs = [trials_needed(surface, make("climb", surface.space, ["max_throughput"], k), k, 60) for k in range(7)]
    chance = math.log(2) / surface.share()  # the median of independent draws
    assert statistics.median(climbs) <= chance / 2


@pytest.mark.parametrize("name", ["gp", "tp", ""])
def test_what_is_no_sampler_is_refused_in_one_line(name):
    with pytest.raises(SpecError, match=f"there is no sampler '{name}'") as refused:
        make(name, LLAMACPP.space, ["max_throughput"])
    assert "\n" not in str(refused.value)
