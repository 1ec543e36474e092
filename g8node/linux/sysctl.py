"""Kernel settings of the calling thread's network namespace (blocking, virtual files only)."""

from g8node.linux.guard import off_loop


@off_loop
def set_network(path: str, value: int) -> None:
    """`path` is below /proc/sys/net, as `ipv4/ip_forward`. OSError."""
    with open(f"/proc/sys/net/{path}", "w", encoding="ascii") as file:
        file.write(f"{value}\n")
