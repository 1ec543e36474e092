"""Pack source: an image in an OCI layout, its layers applied one over the other (blocking).

The image is the one that `index.json` names, for Linux on this kind of machine when there are several. Every
blob is checked against its digest before it is used. Layers are tar archives, plain, gzip, bzip2, xz or zstd;
files that a later layer hides are read and stored all the same.
"""

import hashlib
import json
import os
import platform
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from g8node.errors import InvalidArgument
from g8node.flist.source import How, Part
from g8node.flist.source_tar import TarSource
from g8node.flist.tree import Node

_JSON_MAX: Final = 4 << 20
_LAYERS_MAX: Final = 256
_DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})")
_MACHINES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


def is_layout(path: str) -> bool:
    """Whether the path is a folder with an OCI image layout."""
    return os.path.isfile(os.path.join(path, "oci-layout")) and os.path.isfile(
        os.path.join(path, "index.json")
    )


class OciSource:
    """See `source.Source`. `info` has `entrypoint` and `environ` as the image's configuration says."""

    def __init__(self, path: str, how: How | None = None) -> None:
        self._path = path
        self._how = how or How()
        self.root: Node = TarSource(path, self._how).root
        self.total_bytes: int | None = None
        manifest = self._manifest()
        layers = _list(manifest, "layers", "manifest")
        if len(layers) > _LAYERS_MAX:
            raise InvalidArgument(f"{path}: image has {len(layers)} layers, limit {_LAYERS_MAX}")
        self._layers = [self._blob(layer, "layer") for layer in layers]
        self.info: Mapping[str, str] = _settings(self._json(self._blob(manifest.get("config"), "config")))

    def parts(self) -> Iterator[Part]:
        """The chunks of every layer, the lowest first."""
        for layer in self._layers:
            self._check(layer)
            source = TarSource(layer, self._how, self.root)
            yield from source.parts()
            self.root = source.root

    def _manifest(self) -> dict[str, Any]:
        index = self._json(os.path.join(self._path, "index.json"))
        # An index may point at another one, once.
        for _ in range(2):
            if "layers" in index:
                return index
            blob = self._blob(_chosen(_list(index, "manifests", "index")), "manifest")
            self._check(blob)
            index = self._json(blob)
        if "layers" not in index:
            raise InvalidArgument(f"{self._path}: no image manifest behind index.json")
        return index

    def _blob(self, descriptor: Any, what: str) -> str:
        digest = descriptor.get("digest") if isinstance(descriptor, dict) else None
        match = _DIGEST.fullmatch(digest) if isinstance(digest, str) else None
        if match is None:
            raise InvalidArgument(f"{self._path}: {what}: expected a descriptor with a sha256 digest")
        path = os.path.join(self._path, "blobs", "sha256", match[1])
        if not os.path.isfile(path) or os.path.islink(path):
            raise InvalidArgument(f"{self._path}: {what} {digest} is not in the layout")
        return path

    def _check(self, blob: str) -> None:
        with open(blob, "rb") as source:
            if hashlib.file_digest(source, "sha256").hexdigest() != os.path.basename(blob):
                raise InvalidArgument(f"{blob}: content does not match its digest")

    def _json(self, path: str) -> dict[str, Any]:
        with open(path, "rb") as source:
            data = source.read(_JSON_MAX + 1)
        try:
            found = json.loads(data) if len(data) <= _JSON_MAX else None
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise InvalidArgument(f"{path}: no JSON object, or over {_JSON_MAX} bytes")
        return found


def _list(tree: dict[str, Any], field: str, where: str) -> list[Any]:
    found = tree.get(field)
    if not isinstance(found, list) or not found:
        raise InvalidArgument(f"{where}: {field}: expected a list")
    return found


def _chosen(manifests: list[Any]) -> Any:
    """The image for this machine, else the first that is for no machine in particular, else the first."""
    machine = _MACHINES.get(platform.machine(), platform.machine())

    def rank(item: Any) -> int:
        wanted = item.get("platform") if isinstance(item, dict) else None
        if not isinstance(wanted, dict):
            return 1
        return 0 if (wanted.get("os"), wanted.get("architecture")) == ("linux", machine) else 2

    return min(manifests, key=rank)


def _settings(configuration: dict[str, Any]) -> dict[str, str]:
    config = configuration.get("config")
    if not isinstance(config, dict):
        return {}
    info: dict[str, str] = {}
    words = [*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ())]
    if words and all(isinstance(word, str) for word in words):
        info["entrypoint"] = json.dumps(words)
    environ = [word for word in config.get("Env") or () if isinstance(word, str) and "=" in word]
    if environ:
        info["environ"] = json.dumps(dict(word.split("=", 1) for word in environ))
    if isinstance(config.get("WorkingDir"), str) and config["WorkingDir"]:
        info["workdir"] = config["WorkingDir"]
    if isinstance(config.get("User"), str) and config["User"]:
        info["user"] = config["User"]
    return info
