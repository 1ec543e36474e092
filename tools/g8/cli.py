"""The `g8` command (blocking): parse the words, call the part that does it, turn failures into exit codes.

Subcommands import what they need when they run, so that `g8 --help` is quick.
"""

import os
import sys
import traceback
from typing import Annotated, NoReturn

import typer

from g8tools.flist.cli import app as flist_app
from g8tools.g8 import (
    cli_config,
    cli_container,
    cli_context,
    cli_files,
    cli_jobs,
    cli_networks,
    cli_node,
    cli_volumes,
    connection,
    console,
    frame,
)
from g8tools.hub.cli import app as hub_app
from g8tools.vdisk.cli import app as vdisk_app

app = typer.Typer(
    name="g8",
    help="Drive g8node nodes, flists and Hubs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
for part in (
    cli_node,
    cli_jobs,
    cli_files,
    cli_container,
    cli_networks,
    cli_volumes,
    cli_config,
    cli_context,
):
    part.register(app)
app.add_typer(flist_app, name="flist")
app.add_typer(hub_app, name="hub")
app.add_typer(vdisk_app, name="vdisk")


@app.callback()
def options(
    node: frame.NodeOption = "",
    context: frame.ContextOption = "",
    password_file: frame.PasswordFileOption = "",
    json: frame.JsonOption = False,
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
    """How to reach a node; the same and more may come after the command, but not those of TLS."""
    console.set_json(json)
    on = tls or insecure or bool(cacert or cert)
    secure = connection.TlsOptions(on, cacert, cert, key, insecure)
    frame.set_options(connection.Options(node, context, password_file, None, secure))


@app.command()
def version(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Print the version."""
    from g8node import __version__

    console.show({"version": __version__}, json=json, text=__version__)


def main(words: list[str] | None = None) -> int:
    """Run one command and return its exit code (see `console.exit_code`)."""
    words = sys.argv[1:] if words is None else words
    console.set_json(False, afresh=True)
    if "_G8_COMPLETE" in os.environ:
        from typer._completion_classes import completion_init

        completion_init()
    try:
        result = app(words, prog_name="g8", standalone_mode=False)
        sys.stdout.flush()
    except typer.TyperException as error:
        return _wrong_use(error, words)
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:
        # Whoever read our output has enough; Python must not complain about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001 - the outermost border: every failure becomes an exit code
        code = console.fail(error)
        if code == console.OUR_BUG:
            traceback.print_exc()
        return code
    return result if isinstance(result, int) else 0


def _wrong_use(error: typer.TyperException, words: list[str]) -> int:
    """One line, and where to read on; help itself when that is all that was missing."""
    message = error.format_message()
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "g8"
    if not message or context is None or message == context.get_help():
        print(context.get_help() if context is not None else message, file=sys.stderr)
        return console.WRONG_USE
    text = " ".join(message.split()).rstrip(".")
    if "--json" in words:
        failure = {"message": f"{path}: {text}", "code": 400, "exit": console.WRONG_USE}
        console.show({"error": failure}, json=True)
    else:
        print(f"{path}: {text} (see {path} --help)", file=sys.stderr)
    return console.WRONG_USE


def run() -> NoReturn:
    """Entry point of the console script."""
    sys.exit(main())
