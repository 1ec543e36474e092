"""Control groups and statistics on a booted node, where version 2 is clean."""

import hashlib
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.hub import hub
from tests.support.images import busybox_tree, publish
from tests.support.vm import NodeVm, node

pytestmark = [pytest.mark.root, pytest.mark.qemu, pytest.mark.slow]

NO_LIMIT = 9223372036854771712


@pytest.fixture(scope="module")
def vm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeVm]:
    with node(tmp_path_factory.mktemp("vm"), append=["g8.stats.period_s=2", "g8.g8ufs.view=tree"]) as booted:
        yield booted


def group(vm: NodeVm, command: str, **arguments: Any) -> Any:
    """The answer of cgroup.<command> for memory/box unless told otherwise."""
    return call(vm, f"cgroup.{command}", **({"subsystem": "memory", "name": "box"} | arguments))


def call(vm: NodeVm, command: str, **arguments: Any) -> Any:
    """As vm.direct, for arguments that are called name."""
    return json.loads(vm.gate.execute_command(command, json.dumps(arguments)))


def failure(vm: NodeVm, command: str, arguments: dict[str, Any]) -> tuple[int, str]:
    result = vm.job(command, arguments)
    assert result["state"] == "ERROR"
    return result["code"], json.loads(result["data"])


@pytest.fixture
def box(vm: NodeVm) -> Iterator[str]:
    """A group named box of both subsystems."""
    for subsystem in ("memory", "cpuset"):
        assert group(vm, "ensure", subsystem=subsystem) is None
    yield "box"
    for subsystem in ("memory", "cpuset"):
        group(vm, "remove", subsystem=subsystem)


def test_groups_are_listed_by_subsystem(vm: NodeVm) -> None:
    assert vm.direct("cgroup.list") == {}
    group(vm, "ensure")
    group(vm, "ensure")
    group(vm, "ensure", subsystem="cpuset", name="other")
    assert vm.direct("cgroup.list") == {"cpuset": ["other"], "memory": ["box"]}
    group(vm, "remove")
    group(vm, "remove")  # gone is gone
    group(vm, "remove", subsystem="cpuset", name="other")
    assert vm.direct("cgroup.list") == {}


def test_group_of_one_subsystem_is_not_one_of_the_other(vm: NodeVm) -> None:
    group(vm, "ensure")
    missing = (404, "cgroup does not exist")
    assert failure(vm, "cgroup.tasks", {"subsystem": "cpuset", "name": "box"}) == missing
    assert failure(vm, "cgroup.cpuset.spec", {"name": "box"}) == missing
    group(vm, "remove")
    assert failure(vm, "cgroup.reset", {"subsystem": "memory", "name": "box"}) == missing


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../g8", "x" * 65, "a b", ".hidden"])
def test_bad_names_are_refused(vm: NodeVm, name: str) -> None:
    code, text = failure(vm, "cgroup.ensure", {"subsystem": "memory", "name": name})
    assert code == 400
    assert "name" in text


def test_reset_group_has_no_limits(vm: NodeVm, box: str) -> None:
    limits = call(vm, "cgroup.memory.spec", name=box)
    assert limits["swap"] == 0
    assert limits["mem"] > 200 * 1024 * 1024
    call(vm, "cgroup.memory.spec", name=box, mem=64 << 20)
    group(vm, "reset")
    assert call(vm, "cgroup.memory.spec", name=box) == {"mem": NO_LIMIT, "swap": 0}


def test_memory_limit_is_the_kernel_s(vm: NodeVm, box: str) -> None:
    spec = call(vm, "cgroup.memory.spec", name=box, mem=100 << 20, swap=50 << 20)
    assert spec == {"mem": 100 << 20, "swap": 50 << 20}
    assert call(vm, "cgroup.memory.spec", name=box, mem=80 << 20) == {"mem": 80 << 20, "swap": 0}
    assert call(vm, "cgroup.memory.spec", name=box) == {"mem": 80 << 20, "swap": 0}
    shown = vm.job("bash", {"script": "cat /sys/fs/cgroup/g8-host/g-box/memory.max"})
    assert shown["streams"][0] == f"{80 << 20}\n"


