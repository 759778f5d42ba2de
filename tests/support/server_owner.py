"""A process that owns a server, to be killed: `owner.py FOLDER SPEC-JSON HOW`; prints the server's processes."""

import json
import multiprocessing
import os
import sys
import time
from pathlib import Path

from tuner.core.run_directory import Trial
from tuner.engines.base import ServerSpec
from tuner.engines.command import Command
from tuner.servers.server import launch
from tuner.sweep.spec import make_spec

Command.grace = float(os.environ.get("TEST_GRACE", "0.5"))


def main(folder, spec, how):
    with launch(make_spec(json.loads(spec), ServerSpec), Trial(Path(folder))) as server:
        if how == "fork":
            multiprocessing.get_context("fork").Process(target=time.sleep, args=(30,), daemon=True).start()
        tell(server)
        if how == "raise":
            raise RuntimeError("as told")
        if how == "exit":
            os._exit(3)
        server._process._ended.wait()  # until it is killed, or we are
        sys.stdout.write(json.dumps({"failure": str(server.failure())}) + "\n")


def tell(server):
    guard = server._process._guard.pid
    sys.stdout.write(
        json.dumps({"guard": guard, "main": server.record.pid, "processes": sorted(server.processes())}) + "\n"
    )
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
