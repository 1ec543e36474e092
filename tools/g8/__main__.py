"""`python -m g8tools.g8` is `g8`."""

from g8tools.g8.cli import run

run()
