"""`corectl`: what root may ask of core0 on the node itself, over the local socket (blocking).

Only the standard library is imported, so that it starts quickly and works when little else does. Called by
another name (the symlinks `reboot` and `poweroff`) that name is the subcommand; these two still work when
core0 does not answer: process 1 is then told by a signal, as busybox would.
"""

import argparse
import contextlib
import json
import os
import re
import signal
import socket
import sys
from typing import Any, NoReturn

SOCKET = "/var/run/core.sock"
WRONG_USE, OUR_BUG, SYSTEM_FAILED = 100, 101, 111

_RELEASE = "/etc/g8node-release"  # only an image of ours has it
_ANSWER_BYTES = 64 << 20
_SIGNALS = {"reboot": signal.SIGTERM, "poweroff": signal.SIGUSR2}
_INFO = {"cpu": "info.cpu", "memory": "info.mem", "mem": "info.mem", "disk": "info.disk", "nic": "info.nic"}
_INFO |= {"os": "info.os", "port": "info.port", "version": "info.version"}

_PLAIN = re.compile(
    r"[A-Za-z/](?:[\w ./@+()-]*[\w./)])?", re.ASCII
)  # no YAML reader takes these for anything else
_KILLED = 999
"""The code of a killed program; those above are of programs too, those below of the node."""

_RESERVED = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n"})

Answer = dict[str, Any]


class Failed(Exception):
    """What is said in one line; the exit code is the second argument."""

    def __init__(self, message: str, code: int = WRONG_USE) -> None:
        super().__init__(message)
        self.code = code


class Unreachable(Failed):
    """core0 does not answer."""


# The socket


def ask(options: argparse.Namespace, command: str, arguments: dict[str, Any]) -> Answer:
    """The result of a command; with --async the one that names the job."""
    content: Answer = {"command": command, "arguments": arguments, "max_time": options.timeout}
    if options.id:
        content["id"] = options.id
    request = {"sync": not options.detach, "container": options.container, "content": content}
    data = b""
    try:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(options.socket)
            with contextlib.suppress(BrokenPipeError):  # it has refused already, and said why
                peer.sendall(json.dumps(request).encode())
                peer.shutdown(socket.SHUT_WR)
            while got := peer.recv(1 << 20):
                data += got
                if len(data) > _ANSWER_BYTES:
                    raise Failed(f"{options.socket}: its answer has no end", SYSTEM_FAILED)
    except OSError as error:
        if not data:  # else it has not read all of the request that it answered
            raise Unreachable(f"{options.socket}: {error.strerror or error}", SYSTEM_FAILED) from None
    try:
        answer: Answer = json.loads(data)
    except ValueError:
        raise Unreachable(f"{options.socket}: core0 hung up", SYSTEM_FAILED) from None
    return answer


def value(options: argparse.Namespace, command: str, arguments: dict[str, Any]) -> Any:
    """The decoded data of a command that succeeded. Failed with the node's words."""
    answer = ask(options, command, arguments)
    if answer["state"] == "SUCCESS":
        return _data(answer)
    raise Failed(f"{command}: {_reason(answer)}", SYSTEM_FAILED if answer["code"] == 503 else WRONG_USE)


def _data(answer: Answer) -> Any:
    data = answer.get("data") or ""
    return json.loads(data) if answer.get("level") == 20 else data


def _reason(answer: Answer) -> str:
    """Why it failed."""
    if answer["state"] == "UNKNOWN_CMD":
        return "unknown command"
    printed = "".join(answer.get("streams") or ()).strip()
    return str(_data(answer) or answer.get("critical") or printed or answer["state"])


# What is printed


def yaml(data: Any, indent: int = 0) -> str:
    """Enough of YAML for JSON values: block style, strings that could be misread in quotes."""
    pad = "  " * indent
    if isinstance(data, dict) and data:
        return "\n".join(_entry(f"{pad}{_scalar(key)}:", each, indent) for key, each in data.items())
    if isinstance(data, list) and data:
        lines = []
        for each in data:
            text = yaml(each, indent + 1)
            lines.append(f"{pad}- {text.lstrip()}" if _is_block(each) else f"{pad}- {_scalar(each)}")
        return "\n".join(lines)
    return f"{pad}{_scalar(data)}"


