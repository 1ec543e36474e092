"""`g8 vdisk …` (blocking): make, show, grow, copy, check and serve the vdisks of a folder, without a node.

A folder of vdisks has one user at a time: while a server serves it, the other commands are refused.
"""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar, cast

import typer

from g8node.errors import Conflict, InvalidArgument
from g8tools.g8 import console
from g8tools.g8.console import size_of

if TYPE_CHECKING:
    from g8node.vdisk.cluster.remote import Remote
    from g8node.vdisk.vdisks import Vdisks

T = TypeVar("T")

app = typer.Typer(
    help="Block devices: make them, serve them over NBD.", no_args_is_help=True, rich_markup_mode=None
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.", callback=console.json_asked)]
AnyData = Annotated[
    Path | None, typer.Option("--data", help="Folder of vdisks, else G8_VDISKS; or --config.")
]
Config = Annotated[
    str, typer.Option("--config", metavar="FILE|HOST:PORT,...", help="vdisks on clusters: a file, or etcd.")
]
ServerId = Annotated[str, typer.Option("--id", help="Under which etcd has the list of vdisks.")]
KeyFile = Annotated[
    str,
    typer.Option(
        metavar="FILE", envvar="G8_VDISK_KEY", help="Master key, 64 to 128 hex digits; else G8_VDISK_KEY."
    ),
]
Id = Annotated[str, typer.Argument(metavar="VDISK", help="Its id, which is also the export's name.")]

_CLUSTER_KEYS: Final = ("storageClusterID", "templateStorageClusterID", "slaveStorageClusterID")


def _with(
    data: Path,
    work: "Callable[[Vdisks], Awaitable[T]]",
    key_file: str = "",
    *,
    makes_folder: bool = False,
) -> T:
    """Run work on the vdisks of a folder."""
    from g8node.runtime import blocking, logs
    from g8node.vdisk.seal import read_master_key
    from g8node.vdisk.vdisks import Vdisks

    logs.configure("warning")
    path = str(data.absolute())

    async def run() -> T:
        key = read_master_key(key_file) if key_file else b""
        vdisks = Vdisks(path, key=key, makes_folder=makes_folder)
        await vdisks.start()
        try:
            return await work(vdisks)
        finally:
            await vdisks.close()
            blocking.close()

    return console.run_async(run())


def _on_clusters(config: str, server: str, work: "Callable[[Remote], Awaitable[T]]") -> T:
    """Run work on the vdisks of a configuration."""
    from g8node.runtime import blocking, logs
    from g8node.vdisk.cluster.remote import Remote

    logs.configure("warning")

    async def run() -> T:
        remote = Remote(config, server)
        try:
            await remote.start()
            return await work(remote)
        finally:
            await remote.close()
            blocking.close()

    return console.run_async(run())


def _folder(data: Path | None, config: str) -> Path | None:
    """None when the vdisks are those of a configuration, whatever G8_VDISKS says."""
    if config and data is None:
        return None
    if data is None and (named := os.environ.get("G8_VDISKS")):
        data = Path(named)
    if config or data is None:
        raise InvalidArgument("expected --data or --config, not both")
    return data


@app.command()
def create(
    vdisk: Id,
    size: Annotated[str, typer.Argument(help="Bytes: 4096, 512M, 10G, 64T.")],
    data: AnyData = None,
    type_: Annotated[str, typer.Option("--type", metavar="TYPE", help="boot, db, cache or tmp.")] = "db",
    block_size: Annotated[str, typer.Option(help="A power of two, 512 to 128K.")] = "4096",
    iops: Annotated[int, typer.Option(help="Requests a second; 0: no limit.")] = 0,
    bytes_s: Annotated[str, typer.Option("--bandwidth", help="Bytes a second; 0: no limit.")] = "0",
    storage: Annotated[
        str, typer.Option(metavar="STORAGE", help="plain or dedup; else dedup for boot disks and templates.")
    ] = "",
    template: Annotated[
        str, typer.Option(metavar="VDISK", help="Shown where the new one has nothing itself; read-only then.")
    ] = "",
    encrypt: Annotated[bool, typer.Option("--encrypt", help="AES-256-XTS; needs --key-file.")] = False,
    key_file: KeyFile = "",
    config: Config = "",
    server: ServerId = "default",
    cluster: Annotated[str, typer.Option(metavar="CLUSTER", help="With --config: where it lies.")] = "",
    template_cluster: Annotated[
        str, typer.Option(metavar="CLUSTER", help="With --config: where its template lies.")
    ] = "",
    slave_cluster: Annotated[str, typer.Option(metavar="CLUSTER", help="With --config: its slaves.")] = "",
    json: Json = False,
) -> None:
    """Make an empty vdisk; it takes space only for what is written.

    On a cluster, that is an entry in etcd.
    """
    import msgspec

    folder = _folder(data, config)
    if folder is None:
        clusters = cluster, template_cluster, slave_cluster
        limits = {"iops": iops, "bytes_s": size_of(bytes_s, "bandwidth")}
        _create_there(config, server, vdisk, clusters, (type_, size, block_size, template), limits)
        return

    from g8node.vdisk.record import Kind, Record, StorageWish, storage_of

    if storage not in ("", "plain", "dedup"):
        raise InvalidArgument(f"storage: expected plain or dedup, not {storage[:40]!r}")
    kind, wish = cast("Kind", type_), cast("StorageWish", storage)  # the kind is checked with the record
    fields = {
        "id": vdisk,
        "type": type_,
        "size": size_of(size),
        "block_size": size_of(block_size, "block size"),
        "storage": storage_of(wish, kind, template=template, encrypted=encrypt),
        "template": template,
        "limits": {"iops": iops, "bytes_s": size_of(bytes_s, "bandwidth")},
    }
    try:
        record = msgspec.convert(fields, Record)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"vdisk: {error}") from error
    made = _with(folder, lambda vdisks: vdisks.create(record, encrypted=encrypt), key_file, makes_folder=True)
    console.show(made, json=json, text="")


