"""A search: ask, run, score, confirm; and the two kinds of run."""

import logging
import math
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from itertools import product, takewhile
from typing import Any

import msgspec

from tuner import engines
from tuner.core import files
from tuner.core.records import COMPLETE, FAILED, PRUNED, SEARCH, SWEEP, TrialRecord
from tuner.core.run_directory import Experiment
from tuner.errors import NothingSurvived, PathError, Stopped
from tuner.judging.search_answer import Confirmation
from tuner.search import executors, samplers
from tuner.search.confirmation import BASELINE, WINNER, conclude, to_copy
from tuner.search.early import TrialStop, busiest_first
from tuner.search.executors import LOCAL, Executor
from tuner.search.known import NOT_ITS_DOING, known_trials
from tuner.search.optuna_study import Journal
from tuner.search.samplers import Observation
from tuner.search.spec import TuneSpec
from tuner.search.state import Limits, SearchTrial, Trials
from tuner.servers import gpus
from tuner.sweep.prepare import fingerprint, prepare, with_workload
from tuner.sweep.progress import Progress, SearchProgress, read_search, read_sweep
from tuner.sweep.spec import SERVER_FIELDS, SweepSpec
from tuner.sweep.sweep import StopRequest, check_same, recorded, run_sweep
from tuner.sweep.trust import signed

_log = logging.getLogger(__name__)

WINNER_FILE = "winner.yaml"
_TICK = 1.0  # seconds between two looks at limits while trials run
Running = dict["Future[None]", tuple[SearchTrial, TrialStop]]


def run_search(spec: TuneSpec, experiment: Experiment, stop: StopRequest | None = None) -> None:
    """Search for the best configuration, the defaults first, and confirm it; or go on where `experiment` is not new.

    `stop`, set from another thread, ends it early; the run directory's `stop_file` does the same. It raises
    NothingSurvived where no trial has a usable result, ClusterError where the cluster does not answer, RequestError for
    what cannot be done here, or not in this run directory.
    """
    stop = (stop or StopRequest()).of(experiment)
    with experiment.only_writer():
        request = spec
        is_here = spec.on == LOCAL
        spec = prepare(spec) if is_here else with_workload(spec)  # elsewhere the rest is prepared where the server runs
        if is_here:
            _check_servers(spec)
        check_same(spec, experiment)
        has_taken = len(experiment.search_trials) > 1  # and may go on where the earlier runs are gone
        known = [] if has_taken else known_trials(spec)
        facts = {"workload": fingerprint(spec)} if is_here else {}
        with executors.make(spec.on, spec.parallel, spec) as executor, recorded(experiment, spec, SEARCH, **facts):
            experiment.describe(**signed(spec))  # with limits that have changed
            try:
                _Search(request, spec, experiment, executor, stop, known).run()
            except OSError as error:  # Optuna's journal, for one, which is written anew when the search goes on
                raise PathError(f"cannot write into {experiment.folder}: {error.strerror or error}") from error


def _check_servers(spec: TuneSpec) -> None:
    """Refuse what an engine of the space is sure to refuse: its program, model, or the names of its parameters."""
    for part in spec.search_space.servers():
        if (point := next(part.grid(), None)) is not None:
            one = spec.of_trial(part.parameters(point))
            engine = engines.find(one.engine)
            engine.check(one)
            names = {dimension.parameter for dimension in part.dimensions if dimension.is_of(engine.name)}
            engine.check_names(one, names - {*SERVER_FIELDS})
            changing = [name for name, one in engine.tunables.items() if one.changes_answers and name in names]
            if changing:
                _log.warning("space: %s can change what the model answers", ", ".join(sorted(changing)))


