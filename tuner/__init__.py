"""Find the LLM server configuration with the most throughput within its latency SLO.

Engine → server → traffic → sweep → batch files → batches → verdicts → summary → figures → report: a folder is a step.
Names are loaded when they are first used, so that `import tuner` stays instant.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuner import errors, figures
    from tuner.batches.load import load_batches
    from tuner.batches.requests import load_requests
    from tuner.judging.comparison import compare
    from tuner.judging.slo import SLO
    from tuner.judging.summary import summarize
    from tuner.judging.tiers import tiers
    from tuner.judging.trials import load_trials
    from tuner.judging.verdicts import check_batch_slo_compliance, judge
    from tuner.report.results import read_results
    from tuner.report.write import write_report

__version__ = "0.2.0"

__all__ = [
    "SLO",
    "__version__",
    "check_batch_slo_compliance",
    "compare",
    "errors",
    "figures",
    "judge",
    "load_batches",
    "load_requests",
    "load_trials",
    "read_results",
    "summarize",
    "tiers",
    "write_report",
]

_HOMES = {
    "load_batches": "tuner.batches.load",
    "load_requests": "tuner.batches.requests",
    "SLO": "tuner.judging.slo",
    "judge": "tuner.judging.verdicts",
    "check_batch_slo_compliance": "tuner.judging.verdicts",
    "summarize": "tuner.judging.summary",
    "tiers": "tuner.judging.tiers",
    "compare": "tuner.judging.comparison",
    "load_trials": "tuner.judging.trials",
    "read_results": "tuner.report.results",
    "write_report": "tuner.report.write",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in __all__:
        return importlib.import_module(f"tuner.{name}")
    raise AttributeError(f"module 'tuner' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
