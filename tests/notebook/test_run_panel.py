"""The panels of a sweep and of a search, without a browser."""

import asyncio

from tuner.core.run_directory import SWEEP, Experiment
from tuner.notebook import form, run_panel


def test_a_panel_that_is_shown_anew_finds_the_run_of_a_name_with_a_space(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = []
    monkeypatch.setattr(form, "display", shown.append)
    experiment = Experiment.create(tmp_path, SWEEP, "my run")
    experiment.describe(kind=SWEEP, name="my run", state="done")

    async def show():
        panel = run_panel.SweepPanel({"name": "my run", "runs": str(tmp_path)})
        panel.show()
        await panel.task

    asyncio.run(show())
    assert any("done: 0 levels" in str(getattr(part, "value", "")) for part in shown[0].children)
