"""`python -m tuner` is `tuner`, whose parts take a while to be imported."""

import os
import sys


def main() -> None:
    """Run the command line, in a terminal with a word from the first instant on, as Ctrl-C ends it."""
    is_seen = sys.stderr.isatty() and "_TUNER_COMPLETE" not in os.environ
    try:
        sys.stderr.write("loading tuner …" if is_seen else "")
        sys.stderr.flush()
        from tuner.cli import commands
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        sys.stderr.write("\r\x1b[K" if is_seen else "")
    commands.main()


if __name__ == "__main__":
    main()
