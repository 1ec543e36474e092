"""bash: a shell script as a job (async)."""

from msgspec import Struct

from g8node.jobs.arguments import Data, Text
from g8node.jobs.registry import Context, command
from g8node.runtime.stdio import Process


class BashArgs(Struct, frozen=True):
    script: Text
    stdin: Data = ""


@command("bash", base=True, role="admin")
def bash(ctx: Context, args: BashArgs) -> Process:
    """Run `sh -c <script>`."""
    return Process(argv=["sh", "-c", args.script], stdin=args.stdin.encode())
