"""What managers are made of (pure)."""

from collections.abc import Callable
from typing import Any, Generic

from g8tools.g8.base import BaseClient
from g8tools.g8.flow import Flow, M, Runs


class Manager(Runs[M], Generic[M]):
    """Methods that are commands of one client."""

    def __init__(self, client: BaseClient[M]) -> None:
        self._client = client

    def perform(self, flow: Flow[Any]) -> Any:
        return self._client.perform(flow)

    def repeat(self, make: Callable[[], Flow[Any]]) -> Any:
        return self._client.repeat(make)

    def _json(self, command: str, /, **arguments: Any) -> Flow[Any]:
        """A command's value."""
        return self._client.run_json(command, arguments)

    def _done(self, command: str, /, **arguments: Any) -> Flow[None]:
        """A command that has no value."""
        result = yield from self._client.run(command, arguments)
        result.checked()
