"""Searches made to order: their trials as a DataFrame, in every state that there is."""

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd

from support import result_files
from tuner.core.records import Role, TrialFacts, TrialRecord
from tuner.core.run_directory import Experiment

START = datetime(2026, 11, 24, 4, 0, tzinfo=UTC)


def trial(number: int, state: str = "complete", value: float | None = None, **changes: Any) -> dict[str, Any]:
    """One trial as `load_trials` gives it."""
    value = float("nan") if value is None else value
    known = {
        "trial": number,
        "role": "baseline" if number == 1 else "candidate",
        "of": "",
        "state": state,
        "parameters": {},
        "value": value,
        "values": [value],
        "unit": "tokens/s",
        "penalty": 0.0,
        "cause": "",
        "kind": "",
        "gpus": 0,
        "max_throughput": value,
        "best_level": 8,
        "bracket": "bracketed",
        "started_at": START + timedelta(minutes=number),
        "finished_at": START + timedelta(minutes=number, seconds=40),
        "duration": 40.0,
        "answers": "",
        "answers_evidence": "",
        "is_best": False,
        "is_pareto": False,
    }
    return known | changes


def frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Trials as a DataFrame; the best one is found where none says that it is."""
    made = pd.DataFrame(rows, columns=list(trial(1)))
    for name in ("started_at", "finished_at"):
        made[name] = pd.to_datetime(made[name], utc=True)
    done = made[(made["state"] == "complete") & made["value"].notna() & (made["role"] != "confirmation")]
    if len(done) and not made["is_best"].any():
        made.loc[done["value"].idxmax(), "is_best"] = True
    return made.astype({"value": "float64", "best_level": "Int64"})


def searched(count: int = 20, seed: int = 0) -> pd.DataFrame:
    """A search of `count` trials over four parameters, some infeasible, failed or ended early."""
    dice = random.Random(seed)
    rows = [trial(1, value=402.0, parameters={"n_parallel": 4, "flash_attn": "auto"})]
    for number in range(2, count + 1):
        parallel, batch = dice.choice([1, 2, 4, 8, 16, 32]), dice.choice([128, 256, 512, 1024, 2048])
        attention = dice.choice(["on", "off", "auto"])
        parameters: dict[str, Any] = {"n_parallel": parallel, "n_batch": batch, "flash_attn": attention}
        if attention == "on":
            parameters["cache_type_k"] = dice.choice(["f16", "q8_0"])
        value = 150 * parallel**0.45 + 20 * (attention == "on") + dice.gauss(0, 15)
        state = dice.choices(["complete", "infeasible", "failed", "pruned"], [12, 2, 2, 1])[0]
        causes = {"failed": "failed to create context", "infeasible": "TTFT p90 2.3 s > 2 s"}
        kept = value if state == "complete" else None
        rows.append(
            trial(
                number,
                state,
                kept,
                parameters=parameters,
                cause=causes.get(state, ""),
                kind="out_of_memory" * (state == "failed"),
            )
        )
    return frame(rows)


def run(folder: Path, count: int = 6, levels: tuple[int, ...] = (1, 2, 4, 8), **facts: Any) -> Path:
    """A run directory of a search whose trials get faster; every fifth one failed, every fourth is infeasible."""
    made_run = Experiment.at(folder)
    slo = {"ttft": {"p90": {"threshold": 0.5}}}
    spec = {"engine": "llamacpp", "model": "m.gguf", "levels": list(levels), "scenarios": ["D(100,100)"], "slo": slo}
    made_run.describe(**{"kind": "tune", "name": "made", "state": "done", "spec": spec} | facts)
    for number in range(1, count + 1):
        parameters = {} if number == 1 else {"n_parallel": 2**number % 61, "flash_attn": ["on", "off"][number % 2]}
        failed, infeasible = number % 5 == 0, number % 4 == 0
        add_trial(made_run, number, parameters, levels, speed=number, failed=failed, infeasible=infeasible)
    return folder


def add_trial(
    made_run: Experiment, number: int, parameters: dict[str, Any], levels: tuple[int, ...], **how: Any
) -> None:
    """One trial of a search with its batches."""
    one = made_run.trial(number)
    asked = TrialFacts(
        trial=number, engine="llamacpp", model="m", parameters=parameters, scenarios=["D(100,100)"], levels=list(levels)
    )
    asked.write(one.folder)
    cause, kind = ("failed to create context", "out_of_memory") if how.get("failed") else ("", "")
    times = {"started_at": f"2026-11-24T04:{number:02}:00Z", "finished_at": f"2026-11-24T04:{number:02}:40Z"}
    state = "failed" if how.get("failed") else "ended"
    role: Role = how.get("role") or ("baseline" if number == 1 else "candidate")
    record = TrialRecord(role=role, parameters=parameters, state=state, cause=cause, kind=kind, seconds=40.0, **times)
    record.write(one.folder)
    for level in levels if not how.get("failed") else ():
        ttft = 0.9 if how.get("infeasible") else 0.02 * level
        requests = [result_files.request(ttft=ttft, tpot=0.02 / how["speed"] + 0.001 * level)] * 60
        result_files.add_level(one, level, result_files.result(requests, level=level), **times)
