"""What is read through the door of `tuner.core.files`."""

import os
import sys
from pathlib import Path


def watch(monkeypatch, seen):
    """Call `seen` with the path of every file that is read whole."""
    real = os.open

    def opened(path, flags, *more, **options):
        if flags & os.O_NONBLOCK and sys._getframe(2).f_locals["count"] < 0:
            seen(Path(path))
        return real(path, flags, *more, **options)

    monkeypatch.setattr(os, "open", opened)
