"""Stands in for trio in the image. Pure; does nothing.

pyfuse3 imports trio when it is imported, but in its asyncio mode `pyfuse3.asyncio.enable()` replaces
every use of it. The real one costs a second of boot time under TCG and a megabyte.
"""


def __getattr__(name: str) -> object:
    raise AttributeError(f"trio.{name}: the image has no trio; call pyfuse3.asyncio.enable() first")
