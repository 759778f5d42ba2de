"""Trials of a search → their scores, from files alone: what each is worth, why it failed, which one is best.

A trial is scored through `judge` and `summarize` like everything else. Only a trial that was measured whole and has a
compliant batch is worth something; every other one has no value, whatever its numbers are.
"""

from tuner.scores.record import TrialRecord
from tuner.scores.score import Objective, Score, Scoring, maximised
from tuner.scores.table import load_trials

__all__ = ["Objective", "Score", "Scoring", "TrialRecord", "load_trials", "maximised"]
