"""Every error a user of tuner can meet: a message is one line, what was wrong, where, and what to do instead."""


class Stopped(Exception):
    """Somebody asked a run to end before its last level; no error of a user's."""


class TunerError(Exception):
    """The work was right to ask for and did not succeed; `exit_code` is what the command line ends with."""

    exit_code = 1

    def _render_traceback_(self) -> list[str]:
        """What Jupyter shows instead of a traceback: the message says what to do."""
        return [f"{type(self).__name__}: {self}"]


class NothingSurvived(TunerError):
    """No batch of the experiment has a usable result."""


class Regressed(TunerError):
    """The candidate of a comparison is worse than its baseline, and that was to fail."""


class ServerFailed(TunerError):
    """A server of ours did not get ready, or died.

    `kind` is out_of_memory, port_in_use, bad_argument, model_not_found, gpu_unavailable, timeout, unreachable,
    unauthorized, stopped or crashed.
    """

    def __init__(self, message: str, *, kind: str = "crashed") -> None:
        super().__init__(message)
        self.kind = kind


class ClusterError(TunerError):
    """A Ray cluster cannot be reached, is not as we need it, or has no room for what was asked."""


class RequestError(TunerError, ValueError):
    """What was asked for is wrong; asking again the same way cannot succeed."""

    exit_code = 2


class SpecError(RequestError):
    """A parameter of a sweep or of a server is wrong."""


class SLOError(RequestError):
    """The SLO is wrong; the message names the place in it."""


class PathError(RequestError):
    """A path is missing, cannot be read or written, or is of the wrong kind."""


class EngineError(RequestError):
    """An engine is unknown, or not installed here."""
