"""YAML of strangers (pure): every scalar is text (`10:20` is no number to us), YAML's tricks are refused."""

from typing import TYPE_CHECKING, Any

from g8node.errors import InvalidArgument

if TYPE_CHECKING:
    import yaml  # type: ignore[import-untyped]  # has no stubs


def load(text: str | bytes, name: str, *, depth: int) -> Any:
    """Mappings, lists and text, nested at most `depth` deep. InvalidArgument begins with `name`."""
    import yaml  # two dozen modules that few need

    try:
        _refuse_tricks(yaml.BaseLoader(text), yaml.CollectionStartEvent, yaml.CollectionEndEvent, name, depth)
        return yaml.BaseLoader(text).get_single_data()
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidArgument(f"{name}: {' '.join(str(error).split())[:200]}") from None


def _refuse_tricks(loader: "yaml.BaseLoader", start: type, end: type, name: str, most: int) -> None:
    """No aliases (a small file that unpacks to a huge one), no tags, no deep nesting."""
    depth = 0
    while loader.check_event():
        event = loader.get_event()
        if any(getattr(event, trick, None) for trick in ("anchor", "tag")):
            raise InvalidArgument(f"{name}: anchors, aliases and tags are not allowed")
        depth += isinstance(event, start) - isinstance(event, end)
        if depth > most:
            raise InvalidArgument(f"{name}: nested too deeply")
