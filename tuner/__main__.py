"""`python -m tuner` is `tuner`."""

from tuner.cli.commands import main

main()