def test_memory_limit_ends_a_hog_and_nothing_else(vm: NodeVm, box: str) -> None:
    call(vm, "cgroup.memory.spec", name=box, mem=16 << 20)
    script = "while [ ! -e /tmp/go ]; do sleep 0.1; done; head -c 200m /dev/zero | tail -n 1 | wc -c"
    push(vm, "hog", "bash", script=script)
    (job,) = wait_for_pid(vm, "hog")
    group(vm, "task-add", pid=job["pid"])
    assert job["pid"] in group(vm, "tasks")
    vm.job("bash", {"script": "touch /tmp/go"})
    ended = vm.result("hog")
    assert ended["streams"][0].strip() in ("", "0")
    assert vm.job("core.ping", {})["state"] == "SUCCESS"


def push(vm: NodeVm, id: str, command: str, **arguments: Any) -> None:
    vm.gate.rpush("core:default", json.dumps({"id": id, "command": command, "arguments": arguments}))


def wait_for_pid(vm: NodeVm, id: str) -> list[dict[str, Any]]:
    deadline = time.monotonic() + 90
    while True:
        rows: list[dict[str, Any]] = [row for row in vm.direct("job.list") if row["cmd"]["id"] == id]
        if rows and rows[0]["pid"]:
            return rows
        assert time.monotonic() < deadline, f"job {id} has no process"
        time.sleep(0.05)


def test_tasks_come_and_go(vm: NodeVm, box: str) -> None:
    push(vm, "sleeper", "core.system", name="sleep", args=["600"])
    (job,) = wait_for_pid(vm, "sleeper")
    pid = job["pid"]
    group(vm, "task-add", pid=pid)
    assert group(vm, "tasks") == [pid]
    assert group(vm, "tasks", subsystem="cpuset") == [pid]
    group(vm, "task-remove", pid=pid)
    assert group(vm, "tasks") == []
    assert failure(vm, "cgroup.task-remove", {"subsystem": "memory", "name": box, "pid": pid})[0] == 404
    group(vm, "task-add", pid=pid)
    group(vm, "remove")
    assert group(vm, "tasks", subsystem="cpuset") == [pid]
    group(vm, "remove", subsystem="cpuset")  # the last one: its member goes home
    shown = vm.job(
        "bash", {"script": f"sed s/^/in-/ /proc/{pid}/cgroup; ls /sys/fs/cgroup/g8-host | grep -c g-"}
    )
    assert shown["streams"][0] == "in-0::/\n0\n"  # 0:: at the beginning of a line would be a level
    vm.direct("job.kill", id="sleeper", signal=9)


def test_group_goes_with_members_that_are_dying_and_forking(vm: NodeVm) -> None:
    """What is dying moves to no other group, and is a member for as long as its memory is given back."""
    group(vm, "ensure")
    large = "b = bytearray(100 << 20); print(flush=True); import time; time.sleep(600)"
    push(vm, "large", "core.system", name="python3", args=["-c", large])
    push(vm, "forking", "bash", script="while :; do (:); done")
    for id in ("large", "forking"):
        (job,) = wait_for_pid(vm, id)
        group(vm, "task-add", pid=job["pid"])
    size = f"grep VmRSS /proc/{wait_for_pid(vm, 'large')[0]['pid']}/status"
    deadline = time.monotonic() + 90
    while int(vm.job("bash", {"script": size})["streams"][0].split()[1]) < 100 << 10:
        assert time.monotonic() < deadline
    vm.direct("job.kill", id="large", signal=9)
    group(vm, "remove")
    assert vm.direct("cgroup.list") == {}
    vm.direct("job.kill", id="forking", signal=9)


def test_node_itself_and_strangers_are_no_tasks(vm: NodeVm, box: str) -> None:
    assert failure(vm, "cgroup.task-add", {"subsystem": "memory", "name": box, "pid": 1})[0] == 400
    gone = failure(vm, "cgroup.task-add", {"subsystem": "memory", "name": box, "pid": 4194000})
    assert gone == (404, "process does not exist")