def _create_there(
    config: str,
    server: str,
    vdisk: str,
    clusters: tuple[str, str, str],
    rest: tuple[str, str, str, str],
    limits: dict[str, int],
) -> None:
    """`rest`: type, size, block size and template, as words."""
    import msgspec

    from g8node.vdisk.cluster.settings import Nbd, Static, convert

    type_, size, block_size, template = rest
    gib, odd = divmod(size_of(size), 1 << 30)
    if odd:
        raise InvalidArgument(f"size: expected a multiple of 1G, not {size!r}")
    bytes_ = size_of(block_size, "block size")
    fields = {"blockSize": bytes_, "size": gib, "type": type_, "templateVdiskID": template, "limits": limits}
    static = convert(fields, "vdisk", Static)
    try:
        nbd = msgspec.convert(dict(zip(_CLUSTER_KEYS, clusters, strict=True)), Nbd)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"cluster: {error}") from error
    _on_clusters(config, server, lambda remote: remote.create(vdisk, static, nbd))


@app.command("list")
def list_(
    data: AnyData = None, config: Config = "", server: ServerId = "default", json: Json = False
) -> None:
    """The vdisks of a folder, or of a configuration."""
    folder = _folder(data, config)
    rows = _known_there(config, server) if folder is None else _with(folder, _known)
    last = "CLUSTER" if folder is None else "USED"
    text = console.table(
        [("VDISK", "TYPE", "SIZE", last)]
        + [(str(row["id"]), str(row["type"]), _amount(row["size"]), _cluster_or_used(row)) for row in rows],
        right=frozenset((2,) if folder is None else (2, 3)),
    )
    console.show(rows, json=json, text=text)


async def _known(vdisks: "Vdisks") -> list[dict[str, Any]]:
    return [await vdisks.info(record.id) for record in vdisks.records()]


def _known_there(config: str, server: str, vdisk: str = "") -> list[dict[str, Any]]:
    """What the configuration says, of one vdisk or of all; what is served is others' to know."""

    async def work(remote: "Remote") -> list[dict[str, Any]]:
        names = [vdisk] if vdisk else [name for name, _ in remote.vdisks.names()]
        return [remote.vdisks.info(name) for name in names]

    unknown = ("used", "connections", "counters", "created")
    rows = _on_clusters(config, server, work)
    return [{key: value for key, value in row.items() if key not in unknown} for row in rows]


def _cluster_or_used(row: dict[str, Any]) -> str:
    return str(row["cluster"]) if "cluster" in row else _amount(row["used"])


def _amount(value: object) -> str:
    assert isinstance(value, int)
    return console.amount(value)


@app.command()
def info(
    vdisk: Id, data: AnyData = None, config: Config = "", server: ServerId = "default", json: Json = False
) -> None:
    """All that is known of a vdisk. On clusters: what the configuration says."""
    folder = _folder(data, config)
    if folder is None:
        (found,) = _known_there(config, server, vdisk)
    else:
        found = _with(folder, lambda vdisks: vdisks.info(vdisk))
    pairs = [(name, str(value)) for name, value in found.items() if not isinstance(value, dict)]
    console.show(found, json=json, text=console.fields(pairs))


@app.command()
def resize(
    vdisk: Id,
    size: Annotated[str, typer.Argument(help="The new size, larger than before.")],
    data: AnyData = None,
    config: Config = "",
    server: ServerId = "default",
) -> None:
    """Grow a vdisk.

    On clusters: its entry in etcd, also while it is served; a file is for its owner to change.
    """
    folder = _folder(data, config)
    if folder is None:
        _on_clusters(config, server, lambda remote: remote.resize(vdisk, size_of(size)))
    else:
        _with(folder, lambda vdisks: vdisks.resize(vdisk, size_of(size)))


@app.command()
def delete(vdisk: Id, data: AnyData = None, config: Config = "", server: ServerId = "default") -> None:
    """Remove a vdisk and its data.

    On clusters: its blocks, and its entry if that is in etcd. Nobody may serve it meanwhile.
    """
    folder = _folder(data, config)
    if folder is None:
        _on_clusters(config, server, lambda remote: remote.delete(vdisk))
    else:
        _with(folder, lambda vdisks: vdisks.delete(vdisk))


