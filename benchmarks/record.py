"""Run a benchmark, and put what it prints where the documentation quotes it.

`python benchmarks/record.py loading.py [ARGUMENTS]` replaces the block of `docs/benchmarks.md` that begins with that
command. The README's figures stand in those blocks, which `tests/test_docs.py` holds.
"""

import datetime
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
PAGE = FOLDER.parent / "docs" / "benchmarks.md"


def run(arguments):
    """What the benchmark prints, which is shown as it comes."""
    lines = []
    with subprocess.Popen([sys.executable, *arguments], cwd=FOLDER, stdout=subprocess.PIPE, text=True) as work:
        for line in work.stdout:
            sys.stdout.write(line)
            lines.append(line.rstrip())
    if work.returncode:
        sys.exit(work.returncode)
    return "\n".join(lines).strip("\n")


def main():
    """Find the block, run, replace."""
    command = "$ python benchmarks/" + " ".join(sys.argv[1:])
    block = re.compile(rf"^```text\n{re.escape(command)}\n.*?^```$", re.M | re.S)
    if not block.search(PAGE.read_text()):
        sys.exit(f"{PAGE} has no block that begins with: {command}")
    today = datetime.datetime.now(datetime.UTC)
    machine = f"# {today:%Y-%m-%d}, {os.cpu_count()} cores, Python {platform.python_version()}"
    printed = f"```text\n{command}\n{machine}\n{run(sys.argv[1:])}\n```"
    PAGE.write_text(block.sub(lambda _: printed, PAGE.read_text()))


if __name__ == "__main__":
    main()
