"""Loop devices of a test's own, detached when it ends."""

import os
import subprocess
from pathlib import Path


class Loops:
    """`with Loops(folder) as loops: path = loops.make(64)`; sizes in MiB, files are sparse."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.paths: list[str] = []

    def __enter__(self) -> "Loops":
        return self

    def make(self, size_mib: int) -> str:
        image = self._folder / f"disk{len(self.paths)}"
        image.touch()
        os.truncate(image, size_mib << 20)
        argv = ["losetup", "--find", "--show", "--partscan", str(image)]
        path = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()
        self.paths.append(path)
        return path

    def __exit__(self, *_: object) -> None:
        for path in self.paths:
            # A read-only mark would stay with the device's number, for whoever gets it next.
            subprocess.run(["blockdev", "--setrw", path], capture_output=True, check=True)
            subprocess.run(["losetup", "--detach", path], capture_output=True, check=True)
