"""`python -m g8node`: PID 1 or an agent. Exit codes: 100 wrong use, 111 system call, 101 bug."""

import argparse
import os
import sys

from g8node import __version__


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="g8node", description="The g8node daemon.")
    parser.add_argument("--config", "-c", default="/etc/g8node.toml", help="settings (TOML)")
    parser.add_argument("--root", default="/", help="agent mode: folder that holds run/ and var/")
    parser.add_argument("--version", "-v", action="version", version=f"g8node {__version__}")
    parser.exit_on_error = False
    try:
        return parser.parse_args(argv)
    except argparse.ArgumentError as error:
        print(f"g8node: {error}", file=sys.stderr)  # noqa: T201 - the command line's own error
        raise SystemExit(100) from error


def run() -> None:
    """Never returns from PID 1."""
    options = parse(sys.argv[1:])
    from g8node import main

    if os.getpid() == 1:
        main.run_init(options.config)
    main.run_agent(options.config, os.path.abspath(options.root))


if __name__ == "__main__":
    run()
