"""What each method of the client sends, by the table of spec core0-protocol 6.1 and core0-resources."""

import inspect
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from g8node.errors import InvalidArgument
from g8tools.g8 import aio, client, flow
from g8tools.g8.flow import Blocking, Flow, Request
from g8tools.g8.host import HostClient

ID = "00000000-0000-0000-0000-000000000000"
MEDIA = {"url": "/x"}


class Recorder(HostClient[Blocking]):
    """Answers every command with null, and notes it."""

    def __init__(self) -> None:
        super().__init__(1)
        self.sent: list[dict[str, Any]] = []

    def perform(self, flow: Flow[Any]) -> Any:
        return client.run_blocking(flow, self._reply)

    def _reply(self, request: Request) -> Any:
        if request.words[0] == "RPUSH":
            self.sent.append(msgspec.json.decode(request.words[2]))  # type: ignore[arg-type]
            return 1
        wire = self.sent[-1]
        data = '"inner"' if wire["command"] == "corex.dispatch" else "null"
        result = {"id": wire["id"], "command": wire["command"], "state": "SUCCESS", "level": 20, "data": data}
        return 1 if request.words[0] == "EXISTS" else msgspec.json.encode(result)


Row = tuple[Callable[[Any], object], str, dict[str, Any]]

ROWS: list[Row] = [
    (lambda c: c.bridge.create("b", "aa:bb:cc:dd:ee:ff", "dnsmasq", True, {"cidr": "x"}), "bridge.create",
     {"name": "b", "hwaddr": "aa:bb:cc:dd:ee:ff",
      "network": {"mode": "dnsmasq", "nat": True, "settings": {"cidr": "x"}}}),
    (lambda c: c.bridge.create("b", network="none"), "bridge.create",
     {"name": "b", "network": {"mode": None, "nat": False, "settings": {}}}),
    (lambda c: c.bridge.list(), "bridge.list", {}),
    (lambda c: c.bridge.delete("b"), "bridge.delete", {"name": "b"}),
    (lambda c: c.bridge.add_host("b", "i", "m"), "bridge.host-add", {"bridge": "b", "ip": "i", "mac": "m"}),
    (lambda c: c.bridge.nic_add("b", "n"), "bridge.nic-add", {"name": "b", "nic": "n"}),
    (lambda c: c.bridge.nic_remove("n"), "bridge.nic-remove", {"nic": "n"}),
    (lambda c: c.bridge.nic_list("b"), "bridge.nic-list", {"name": "b"}),
    (lambda c: c.nft.open_port(22, "eth0", "10.0.0.0/8"), "nft.open_port",
     {"port": 22, "interface": "eth0", "subnet": "10.0.0.0/8"}),
    (lambda c: c.nft.drop_port(22), "nft.drop_port", {"port": 22}),
    (lambda c: c.nft.list(), "nft.list", {}),
    (lambda c: c.nft.rule_exists(22), "nft.rule_exists", {"port": 22}),
    (lambda c: c.zerotier.join("n"), "zerotier.join", {"network": "n"}),
    (lambda c: c.zerotier.leave("n"), "zerotier.leave", {"network": "n"}),
    (lambda c: c.zerotier.list(), "zerotier.list", {}),
    (lambda c: c.zerotier.info(), "zerotier.info", {}),
    (lambda c: c.kvm.create("v", [MEDIA], port={80: 8080}), "kvm.create",
     {"name": "v", "media": [MEDIA], "cpu": 2, "memory": 512, "nics": [], "port": {"80": 8080},
      "share_cache": False, "kvm": False}),
    (lambda c: c.kvm.prepare_migration_target(ID), "kvm.prepare_migration_target", {"uuid": ID, "nics": []}),
    (lambda c: c.kvm.destroy(ID), "kvm.destroy", {"uuid": ID}),
    (lambda c: c.kvm.shutdown(ID), "kvm.shutdown", {"uuid": ID}),
    (lambda c: c.kvm.reboot(ID), "kvm.reboot", {"uuid": ID}),
    (lambda c: c.kvm.reset(ID), "kvm.reset", {"uuid": ID}),
    (lambda c: c.kvm.pause(ID), "kvm.pause", {"uuid": ID}),
    (lambda c: c.kvm.resume(ID), "kvm.resume", {"uuid": ID}),
    (lambda c: c.kvm.info(ID), "kvm.info", {"uuid": ID}),
    (lambda c: c.kvm.infops(ID), "kvm.infops", {"uuid": ID}),
    (lambda c: c.kvm.list(), "kvm.list", {}),
    (lambda c: c.kvm.get(name="v"), "kvm.get", {"name": "v"}),
    (lambda c: c.kvm.attach_disk(ID, MEDIA), "kvm.attach_disk", {"uuid": ID, "media": MEDIA}),
    (lambda c: c.kvm.detach_disk(ID, MEDIA), "kvm.detach_disk", {"uuid": ID, "media": MEDIA}),
    (lambda c: c.kvm.add_nic(ID, "bridge", "b"), "kvm.add_nic", {"uuid": ID, "type": "bridge", "id": "b"}),
    (lambda c: c.kvm.remove_nic(ID, "bridge", "b"), "kvm.remove_nic",
     {"uuid": ID, "type": "bridge", "id": "b"}),
    (lambda c: c.kvm.limit_disk_io(ID, MEDIA, totaliopssec=9, totaliopssecset=True), "kvm.limit_disk_io",
     {"uuid": ID, "media": MEDIA, "totaliopssec": 9, "totaliopssecset": True}),
    (lambda c: c.kvm.migrate(ID, "u"), "kvm.migrate", {"uuid": ID, "desturi": "u"}),
    (lambda c: c.kvm.add_portfoward(ID, 80, 8080), "kvm.portforward-add",
     {"uuid": ID, "host_port": "80", "container_port": 8080}),
    (lambda c: c.kvm.remove_portfoward(ID, "80", 8080), "kvm.portforward-remove",
     {"uuid": ID, "host_port": "80", "container_port": 8080}),
    (lambda c: c.kvm.create_image("f", "raw", "1G"), "kvm.create-image",
     {"file_name": "f", "format": "raw", "size": "1G"}),
    (lambda c: c.kvm.convert_image("a", "b", "raw"), "kvm.convert-image",
     {"input_file": "a", "output_file": "b", "output_format": "raw"}),
    (lambda c: c.rtinfo.start(disks=["sd"]), "rtinfo.start",
     {"host": "localhost", "port": 8999, "disks": ["sd"]}),
    (lambda c: c.rtinfo.stop("h", 1), "rtinfo.stop", {"host": "h", "port": 1}),
    (lambda c: c.socat.reserve(), "socat.reserve", {"number": 1}),
    (lambda c: c.container.create("r").get(), "corex.create",
     {"root": "r", "host_network": False, "nics": [{"type": "default"}], "privileged": False}),
    (lambda c: c.container.create("r", nics=None, port={"eth0:80": 8080}, cgroups=[("memory", "g")]).get(),
     "corex.create", {"root": "r", "host_network": False, "nics": [], "privileged": False,
                      "port": {"eth0:80": 8080}, "cgroups": [["memory", "g"]]}),
    (lambda c: c.container.create("r", nics=[], user="web", limits={"pids": 9}).get(), "corex.create",
     {"root": "r", "host_network": False, "nics": [], "privileged": False, "user": "web",
      "limits": {"pids": 9}}),
    (lambda c: c.container.nic_add(1, {"type": "bridge", "id": "b"}), "corex.nic-add",
     {"container": 1, "nic": {"type": "bridge", "id": "b"}}),
    (lambda c: c.container.nic_remove(1, 0), "corex.nic-remove", {"container": 1, "index": 0}),
    (lambda c: c.container.add_portforward(1, 80, 8080), "corex.portforward-add",
     {"container": 1, "host_port": "80", "container_port": 8080}),
    (lambda c: c.container.remove_portforward(1, "zt*:80", 8080), "corex.portforward-remove",
     {"container": 1, "host_port": "zt*:80", "container_port": 8080}),
    (lambda c: c.container.layer(1, "f"), "corex.flist-layer", {"container": 1, "flist": "f"}),
    (lambda c: c.container.backup(1, "file:/r").get(), "corex.backup", {"container": 1, "url": "file:/r"}),
    (lambda c: c.container.restore("file:/r#1").get(), "corex.restore", {"url": "file:/r#1"}),
    (lambda c: c.container.client(3).zerotier.info(), "corex.zerotier.info", {"container": 3}),
    (lambda c: c.container.client(3).zerotier.list(), "corex.zerotier.list", {"container": 3}),
    (lambda c: c.container.client(3).flist.create("/s", "/f", "h:1").get(), "corex.flist.create",
     {"container": 3, "src": "/s", "flist": "/f", "storage": "h:1"}),
    (lambda c: c.job.kill("x"), "job.kill", {"id": "x", "signal": 15}),
    (lambda c: c.info.dmi("bios", 3), "info.dmi", {"types": ["bios", 3]}),
    (lambda c: c.disk.mount("/dev/sda1", "/mnt"), "disk.mount",
     {"source": "/dev/sda1", "target": "/mnt", "options": ""}),
    (lambda c: c.g8ufs.list(), "g8ufs.list", {}),
    (lambda c: c.g8ufs.stats(), "g8ufs.stats", {}),
    (lambda c: c.g8ufs.prefetch("/f", paths=["/a"]), "g8ufs.prefetch",
     {"flist": "/f", "storage": "", "paths": ["/a"]}),
    (lambda c: c.g8ufs.pin("/f"), "g8ufs.pin", {"flist": "/f"}),
    (lambda c: c.g8ufs.unpin("/f"), "g8ufs.unpin", {"flist": "/f"}),
    (lambda c: c.g8ufs.profile("/f"), "g8ufs.profile", {"flist": "/f"}),
    (lambda c: c.g8ufs.drop(), "g8ufs.drop", {}),
    (lambda c: c.volume.create("v", 1 << 26), "volume.create", {"name": "v", "size": 1 << 26}),
    (lambda c: c.volume.create("v"), "volume.create", {"name": "v"}),
    (lambda c: c.volume.list(), "volume.list", {}),
    (lambda c: c.volume.get("v"), "volume.get", {"name": "v"}),
    (lambda c: c.volume.remove("v"), "volume.remove", {"name": "v"}),
    (lambda c: c.core.reboot(), "core.reboot", {}),
    (lambda c: c.core.poweroff(), "core.poweroff", {}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("work", "command", "arguments"), ROWS, ids=[f"{n}-{row[1]}" for n, row in enumerate(ROWS)]
)
def test_method_sends_its_command(
    work: Callable[[Any], object], command: str, arguments: dict[str, Any]
) -> None:
    recorder = Recorder()
    work(recorder)
    assert [(wire["command"], wire["arguments"]) for wire in recorder.sent] == [(command, arguments)]


def test_command_inside_a_container_is_wrapped() -> None:
    recorder = Recorder()
    recorder.container.client("7").job.kill("x", 9)
    (wire,) = recorder.sent
    assert wire["command"] == "corex.dispatch"
    assert wire["arguments"]["container"] == 7
    inner = wire["arguments"]["command"]
    assert (inner["command"], inner["arguments"]) == ("job.kill", {"id": "x", "signal": 9})
    assert inner["id"]


def test_fields_of_a_job_are_sent_only_when_given() -> None:
    recorder = Recorder()
    recorder.raw("bash", {"script": "x", "stdin": None})
    recorder.raw("bash", {}, "q", 3, True, ["t"], "mine", 60, 2)
    plain, full = recorder.sent
    assert set(plain) == {"id", "command", "arguments"}
    assert plain["arguments"] == {"script": "x"}
    assert full == {
        "id": "mine", "command": "bash", "arguments": {}, "queue": "q", "max_time": 3, "stream": True,
        "tags": ["t"], "recurring_period": 60, "max_restart": 2,
    }  # fmt: skip


def test_words_are_split_as_a_shell_does() -> None:
    recorder = Recorder()
    recorder.system("sh -c 'a b'", env={"A": "b"})
    assert recorder.sent[0]["arguments"] == {
        "name": "sh", "args": ["-c", "a b"], "dir": "", "stdin": "", "env": {"A": "b"},
    }  # fmt: skip
    with pytest.raises(InvalidArgument):
        recorder.system("  ")
    with pytest.raises(InvalidArgument, match="arguments"):
        recorder.raw("x", {"a": object()})


def test_time_limit_of_a_view_leaves_the_client_alone() -> None:
    recorder = Recorder()
    patient = recorder.with_timeout(99)
    assert (recorder.timeout, patient.timeout) == (1, 99)
    patient.btrfs.list()
    assert patient.btrfs._client is patient
    assert recorder.sent[0]["command"] == "btrfs.list"


def test_stream_has_what_came_between_the_last_wait_and_the_end_of_the_job() -> None:
    """The job ends after the wait for a message gave up, and before it is asked whether the job lives."""
    said = [_record("last words", 1 << 16), _record("", 1 << 16 | 2)]
    asked: list[str] = []

    def reply(request: Request) -> Any:
        asked.append(str(request.words[0]))
        if len(asked) == 1:
            return None
        return 300 if request.words[0] == "TTL" else [b"stream:j", said.pop(0)]

    class Late(Recorder):
        def perform(self, flow: Flow[Any]) -> Any:
            return client.run_blocking(flow, reply)

    got: list[tuple[int, str, int]] = []
    assert Late().response_for("j").stream(lambda *message: got.append(message)) == 2
    assert got == [(1, "last words", 0), (1, "", 2)]
    assert asked[:2] == ["BLPOP", "TTL"]


def test_stream_without_a_callback_prints(capsys: pytest.CaptureFixture[str]) -> None:
    """None is what it is when nothing is said, in the original's."""

    class Short(Recorder):
        def perform(self, flow: Flow[Any]) -> Any:
            return client.run_blocking(flow, lambda _: [b"stream:j", _record("out\n", 1 << 16 | 2)])

    assert Short().response_for("j").stream(callback=None) == 1
    assert capsys.readouterr().out == "out\n"


def _record(text: str, meta: int) -> bytes:
    message = {"message": text, "epoch": 1, "meta": meta}
    return msgspec.json.encode({"core": 0, "command": "j", "message": message})


def test_both_clients_have_the_same_methods() -> None:
    assert client.Client.__mro__[1] is aio.Client.__mro__[1] is HostClient
    blocking = client.Client("127.0.0.1", ssl=False, testConnectionAttempts=0)
    looping = aio.Client("127.0.0.1", ssl=False)
    assert set(vars(blocking)) == set(vars(looping))
    signature = inspect.signature(client.Client)
    assert list(signature.parameters)[:7] == [
        "host", "port", "password", "db", "ssl", "timeout", "testConnectionAttempts",
    ]  # fmt: skip
    assert signature.parameters["ssl"].default is True


def test_help_shows_what_a_method_takes() -> None:
    method: Any = HostClient.direct
    assert list(inspect.signature(method).parameters)[:2] == ["self", "command"]
    assert "answer" in (inspect.getdoc(method) or "")
    bound = Recorder().job.kill
    assert list(inspect.signature(bound).parameters) == ["id", "signal"]


@pytest.mark.parametrize(
    ("hint", "good", "bad"),
    [
        (str, "x", 1),
        (int, 1, True),
        (int | str, "x", 1.5),
        (str | None, None, []),
        (list[str], ["a"], ["a", 1]),
        (dict[str, int], {"a": 1}, {"a": "b"}),
        (dict[int | str, int], {80: 1}, {80: "x"}),
        (bytes, b"x", "aGVsbG8="),
    ],
)
def test_arguments_are_checked_by_their_types(hint: Any, good: Any, bad: Any) -> None:
    def method(self: object, value: Any) -> Any:
        return value

    method.__annotations__["value"] = hint
    checking = flow.checked(method)
    assert checking(None, good) == good
    with pytest.raises(flow.ArgumentError, match="method: value: Expected"):
        checking(None, value=bad)
