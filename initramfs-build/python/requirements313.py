"""Print the part of a hash-pinned requirements file that applies to Python 3.13 on Linux. Blocking.

pip evaluates environment markers for the Python it runs on, even with --python-version, so the
markers are settled here. Usage: requirements313.py FILE [--only NAME | --skip NAME]...
"""

import argparse
import re
import sys
from pathlib import Path

from packaging.requirements import Requirement

TARGET = {
    "implementation_name": "cpython",
    "implementation_version": "3.13.5",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "platform_release": "",
    "platform_system": "Linux",
    "platform_version": "",
    "python_full_version": "3.13.5",
    "python_version": "3.13",
    "sys_platform": "linux",
}


def blocks(text: str) -> list[tuple[Requirement, str]]:
    """Each requirement with its hashes: (parsed, ` --hash=…` words)."""
    joined = re.sub(r"\\\n", " ", text)
    lines = (line.strip() for line in joined.splitlines())
    found = []
    for line in lines:
        if not line or line.startswith(("#", "--")):
            continue
        spec, *hashes = re.split(r"\s+(?=--hash=)", line)
        found.append((Requirement(spec), " ".join(hash.split()[0] for hash in hashes)))
    return found


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--skip", action="append", default=[])
    options = parser.parse_args()
    for requirement, hashes in blocks(options.file.read_text()):
        if (options.only and requirement.name not in options.only) or requirement.name in options.skip:
            continue
        if requirement.marker is None or requirement.marker.evaluate({**TARGET, "extra": ""}):
            sys.stdout.write(f"{requirement.name}{requirement.specifier} {hashes}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
