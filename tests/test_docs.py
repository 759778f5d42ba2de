"""README and docs: links and anchors lead somewhere, and every example is one that tuner takes."""

import re
import shlex
import shutil

import click
import pytest
import typer.main
import yaml
from support import CHECKOUT, result_files, searches

from tuner.cli.commands import app
from tuner.judging.slo import SLO
from tuner.search.spec import TuneSpec
from tuner.sweep.spec import SweepSpec, make_spec, read_spec

PAGES = [*sorted(CHECKOUT.glob("*.md")), *sorted((CHECKOUT / "docs").glob("*.md"))]
NAMES = [str(page.relative_to(CHECKOUT)) for page in PAGES]
SPECS = {"demo": TuneSpec, "tune": TuneSpec, "sweep": SweepSpec}
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)


def blocks(page, language):
    """The code blocks of a page in one language."""
    return [code for kind, code in _BLOCK.findall(page.read_text()) if kind == language]


def anchors(page):
    """What the headings of a page are called in links, as GitHub names them."""
    titles = re.findall(r"^#+ (.+)$", _BLOCK.sub("", page.read_text()), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_and_anchors_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", _BLOCK.sub("", page.read_text())):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(there), f"{page.name}: {target}"


def commands():
    for page, name in zip(PAGES, NAMES, strict=True):
        for line in "".join(blocks(page, "sh")).splitlines():
            for part in re.split(r"\s&&\s", line):
                words = shlex.split(part, comments=True)
                if words and words[0].removeprefix(".venv/bin/") == "tuner":
                    yield pytest.param(words[1:], id=f"{name}: {part.strip()[:60]}")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder, but for the files that the examples name."""
    monkeypatch.chdir(tmp_path)
    for page in PAGES:
        for code in blocks(page, "yaml"):
            if named := re.match(r"# (\w+\.yaml)", code):
                (tmp_path / named[1]).write_text(code)
    (tmp_path / "slo.yaml").write_text("ttft: {p90: {threshold: 500 ms}}")
    (tmp_path / "chat.jsonl").write_text('{"prompt": "Hello"}\n')
    return tmp_path


@pytest.mark.parametrize("words", list(commands()))
def test_a_command_is_one_that_tuner_takes(words, folder):
    words = [word for word in words if word not in (">", "batches.parquet", "nightly.om")]
    group = typer.main.get_command(app)
    with click.Context(group) as parent:
        name, command, rest = group.resolve_command(parent, words)
        values = command.make_context(name, [*rest], parent=parent).params
    if name in SPECS and not values.get("resume"):
        asked = {field: values[field] for field in SPECS[name].model_fields if values.get(field) is not None}
        config = values.get("config")
        of_a_run = config and "runs" in config.parts  # which the run has made
        make_spec((read_spec(config) if config and not of_a_run else {}) | asked, SPECS[name])


def test_every_yaml_example_is_an_slo_or_parameters(folder):
    found = [(page.name, code) for page in PAGES for code in blocks(page, "yaml")]
    assert len(found) >= 4
    for name, code in found:
        document = yaml.safe_load(code)
        if {"ttft", "tiers"} & document.keys():
            SLO.parse(document, name)
        else:
            make_spec(document, TuneSpec if "space" in document else SweepSpec)


def test_python_examples_run(folder, monkeypatch):
    result_files.plain_folder(folder / "runs" / "monday", [1, 2, 4])
    searches.run(folder / "runs" / "search")
    monkeypatch.setattr("plotly.graph_objects.Figure.show", lambda figure: None)
    for page in PAGES:
        for code in blocks(page, "python"):
            exec(compile(code, page.name, "exec"), {})


def test_every_message_that_troubleshooting_names_is_said():
    page = (CHECKOUT / "docs" / "troubleshooting.md").read_text()
    rows = re.findall(r"^\| `([^`]+)` \|", page, re.M)
    source = "".join(path.read_text() for path in (CHECKOUT / "tuner").rglob("*.py"))
    assert len(rows) >= 12
    assert [said for said in rows if said not in source] == []


def test_every_docs_page_is_named_in_the_readme():
    readme = (CHECKOUT / "README.md").read_text()
    assert len(readme.splitlines()) <= 180
    assert [name for name in NAMES if name.startswith("docs/") and f"({name})" not in readme] == []


def test_versions_agree():
    import tuner

    assert f"version: {tuner.__version__}\n" in (CHECKOUT / "CITATION.cff").read_text()
    assert f"## {tuner.__version__}\n" in (CHECKOUT / "CHANGELOG.md").read_text()
    assert f"tuner-{tuner.__version__}-py3" in (CHECKOUT / "docs" / "install.md").read_text()


def test_the_readme_begins_on_any_machine_that_has_python():
    """Its two commands are one line each, and the second is what CI runs."""
    lines = [line for line in (CHECKOUT / "README.md").read_text().splitlines() if line.startswith("python3 -m venv")]
    assert [line.split(" && ")[-1].split()[0] for line in lines] == [".venv/bin/tuner", ".venv/bin/pytest"]
    assert shutil.which("bash")


def test_what_the_readme_compares_was_printed_by_a_benchmark():
    """Its figures stand in the blocks that `benchmarks/record.py` wrote."""
    outputs = blocks(CHECKOUT / "docs" / "benchmarks.md", "text")
    for block in outputs:
        command, machine, *rest = block.splitlines()
        assert (CHECKOUT / command.split()[2]).is_file() and machine.startswith("# 20") and rest, command
    compared = re.search(r"## How it compares\n(.*?)\n## ", (CHECKOUT / "README.md").read_text(), re.S)[1]
    figures = re.findall(r"(\d+(?:\.\d+)?) (?:ms|times|trials|%)", compared)
    printed = set(re.findall(r"\d+(?:\.\d+)?", "".join(outputs)))
    assert len(figures) >= 6 and set(figures) <= printed