def test_cpuset_is_the_kernel_s(vm: NodeVm, box: str) -> None:
    assert call(vm, "cgroup.cpuset.spec", name=box) == {"cpus": "0-1", "mems": "0"}
    assert call(vm, "cgroup.cpuset.spec", name=box, cpus="1", mems=None) == {"cpus": "1", "mems": "0"}
    group(vm, "reset", subsystem="cpuset")
    assert call(vm, "cgroup.cpuset.spec", name=box) == {"cpus": "0-1", "mems": "0"}


@pytest.mark.parametrize(
    ("field", "text"), [("cpus", "abc"), ("cpus", "1-"), ("mems", "0\n"), ("cpus", "99999")]
)
def test_bad_cpusets_are_refused(vm: NodeVm, box: str, field: str, text: str) -> None:
    code, _ = failure(vm, "cgroup.cpuset.spec", {"name": box, field: text})
    assert code == 400


def test_monitor_measures_the_machine(vm: NodeVm) -> None:
    for domain in ("cpu", "disk", "memory", "network"):
        vm.direct("monitor", domain=domain)
    found = vm.direct("aggregator.query", tags={"type": "phys"})
    assert {"machine.CPU.percent/0", "machine.CPU.percent/1", "machine.memory.ram.available"} <= found.keys()
    nics = [state for name, state in found.items() if name.startswith("network.packets.rx/")]
    assert {"key": "kind", "value": "device"} in nics[0]["tags"]
    assert 0 <= found["machine.CPU.percent/0"]["last_value"] <= 100


def test_containers_are_measured(vm: NodeVm, tmp_path: Path) -> None:
    with hub(tmp_path) as running:
        url = publish(running, busybox_tree(tmp_path / "tree"), "busybox").replace("127.0.0.1", "10.0.2.2")
        container = json.loads(vm.job("corex.create", {"root": url})["data"])
        script = "echo '10::inner:4|A|id=x'"
        inner = {"id": "metric", "command": "bash", "arguments": {"script": script}}
        vm.direct("corex.dispatch", container=container, command=inner)
        vm.result("metric")
        assert f"core-{container}.inner/x" in vm.direct("aggregator.query")
        key = f"core-{container}.machine.memory.ram.used"
        deadline = time.monotonic() + 90
        while not (found := vm.direct("aggregator.query", key=key)):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert 0 < found[key]["last_value"] < 100
        vm.direct("corex.terminate", container=container)


