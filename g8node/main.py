"""Composition root: the only place that builds and wires the parts, in start order (async)."""

import asyncio
import contextlib
import ctypes
import faulthandler
import fcntl
import os
import resource
import signal
import socket
import sys
import time
import tomllib
from types import ModuleType
from typing import Any, Never

import uvloop

from g8node import __version__, config
from g8node.boot import shutdown
from g8node.boot.network import Network
from g8node.boot.phases import Phase, run_phases
from g8node.config import Config
from g8node.errors import Conflict, NodeError
from g8node.jobs.bus import Bus
from g8node.jobs.commands import bash, core, info, job, process
from g8node.jobs.gate import Gate
from g8node.jobs.manager import Manager
from g8node.jobs.redis_server import RedisServer
from g8node.jobs.registry import Registry
from g8node.linux import power as machine
from g8node.linux import survivor
from g8node.linux.namespace import prepare_agent_namespace
from g8node.node.inventory import Inventory
from g8node.node.node import Node
from g8node.node.paths import Paths
from g8node.node.power import Mode, Power
from g8node.runtime import blocking, logs
from g8node.runtime.console import Console
from g8node.runtime.faults import Faults
from g8node.runtime.process import Reaper
from g8node.runtime.supervise import Supervisor
from g8node.runtime.watchdog import Watchdog
from g8node.wire import cmdline

log = logs.get("core0")

EARLY = (core, bash, job, info, process)
"""What answers before containers and flists are there; the rest is imported when the gate listens."""

ENVIRON = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}

_PANIC = "/proc/sys/kernel/panic"
_CACHE_DISK_S = 120.0
_GRACE_S = 10.0
_CONSOLE_S = 2.0
_ONLINE_S = 15.0
_NOFILE = 65536
_INCLUDE = {"size_max": 1 << 20, "count_max": 1000}
_M_ARENA_MAX = -8
_LOG = "/var/log/core.log"
_RELEASE = "/etc/g8node-release"