@dataclass
class _Search:
    """One call of `run_search`, of a request and the spec that it was prepared to."""

    request: TuneSpec
    spec: TuneSpec
    experiment: Experiment
    executor: Executor
    stop: StopRequest
    known: list[SearchTrial]

    def __post_init__(self) -> None:
        spec, space, before = self.spec, self.spec.search_space, self.experiment.record.search
        self.space = space
        # of `auto` the one that the search began with
        self.sampler_name = before.get("sampler") or samplers.choose(spec.sampler, space, spec.objective, spec.trials)
        self.sampler = samplers.make(self.sampler_name, space, spec.objective, int(spec.seed))
        self.trials = Trials(self.experiment, spec)
        self.limits = Limits(spec, self.trials, before.get("seconds", 0.0))
        self.journal = Journal(self.experiment.folder, space, self.trials.scoring)

    def run(self) -> None:
        for trial in self.trials.searched:
            self.journal.add(trial)
        self._describe(reason=self._search())
        if not self.stop.is_set():
            self._confirm()
        is_stopped, searched = self.stop.is_set(), self.trials.searched
        self._describe(state="stopped" if is_stopped else "done")
        if is_stopped:
            raise Stopped
        if all(trial.state == FAILED for trial in searched):
            raise NothingSurvived(f"no trial has a usable result: {searched[0].cause if searched else 'none was run'}")
        if cause := self.limits.one_cause:
            raise NothingSurvived(f"all trials but the baseline failed of one cause: {cause}")

    def _search(self) -> str:
        running: Running = {}
        waiting = [trial for trial in self.trials.searched if not trial.is_settled]
        self._describe(state="searching")
        while True:
            reason = "stopped" if self.stop.is_set() else ""
            while not reason and len(running) < self.executor.slots:
                reason = "" if waiting else self.limits.reached()
                if not reason and (trial := waiting.pop(0) if waiting else self._next()):
                    running |= self._start(trial)
                else:
                    reason = reason or self.limits.reached() or "every configuration of the space was tried"
            if not running:
                return reason
            self._settle(running, _TICK)

    def _next(self) -> SearchTrial | None:
        """The next trial that may start: the defaults, then what the sampler asks for; None where there is none."""
        memory = max((gpu.memory_total for gpu in gpus.visible(gpus.gpus())), default=0) if self.spec.on == LOCAL else 0
        while not self.limits.reached() and (record := self._next_record()):
            trial, spec = self.trials.add(record), self.spec.of_trial(record.parameters)
            if not (why := engines.find(spec.engine).cannot_start(spec, memory)):
                return trial
            self._added(self.trials.rule_out(trial, why))
        return None

    def _next_record(self) -> TrialRecord | None:
        if not self.trials.searched:
            return TrialRecord(role="baseline", parameters=dict(self.space.fixed))
        there = {trial.record.known_from for trial in self.trials.all}
        for known in self.known:
            if known.record.known_from not in there:
                self._added(self.trials.take(known))
        tried = [trial.record.parameters for trial in self.trials.searched]
        for first in self.spec.first:
            if (parameters := self.space.parameters(first.parameters)) not in tried:
                return TrialRecord(role="candidate", parameters=parameters, promise=first.because)
        point = self.sampler.next(list(self._observations()))
        return None if point is None else TrialRecord(role="candidate", parameters=self.space.parameters(point))

    def _added(self, trial: SearchTrial) -> None:
        _log.info("trial %d: %s %s", trial.files.number, trial.state, trial.record.cause)
        self.journal.add(trial)
        self._describe()

    def _observations(self) -> Iterator[Observation]:
        for trial in self.trials.searched:
            point, score = self.space.point_of(trial.record.parameters), trial.score
            if not trial.is_settled or score is None or trial.record.kind in NOT_ITS_DOING:
                yield Observation(point, "running")  # nobody knows
            else:  # one that was ended early has what its first levels are worth, which is less than the best
                is_worth = trial.state in (COMPLETE, PRUNED) and not any(map(math.isnan, score.values))
                yield Observation(point, trial.state, score.values if is_worth else (), score.penalty)

    def _start(self, trial: SearchTrial, again: TuneSpec | None = None) -> Running:
        self.trials.begin(trial)
        best = self.trials.best if trial.record.role == "candidate" else None  # the others are measured to their end
        stop = TrialStop(
            **vars(self.stop),
            trial=trial.files,
            spec=self.spec,
            best=best.judged if best else None,
            factor=max(trial.record.gpus, 1) / max(best.record.gpus, 1) if best else 1.0,
            deadline=self.limits.deadline(confirming=again is not None),
        )
        order = busiest_first(self.spec, best.score.summary.best_level) if best and best.score else {}
        spec = again or self.spec.of_trial(trial.record.parameters, **order)
        return {self.executor.submit(spec, trial.files, stop): (trial, stop)}

    def _settle(self, running: Running, patience: float | None = None) -> None:
        for future in wait(running, patience, FIRST_COMPLETED).done:
            trial, stop = running.pop(future)
            self.trials.settle(trial, future.exception(), stop)
            self._added(trial)

    def _confirm(self) -> None:
        best, baseline = self.trials.best, self.trials.baseline
        if best is None:
            return
        command = best.files.server.command if best.files.server else []
        is_other = {*SERVER_FIELDS} & {*best.record.parameters}  # whose tokenizer was the baseline's
        copy = to_copy(self.spec if is_other else self.request, best.record.parameters, command)
        files.write_atomically(self.experiment.folder / WINNER_FILE, copy["yaml"])
        self._describe(winner={"trial": best.files.number} | copy)
        if best is baseline or baseline is None:
            self._describe(confirmation={"verdict": "same", "text": "the defaults are as good: no trial beat them"})
        elif self.spec.confirm:
            self._describe(state="confirming")
            self._describe(confirmation=msgspec.to_builtins(self._confirmation(baseline, best)))

    def _confirmation(self, baseline: SearchTrial, best: SearchTrial) -> Confirmation | None:
        """What runs in turn show; None where there was no time for one of each."""
        bests = [trial.score.summary.best_level for trial in (baseline, best) if trial.score]
        at_level = self.trials.scoring.level
        levels = [at_level] if at_level else sorted({level for level in bests if level})
        turns = product(range(self.spec.confirm), ((BASELINE, baseline), (WINNER, best)))
        each = (self._once_more(side, trial, turn, levels) for turn, (side, trial) in turns)
        runs = [run for run in takewhile(bool, each) if run]
        sides: dict[str, list[float]] = {BASELINE: [], WINNER: []}
        for run in runs:
            if run.score and run.record.kind not in NOT_ITS_DOING:
                sides[run.record.of].append(run.score.values[0])
        objective, numbers = self.spec.objective[0], sorted(run.files.number for run in runs)
        both = all(sides.values())
        return conclude(objective, sides[BASELINE], sides[WINNER], levels, numbers) if both else None

    def _once_more(self, of: str, trial: SearchTrial, turn: int, levels: list[float]) -> SearchTrial | None:
        """A further run of a trial, at these levels; the one that is there already where the search was cut off."""
        parameters = trial.record.parameters
        before = [one for one in self.trials.all if one.record.of == of and one.record.parameters == parameters]
        again = before[turn] if turn < len(before) else None
        if again and again.is_settled:
            return again
        if self.stop.is_set() or self.limits.is_over(confirming=True):
            return None
        again = again or self.trials.add(TrialRecord(role="confirmation", of=of, parameters=parameters))
        spec = self.spec.of_trial(parameters, **{self.spec.varied: levels}, stop_when_saturated=False, quality=False)
        self._settle(self._start(again, spec))
        return again if again.is_settled else None

    def _describe(self, **facts: Any) -> None:
        best = self.trials.best
        before = self.experiment.record.search | {
            "sampler": self.sampler_name,
            "trials": len(self.trials.searched),
            "seconds": round(self.limits.seconds, 1),
            "best": best.files.number if best else None,
        }
        self.experiment.describe(search=before | facts)


@dataclass(frozen=True)
class Kind:
    """A kind of run; the notebook's panel of a kind, and the terminal's display, name the one that they are for."""

    name: str  # of its command, its notebook, and in its run directories' names
    noun: str  # what it is called
    spec: type[SweepSpec]  # what it is asked with
    # carries it out in a run directory, resuming what is there, until it is done or the stop is set
    run: Callable[[Any, Experiment, StopRequest | None], None]
    read_progress: Callable[[Experiment], Progress | SearchProgress]  # how far a run is, from its directory


SWEEP_KIND = Kind(SWEEP, "sweep", SweepSpec, run_sweep, read_sweep)
SEARCH_KIND = Kind(SEARCH, "search", TuneSpec, run_search, read_search)
