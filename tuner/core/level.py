"""A level, a point of load: so many requests in flight at once, or so many that arrive per second."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tuner.core.text import UNKNOWN

if TYPE_CHECKING:
    import pandas as pd

#: what is varied from level to level (`iteration_type`)
CONCURRENCY, BATCH_SIZE, RATE = "num_concurrency", "batch_size", "request_rate"
KINDS = (CONCURRENCY, BATCH_SIZE, RATE)
COLUMNS = ("concurrency", "request_rate")  # the columns that a level stands in, one of them empty
PER_SECOND = "/s"


class Rate(float):
    """A level of open loop: requests that arrive per second, whether or not earlier ones have ended."""

    def __str__(self) -> str:
        return f"{float(self):g}{PER_SECOND}"


Level = int | Rate  # a whole number is the requests in flight


def level_from(number: float, kind: str) -> Level:
    """The level of a kind that a file has as a number."""
    return Rate(number) if kind == RATE else int(number)


def number_of(level: Level) -> int | float:
    """A level as files have it."""
    return float(level) if isinstance(level, Rate) else level


def kind_of(level: Level | None) -> str:
    """What is varied where this is one of the levels."""
    return RATE if isinstance(level, Rate) else CONCURRENCY


def columns_of(level: Level | None) -> dict[str, Any]:
    """A level in the columns of a batch."""
    return {"concurrency": None, "request_rate": float(level)} if isinstance(level, Rate) else {"concurrency": level}


def level_of(row: "Mapping[Any, Any] | pd.Series[Any]", columns: tuple[str, str] = COLUMNS) -> Level | None:
    """The level that a row has in these columns; None where nobody knows it."""
    import pandas as pd

    concurrency, rate = (row.get(name) for name in columns)
    if not pd.isna(concurrency):
        return int(concurrency)
    return None if pd.isna(rate) else Rate(rate)


def levels_in(frame: "pd.DataFrame") -> "pd.Series[float]":
    """The level of each row as a number; NaN where nobody knows it. Only those of one kind can be compared."""
    import pandas as pd

    missing = pd.Series(math.nan, frame.index)
    held, rate = (pd.to_numeric(frame.get(name, missing), errors="coerce").astype("Float64") for name in COLUMNS)
    return held.fillna(rate).astype("float64")


def by_level(frame: "pd.DataFrame") -> "pd.DataFrame":
    """The rows in the order of their levels, those whose level nobody knows last."""
    return frame.iloc[levels_in(frame).to_numpy().argsort(kind="stable")]


def axis_of(frame: "pd.DataFrame") -> tuple[str, str]:
    """What is varied in these rows, and its unit."""
    if frame["request_rate"].notna().any():
        return "request rate", "requests/s"
    return "concurrency", "requests in flight"


def level_name(level: Level | None) -> str:
    """A level for people, such as `8` or `2.5/s`; a dash where nobody knows it."""
    return UNKNOWN if level is None else str(level)


def level_title(level: Level | None, between: str = " ") -> str:
    """A level with what it is, such as `concurrency 8` or `rate 2.5/s`."""
    return f"{'rate' if isinstance(level, Rate) else 'concurrency'}{between}{level_name(level)}"


def folder_name(level: Level) -> str:
    """How the folder of a level is called, such as `concurrency-8` or `rate-2.5`."""
    return level_title(level, "-").removesuffix(PER_SECOND)
