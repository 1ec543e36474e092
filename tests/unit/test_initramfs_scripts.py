"""The image builder's mirror rule, requirement filter and options."""

import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
BUILD = TOP / "initramfs-build"

DEB822 = """\
# a comment
Types: deb deb-src
URIs: {uri}
Suites: bookworm
 bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://security.example/debian-security
Suites: bookworm-security
Components: main
"""


@pytest.fixture
def apt(tmp_path: Path) -> Path:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "os-release").write_text('ID=debian\nVERSION_CODENAME="bookworm"\n')
    return tmp_path


def mirror(apt: Path, override: str = "") -> subprocess.CompletedProcess[str]:
    script = f"set -eu; here={BUILD}; . {BUILD}/lib/common.sh; . {BUILD}/lib/mirror.sh; debian_mirror"
    env = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(apt),
        "APT_ETC": str(apt),
        "OS_RELEASE": str(apt / "os-release"),
        "DEBIAN_MIRROR": override,
    }
    return subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, timeout=60)


def test_mirror_of_a_deb822_source_is_the_one_with_the_main_suite(apt: Path) -> None:
    (apt / "sources.list.d/a.sources").write_text(
        DEB822.replace("bookworm\n", "trixie\n").format(uri="http://no")
    )
    (apt / "sources.list.d/b.sources").write_text(DEB822.format(uri="http://mirror.example/debian"))
    assert mirror(apt).stdout == "http://mirror.example/debian\n"


def test_mirror_of_a_deb822_source_may_be_on_a_continued_line(apt: Path) -> None:
    (apt / "sources.list.d/a.sources").write_text(DEB822.format(uri="\n http://mirror.example/debian"))
    assert mirror(apt).stdout == "http://mirror.example/debian\n"


def test_mirror_of_a_disabled_deb822_source_is_not_taken(apt: Path) -> None:
    (apt / "sources.list.d/a.sources").write_text(
        "Enabled: no\n" + DEB822.format(uri="http://no").split("\n", 1)[1]
    )
    (apt / "sources.list").write_text("deb http://mirror.example/debian bookworm main\n")
    assert mirror(apt).stdout == "http://mirror.example/debian\n"


def test_mirror_of_a_one_line_source_skips_options_and_other_suites(apt: Path) -> None:
    (apt / "sources.list").write_text(
        "# deb http://comment.example bookworm main\n"
        "deb http://security.example/debian-security bookworm-security main\n"
        "deb http://part.example/debian bookworm contrib\n"
        "deb-src http://source.example/debian bookworm main\n"
        "deb [ arch=amd64 signed-by=/x.gpg ] http://mirror.example/debian bookworm contrib main\n"
    )
    assert mirror(apt).stdout == "http://mirror.example/debian\n"


def test_mirror_override_wins(apt: Path) -> None:
    assert mirror(apt, "http://override.example/debian").stdout == "http://override.example/debian\n"


def test_mirror_source_that_cannot_be_read_is_named(apt: Path) -> None:
    broken = apt / "sources.list.d/broken.sources"
    broken.symlink_to(apt / "nowhere")
    done = mirror(apt)
    assert done.returncode == 111
    assert f"{broken}: cannot be read" in done.stderr


def test_mirror_without_a_matching_source_is_an_error(apt: Path) -> None:
    (apt / "sources.list").write_text("deb http://mirror.example/debian trixie main\n")
    done = mirror(apt)
    assert done.returncode == 111
    assert "DEBIAN_MIRROR" in done.stderr


def test_requirements_are_those_of_python_313(tmp_path: Path) -> None:
    digest = "0" * 64
    listing = tmp_path / "node.txt"
    listing.write_text(
        f"# comment\nalways==1.0 \\\n    --hash=sha256:{digest} \\\n    --hash=sha256:{digest}\n"
        f"old==2.0 ; python_full_version < '3.11.3' \\\n    --hash=sha256:{digest}\n"
        f"windows==3.0 ; sys_platform == 'win32' \\\n    --hash=sha256:{digest}\n"
        f"skipped==4.0 \\\n    --hash=sha256:{digest}\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", str(BUILD / "python/requirements313.py"), str(listing), "--skip", "skipped"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == f"always==1.0 --hash=sha256:{digest} --hash=sha256:{digest}\n"


def test_build_refuses_an_unknown_option() -> None:
    done = subprocess.run([BUILD / "build.sh", "--nonsense"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 100
    assert "--nonsense" in done.stderr
