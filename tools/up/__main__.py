"""`python -m g8tools.up start|stop`."""

from g8tools.up.cli import run

run()
