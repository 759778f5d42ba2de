"""Panels: forms made from the specs, work that never blocks the kernel, results that sliders judge again."""

from tuner.core.run_directory import SEARCH, SWEEP
from tuner.notebook.server_panel import ServerPanel
from tuner.notebook.sweep_panel import SweepPanel
from tuner.notebook.tune_panel import TunePanel

#: the panel of each kind of run
PANELS: dict[str, type[SweepPanel] | type[TunePanel]] = {SWEEP: SweepPanel, SEARCH: TunePanel}

__all__ = ["PANELS", "ServerPanel", "SweepPanel", "TunePanel"]
