"""Nothing of ours outlives us, and what had finished is kept."""

import json
import os
import signal

import pytest
from support.commands import start
from support.processes import processes_of, wait_until

pytestmark = pytest.mark.real

ENDS = {"SIGINT": (signal.SIGINT, 130), "SIGTERM": (signal.SIGTERM, 143)}  # SIGKILL: tests/sweep, test_ownership


@pytest.mark.parametrize(("ending", "code"), ENDS.values(), ids=ENDS)
def test_a_sweep_cut_off_in_its_second_level(tiny_gguf, tmp_path, ending, code):
    asked = ("--model", tiny_gguf, "--levels", "1,2,3", "--scenarios", "D(20,8)")
    with start(tmp_path, "sweep", *asked, "--max-seconds", "2") as command:
        wait_until(lambda: list(tmp_path.glob("runs/*/trials/0001/batches/*/concurrency-2.part/*.log")), 60)
        os.kill(command.pid, ending)
        _, err = command.communicate(timeout=30)
    assert command.returncode == code, err
    assert "Traceback" not in err
    wait_until(lambda: not processes_of(tmp_path), 10)
    (run,) = (tmp_path / "runs").iterdir()
    sidecar = json.loads((run / "trials/0001/batches/D(20,8)/concurrency-1/batch.json").read_text())
    assert sidecar["outcome"] == "completed"
    assert json.loads((run / "experiment.json").read_text())["state"] == "interrupted"
    assert "interrupted" in (run / "report.html").read_text()