class Core0:
    """The parts of a node, built once; `run` is its life."""

    def __init__(
        self,
        settings: Config,
        paths: Paths,
        words: list[tuple[str, str]],
        *,
        console: Console | None = None,
    ) -> None:
        """`console`: this is process 1, and its console."""
        self._console = console
        init = console is not None
        self._settings = settings
        self._words = words
        self._init = init
        self._stage = "starting"
        reaper = Reaper(orphans=True)
        self.node = Node(
            config=settings,
            paths=paths,
            reaper=reaper,
            supervisor=Supervisor(),
            watchdog=Watchdog(
                hang_s=min(30.0, settings.watchdog.timeout_s / 2),
                device=settings.watchdog.device if init else "",
                timeout_s=settings.watchdog.timeout_s,
            ),
            power=Power(),
            inventory=_inventory(),
        )
        self.registry = Registry(EARLY, complete=False)
        self.jobs = Manager(self.node, self.registry, environ=ENVIRON)
        self.redis = RedisServer(reaper, folder=paths.redis, socket=paths.redis_socket)
        self.bus = Bus(self.jobs, paths.redis_socket)
        self.gate = Gate(
            self.jobs,
            self.bus,
            settings.gate,
            folder=paths.gate,
            organizations=cmdline.every(words, "organization"),
        )
        self.network = Network(reaper, self.jobs, file=settings.main.network)
        self._faults = Faults()
        self.jobs.counters["faults"] = self._faults.state
        self.local: Any = None  # jobs.local.LocalSocket, imported late
        self.statistics: Any = None  # boot.statistics.Statistics, imported late
        self._cache_disk: Any = None  # node.cachedisk.CacheDisk, imported late
        self._claim: Any = None  # node.claim.Claim, imported late

    async def run(self) -> Mode:
        """From the first phase to the end of the shutdown; returns what to do with the machine."""
        self._faults.install()
        self.node.watchdog.start()
        try:
            self.node.reaper.install()
            self._take_signals()
            await run_phases(self._phases(), begins=self._begins)
            self._begins("done")
            name, uptime_s = socket.gethostname(), time.monotonic()
            log.info(f"g8node ready: {__version__} on {name}, {uptime_s:.1f}s of uptime")
            mode = await self.node.power.requested()
            await self._stop()
        finally:
            self.node.watchdog.stop()
        return mode

    def _begins(self, stage: str) -> None:
        self._stage = stage

    def _phases(self) -> list[Phase]:
        network = [Phase("network", self._start_network, required=False)] if self._init else []
        online = [Phase("online", self._wait_online, _ONLINE_S, required=False)] if self._init else []
        cache = [Phase("cache disk", self._open_cache_disk, _CACHE_DISK_S, required=False)]
        cache = cache if self._init and self._settings.cache.disk else []
        return [
            *network,
            Phase("redis", self._start_redis),
            Phase("gate", self.gate.start),
            Phase("statistics", self._start_statistics, required=False),
            Phase("modules", self._import_late),
            *cache,
            Phase("resources", self._start_resources),
            Phase("services", self._start_services, required=False),
            Phase("local socket", self._start_local, required=False),
            Phase("bus", self._start_bus),
            *online,
        ]

    async def _start_network(self) -> None:
        await self.network.start(cmdline.every(self._words, "noautonic"))

    async def _wait_online(self) -> None:
        await self.network.online.wait()

    async def _start_redis(self) -> None:
        self.node.supervisor.start("redis", self.redis.run)
        await self.redis.ready()

    async def _start_statistics(self) -> None:
        """Loggers, statistics and their commands; before the first job of a service."""
        module = await blocking.run("disk", _statistics_module)
        self.statistics = module.Statistics(self.node, self.jobs, self.bus)
        await self.statistics.start()

    async def _import_late(self) -> None:
        modules = self._late = await blocking.run("disk", _late_module)
        claim = self._claim = modules.claim.Claim("" if self._init else self.node.paths.claim)
        self.node.add_hardware(
            modules.links.Links(self.node.reaper),
            modules.disks.Disks(self.node.reaper),
            modules.btrfs.Btrfs(self.node.reaper),
            modules.firewall.Firewall(
                self.node.reaper,
                claim,
                closed=self._init,
                ports=_open_ports(self._settings) if self._init else (),
            ),
        )
        if self._init:  # beside the rest of the boot; it is tried again until it is closed
            self.node.supervisor.start("firewall", self.node.firewall.open)
        self.node.networks = modules.networks.Networks(
            self.node.links,
            self.node.firewall,
            modules.servers.Servers(self.jobs),
            claim,
            folder=self.node.paths.dnsmasq,
            records=self.node.paths.bridges,
            default=self._settings.network.default,
        )
        self.node.nics = modules.nics.Nics(
            self.node.reaper, self.node.networks, self.node.firewall, self._settings.network
        )
        self.node.profile = modules.profile.Profile()
        self._start_screen()

    async def _open_cache_disk(self) -> None:
        """Before anything is cached or logged; without it both stay in memory."""
        node, choice = self.node, self._settings.cache.disk
        self._cache_disk = self._late.cachedisk.CacheDisk(node.reaper, node.disks, node.btrfs, choice=choice)
        self.jobs.counters["cache_disk"] = self._cache_disk.state
        await self._cache_disk.open()

    async def _start_resources(self) -> None:
        modules, settings, paths = self._late, self._settings, self.node.paths
        flists = modules.mounts.Mounts(
            run=paths.run,
            cache=settings.globals.cache or paths.cache,
            config=settings.g8ufs,
            storage=settings.globals.storage,
        )
        containers = modules.containers.Containers(
            self.node.reaper,
            flists,
            self.node.nics,
            folder=paths.containers,
            state=paths.crun,
            max_count=settings.containers.max_count,
            starts=settings.containers.starts,
            keeper="" if self._init else paths.keeper,
            restored=f"{paths.cache}/restored",
            volumes=settings.containers.volumes or paths.volumes,
            groups=self.statistics.groups if self.statistics is not None else None,
        )
        self.jobs.counters["stores"] = flists.stores.state
        await flists.start()
        modules.containerevents.connect(self.jobs, containers)
        modules.storeevents.connect(self.jobs, flists.stores)
        modules.containerservices.ContainerServices(self.jobs, containers, modules.corex.submit_inside)
        await containers.open()
        flists.on_lost = containers.lost
        self.node.supervisor.start("gc", containers.keep_clean)
        self.node.supervisor.start("g8ufs", flists.run)
        self.node.complete(flists, containers, files=modules.files.Files())
        await self._start_blocks()
        for commands in modules.commands():
            self.registry.add_module(commands)
        for container, life in containers.adopted:
            modules.corex.resume(self.jobs, container, life)

    async def _start_blocks(self) -> None:
        paths = self.node.paths
        blocks = self._late.blocks.Blocks(
            self._settings.vdisk, self.node.reaper, folder=paths.vdisks, socket=paths.nbd_socket
        )
        self.jobs.counters["vdisks"] = blocks.state
        await blocks.start()
        self.node.blocks = blocks

    def _start_screen(self) -> None:
        if self._console is not None:
            screen = self._late.screen.Screen(
                self.node,
                say=self._console.write,
                stage=lambda: self._stage,
                services=lambda: self.jobs.counters.get("services", dict)(),
                words=self._words,
            )
            self.node.supervisor.start("screen", screen.run)

    async def _start_services(self) -> None:
        """Register the extensions and start the services, which run beside what is left of the boot."""
        try:
            await self._plan_services(self._late)
        finally:
            self.registry.complete.set()

    async def _plan_services(self, modules: ModuleType) -> None:
        texts, problems = await blocking.run(
            "disk", modules.textfiles.read_folders, self._settings.main.include, ".toml", **_INCLUDE
        )
        plan = modules.services.load(
            texts,
            parameters=cmdline.last(self._words),
            environ=os.environ,
            extensions=self._settings.extension,
        )
        problems += modules.extensions.add_extensions(self.registry, plan.extensions)
        plan.problems[:0] = problems
        sequencer = modules.sequencer.Sequencer(self.jobs, plan, online=self._online_or_late)
        self.node.serve(sequencer)
        self.node.supervisor.start("services", sequencer.run)

    async def _online_or_late(self) -> None:
        """What the net slice waits for; an agent leaves the network alone."""
        if self._init:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.network.online.wait(), _ONLINE_S)

    async def _start_local(self) -> None:
        """/run/core.sock, for who is root here."""
        modules = self._late
        self.local = modules.local.LocalSocket(
            self.jobs, self.bus, self.node.paths.core_socket, modules.corex.submit_inside
        )
        await self.local.start()

    async def _start_bus(self) -> None:
        """Only now are commands read from redis (spec core0-protocol 1.2): what came early has waited."""
        self.node.supervisor.start("bus", self.bus.run)

    def _take_signals(self) -> None:
        loop = asyncio.get_running_loop()
        wishes: dict[int, Mode] = {signal.SIGTERM: "poweroff", signal.SIGINT: "poweroff"}
        if self._init:
            # What busybox's poweroff and reboot send to process 1; SIGINT is Ctrl-Alt-Del.
            wishes = {signal.SIGUSR2: "poweroff", signal.SIGTERM: "reboot", signal.SIGINT: "reboot"}
        for number, mode in wishes.items():
            loop.add_signal_handler(number, self.node.power.request, mode)

    async def _stop(self) -> None:
        node = self.node
        log.info("shutting down")
        self._begins("shutting down")
        await shutdown.step("services", node.supervisor.stop("services"), 5)  # no further one starts
        if node.is_complete:
            await shutdown.step("containers", node.containers.close(), 30)
            await shutdown.step("files", node.files.close_all(), 5)
            if self._init:  # a file system of the node may lie on one of them
                await shutdown.step("file systems", blocking.run("disk", machine.flush_disks), 30)
            await shutdown.step("vdisks", node.blocks.close(), 60)
        if hasattr(node, "networks"):
            await shutdown.step("networks", node.networks.close(), 20)
        await shutdown.step("jobs", self.jobs.shutdown(keep=lambda _: False, grace_s=_GRACE_S), 30)
        await shutdown.step("gate", self.gate.stop(), 5)  # so late that clients still get their results
        if self.local is not None:
            await shutdown.step("local socket", self.local.stop(), 5)
        await shutdown.step("bus", self.bus.close(), 5)
        if node.is_complete:
            await shutdown.step("flist mounts", node.supervisor.stop("g8ufs"), 5)
            await shutdown.step("flists", node.flists.close(), 10)
        if hasattr(node, "firewall"):
            await shutdown.step("firewall", node.firewall.close(), 10)
            await shutdown.step("claim", self._claim.release(), 5)
        if self.statistics is not None:
            await shutdown.step("statistics", self.statistics.stop(), 5)
        await shutdown.step("redis", self.redis.stop(), 10)
        await shutdown.step("subsystems", node.supervisor.close(), 10)
        if self._cache_disk is not None:
            await shutdown.step("cache disk", self._cache_disk.close(), 30)
        if self._init:
            await shutdown.step("disks", blocking.run("disk", machine.flush_disks), 30)


