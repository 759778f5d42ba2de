"""The commands: `tuner demo`, `sweep`, `tune`, `load`, `report`, `compare`, `serve`, `doctor`, `notebooks`."""

import contextlib
import functools
import inspect
import itertools
import logging
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from rich.markup import escape

from tuner import __version__
from tuner.batches.batch import records
from tuner.cli import exports, tables
from tuner.cli.doctor import examine
from tuner.cli.progress import LogHandler, RunDisplay, SearchDisplay, SweepDisplay, ctrl_c_stops, download_bar
from tuner.cli.tables import Terminal, print_lines
from tuner.core import files
from tuner.core.run_directory import Experiment, Trial
from tuner.core.secrets import hide_written
from tuner.errors import PathError, RequestError, TunerError
from tuner.judging.costs import Price, Target
from tuner.judging.slo import SLO
from tuner.report.results import Results, read_results
from tuner.report.write import REPORT_FILE, ComparisonRequest, run_comparison, save_report, write_report
from tuner.search.executors import LOCAL
from tuner.search.spec import TuneSpec
from tuner.servers.server import launch
from tuner.sweep.fields import as_text, read_levels
from tuner.sweep.prepare import prepare, with_model, with_workload
from tuner.sweep.spec import SECTIONS, ServeSpec, SweepSpec, make_spec, read_spec
from tuner.sweep.sweep import check_kind, check_same, recorded_spec
from tuner.sweep.trust import check_trust