def _entry(key: str, data: Any, indent: int) -> str:
    if not _is_block(data):
        return f"{key} {_scalar(data)}"
    deeper = indent + 1 if isinstance(data, dict) else indent
    return f"{key}\n{yaml(data, deeper)}"


def _is_block(data: Any) -> bool:
    return isinstance(data, dict | list) and bool(data)


def _scalar(data: Any) -> str:
    if isinstance(data, str) and _PLAIN.fullmatch(data) and data.lower() not in _RESERVED:
        return data
    if isinstance(data, str):
        return f'"{"".join(map(_escaped, data))}"'
    return json.dumps(data)


def _escaped(each: str) -> str:
    """One character inside YAML's double quotes."""
    if each in '"\\':
        return f"\\{each}"
    return each if each.isprintable() else f"\\U{ord(each):08x}" if each != "\n" else "\\n"


def show(options: argparse.Namespace, data: Any) -> None:
    print(json.dumps(data, indent=2, ensure_ascii=False) if options.json else yaml(data))


# The commands


def ping(options: argparse.Namespace) -> int:
    show(options, value(options, "core.ping", {}))
    return 0


def execute(options: argparse.Namespace) -> int:
    """A program's output is printed as it is; its exit code is ours."""
    words = options.words
    answer = ask(options, "core.system", {"name": words[0], "args": words[1:]})
    if options.json:
        show(options, answer)
        return _status(answer)
    if answer["state"] != "SUCCESS" and answer["code"] < _KILLED:  # it has not started
        print(f"corectl: {words[0]}: {_reason(answer)}", file=sys.stderr)
        return _status(answer)
    if options.detach:
        show(options, {"id": answer["id"]})
        return 0
    out, err = answer.get("streams") or ("", "")
    sys.stdout.write(out)
    sys.stderr.write(err)
    if not (out or err) and answer["state"] != "SUCCESS":
        print(f"corectl: {words[0]}: {answer.get('data') or answer['state']}", file=sys.stderr)
    return _status(answer)


def _status(answer: Answer) -> int:
    if answer["state"] == "SUCCESS":
        return 0
    if answer["code"] > 1000:
        return (answer["code"] - 1000) & 0xFF or 1
    return 128 + int(answer["signal"]) if answer.get("signal") else 1


def stop(options: argparse.Namespace) -> int:
    return _kill(options)


def job(options: argparse.Namespace) -> int:
    if options.action == "kill":
        return _kill(options)
    show(options, value(options, "job.list", {}))
    return 0


def _kill(options: argparse.Namespace) -> int:
    if not options.job:
        raise Failed("kill: expected a job's id")
    options.container, wanted = options.container, options.job
    arguments = {"id": wanted, "signal": getattr(options, "signal", 15)}
    options.id = ""
    if not value(options, "job.kill", arguments):
        raise Failed(f"no job {wanted!r}")
    return 0


