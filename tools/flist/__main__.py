"""`python -m g8tools.flist` is `g8 flist`."""

import sys

from g8tools.g8.cli import run

sys.argv[1:1] = ["flist"]
run()
