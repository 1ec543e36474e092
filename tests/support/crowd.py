"""Many readers at once: `python -m tests.support.crowd READERS FILE...`; exit 0 when every byte was read.

Each reader is a thread with an open file of its own. All wait for each other, then open and read; what they
read is compared by size with what stat says.
"""

import os
import sys
import threading


def main(readers: int, files: list[str]) -> int:
    gate = threading.Barrier(readers)
    wrong: list[str] = []

    def read(path: str) -> None:
        gate.wait()
        try:
            with open(path, "rb", buffering=0) as source:
                size = sum(len(block) for block in iter(lambda: source.read(1 << 16), b""))
                if size != os.fstat(source.fileno()).st_size:
                    wrong.append(f"{path}: {size} bytes")
        except OSError as error:
            wrong.append(f"{path}: {error}")

    threading.stack_size(256 << 10)
    threads = [threading.Thread(target=read, args=(files[n % len(files)],)) for n in range(readers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print("\n".join(wrong[:10]))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
