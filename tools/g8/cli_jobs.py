"""`g8 run`, `logs`, `job …` (blocking): jobs, their output, their ends."""

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from g8node.errors import InvalidArgument, NotFound
from g8tools.g8 import complete, console
from g8tools.g8.frame import PASS_THROUGH, ContainerOption, Node, Words, command, group, texts_of

if TYPE_CHECKING:
    from g8tools.g8.client import Record, Return

_LOGS_S: Final = 1.0
_DRAIN_S: Final = 5.0
_NOT_FOUND: Final = 404


def _an_id(text: str) -> str:
    """Of a job; an empty one, as of a variable that is not set, would be all jobs to the node."""
    if not text:
        raise typer.BadParameter("expected an id")
    return text


JobArgument = Annotated[
    str, typer.Argument(metavar="JOB", help="Its id.", autocompletion=complete.jobs, callback=_an_id)
]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, to the end.")]


def run(
    node: Node,
    words: Words,
    max_time: Annotated[int, typer.Option(metavar="SECONDS", min=0, help="The node kills the job then.")] = 0,
    queue: Annotated[str, typer.Option(metavar="NAME", help="Jobs of one queue run one by one.")] = "",
    tag: Annotated[
        list[str] | None, typer.Option(metavar="TAG", help="A tag of the job; may be repeated.")
    ] = None,
    env: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Environment.")] = None,
    dir: Annotated[str, typer.Option(metavar="DIR", help="Working directory.")] = "",
    stdin: Annotated[bool, typer.Option("--stdin", "-i", help="Pass our stdin on, read to its end.")] = False,
    shell: Annotated[bool, typer.Option("--shell", "-s", help="CMD is a shell script.")] = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Print the job's id and leave.")] = False,
    id: Annotated[str, typer.Option(metavar="ID", help="Id of the job.")] = "",
    container: ContainerOption = "",
) -> int:
    """Run a program on the node.

    Shows its output as it comes and leaves with its exit status.
    Options of g8 come before CMD. Ctrl-C is sent on to the program; a second one leaves it alone.
    """
    inside = node.inside(container)
    job = {"queue": queue, "max_time": max_time, "tags": tag, "id": id or None}
    text = sys.stdin.buffer.read().decode("utf-8", "replace") if stdin else ""
    streams = not (detach or node.json)
    if shell:
        response = inside.bash(" ".join(words), text, stream=streams, **job)  # type: ignore[arg-type]
    else:
        variables = texts_of("--env", env)
        response = inside.system(words, dir, text, variables, stream=streams, **job)  # type: ignore[arg-type]
    if detach:
        node.show({"id": response.id}, response.id)
        return 0
    return finish(node, response)


def finish(node: Node, response: Any) -> int:
    """Show a process's output to its end; its exit status."""
    from g8tools.g8 import following

    if node.json:
        result = response.get(node.timeout or 365 * 86400.0)
        node.show(result.payload | {"exit": following.exit_status(result)})
    else:
        result = following.follow(node.client, response, killable=True)
    return following.exit_status(result)


def logs(
    node: Node,
    job: Annotated[
        str,
        typer.Argument(
            metavar="[JOB]", help="Of this job only; all jobs when left out.", autocompletion=complete.jobs
        ),
    ] = "",
    follow: Follow = False,
    level: Annotated[
        list[int] | None,
        typer.Option("--level", "-l", metavar="N", min=0, help="Only these levels; may be repeated."),
    ] = None,
    container: ContainerOption = "",
) -> int:
    """Show what jobs say.

    The last messages, and with -f all that comes, to the job's end.
    With --json one object a line.
    """
    if job:
        return job_logs(node, job, follow=follow)
    core = node.container_id(container) if container else None
    with _records(node, level or [], follow=follow) as records:
        for record in records:
            if core is None or record.core == core:
                _print_record(record, json=node.json)
    return 0


@contextlib.contextmanager
def _records(node: Node, levels: list[int], *, follow: bool) -> "Iterator[Iterator[Record]]":
    """A subscription to all jobs; nothing of it is left on the node afterwards."""
    client = node.client
    key = client.logger.subscribe(None, *levels)
    try:
        yield client.logger.records(key, None if follow else _LOGS_S)
    finally:
        client.logger.unsubscribe(key)
        end = time.monotonic() + _DRAIN_S  # an empty list is gone
        for _ in client.logger.records(key, 0.1):
            if time.monotonic() > end:
                break


def _print_record(record: "Record", *, json: bool) -> None:
    from g8tools.g8.following import as_json

    if json:
        where = {"time": record.epoch / 1e9, "container": record.core, "job": record.job}
        console.line(where | as_json(record.message))
        return
    if not record.message.text:
        return
    clock = time.strftime("%H:%M:%S", time.localtime(record.epoch / 1e9))
    who = f"{record.core}/{record.job}" if record.core else record.job
    for line in record.message.text.splitlines():
        print(f"{clock} {who[:40]} {record.message.level}| {line}", flush=True)


def job_logs(node: Node, job: str, *, follow: bool) -> int:
    """One job's messages; of one that has ended, what it printed. Its exit status when it was followed."""
    from g8tools.g8 import following
    from g8tools.g8.client import ResultError

    client = node.client
    try:
        client.job.list(job)
    except ResultError as error:
        if error.code != _NOT_FOUND:
            raise
        result = _ended(node, job)
        return following.exit_status(result) if follow else 0
    response = client.subscribe(job, follow=follow)
    try:
        result = following.follow(client, response, killable=False, lines=node.json, of=job)
    except following.Absent:  # it has ended since
        result = _ended(node, job)
    except KeyboardInterrupt:
        with contextlib.suppress(RuntimeError):
            client.job.kill(response.id)  # the subscription, not the job
        raise
    return following.exit_status(result) if follow else 0