def _open_ports(settings: Config) -> list[int]:
    """What the node itself serves to others."""
    listening = (settings.gate.listen, settings.vdisk.listen, settings.stats.listen)
    ports = (address.rpartition(":")[2] for address in listening if address)
    return sorted({int(port) for port in ports if port.isdecimal()})


def _inventory() -> Inventory:
    """With the revision that the image was built from, if this is one."""
    release: dict[str, Any] = {}
    with contextlib.suppress(OSError, tomllib.TOMLDecodeError), open(_RELEASE, "rb") as file:
        release = tomllib.load(file)
    return Inventory(version=__version__, **release)


def _late_module() -> ModuleType:
    """Imported when the gate listens."""
    from g8node import late

    return late


def _statistics_module() -> ModuleType:
    """Imported as late as the others."""
    from g8node.boot import statistics

    return statistics


def all_commands() -> tuple[ModuleType, ...]:
    """Every command module of a node; needs no running one."""
    return (*EARLY, *_late_module().commands(), *_statistics_module().COMMANDS)


def run_agent(config_file: str, root: str) -> Never:
    """Serve below `root` until SIGTERM or SIGINT, then leave."""
    faulthandler.enable()
    try:
        settings = _read(config_file, [])
        lock = _lock(Paths(root))
        keeper = Paths(root).keeper
        if not survivor.join(keeper):
            prepare_agent_namespace()
        _run(Core0(settings, Paths(root), []))
        survivor.end(keeper)
    except NodeError as error:
        print(f"g8node: {error}", file=sys.stderr)  # noqa: T201 - no logs yet
        os._exit(100)
    except OSError as error:
        print(f"g8node: {error}", file=sys.stderr)  # noqa: T201
        os._exit(111)
    sys.stderr.flush()
    os.close(lock)
    os._exit(0)  # a thread that hangs on a dead store must not keep an agent that has stopped


