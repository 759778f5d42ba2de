"""Searches made to order: their trials as a DataFrame, in every state that there is."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd

START = datetime(2026, 11, 24, 4, 0, tzinfo=UTC)


def trial(number: int, state: str = "complete", value: float | None = None, **changes: Any) -> dict[str, Any]:
    """One trial as `load_trials` gives it."""
    value = float("nan") if value is None else value
    known = {
        "trial": number,
        "role": "baseline" if number == 1 else "candidate",
        "state": state,
        "parameters": {},
        "value": value,
        "values": [value],
        "penalty": 0.0,
        "cause": "",
        "max_throughput": value,
        "best_level": 8,
        "bracket": "bracketed",
        "started_at": START + timedelta(minutes=number),
        "finished_at": START + timedelta(minutes=number, seconds=40),
        "duration": 40.0,
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
        causes = {"failed": "out_of_memory: failed to create context", "infeasible": "TTFT p90 2.3 s > 2 s"}
        kept = value if state == "complete" else None
        rows.append(trial(number, state, kept, parameters=parameters, cause=causes.get(state, "")))
    return frame(rows)
