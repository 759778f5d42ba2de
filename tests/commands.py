"""Running the command line as a user does: in a process of its own, in an empty folder."""

import os
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]


def environment(folder, **more):
    """Ours, with everything that is written going below `folder`, which marks the processes as this test's."""
    return os.environ | {"TMPDIR": str(folder), "PYTHONPATH": str(CHECKOUT), "COLUMNS": "200"} | more


def start(folder, *arguments, **variables):
    """Start `tuner …` in `folder` in a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "tuner", *map(str, arguments)],
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