@app.command()
def copy(
    vdisk: Id,
    target: Annotated[str, typer.Argument(help="The new vdisk's id.")],
    data: AnyData = None,
    key_file: KeyFile = "",
    config: Config = "",
    server: ServerId = "default",
) -> None:
    """Make another vdisk with the same content.

    On clusters the new one is made in etcd; a file must have it already. Nobody may serve either meanwhile.
    """
    folder = _folder(data, config)
    if folder is None:
        _on_clusters(config, server, lambda remote: remote.copy(vdisk, target))
    else:
        _with(folder, lambda vdisks: vdisks.copy(vdisk, target), key_file)


@app.command()
def check(
    vdisk: Id, data: AnyData = None, key_file: KeyFile = "", config: Config = "", json: Json = False
) -> None:
    """Read everything; exit code 100 and a list when something is damaged. Not on clusters."""
    folder = _folder(data, config)
    if folder is None:
        from g8node.vdisk.abilities import NO_CHECK

        raise InvalidArgument(NO_CHECK)
    problems = _with(folder, lambda vdisks: vdisks.check(vdisk), key_file)
    console.show({"problems": problems}, json=json, text="\n".join(problems))
    if problems:
        raise Conflict(f"vdisk {vdisk!r} is damaged")


@app.command()
def gc(
    data: AnyData = None,
    bytes_s: Annotated[str, typer.Option("--bandwidth", help="Bytes a second; 0: no limit.")] = "0",
    key_file: KeyFile = "",
    config: Config = "",
    server: ServerId = "default",
    cluster: Annotated[str, typer.Option(metavar="CLUSTER", help="With --config: which.")] = "",
    json: Json = False,
) -> None:
    """Give back the space of deduplicated content that no vdisk has any more.

    A damaged vdisk keeps what its index names. Encrypted content needs its key. On a cluster all servers must
    answer, and what was used in the last quarter of an hour stays.
    """
    rate = size_of(bytes_s, "bandwidth")
    folder = _folder(data, config)
    if folder is None:
        done = _on_clusters(config, server, lambda remote: remote.vdisks.collect(cluster, bytes_s=rate))
        console.show(done, json=json, text=f"{done.blocks} blocks removed, {done.kept} kept")
        return
    rows = _with(folder, lambda vdisks: vdisks.gc(rate), key_file)
    text = console.table(
        [("BLOCKS", "FREED", "KEPT", "PROBLEM")]
        + [
            (*map(_amount, (row["block_size"], row["freed"], row["kept"])), str(row["problem"]))
            for row in rows
        ],
        right=frozenset((0, 1, 2)),
    )
    console.show(rows, json=json, text=text)


@app.command()
def serve(
    data: AnyData = None,
    config: Annotated[
        str,
        typer.Option(metavar="FILE|HOST:PORT,...", help="vdisks on clusters: YAML or TOML file, or etcd."),
    ] = "",
    id_: Annotated[str, typer.Option("--id", help="Under which etcd has the list of vdisks.")] = "default",
    patience: Annotated[
        float, typer.Option(min=0.1, max=600, metavar="SECONDS", help="Give a server of a cluster up after.")
    ] = 8.0,
    figures: Annotated[
        float,
        typer.Option(min=1, max=3600, metavar="SECONDS", help="With --config: between lines of figures."),
    ] = 30.0,
    socket: Annotated[str, typer.Option(metavar="PATH", help="Unix socket.")] = "",
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="TCP; port 0 picks one.")] = "",
    tls_certificate: Annotated[str, typer.Option(metavar="FILE", help="PEM chain.")] = "",
    tls_key: Annotated[str, typer.Option(metavar="FILE", help="PEM key.")] = "",
    tls_client_ca: Annotated[
        str, typer.Option(metavar="FILE", help="PEM CA that clients' certificates must be of.")
    ] = "",
    tls_psk: Annotated[
        str,
        typer.Option(metavar="FILE", help="Pre-shared keys, identity:hex lines, in place of a certificate."),
    ] = "",
    tls_only: Annotated[bool, typer.Option("--tls-only", help="Refuse clients without TLS.")] = False,
    key_file: KeyFile = "",
) -> None:
    """Serve all vdisks of a folder, or of a configuration, over NBD until SIGTERM or SIGINT."""
    from g8node.runtime import logs
    from g8tools.g8.connection import parse_address
    from g8tools.vdisk import service

    folder = _folder(data, config)
    if not socket and not listen:
        raise InvalidArgument("expected --socket, --listen, or both")
    logs.configure()
    address = parse_address(listen, default_port=10809, lowest_port=0) if listen else None
    options = service.Options(
        data=str(folder.absolute()) if folder is not None else "",
        socket=socket,
        address=address,
        tls=(tls_certificate, tls_key, tls_client_ca, tls_psk),
        tls_only=tls_only,
        key_file=key_file,
        config=config,
        server=id_,
        patience_s=patience,
        figures_s=figures,
    )
    console.run_async(service.serve(options))