@pytest.fixture(scope="module")
def flist(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A busybox root that the node can fetch."""
    folder = tmp_path_factory.mktemp("flist")
    with hub(folder) as running:
        yield publish(running, busybox_tree(folder / "tree"), "busybox").replace("127.0.0.1", "10.0.2.2")


def created(vm: NodeVm, arguments: dict[str, Any]) -> int:
    result = vm.job("corex.create", arguments)
    assert result["state"] == "SUCCESS", result
    id: int = json.loads(result["data"])
    return id


def shown(vm: NodeVm, container: int, *files: str) -> list[str]:
    """The container's own control group files, as it sees them."""
    script = f"cd /sys/fs/cgroup; for f in {' '.join(files)}; do echo =$(cat $f); done"
    id = vm.direct(
        "corex.dispatch", container=container, command={"command": "bash", "arguments": {"script": script}}
    )
    out: str = vm.result(id)["streams"][0]
    return [line[1:] for line in out.splitlines()]


def test_containers_of_this_node_stand_on_the_tree_view(vm: NodeVm, flist: str) -> None:
    id = created(vm, {"root": flist})
    script = "head -c 3 /data/6; md5sum /data/7"
    job = vm.direct(
        "corex.dispatch", container=id, command={"command": "bash", "arguments": {"script": script}}
    )
    content = b"HHH" + random.Random(7).randbytes(2 << 20)
    assert vm.result(job)["streams"][0] == f"GGG{hashlib.md5(content).hexdigest()}  /data/7\n"
    kinds = vm.job("bash", {"script": "cut -d ' ' -f 3 /proc/mounts"})["streams"][0].split()
    assert "fuse.g8ufs" in kinds
    assert "erofs" not in kinds
    vm.direct("corex.terminate", container=id)


def test_containers_in_a_group_share_its_limits(vm: NodeVm, box: str, flist: str) -> None:
    call(vm, "cgroup.memory.spec", name=box, mem=64 << 20)
    call(vm, "cgroup.cpuset.spec", name=box, cpus="1")
    both = [["memory", box], ["cpuset", box]]
    ids = [created(vm, {"root": flist, "cgroups": both, "limits": {"pids": 50}}) for _ in range(2)]
    pids = [vm.direct("corex.get", query=id)["container"]["pid"] for id in ids]
    assert set(pids) <= set(group(vm, "tasks"))
    assert shown(vm, ids[0], "pids.max", "memory.max", "cpuset.cpus.effective") == ["50", "max", "1"]
    listed = vm.direct("corex.get", query=ids[0])["container"]["arguments"]["cgroups"]
    assert listed == both
    push(vm, "beside", "core.system", name="sleep", args=["600"])  # a process of the node beside them
    (job,) = wait_for_pid(vm, "beside")
    group(vm, "task-add", pid=job["pid"])
    assert {job["pid"], *pids} <= set(group(vm, "tasks"))
    vm.direct("job.kill", id="beside", signal=9)
    assert failure(vm, "cgroup.task-remove", {"subsystem": "memory", "name": box, "pid": pids[0]})[0] == 404
    assert failure(vm, "cgroup.remove", {"subsystem": "memory", "name": box})[0] == 409
    # One system call that wants it all: nothing of the program is read again, again and again, meanwhile.
    hog = {
        "command": "bash",
        "arguments": {"script": "dd if=/dev/zero of=/dev/null bs=200M count=1; echo $?"},
    }
    ended = vm.result(vm.direct("corex.dispatch", container=ids[0], command=hog))
    assert ended["streams"][0].strip() == "137"
    for id in ids:
        vm.direct("corex.terminate", container=id)
    assert set(group(vm, "tasks")).isdisjoint(pids)


def test_groups_that_no_container_can_be_in_are_refused(vm: NodeVm, box: str, flist: str) -> None:
    for cgroups, code in (([["memory", "nothing"]], 404), ([["memory", box], ["cpuset", "other"]], 400)):
        refused, text = failure(vm, "corex.create", {"root": flist, "cgroups": cgroups})
        assert (refused, "cgroups" in text) == (code, True)
    assert vm.job("core.gc", {"dry_run": True})["data"] == "[]"


def test_backup_comes_back(vm: NodeVm, flist: str) -> None:
    script = "echo word >/tmp/word; restic --no-cache -p /tmp/word -r /tmp/repo init"
    assert vm.job("bash", {"script": script}, wait_s=300)["state"] == "SUCCESS"
    id = created(vm, {"root": flist, "name": "saved"})
    inner = {"command": "bash", "arguments": {"script": "echo mine >/own"}}
    vm.result(vm.direct("corex.dispatch", container=id, command=inner))
    done = vm.job("corex.backup", {"container": id, "url": "/tmp/repo?password=word"}, wait_s=300)
    assert done["state"] == "SUCCESS", done
    assert shown(vm, id, "cgroup.freeze") == ["0"]
    vm.direct("corex.terminate", container=id)
    url = f"/tmp/repo?password=word#{json.loads(done['data'])}"
    again = json.loads(vm.job("corex.restore", {"url": url}, wait_s=300)["data"])
    inner = {"command": "bash", "arguments": {"script": "cat /own; head -c 3 /data/6"}}
    assert vm.result(vm.direct("corex.dispatch", container=again, command=inner))["streams"][0] == "mine\nGGG"
    vm.direct("corex.terminate", container=again)
    vm.job("bash", {"script": "rm -r /tmp/repo; ls /var/cache/g8node/restored"})


LIMIT_FILES = ("cpu.max", "memory.max", "memory.swap.max", "pids.max")


def test_limits_of_a_container_are_the_kernel_s_and_change_while_it_runs(vm: NodeVm, flist: str) -> None:
    limits = {"cpu": 0.5, "memory": 64 << 20, "pids": 50}
    id = created(vm, {"root": flist, "limits": limits})
    assert shown(vm, id, *LIMIT_FILES) == ["50000 100000", str(64 << 20), "0", "50"]
    changed = vm.direct("corex.limits", container=id, limits={"pids": 0, "memory": 80 << 20, "cpu": None})
    assert {key: value for key, value in changed.items() if value} == {"cpu": 0.5, "memory": 80 << 20}
    assert shown(vm, id, *LIMIT_FILES) == ["50000 100000", str(80 << 20), "0", "max"]
    listed = vm.direct("corex.get", query=id)["container"]["arguments"]["limits"]
    assert listed["memory"] == 80 << 20
    stats = vm.direct("corex.stats", container=id)
    assert (stats["source"], stats["memory"]["limit"]) == ("cgroup", 80 << 20)
    assert 0 < stats["memory"]["used"] <= stats["memory"]["peak"]
    assert stats["cpu"]["used_s"] > 0
    code, text = failure(vm, "corex.limits", {"container": id, "limits": {"io": {"/dev/g8-nothing": {}}}})
    assert (code, "limits.io" in text) == (404, True)
    code, text = failure(vm, "corex.limits", {"container": id, "limits": {"io": {"/dev/null": {}}}})
    assert (code, "limits.io" in text) == (400, True)
    vm.direct("corex.terminate", container=id)


def test_io_limits_are_the_kernel_s(vm: NodeVm, flist: str) -> None:
    script = """truncate -s 8M /tmp/disk; modprobe loop; d=$(losetup -f); losetup $d /tmp/disk
        cat /sys/block/${d#/dev/}/dev; echo $d"""
    made = vm.job("bash", {"script": script})
    numbers, device = made["streams"][0].split()
    id = created(vm, {"root": flist, "limits": {"io": {device: {"read_bps": 1 << 20}}}})
    assert shown(vm, id, "io.max") == [f"{numbers} rbps=1048576 wbps=max riops=max wiops=max"]
    vm.direct("corex.limits", container=id, limits={"io": {device: {"read_bps": 0, "write_iops": 9}}})
    assert shown(vm, id, "io.max") == [f"{numbers} rbps=max wbps=max riops=max wiops=9"]
    vm.direct("corex.terminate", container=id)
    vm.job("bash", {"script": f"losetup -d {device}; rm /tmp/disk"})


def test_out_of_memory_is_told_in_the_result(vm: NodeVm, flist: str) -> None:
    hog = "head -c 200m /dev/zero | tail -n 1 | wc -c"
    arguments = {"root": flist, "limits": {"memory": 24 << 20}, "command": ["sh", "-c", hog]}
    id = created(vm, arguments)
    result = vm.result(f"core-{id}")
    assert "out of memory: 1 of its processes killed, the limit is 25165824 bytes" in result["critical"]


def test_out_of_memory_of_a_child_is_told_while_the_container_lives(vm: NodeVm, flist: str) -> None:
    arguments = {"root": flist, "limits": {"memory": 24 << 20}, "name": "oom-child"}
    id = created(vm, arguments)
    hog = {"command": "bash", "arguments": {"script": "head -c 200m /dev/zero | tail -n 1 | wc -c"}}
    vm.result(vm.direct("corex.dispatch", container=id, command=hog))
    deadline = time.monotonic() + 90
    while "oom" not in (seen := told(vm, id)):
        assert time.monotonic() < deadline, seen
        time.sleep(0.2)
    vm.direct("corex.terminate", container=id)


def told(vm: NodeVm, id: int) -> list[str]:
    """The last events of the container."""
    subscription = vm.job("core.subscribe", {"id": "corex.events", "follow": False}, stream=True)
    raw = vm.gate.lrange(f"stream:{subscription['id']}", 0, -1)
    events = [json.loads(text) for message in raw if (text := json.loads(message)["message"]["message"])]
    return [event["event"] for event in events if event["id"] == id]