def _lock(paths: Paths) -> int:
    """One agent a root: two would end each other's redis. The lock goes with the process."""
    os.makedirs(paths.run, exist_ok=True)
    lock = os.open(f"{paths.run}/g8node.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise Conflict(f"{paths.root} is in use by another agent") from error
    return lock


def run_init(config_file: str) -> Never:
    """PID 1: ends in a reboot or a power-off; a fatal error says so and reboots, never panics."""
    mode: Mode = "reboot"
    faulthandler.enable()
    console = Console(2, kernel_log=_kernel_log(), file=_LOG)
    try:
        os.environ.update(ENVIRON)
        with contextlib.suppress(OSError):
            machine.reboot(machine.CAD_OFF)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (_NOFILE, _NOFILE))
        with open("/proc/cmdline", encoding="utf-8", errors="replace") as file:
            words = cmdline.parse(file.read())
        settings = _read(config_file, words, console)
        mode = _run(Core0(settings, Paths("/"), words, console=console))
    except BaseException as error:  # process 1 must not die, whatever it is
        delay_s = _panic_delay_s()
        log.critical(f"fatal: {error}; reboot in {delay_s} s", exc_info=error)
        time.sleep(delay_s)
    console.drained(_CONSOLE_S)
    while True:
        with contextlib.suppress(OSError):
            machine.reboot(machine.POWER_OFF if mode == "poweroff" else machine.RESTART)
        time.sleep(1)


def _kernel_log() -> int:
    try:
        return os.open("/dev/kmsg", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return -1


def _panic_delay_s() -> int:
    """How long the operator wants to read it: the kernel's panic=, which /init sets to 30 by default."""
    try:
        with open(_PANIC, encoding="ascii") as file:
            delay_s = int(file.read())
    except (OSError, ValueError):
        return 30
    return delay_s if delay_s >= 0 else 1


def _read(config_file: str, words: list[tuple[str, str]], console: Console | None = None) -> Config:
    text = ""
    with contextlib.suppress(FileNotFoundError), open(config_file, encoding="utf-8") as file:
        text = file.read()
    settings, warnings = config.load(text, file=config_file, overrides=words)
    level = "debug" if ("debug", "") in words else settings.main.log_level
    if console is None:
        logs.configure(level)
    else:
        logs.configure(level, console, keep=console.keep, turn=console.turn)
    for warning in warnings:
        log.warning(warning)
    return settings


def _run(core0: Core0) -> Mode:
    # One malloc arena for all threads: those of the pools would keep one each, a fifth of our memory.
    ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(core0.run())
