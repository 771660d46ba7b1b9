"""`python -m umbel` is the command `umbel`."""

from umbel.cli import main

main()
