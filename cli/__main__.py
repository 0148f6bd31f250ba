"""`python -m calmgrad.cli`: the command line without the console script."""

from calmgrad.cli.main import main

main()
