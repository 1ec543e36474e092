"""`python -m g8tools.hub` is `g8 hub serve`."""

import sys

from g8tools.g8.cli import run

sys.argv[1:1] = ["hub", "serve"]
run()
