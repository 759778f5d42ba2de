"""Panels: forms made from the specs, work that never blocks the kernel, results that sliders judge again."""

from tuner.experiment import SEARCH, SWEEP
from tuner.panel.server import ServerPanel
from tuner.panel.sweep import SweepPanel
from tuner.panel.tune import TunePanel

#: the panel of each kind of run
PANELS: dict[str, type[SweepPanel] | type[TunePanel]] = {SWEEP: SweepPanel, SEARCH: TunePanel}

__all__ = ["PANELS", "ServerPanel", "SweepPanel", "TunePanel"]