def container(options: argparse.Namespace) -> int:
    if options.action == "inspect":
        query = options.words[0] if len(options.words) == 1 else ""
        if not query:
            raise Failed("inspect: expected a container's id or name")
        found = value(options, "corex.get", {"query": int(query) if query.isdigit() else query})
        if found is None:
            raise Failed(f"no container {query!r}")
        show(options, found)
        return 0
    found = value(options, "corex.find", {"tags": options.words})
    if options.json:
        show(options, found)
        return 0
    rows = [("ID", "FLIST", "HOSTNAME", "TAGS")]
    for id, entry in sorted(found.items(), key=lambda item: int(item[0])):
        made = entry["container"]["arguments"]
        rows.append(
            (id, made.get("root") or "", made.get("hostname") or "", ",".join(made.get("tags") or ()))
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def info(options: argparse.Namespace) -> int:
    show(options, value(options, _INFO[options.what], {}))
    return 0


def statistics(options: argparse.Namespace) -> int:
    arguments: dict[str, Any] = {"key": options.key} if options.key else {}
    if options.tags:
        arguments["tags"] = _pairs(options.tags)
    show(options, value(options, "aggregator.query", arguments))
    return 0


def raw(options: argparse.Namespace) -> int:
    arguments: dict[str, Any] = {}
    for key, text in _pairs(options.pairs).items():
        try:
            arguments[key] = json.loads(text)
        except ValueError:
            arguments[key] = text
    show(options, value(options, options.name, arguments))
    return 0


def _pairs(words: list[str]) -> dict[str, str]:
    wrong = next((word for word in words if "=" not in word or word.startswith("=")), None)
    if wrong is not None:
        raise Failed(f"{wrong}: expected KEY=VALUE")
    return dict(word.split("=", 1) for word in words)


def end(options: argparse.Namespace) -> int:
    """reboot, poweroff."""
    options.container = ""
    try:
        value(options, f"core.{options.command}", {})
    except Unreachable:
        if options.socket != SOCKET or not os.path.exists(_RELEASE):
            raise
        os.kill(1, _SIGNALS[options.command])
    return 0


# The words


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Failed(f"{message} (see {self.prog} --help)")


def parser() -> argparse.ArgumentParser:
    words = _Parser("corectl", description="Drive core0 on the node itself.", allow_abbrev=False)
    words.add_argument("--socket", "-s", default=SOCKET, metavar="FILE", help=f"core0's socket [{SOCKET}]")
    words.add_argument(
        "--timeout", "-t", type=int, default=0, metavar="SECONDS", help="core0 ends the job then"
    )
    words.add_argument("--async", dest="detach", action="store_true", help="do not wait for the job's end")
    words.add_argument("--id", default="", help="id of the job")
    words.add_argument("--container", default="", metavar="ID|TAGS", help="inside a container")
    words.add_argument("--json", action="store_true", help="print JSON, not YAML")
    commands = words.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)

    def add(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
        made.set_defaults(run=run)
        return made

    add("ping", ping, "ask core0 whether it is there")
    run = add("execute", execute, "run a program, print its output, end as it does")
    run.add_argument("words", nargs=argparse.REMAINDER, metavar="CMD [ARGS]")
    ending = add("stop", stop, "end a job")
    ending.add_argument("job", metavar="ID")
    jobs = add("job", job, "list jobs, or end one")
    jobs.add_argument("action", nargs="?", choices=("list", "kill"), default="list")
    jobs.add_argument("job", nargs="?", metavar="ID")
    jobs.add_argument("--signal", type=int, default=15, metavar="N", help="what kill sends [15]")
    boxes = add("container", container, "list containers, or show one")
    boxes.add_argument("action", nargs="?", choices=("list", "inspect"), default="list")
    boxes.add_argument("words", nargs="*", metavar="TAG|ID")
    machine = add("info", info, "show the machine")
    machine.add_argument("what", choices=tuple(_INFO))
    add("reboot", end, "stop everything and start the machine again")
    add("poweroff", end, "stop everything and switch the machine off")
    numbers = add("statistics", statistics, "show statistics")
    numbers.add_argument("key", nargs="?", metavar="KEY")
    numbers.add_argument("tags", nargs="*", metavar="TAG=VALUE")
    anything = add("raw", raw, "run any command of core0")
    anything.add_argument("name", metavar="NAME")
    anything.add_argument("pairs", nargs="*", metavar="KEY=VALUE")
    return words


def main(argv: list[str]) -> int:
    """Run one command; its exit code. 100 wrong use, 111 core0 does not answer, else as the program ends."""
    name = os.path.basename(argv[0])
    words = [name, *argv[1:]] if name in _SIGNALS else argv[1:]
    try:
        options = parser().parse_args(words)
        if options.command == "execute" and not options.words:
            raise Failed("execute: expected a program")
        code: int = options.run(options)
    except Failed as error:
        print(f"corectl: {error}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    return code


def run() -> NoReturn:
    """Entry point."""
    sys.exit(main(sys.argv))


if __name__ == "__main__":
    run()