def takes(spec: type[BaseModel]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command a flag for each field of `spec`; they reach it, as text, in `flags`."""

    def with_flags(command: Callable[..., None]) -> Callable[..., None]:
        own = [part for name, part in inspect.signature(command).parameters.items() if name != "flags"]
        flags = [_flag(name, field) for name, field in spec.model_fields.items()]

        @functools.wraps(command)
        def with_values(**values: Any) -> None:
            texts = {flag.name: values.pop(flag.name) for flag in flags}
            command(**values, flags={name: text for name, text in texts.items() if text is not None})

        with_values.__signature__ = inspect.Signature([*own, *flags])  # type: ignore[attr-defined]
        with_values.__annotations__ = {part.name: part.annotation for part in [*own, *flags]}
        return with_values

    return with_flags


def _flag(name: str, field: Any) -> inspect.Parameter:
    default = as_text(field.get_default(call_default_factory=True))
    text = (field.description or "") + (f" (default: {default})" if default else "")
    section = next((title for title, names in SECTIONS.items() if name in names), "More")
    flag = f"--{name.replace('_', '-')}"
    option = typer.Option(flag, metavar="VALUE", help=text, show_default=False, rich_help_panel=section)
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=None, annotation=Annotated[str | None, option])


_POLL_SECONDS = 0.2
_ROOM_FOR_REPORT = 1 << 20  # bytes that it has at least
_TRUTHS = ("true", "false", "yes", "no", "on", "off", "1", "0")

app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    help="Find the LLM server configuration with the most throughput within its latency SLO.",
)

SloFile = Annotated[Path | None, typer.Option("--slo", metavar="FILE", help="the SLO to judge by (YAML or JSON)")]
Json = Annotated[bool, typer.Option("--json", help="print one JSON document, as docs/json.md describes it")]
ANY_RUN = "a run directory, a folder of result files, a file or a report"
More = Annotated[list[Path] | None, typer.Option(metavar="PATH", help="another run of that side; may be repeated")]
PerHour = Annotated[float | None, typer.Option("--price-per-gpu-hour", metavar="PRICE", help="what a GPU costs")]
Gpus = Annotated[int | None, typer.Option("--gpus", metavar="N", help="how many GPUs; by default as the run recorded")]
TargetRate = Annotated[float | None, typer.Option("--target-rate", metavar="R", help="servers needed for R requests/s")]
TargetUsers = Annotated[float | None, typer.Option("--target-users", metavar="N", help="servers needed for N users")]
Config = Annotated[Path | None, typer.Argument(metavar="CONFIG.yaml", help="parameters; flags win over it")]
Resume = Annotated[Path | None, typer.Option("--resume", metavar="RUN", help="go on with this run directory")]
Trust = Annotated[bool, typer.Option("--trust", help="go on also with a run that was not made here: you know it")]
Paths = Annotated[list[Path], typer.Argument(metavar="PATH…", help="run directories, result files, folders of them")]


def main() -> None:
    """Run the command line; an error of ours is one line on stderr, never a traceback."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # a scheduler asks us to end
    try:
        app(_with_switches(sys.argv[1:]), standalone_mode=True)
    except TunerError as error:
        line = escape(" ".join(hide_written(str(error)).split()))
        Terminal(stderr=True, soft_wrap=True).print(f"[bold red]tuner:[/] {line}", highlight=False)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def _with_switches(words: list[str]) -> list[str]:
    """What a person wrote, with the value `true` after each switch that stands alone, as in `--sentinel --levels 1`."""
    fields = TuneSpec.model_fields.items()
    switches = {f"--{name.replace('_', '-')}" for name, field in fields if field.annotation is bool}
    written: list[str] = []
    for word, following in itertools.pairwise([*words, ""]):
        written += [word, "true"] if word in switches and following.lower() not in _TRUTHS else [word]
    return written


@app.callback(invoke_without_command=True)
def _global(
    context: typer.Context,
    verbose: Annotated[int, typer.Option("-v", "--verbose", count=True, help="say more; twice for everything")] = 0,
    version: Annotated[bool, typer.Option("--version", help="show the version and exit")] = False,
) -> None:
    level = {0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG)
    form = "%(asctime)sZ %(levelname)s %(name)s: %(message)s"
    logging.basicConfig(level=level, handlers=[LogHandler()], format=form)
    logging.Formatter.converter = time.gmtime
    if version:
        typer.echo(f"tuner {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


NEXT_STEPS = """next:
  tuner tune --resume {} --confirm 3    # both again in turn: how sure is the difference?
  tuner sweep --engine attach --base-url http://127.0.0.1:8000 --slo 'ttft: {{threshold: 1 s}}'    # your server
  tuner notebooks my-notebooks && jupyter lab my-notebooks    # the same with a form, figures and sliders"""


@app.command()
@takes(TuneSpec)
def demo(flags: dict[str, str]) -> None:
    """Two configurations of an embedded server under one SLO, in about a minute and without a GPU; then the report."""
    print_lines(NEXT_STEPS.format(_run(SearchDisplay, flags, Path(__file__).with_name("demo.yaml"))))


@app.command()
@takes(SweepSpec)
def sweep(flags: dict[str, str], config: Config = None, resume: Resume = None, trust: Trust = False) -> None:
    """Launch (or attach to) a server, measure it at each concurrency level, judge, and write the report."""
    _run(SweepDisplay, flags, config, resume, trust)


@app.command()
@takes(TuneSpec)
def tune(flags: dict[str, str], config: Config = None, resume: Resume = None, trust: Trust = False) -> None:
    """Search the server configuration with the most throughput within the SLO, and write the report."""
    _run(SearchDisplay, flags, config, resume, trust)


def _run(
    display_of: type[RunDisplay],
    flags: dict[str, str],
    config: Path | None,
    resume: Path | None = None,
    trust: bool = False,
) -> Path:
    """Run what flags and file ask for, or go on with `resume`, say what came out and give back its folder."""
    kind = display_of.kind
    values = (read_spec(config) if config else {}) | flags
    bar, move = download_bar("fetching the demo's model")
    with bar:
        before = recorded_spec(check_kind(kind.name, Experiment.open(resume))) if resume else {}
        spec = make_spec(before | values, kind.spec)
        is_here = getattr(spec, "on", LOCAL) == LOCAL
        spec = prepare(spec, move) if is_here else with_workload(spec)  # the rest where the server runs
    made = Experiment(resume) if resume else Experiment.create(spec.runs, kind.name, spec.name)
    with ctrl_c_stops(lambda: kind.read_progress(made).ending) as stop, made.only_writer() as experiment:
        check_same(spec, experiment)
        check_trust(spec, experiment, trusts=trust)
        with display_of(experiment, spec) as display, _report_if_it_fails(experiment):
            display.run(stop)
            results, report = _report(experiment)
        if not stop.after_level.is_set():
            results.must_have_survivors()
        display.conclude(results)
        again = [f"the best configuration again: {results.command}"] if results.command else []
        print_lines(*results.answer, *again, f"report: {report}", *_how_to_go_on(experiment))
        if stop.after_level.is_set():
            raise KeyboardInterrupt
        return experiment.folder


@contextlib.contextmanager
def _report_if_it_fails(experiment: Experiment) -> Iterator[None]:
    """Report on what a run left that was cut off, and say where that is and how it goes on."""
    try:
        yield
    except BaseException as failure:
        if experiment.has_begun:
            try:
                print_lines(f"report: {_report(experiment)[1]}")
            except TunerError as error:
                if str(error) != str(failure):  # else it will be said
                    logging.getLogger(__name__).warning("no report was written: %s", error)
            print_lines(*_how_to_go_on(experiment))
        raise


def _how_to_go_on(experiment: Experiment) -> list[str]:
    record, report = experiment.record, experiment.folder / REPORT_FILE
    if record.state in ("interrupted", "failed"):
        return [f"to go on: {shlex.join(['tuner', record.kind, '--resume', str(experiment.folder)])}"]
    again = shlex.join(["tuner", "report", str(experiment.folder), "-o", str(report)])
    return [] if report.exists() else [f"all results are kept; once there is room, the report: {again}"]


def _report(experiment: Experiment) -> tuple[Results, Path]:
    files.must_have_room(experiment.folder, _ROOM_FOR_REPORT)  # a report takes seconds to make
    results = read_results(experiment.folder)
    return results, save_report(results, experiment.folder / REPORT_FILE)


@app.command()
def load(  # noqa: PLR0913, PLR0917 - they are its flags
    paths: Paths,
    slo: SloFile = None,
    price_per_gpu_hour: PerHour = None,
    gpus: Gpus = None,
    target_rate: TargetRate = None,
    target_users: TargetUsers = None,
    form: Annotated[
        str, typer.Option("--format", metavar="table|json|csv|parquet|openmetrics", help="how to print them")
    ] = "table",
    as_json: Json = False,
) -> None:
    """Print one row a batch, also of other tools; with an SLO or a price the answer too (on stderr beside JSON)."""
    options = _judging_options(slo, price_per_gpu_hour, gpus, target_rate, target_users)
    results = read_results(*paths, **options)
    answer = results.answer if as_json or any(options.values()) else []  # first, since it can refuse a price
    if as_json:
        tables.print_document("load", records(results.judged), answer)
    else:
        tables.print_batches(results, form)
        print_lines(*answer, on_stderr=form != "table")
    results.must_have_survivors()


def _judging_options(slo: Path | None, price: float | None, gpus: int | None, *load: float | None) -> dict[str, Any]:
    """By what results are judged, priced and multiplied."""
    target = Target(*load) if any(load) else None
    return {"slo": SLO.load(slo) if slo else None, "price": Price.optional(price, gpus), "target": target}


@app.command()
def report(  # noqa: PLR0913, PLR0917 - they are its flags
    path: Annotated[Path, typer.Argument(metavar="PATH", help="a run directory, or a folder of result files")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE.html", help="where the report goes")],
    slo: SloFile = None,
    price_per_gpu_hour: PerHour = None,
    gpus: Gpus = None,
    target_rate: TargetRate = None,
    target_users: TargetUsers = None,
    mlflow: Annotated[str | None, typer.Option("--mlflow", metavar="URI", help="log the run to MLflow too")] = None,
) -> None:
    """Write the offline report of what is there."""
    by, price, load = _judging_options(slo, price_per_gpu_hour, gpus, target_rate, target_users).values()
    print_lines(f"report: {write_report(path, output, by, price, load)}")
    if mlflow:
        print_lines(f"MLflow run: {exports.log_to_mlflow(read_results(path, slo=by), output, mlflow)}")


@app.command()
def compare(  # noqa: PLR0913, PLR0917 - they are its flags
    before: Annotated[Path | None, typer.Argument(metavar="BASELINE", help=ANY_RUN)] = None,
    after: Annotated[Path | None, typer.Argument(metavar="CANDIDATE", help=ANY_RUN)] = None,
    baseline: More = None,
    candidate: More = None,
    slo: SloFile = None,
    tolerance: Annotated[str, typer.Option(metavar="SHARE", help="a smaller change is no regression")] = "5%",
    fail_on_regression: Annotated[
        bool, typer.Option("--fail-on-regression", help="end with 1 where the candidate is worse, or a level fails")
    ] = False,
    form: Annotated[str, typer.Option("--format", metavar="table|json", help="how to print it")] = "table",
    as_json: Json = False,
    junit: Annotated[Path | None, typer.Option(metavar="FILE.xml", help="write JUnit XML too")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE.html", help="write a report too")
    ] = None,
) -> None:
    """Say what changed from BASELINE to CANDIDATE, and whether the change is more than noise."""
    if form not in ("table", "json"):
        raise RequestError(f"--format {form}: unknown; use one of table, json")
    sides = [[*filter(None, [path]), *(more or [])] for path, more in ((before, baseline), (after, candidate))]
    by = SLO.load(slo) if slo else None
    request = ComparisonRequest(sides[0], sides[1], by, tolerance, output, junit, fail_on_regression)
    run_comparison(request, lambda compared: tables.print_comparison(compared, "document" if as_json else form))


@app.command()
@takes(ServeSpec)
def serve(
    flags: dict[str, str],
    folder: Annotated[Path, typer.Option("--folder", metavar="FOLDER", help="for server.log and server.json")] = Path(),
) -> None:
    """Run a server in the foreground, until Ctrl-C; it is gone when this is."""
    bar, move = download_bar("fetching the demo's model")
    with bar:
        spec = with_model(make_spec(flags, ServeSpec), move)
    with launch(spec, Trial(folder)) as server:
        print_lines(f"{server} is ready at {server.base_url}/v1 (log: {server.trial.server_log}); Ctrl-C ends it")
        while not (failure := server.failure()):
            time.sleep(_POLL_SECONDS)
        raise failure


@app.command()
def doctor(
    calibrate: Annotated[
        str | None,
        typer.Option("--calibrate", metavar="LEVELS", help="measure the load generator, as at 1,8,2.5/s"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what this machine has (engines, GPUs, genai-bench, a browser) and how to install what is missing."""
    if calibrate:
        tables.print_calibration(read_levels(calibrate), as_json=as_json)
        return
    findings = examine()
    if as_json:
        tables.print_document("doctor", [finding._asdict() for finding in findings])
    else:
        tables.print_findings(findings)
    if any(finding.needed and not finding.ok for finding in findings):
        raise typer.Exit(1)


@app.command()
def notebooks(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="where they go; what is there already stays as it is")],
) -> None:
    """Copy the notebooks into a folder of yours, for JupyterLab or papermill."""
    package = Path(__file__).parents[1]
    here = next(home for home in (package / "notebooks", package.parent / "notebooks") if home.is_dir())
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PathError(f"cannot make the folder {folder}: {error.strerror}") from error
    for notebook in sorted(here.glob("*.ipynb")):
        target = folder / notebook.name
        if is_new := not target.exists():
            files.write_atomically(target, notebook.read_bytes())
        print_lines(target if is_new else f"{target}: is there already, left as it is")
