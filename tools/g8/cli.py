"""The `g8` command (blocking): parse the words, call the part that does it, turn failures into exit codes.

Subcommands import what they need when they run, so that `g8 --help` is quick.
"""

import os
import sys
from typing import Annotated, NoReturn

import typer

from g8tools.flist.cli import app as flist_app
from g8tools.g8 import connection, console
from g8tools.g8.node_cli import container_app
from g8tools.g8.node_cli import register as register_node_commands
from g8tools.hub.cli import app as hub_app

app = typer.Typer(
    name="g8",
    help="Drive g8node nodes, flists and Hubs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(flist_app, name="flist")
app.add_typer(hub_app, name="hub")
app.add_typer(container_app, name="container")
register_node_commands(app)


@app.callback()
def options(
    tls: Annotated[bool, typer.Option("--tls", help="Speak TLS; else G8_TLS=1.")] = False,
    cacert: Annotated[
        str, typer.Option(metavar="FILE", help="The only CA to trust, implies --tls; else G8_CACERT.")
    ] = "",
    cert: Annotated[str, typer.Option(metavar="FILE", help="Our certificate; else G8_CERT.")] = "",
    key: Annotated[str, typer.Option(metavar="FILE", help="Its key; else G8_KEY.")] = "",
    insecure: Annotated[
        bool, typer.Option("--insecure", help="TLS with whoever answers; else G8_TLS=insecure.")
    ] = False,
) -> None:
    """How to reach a node; the options come before the command."""
    on = tls or insecure or bool(cacert or cert)
    connection.set_tls_options(connection.TlsOptions(on, cacert, cert, key, insecure))


@app.command()
def version() -> None:
    """Print the version."""
    from g8node import __version__

    print(__version__)


def main(words: list[str] | None = None) -> int:
    """Run one command and return its exit code (see `console.exit_code`)."""
    try:
        result = app(words, prog_name="g8", standalone_mode=False)
    except typer.TyperException as error:
        show = getattr(error, "show", None)
        if show is not None:
            show()
        return console.WRONG_USE
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:
        # Whoever read our output has enough; Python must not complain about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001 - the outermost border: every failure becomes an exit code
        code = console.exit_code(error)
        if code == console.OUR_BUG:
            import traceback

            traceback.print_exc()
        print(f"g8: {console.describe(error)}", file=sys.stderr)
        return code
    return result if isinstance(result, int) else 0


def run() -> NoReturn:
    """Entry point of the console script."""
    sys.exit(main())