def _ended(node: Node, job: str) -> "Return":
    """A job that is over: its output is in its result, for five minutes."""
    result = node.client.response_for(job).get()
    if node.json:
        for level, text in ((1, result.stdout), (2, result.stderr)):
            if text:
                console.line({"level": level, "text": text, "end": False})
        console.line({"level": result.level, "text": result.data, "end": True})
    else:
        sys.stdout.write(result.stdout)
        sys.stderr.write(result.stderr)
        if not result.stdout and not result.stderr and result.data:
            print(result.data)
    return result


def job_list(
    node: Node,
    tag: Annotated[list[str] | None, typer.Option(metavar="TAG", help="Only jobs with this tag.")] = None,
    container: ContainerOption = "",
) -> None:
    """List the jobs that are not finished."""
    inside: Any = node.inside(container)
    rows = [row for row in inside.job.list() if set(tag or ()) <= set(row["cmd"].get("tags") or ())]
    node.show(rows, jobs_table(rows))


def jobs_table(jobs: list[dict[str, Any]]) -> str:
    """The answer of job.list ({cmd: {id, command, …}, pid, starttime, …}) as a table."""
    rows = [("ID", "COMMAND", "PID", "AGE", "RSS", "TAGS")]
    for job in jobs:
        wire: Mapping[str, Any] = job.get("cmd") or {}
        started = job.get("starttime")
        rows.append(
            (
                str(wire.get("id", "")),
                what_it_runs(wire),
                str(job.get("pid", "") or ""),
                console.duration(time.time() - started / 1000) if started else "",
                console.amount(job["rss"]) if job.get("rss") else "",
                ",".join(wire.get("tags") or ()),
            )
        )
    return console.table(rows, right=frozenset({2, 3, 4}))


def what_it_runs(wire: Mapping[str, Any]) -> str:
    """The command, and for programs which."""
    arguments = wire.get("arguments") or {}
    name = str(wire.get("command", ""))
    if name == "core.system":
        words = [str(arguments.get("name", "")), *(str(word) for word in arguments.get("args") or ())]
        return f"{name} {' '.join(words)}"[:60]
    if name == "bash":
        return f"{name} {str(arguments.get('script', '')).strip()}"[:60]
    return name


def job_show(node: Node, job: JobArgument) -> None:
    """Show a job, or for five minutes its result."""
    from g8tools.g8.client import ResultError

    try:
        row = node.client.job.list(job)[0]
    except ResultError as error:
        if error.code != _NOT_FOUND:
            raise
        result = node.client.response_for(job).get()
        node.show(result.payload, _result_text(result))
        return
    wire = row["cmd"]
    pairs = [
        ("id", wire["id"]),
        ("state", "running" if row["pid"] else "live"),
        ("command", what_it_runs(wire)),
        ("pid", str(row["pid"] or "")),
        ("started", time.strftime("%F %T", time.localtime(row["starttime"] / 1000))),
        ("memory", console.amount(row["rss"])),
        ("queue", wire.get("queue") or ""),
        ("tags", ",".join(wire.get("tags") or ())),
        ("caller", str((wire.get("caller") or {}).get("name", ""))),
    ]
    node.show(row, console.fields(pairs))


def _result_text(result: "Return") -> str:
    pairs = [
        ("id", result.id),
        ("state", result.state),
        ("code", str(result.code)),
        ("command", result.command),
        ("started", time.strftime("%F %T", time.localtime(result.starttime))),
        ("took", f"{result.time / 1000:.3f} s"),
        ("container", str(result.container or "")),
        ("tags", ",".join(result.tags or ())),
    ]
    parts = [console.fields(pairs)]
    for name in ("critical", "stdout", "stderr", "data"):
        if text := getattr(result, name):
            parts += [f"{name}:", text.rstrip("\n")]
    return "\n".join(parts)


def job_result(
    node: Node,
    job: JobArgument,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Wait for the end of a job that runs.")] = False,
) -> int:
    """Print a result; leaves with the exit status of the process."""
    from g8tools.g8.following import exit_status

    response = node.client.response_for(job)
    if not wait and response.running:
        raise InvalidArgument(f"job {job} has not ended", hint="--wait")
    result = response.get(node.timeout or (365 * 86400.0 if wait else None))
    node.show(result.payload, _result_text(result))
    return exit_status(result)


def job_kill(
    node: Node,
    job: JobArgument,
    signal: Annotated[
        int, typer.Option("--signal", "-s", metavar="N", min=1, max=64, help="Which signal.")
    ] = 15,
) -> None:
    """Send a signal to a job's processes."""
    _must(node.client.job.kill(job, signal), job)
    node.done(job=job, signal=signal)


def job_unschedule(node: Node, job: JobArgument) -> None:
    """No further run of a recurring job."""
    _must(node.client.job.unschedule(job), job)
    node.done(job=job)


def _must(there: bool, job: str) -> None:
    if not there:
        raise NotFound(f"no job {job!r}", hint="g8 job list")


def job_subscribe(node: Node, job: JobArgument) -> int:
    """Follow what a job says to its end, as `g8 logs -f`."""
    return job_logs(node, job, follow=True)


def register(app: typer.Typer) -> None:
    """Put these commands into the tool."""
    command(app, "run", context_settings=PASS_THROUGH)(run)
    command(app, "logs")(logs)
    jobs = group(app, "job", "Jobs of a node.")
    command(jobs, "list")(job_list)
    command(jobs, "show")(job_show)
    command(jobs, "result")(job_result)
    command(jobs, "kill")(job_kill)
    command(jobs, "unschedule")(job_unschedule)
    command(jobs, "subscribe")(job_subscribe)
