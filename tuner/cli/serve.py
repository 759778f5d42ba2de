"""A server in the foreground: started, said to be ready, watched, and gone at Ctrl-C."""

import time
from pathlib import Path

from tuner.cli.progress import download_bar
from tuner.cli.terminal import print_lines
from tuner.core.run_directory import Trial
from tuner.servers.server import launch
from tuner.sweep.prepare import with_model
from tuner.sweep.spec import ServeSpec

_POLL_SECONDS = 0.2


def serve_until_ended(spec: ServeSpec, folder: Path) -> None:
    """Serve until somebody ends us.

    Args:
        spec: the server.
        folder: an existing folder for its log and record.

    Raises:
        ServerFailed: it did not get ready, or died.
    """
    bar, move = download_bar("fetching the demo's model")
    with bar:
        spec = with_model(spec, move)
    with launch(spec, Trial(folder)) as server:
        print_lines(f"{server} is ready at {server.base_url}/v1 (log: {server.trial.server_log}); Ctrl-C ends it")
        while not (failure := server.failure()):
            time.sleep(_POLL_SECONDS)
        raise failure
