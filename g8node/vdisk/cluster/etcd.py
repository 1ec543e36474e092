"""etcd v3 by its JSON gateway (async): values of many keys at one moment, and word of their changes.

Every server of a cluster is as good as another: the one that answered last is asked, else the next.
"""

import base64
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from g8node.errors import Unavailable
from g8node.store.web import Web, WebAccess, bounded, failures, reason

_ANSWER_BYTES_MAX: Final = 64 << 20
_KEYS_AT_ONCE: Final = 100
_SILENCE_S: Final = 60.0
_ROW_BYTES_MAX: Final = 16 << 20


class Value(Struct, frozen=True):
    key: str = ""
    value: str = ""


class RangeResponse(Struct, frozen=True):
    kvs: tuple[Value, ...] = ()


class Response(Struct, frozen=True):
    response_range: RangeResponse = RangeResponse()


class Header(Struct, frozen=True):
    revision: str = "0"


class TxnResponse(Struct, frozen=True):
    header: Header = Header()
    succeeded: bool = False
    responses: tuple[Response, ...] = ()


class WatchEvent(Struct, frozen=True):
    kv: Value = Value()


class WatchResult(Struct, frozen=True):
    events: tuple[WatchEvent, ...] = ()
    canceled: bool = False
    cancel_reason: str = ""


class WatchResponse(Struct, frozen=True):
    result: WatchResult = WatchResult()
    error: Any = None


class Etcd:
    """`endpoints`: URLs without a path. `close` at the end."""

    def __init__(self, endpoints: Sequence[str], *, authority: str = "") -> None:
        self.endpoints = list(endpoints)
        self._web = Web(WebAccess(authority=authority, connect_timeout_s=5.0, read_timeout_s=10.0))
        self._at = 0

    async def get(self, keys: Sequence[str], revision: int = 0) -> tuple[dict[str, bytes], int]:
        """The values of those keys that exist, all at one revision, and which one that is. Unavailable."""
        values: dict[str, bytes] = {}
        for at in range(0, len(keys), _KEYS_AT_ONCE):
            ranges = [
                {"request_range": {"key": _encoded(key), "revision": str(revision)}}
                for key in keys[at : at + _KEYS_AT_ONCE]
            ]
            answer = await self._post("/v3/kv/txn", {"success": ranges}, TxnResponse)
            revision = revision or int(answer.header.revision)
            for response in answer.responses:
                for value in response.response_range.kvs:
                    values[_decoded(value.key).decode()] = _decoded(value.value)
        return values, revision

    async def swap(
        self, key: str, value: bytes, puts: Mapping[str, bytes], deletes: Sequence[str] = ()
    ) -> bool:
        """Change keys at one moment if `key` still has a value; whether it had. Unavailable."""
        compare = {"key": _encoded(key), "target": "VALUE", "result": "EQUAL", "value": _coded(value)}
        changes: list[dict[str, Any]] = [
            {"request_put": {"key": _encoded(one), "value": _coded(text)}} for one, text in puts.items()
        ]
        changes += [{"request_delete_range": {"key": _encoded(one)}} for one in deletes]
        body = {"compare": [compare], "success": changes}
        return (await self._post("/v3/kv/txn", body, TxnResponse)).succeeded

    async def _post(self, path: str, body: Any, type: "type[TxnResponse]") -> TxnResponse:
        error = Unavailable("etcd: no endpoints")
        for _ in self.endpoints:
            url = self.endpoints[self._at] + path
            try:
                client = await self._web.client()
                async with client.post(url, data=msgspec.json.encode(body)) as response:
                    answer = await bounded(response, _ANSWER_BYTES_MAX)
                    if response.status != 200:
                        raise Unavailable(f"HTTP {response.status}: {answer[:200].decode(errors='replace')}")
                return msgspec.json.decode(answer, type=type)
            except failures(Unavailable, msgspec.MsgspecError) as failure:
                error = Unavailable(f"etcd {url}: {reason(failure)}")
                self._next()
        raise error

    def _next(self) -> None:
        self._at = (self._at + 1) % len(self.endpoints)

    async def wait(self, keys: Sequence[str], revision: int) -> None:
        """Until a key changes after the revision, or nothing was heard for a minute. Unavailable.

        One watch from the first to the last of them: the gateway reads no second request of a stream once it
        has begun to answer the first.
        """
        watched = {_encoded(key) for key in keys}
        create = {
            "key": _encoded(min(keys)),
            "range_end": _encoded(max(keys) + "\0"),
            "start_revision": str(revision + 1),
        }
        url = f"{self.endpoints[self._at]}/v3/watch"
        try:
            client = await self._web.client()
            asked, patience = msgspec.json.encode({"create_request": create}), _timeout(_SILENCE_S)
            async with client.post(url, data=asked, timeout=patience) as response:
                while row := await response.content.readline(max_line_length=_ROW_BYTES_MAX):
                    if any(event.kv.key in watched for event in _result(row).events):
                        return
        except TimeoutError:
            return
        except failures(ValueError, msgspec.MsgspecError) as error:
            self._next()
            raise Unavailable(f"etcd {url}: {reason(error)}") from error
        self._next()
        raise Unavailable(f"etcd {url}: the watch ended")

    async def close(self) -> None:
        await self._web.close()


def _timeout(silence_s: float) -> Any:
    """aiohttp was imported with the client, in a thread."""
    return sys.modules["aiohttp"].ClientTimeout(total=None, sock_connect=5.0, sock_read=silence_s)


def _result(row: bytes) -> WatchResult:
    answer = msgspec.json.decode(row, type=WatchResponse)
    if answer.error is not None or answer.result.canceled:
        raise Unavailable(f"the watch was ended: {answer.error or answer.result.cancel_reason}")
    return answer.result


def _encoded(key: str) -> str:
    return _coded(key.encode())


def _coded(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _decoded(text: str) -> bytes:
    return base64.b64decode(text)
