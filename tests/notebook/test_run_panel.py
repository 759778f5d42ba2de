"""The panels of a sweep and of a search, without a browser."""

import asyncio
import html
from dataclasses import replace
from types import SimpleNamespace

import ipywidgets as widgets
import pytest
import yaml
from support import result_files

from tuner import notebook
from tuner.core.bottleneck import SEQUENCES
from tuner.core.records import SWEEP
from tuner.core.run_directory import Experiment
from tuner.errors import PathError, SpecError
from tuner.judging.slo import SLO
from tuner.notebook import panel as base
from tuner.notebook import run_panel
from tuner.notebook.views import ResultsView
from tuner.report.results import read_results
from tuner.sweep.proposals import propose, search_of
from tuner.sweep.spec import make_spec


def test_a_panel_that_is_shown_anew_finds_the_run_of_a_name_with_a_space(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(base, "display", lambda *_, **__: None)
    experiment = Experiment.create(tmp_path, SWEEP, "my run")
    experiment.describe(kind=SWEEP, name="my run", state="done")

    async def show():
        panel = run_panel.SweepPanel({"name": "my run", "runs": str(tmp_path)})
        panel.show()
        await panel.task
        return panel

    panel = asyncio.run(show())
    assert any("done: 0 levels" in one.value for one in find(panel.widget, widgets.HTML))


def test_a_panel_leaves_answer_picture_and_table_in_the_notebook(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    experiment = Experiment.create(tmp_path, SWEEP, "sweep")
    trial = result_files.run(experiment.folder, [1])
    result_files.add_level(trial, 1, result_files.result(level=1))
    experiment.describe(kind=SWEEP, name="sweep", state="done")
    kept = []
    monkeypatch.setattr(base, "display", lambda *_, **__: SimpleNamespace(update=kept.append))

    async def show():
        panel = run_panel.SweepPanel({"runs": str(tmp_path)})
        panel.show()
        await panel.task

    asyncio.run(show())
    (page,) = [one.data for one in kept]
    assert "output tokens/s" in page and "<table>" in page and "data:image/png;base64," in page


def test_a_message_that_nothing_was_started_goes_when_the_form_changes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    async def start_wrong():
        panel = run_panel.SweepPanel({"levels": ["0"]})
        panel.start()
        await panel.task
        return panel

    panel = asyncio.run(start_wrong())
    assert "Not started" in said(panel)
    field(panel, "levels").value = "1"
    assert "Not started" not in said(panel)


def said(panel):
    """All that a panel says."""
    return " ".join(one.value for one in find(panel.widget, widgets.HTML))


def test_a_moved_slider_says_what_share_of_the_requests_meets_it(tmp_path):
    trial = result_files.run(tmp_path / "run", [1])
    requests = [result_files.request(ttft=number / 100) for number in range(1, 101)]
    result_files.add_level(trial, 1, result_files.result(requests, level=1))

    async def move():
        view = ResultsView()
        await view.show(read_results(tmp_path / "run", slo=SLO.parse({"ttft": {"p90": {"threshold": 2}}})))
        assert ">100.0</td>" in shown_table(view)
        slider = find(view.widget, widgets.SelectionSlider)[0]
        slider.value = min((value for _, value in slider.options), key=lambda value: abs(value - 0.405))
        share = sum(request["ttft"] <= slider.value for request in requests)
        assert 0 < share < 100
        async with asyncio.timeout(20):
            while f">{share}.0</td>" not in shown_table(view):
                await asyncio.sleep(0.05)

    asyncio.run(move())


def test_sliders_reach_as_far_as_the_levels_that_have_come_since(tmp_path):
    trial = result_files.run(tmp_path / "run", [1, 2])
    slo = SLO.parse({"ttft": {"p90": {"threshold": 2}}})

    async def least_offered():
        view = ResultsView()
        found = []
        for level, ttft in ((1, 1.0), (2, 0.1)):
            requests = [result_files.request(ttft=ttft + number / 1000) for number in range(60)]
            result_files.add_level(trial, level, result_files.result(requests, level=level))
            await view.show(read_results(tmp_path / "run", slo=slo))
            found.append(find(view.widget, widgets.SelectionSlider)[0].options[0][1])
        return found

    first, then = asyncio.run(least_offered())
    assert then < 0.1 and first > 0.4


def find(widget, kind):
    """The widgets of a kind within another, in their order."""
    inside = [each for child in getattr(widget, "children", ()) for each in find(child, kind)]
    return ([widget] if isinstance(widget, kind) else []) + inside


def shown_table(view):
    """The HTML of the table in a view of results."""
    (table,) = [one.value for one in find(view.widget, widgets.HTML) if "<table>" in one.value]
    return table


def field(panel, name):
    """The input that is labelled `name`."""
    kinds = (widgets.Text, widgets.Textarea, widgets.Dropdown, widgets.Checkbox)
    return next(one for one in find(panel.widget, kinds) if one.description == name)


def is_shown(panel, name):
    """Whether the field of a parameter is shown."""
    return panel._form._fields[name].widget.layout.display != "none"


@pytest.mark.parametrize(
    ("engine", "shown", "hidden"),
    [
        ("llamacpp", ["parameters", "gpus"], ["base_url", "command", "stop_command", "verify"]),
        ("attach", ["base_url", "verify", "api_key_env"], ["parameters", "gpus", "command", "port", "executable"]),
        ("command", ["command", "stop_command", "parameters"], ["base_url", "executable"]),
        ("vllm", ["parameters", "gpus", "executable"], ["base_url", "command"]),
    ],
)
def test_a_form_shows_what_the_engine_takes_and_sends_nothing_else(engine, shown, hidden, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    panel = run_panel.SweepPanel({"base_url": "http://127.0.0.1:1", "command": ["x"], "gpus": 1})
    field(panel, "engine").value = engine
    assert all(is_shown(panel, name) for name in shown) and not any(is_shown(panel, name) for name in hidden)
    assert not set(hidden) & set(panel._form.values())


def test_parameters_that_were_typed_in_stay_when_another_engine_is_picked_and_left(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    panel = run_panel.SweepPanel({"parameters": {"n_batch": 64}})
    field(panel, "n parallel").value = "8"
    field(panel, "engine").value = "vllm"
    field(panel, "engine").value = "llamacpp"
    assert panel._form.values()["parameters"] == {"n_batch": 64, "n_parallel": 8}


@pytest.mark.parametrize(
    ("values", "at", "said"),
    [
        ({"engine": "attach"}, "base_url", "needs base_url"),
        ({"engine": "attach", "base_url": "127.0.0.1:8000"}, "base_url", "needs base_url"),
        ({"model": "/nowhere/x.gguf"}, "model", "x.gguf"),
        ({"engine": "command"}, "command", "needs command"),
        ({"engine": "command", "command": "no-such-program {port}"}, "command", "no program"),
        ({"engine": "vllm", "executable": "/nowhere/vllm", "model": "x/y"}, "executable", "is not there"),
        ({"engine": "vllm", "model": "x/y"}, "engine", "is not installed here"),
        ({"port": 70000}, "port", "65535"),
        ({"max_seconds": "abc"}, "max_seconds", "a number, got 'abc'"),
        ({"levels": ["0"]}, "levels", "whole number"),
        ({"model": "{tiny}", "parameters": {"n_ctx": 64, "n_parallel": 4}}, "parameters", "n_ctx"),
        ({"model": "{tiny}", "parameters": {"n_paralel": 4}}, "parameters", "did you mean n_parallel"),
        ({"api_key_env": "NO_SUCH_VARIABLE"}, "api_key_env", "NO_SUCH_VARIABLE is not set"),
        ({"prefix": "{groups: 3}"}, "prefix", "write one such as"),
        ({"prompts": "/nowhere.jsonl", "scenarios": ["D(100,32)"]}, "", ""),
    ],
)
def test_what_is_wrong_is_said_at_its_field_and_goes_when_it_is_mended(
    values, at, said, tiny_gguf, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    wrong = {name: str(tiny_gguf) if value == "{tiny}" else value for name, value in values.items()}
    panel = run_panel.SweepPanel(wrong)
    form = panel._form
    problems = {name: one._note.value for name, one in form._fields.items() if "tuner-error" in one._note.value}
    assert list(problems) == ([at] if at else []) and (not at or html.escape(said) in problems[at])
    for name in wrong:
        if name not in ("engine", "levels", "parameters", "scenarios"):
            field(panel, name.replace("_", " ")).value = ""
    if at in ("max_seconds", "port", "model", "prefix", "api_key_env") and "parameters" not in wrong:
        assert not any("tuner-error" in one._note.value for one in form._fields.values())


def test_everything_that_is_wrong_is_marked_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wrong = {"levels": ["0"], "max_seconds": "abc", "model": "/nowhere/x.gguf"}
    form = run_panel.SweepPanel(wrong)._form
    assert [name for name, one in form._fields.items() if "tuner-error" in one._note.value] == ["model", *wrong][:3]
    with pytest.raises(SpecError, match="levels"):
        form.spec()


def test_the_rows_of_an_slo_are_its_document(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    document = {
        "ttft": {"p90": {"threshold": "500 ms", "weight": 2.0}, "p99": {"threshold": 2}},
        "tpot": {"threshold": 0.05, "hard_fail": False},
        "error_rate": {"threshold": 0.01},
        "confidence": 0.95,
    }
    panel = run_panel.SweepPanel({"slo": document})
    assert SLO.parse(panel._form.spec().slo) == SLO.parse(document)
    press(panel, "Add limit")
    with pytest.raises(SpecError, match="slo: ttft p90 stands twice"):
        panel._form.spec()
    removers = [one for one in find(panel.widget, widgets.Button) if one.tooltip == "remove this limit"]
    assert len(removers) == 5
    removers[-1].click()
    press(panel, "Add tier")
    assert list(panel._form.spec().slo["tiers"]) == ["tier 1", "tier 2"]
    field(panel, "file").value = "mine.yaml"
    press(panel, "Save")
    again = run_panel.SweepPanel({})
    field(again, "file").value = "mine.yaml"
    press(again, "Load")
    assert SLO.parse(again._form.spec().slo) == SLO.load("mine.yaml") == SLO.parse(panel._form.spec().slo)


def press(panel, name):
    """Press the button `name`."""
    next(one for one in find(panel.widget, widgets.Button) if one.description == name).click()


def test_a_panel_that_another_has_replaced_draws_no_more(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(base, "display", lambda *_, **__: None)
    experiment = Experiment.create(tmp_path, SWEEP, "sweep")
    result_files.add_level(result_files.run(experiment.folder, [1]), 1, result_files.result(level=1))

    async def show_two():
        with experiment.only_writer() as running:
            running.describe(kind=SWEEP, name="sweep", state="running")
            first, second = (run_panel.SweepPanel({"runs": str(tmp_path)}) for _ in range(2))
            for panel in (first, second):
                panel.show()
            async with asyncio.timeout(20):
                while "so far" not in said(second):
                    await asyncio.sleep(0.05)
            assert "so far" not in said(first)
        await asyncio.gather(first.task, second.task)

    asyncio.run(show_two())


def test_a_run_that_was_stopped_in_a_panel_is_resumed_there_as_its_only_writer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    began = []

    def run(spec, experiment, stop):
        with experiment.only_writer():
            began.append((experiment.is_running, stop.is_set(), experiment.stop_file.exists()))
            result_files.run(experiment.folder, [1])
            experiment.describe(kind=SWEEP, name="sweep", spec=spec.model_dump(mode="json"), state="interrupted")
            assert stop.at_once.wait(20)

    class Panel(run_panel.SweepPanel):
        kind = replace(run_panel.SWEEP_KIND, run=run)

    async def stop_twice(panel, begun):
        async with asyncio.timeout(20):
            while len(began) < begun:
                await asyncio.sleep(0.05)
            panel.stop()
            panel.stop()
            await panel.task

    async def resume():
        panel = Panel({"levels": [1]})
        panel.start()
        await stop_twice(panel, 1)
        panel._trusted = panel.folder
        press(panel, "Resume")
        await stop_twice(panel, 2)

    asyncio.run(resume())
    assert began == [(True, False, False)] * 2


def test_two_panels_of_a_kernel_share_no_layout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = (find(run_panel.SweepPanel({}).widget, widgets.DOMWidget) for _ in range(2))
    assert not {one.layout.model_id for one in first} & {one.layout.model_id for one in second}


def test_an_emptied_space_runs_no_search(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    panel = run_panel.TunePanel({"slo": {"ttft": {"p90": {"threshold": 1}}}})
    panel._form.spec()
    field(panel, "space").value = ""
    with pytest.raises(SpecError, match="space"):
        panel._form.spec()
    field(panel, "fill in a preset").label = "cache"
    assert set(panel._form.spec().space) == {"n_parallel", "n_threads", "kv_unified"}


def test_where_there_is_no_run_to_compare_one_line_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("runs", "elsewhere"):
        with pytest.raises(PathError) as refused:
            notebook.compare({"paths": None})
        (line,) = refused.value._render_traceback_()
        said = "does not exist: run sweep.ipynb first, or name runs as baseline and candidate"
        assert line == f"PathError: {folder} {said}"
        monkeypatch.setenv("TUNER_RUNS", "elsewhere")


def test_a_search_goes_on_from_what_a_sweep_proposes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(base, "display", lambda *_, **__: None)
    experiment = Experiment.create(tmp_path, SWEEP, "sweep")
    result_files.add_level(result_files.run(experiment.folder, [1]), 1, result_files.result(level=1))
    experiment.describe(kind=SWEEP, name="sweep", state="done")

    async def show():
        panel = run_panel.SweepPanel({"runs": str(tmp_path)})
        panel.show()
        await panel.task
        return panel

    assert asyncio.run(show())._search.layout.display == "none"
    spec = make_spec({"parameters": {"n_parallel": 2}, "levels": [8]})
    proposals = propose(spec, SEQUENCES, "requests queue")
    (experiment.folder / "search.yaml").write_text(yaml.safe_dump(search_of(spec, proposals)))
    panel = asyncio.run(show())
    assert panel._search.layout.display == ""
    press(panel, "Search from here")
    assert "its form is filled in with what is proposed here" in said(panel)
    search = run_panel.TunePanel({})
    assert "what the sweep proposed" in said(search)
    found = search._form.spec()
    assert [one.parameters for one in found.first] == [{"n_parallel": 4}, {"n_parallel": 8}]
    assert found.space == {"n_parallel": [2, 4, 8]} and found.levels == [8]
    assert "what the sweep proposed" not in said(run_panel.TunePanel({}))  # it is handed on once
