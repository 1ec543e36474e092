"""Programs of this machine inside a node: a drive that holds a tar archive of them and of their libraries."""

import io
import re
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

from tests.support.vm import NodeVm

BIN = "/opt/carried/bin"
"""Where the node has them; they run by their own loader, for its libraries may be other ones."""

_TOP = "/opt/carried"
_LIBRARY = re.compile(r"(/\S+) \(0x")
_SCRIPT = f"""#!/bin/sh
exec {_TOP}/lib/ld-linux-x86-64.so.2 --library-path {_TOP}/lib {_TOP}/libexec/NAME "$@"
"""


def pack(path: Path, programs: Sequence[str]) -> None:
    """Into a file that is a drive as it is."""
    with tarfile.open(path, "w", dereference=True) as archive:
        libraries: set[str] = set()
        for name in programs:
            program = shutil.which(name)
            assert program is not None, f"{name} is not installed: run tools/setup.sh"
            archive.add(program, f"libexec/{name}")
            script = tarfile.TarInfo(f"bin/{name}")
            content = _SCRIPT.replace("NAME", name).encode()
            script.size, script.mode = len(content), 0o755
            archive.addfile(script, io.BytesIO(content))
            shown = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
            libraries.update(_LIBRARY.findall(shown))
        for library in sorted(libraries):
            archive.add(library, f"lib/{Path(library).name}")


def unpack(vm: NodeVm, device: str) -> None:
    """Into memory."""
    done = vm.job("bash", {"script": f"mkdir -p {_TOP} && tar -C {_TOP} -xf {device}"})
    assert done["state"] == "SUCCESS", done
