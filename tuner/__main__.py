"""`python -m tuner` is `tuner`, whose parts take a while to be imported."""

import sys


def main() -> None:
    """Run the command line; Ctrl-C ends it from the first instant on."""
    try:
        from tuner.cli import commands
    except KeyboardInterrupt:
        sys.exit(130)
    commands.main()


if __name__ == "__main__":
    main()
