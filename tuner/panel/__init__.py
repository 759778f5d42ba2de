"""Panels: forms made from the specs, work that never blocks the kernel, results that sliders judge again."""

from tuner.panel.server import ServerPanel
from tuner.panel.sweep import SweepPanel

__all__ = ["ServerPanel", "SweepPanel"]
