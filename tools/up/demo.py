"""The demonstration image: Debian minbase with nginx, packed once and published on the Hub (blocking)."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent.parent
PACKAGES = ("nginx",)
REPOSITORY, NAME = "demo", "debian-nginx"

# The page names the container, so that whoever reads it knows who answered.
COMMAND = (
    "/bin/sh",
    "-c",
    'printf "<!doctype html><title>g8node</title><h1>Hello from container %s</h1>'
    '<p>nginx on g8node, read from an flist.</p>\\n" "$G8NODE_CONTAINER_ID" >/var/www/html/index.html && '
    'exec nginx -g "daemon off;"',
)


def _os_release() -> dict[str, str]:
    pairs = (line.partition("=") for line in Path("/etc/os-release").read_text().splitlines())
    return {key: value.strip('"') for key, _, value in pairs}


def cache_folder() -> Path:
    """Where costly things are kept outside the clone."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("G8NODE_CACHE") or f"{base}/g8node")


def mirror() -> str:
    """The package mirror of this machine, by the rule of initramfs-build/lib/mirror.sh."""
    script = ". initramfs-build/lib/common.sh; . initramfs-build/lib/mirror.sh; debian_mirror"
    done = subprocess.run(["bash", "-c", script], cwd=TOP, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip() or "no package mirror found")
    return done.stdout.strip()


def tarball(say: Callable[[str], None]) -> Path:
    """A tar of the tree, built with mmdebstrap on first use and kept in the cache."""
    suite = _os_release()["VERSION_CODENAME"]
    key = hashlib.sha256(f"1 {suite} {PACKAGES}".encode()).hexdigest()[:16]
    path = cache_folder() / "demo" / f"debian-nginx-{key}.tar"
    if path.exists():
        return path
    say(f"building a Debian {suite} tree with {', '.join(PACKAGES)} (about 20 s, once)")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.tar")
    argv = [
        "mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}",
        "--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        suite, str(partial), mirror(),
    ]  # fmt: skip
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        partial.unlink(missing_ok=True)
        raise RuntimeError(f"mmdebstrap failed:\n{done.stderr[-2000:]}")
    shutil.move(partial, path)
    return path
