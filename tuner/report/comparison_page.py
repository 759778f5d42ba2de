"""A comparison → the HTML text of its report; everything from outside is escaped."""

from typing import Any

import pandas as pd

from tuner.batches import report_data as carried
from tuner.judging import comparison_tables as changes
from tuner.report.compared import SAME_CONFIGURATION, Compared
from tuner.report.page import document
from tuner.report.sides import COMPARISON


def render(compared: Compared) -> str:
    """The comparison as HTML text."""
    return document(
        "comparison",
        compared.figures,
        {},
        _carried(compared),
        title=compared.title,
        compared=compared,
        configuration=_rows(compared.configuration),
        overview=_table(changes.overview(compared.comparison)),
        unmatched=_table(changes.unmatched(compared.comparison)),
        details=_table(changes.details(compared.comparison)),
        legend=changes.LEGEND,
        same_configuration=SAME_CONFIGURATION,
    )


def _table(frame: pd.DataFrame) -> dict[str, Any]:
    return {"header": list(frame.columns), "rows": _rows(frame)}


def _rows(frame: pd.DataFrame) -> list[list[str]]:
    return frame.astype(str).to_numpy().tolist()


def _carried(compared: Compared) -> carried.Carried:
    """The batches of both sides, each called by its side."""
    columns, rows = carried.columns_and_rows(compared.both)
    slo = compared.slo.to_dict() if compared.slo else None
    return carried.Carried(slo=slo, columns=columns, rows=rows, facts={"kind": COMPARISON, "name": compared.title})
