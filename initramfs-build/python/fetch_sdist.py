"""Download one hash-pinned source distribution, without running any of its code. Blocking.

`pip download` would run the package's build backend, with build requirements that nobody has pinned, only
to learn the version. So pip's own finder and session (indexes, proxies and certificates as the user set
them) are used directly. Usage: fetch_sdist.py REQUIREMENTS NAME FOLDER; the first is what
requirements313.py prints.
"""

import hashlib
import re
import sys
from pathlib import Path

from pip._internal.cli.req_command import RequirementCommand
from pip._internal.commands import create_command
from pip._vendor.packaging.requirements import Requirement


def pinned(file: Path, name: str) -> tuple[Requirement, set[str]]:
    for line in file.read_text().splitlines():
        spec, *hashes = re.split(r"\s+--hash=sha256:", line.strip())
        if spec and Requirement(spec).name == name:
            return Requirement(spec), set(hashes)
    raise SystemExit(f"fetch_sdist: {file} does not pin {name}")


def main() -> int:
    requirements, name, folder = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    requirement, hashes = pinned(requirements, name)
    command = create_command("download")
    if not isinstance(command, RequirementCommand):
        raise SystemExit("fetch_sdist: this pip has another inside; use the one tools/setup.sh installs")
    options, _ = command.parse_args(["--quiet", "--quiet", "--no-binary", name])
    with command.main_context():
        session = command.get_default_session(options)
        finder = command._build_package_finder(options=options, session=session)  # noqa: SLF001 - see above
        best = finder.find_best_candidate(name, requirement.specifier).best_candidate
        if best is None:
            raise SystemExit(f"fetch_sdist: no index has the source of {requirement}")
        answer = session.get(best.link.url_without_fragment)
        answer.raise_for_status()
    digest = hashlib.sha256(answer.content).hexdigest()
    if digest not in hashes:
        raise SystemExit(f"fetch_sdist: {best.link.filename} has sha256 {digest}, which is not pinned")
    (folder / best.link.filename).write_bytes(answer.content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
