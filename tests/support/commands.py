"""Running the command line as a user does: in a process of its own, in an empty folder."""

import json
import os
import subprocess
import sys

import pytest

from support import CHECKOUT
from tuner.cli import commands as cli


def environment(folder, **more):
    """Ours, with everything that is written going below `folder`, which marks the processes as this test's."""
    return os.environ | {"TMPDIR": str(folder), "PYTHONPATH": str(CHECKOUT), "COLUMNS": "200"} | more


def start(folder, *arguments, before=(), **variables):
    """Start `tuner …` in `folder` in a session of its own; `before` it may stand a command that runs it."""
    return subprocess.Popen(
        [*before, sys.executable, "-m", "tuner", *map(str, arguments)],
        cwd=folder,
        env=environment(folder, **variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(folder, *arguments, **variables):
    """Run `tuner …` in `folder` to its end; returns (exit code, stdout, stderr)."""
    with start(folder, *arguments, **variables) as process:
        out, err = process.communicate(timeout=150)
        return process.returncode, out, err


def papermill(folder, notebook, parameters, *options):
    """Start `papermill` on one of our notebooks, as a scheduler would."""
    (folder / "asked.yaml").write_text(json.dumps(parameters))
    command = [sys.executable, "-m", "papermill", str(CHECKOUT / "notebooks" / f"{notebook}.ipynb"), "out.ipynb"]
    with open(folder / "papermill.log", "w") as log:
        return subprocess.Popen(
            [*command, "-k", "python3", "-f", "asked.yaml", *options],
            cwd=folder,
            env=environment(folder),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def end_of(arguments, monkeypatch, capsys):
    """(exit code, stdout, stderr) of `tuner …` in this process."""
    monkeypatch.setattr(sys, "argv", ["tuner", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code, *capsys.readouterr()
