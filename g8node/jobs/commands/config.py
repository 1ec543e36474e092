"""config.*: the node's settings (pure); spec core0-protocol 4.4."""

from typing import Any

from msgspec import to_builtins

from g8node.jobs.registry import Context, command


@command("config.get", role="operator")
def get(ctx: Context) -> dict[str, Any]:
    """The settings as they were read, in the original's shape; ours are under `gate` and `g8ufs`."""
    settings = ctx.node.config
    shown: dict[str, Any] = to_builtins(settings)
    logging = shown.pop("logging")
    shown["containers"] |= {"max_count": settings.containers.max_count or 1000}
    # The odd nesting is the original's.
    logger = {"file": logging["file"], "Ledis": {"ledis": {"levels": []}, "size": logging["ledis"]["size"]}}
    # The environment of an extension may hold what is not for everybody.
    extension = {
        name: {key: value for key, value in entry.items() if key.lower() != "env"}
        for name, entry in shown["extension"].items()
        if isinstance(entry, dict)
    }
    return shown | {"extension": extension, "logger": logger}
