"""The repository's own rules as tests: format, lint, types, layers, shell, sizes."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent
BIN = Path(sys.executable).parent


def run(*argv: str | Path, env: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        [str(word) for word in argv], cwd=TOP, capture_output=True, text=True, check=False, env=env
    )
    assert done.returncode == 0, f"{argv[0]}:\n{done.stdout[-8000:]}{done.stderr[-2000:]}"


def tracked(pattern: str) -> list[Path]:
    """Files that git tracks or would add."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", pattern],
        cwd=TOP,
        capture_output=True,
        text=True,
        check=True,
    )
    return [TOP / name for name in listed.stdout.splitlines() if (TOP / name).is_file()]


@pytest.fixture(scope="session")
def g8tools_link() -> None:
    """mypy reads no import hooks: show it the folder tools/ under its package name."""
    link = TOP / "build/mypy/g8tools"
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to("../../tools")


def test_code_is_formatted() -> None:
    run(BIN / "ruff", "format", "--check", ".")


def test_code_passes_lint() -> None:
    run(BIN / "ruff", "check", ".")


def test_node_types_check() -> None:
    run(BIN / "mypy", "-p", "g8node")


@pytest.mark.usefixtures("g8tools_link")
def test_tools_types_check() -> None:
    run(BIN / "mypy", "-p", "g8tools")


def test_imports_go_one_way() -> None:
    run(BIN / "lint-imports", "--no-cache")


def test_shell_scripts_pass_shellcheck() -> None:
    scripts = [
        path
        for path in [*tracked("*.sh"), *tracked("systemd-free-init/*"), *tracked(".ci/run")]
        if path.read_bytes().startswith(b"#!/") and path.read_bytes().partition(b"\n")[0].endswith(b"sh")
    ]
    assert scripts
    run("shellcheck", "-x", *scripts)


@pytest.mark.parametrize("budget", [500])
def test_modules_stay_readable(budget: int) -> None:
    long = {
        str(path.relative_to(TOP)): lines
        for path in [*tracked("g8node/*.py"), *tracked("tools/*.py")]
        if (lines := len(path.read_text().splitlines())) > budget
    }
    assert not long, f"find a seam: {long}"


def test_every_module_states_its_role() -> None:
    silent = [
        str(path.relative_to(TOP))
        for path in [*tracked("g8node/*.py"), *tracked("tools/*.py")]
        if path.read_text().strip() and not path.read_text().startswith(('"""', "#!"))
    ]
    assert not silent


def test_no_machine_path_or_registry_is_written_down() -> None:
    """Hosts of this machine's package sources, and the folder of this clone, stay out of the repository."""
    hosts = set()
    for source in [
        Path("/etc/apt/sources.list"),
        *Path("/etc/apt/sources.list.d").glob("*"),
        Path("/etc/pip.conf"),
    ]:
        if source.is_file():
            hosts |= set(re.findall(r"https?://(?:[^@/\s]*@)?([^/\s:]+)", source.read_text()))
    words = [rf"{re.escape(place)}\b" for place in (*sorted(hosts), str(TOP))]
    found = [
        f"{path.relative_to(TOP)}: {match[0]}"
        for path in tracked("*")
        if path.suffix not in {".png", ".bin"}
        for match in [re.search("|".join(words), path.read_text(errors="replace"))]
        if match
    ]
    assert not found


def test_requirements_are_pinned_by_hash_without_an_index() -> None:
    for path in tracked("requirements/*.txt"):
        text = path.read_text()
        assert "--index-url" not in text
        assert "http://" not in text
        pins = re.findall(r"^[a-z0-9][^\s=]*==", text, re.M)
        assert pins
        blocks = re.split(r"\n(?=[a-z0-9])", text.strip())
        assert all("--hash=sha256:" in block for block in blocks), path


def test_packages_of_pyproject_are_all_packages() -> None:
    config = tomllib.loads((TOP / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = config["package-dir"]
    named = set(config["packages"])
    real = set()
    for package, folder in folders.items():
        for init in (TOP / folder).rglob("__init__.py"):
            parts = init.parent.relative_to(TOP / folder).parts
            real.add(".".join((package, *parts)))
    assert named == real


def test_changelog_has_an_unreleased_section() -> None:
    assert "## [Unreleased]" in (TOP / "CHANGELOG.md").read_text()


def test_readme_names_both_commands() -> None:
    readme = (TOP / "README.md").read_text()
    assert "make up" in readme
    assert "make test" in readme
