"""The OCI config: what a spec becomes."""

from dataclasses import replace
from typing import Any

import pytest

from g8node.errors import InvalidArgument
from g8node.linux.devices import Device
from g8node.node import bundle, specs
from g8node.node.bundle import Host, Place
from g8node.node.image import program
from g8node.node.nicspec import Nic
from g8node.node.policies import HealthCheck
from g8node.node.specs import Spec
from g8node.node.users import User

ALL = (1 << len(bundle.CAPABILITIES)) - 1
HOST = Host(capabilities=ALL, cgroups=True, open_files=1 << 20)
PLACE = Place(id=7, rootfs="/c/7/rootfs", cgroup="g8/c7")


def config(host: Host = HOST, place: Place = PLACE, **fields: Any) -> dict[str, Any]:
    spec = Spec(root="x", **fields)
    return bundle.config(spec, host, replace(place, program=program(spec, {})))


def targets(made: dict[str, Any]) -> list[str]:
    return [mount["destination"] for mount in made["mounts"]]


def test_command_string_is_split_as_a_shell_would() -> None:
    assert specs.command(Spec(root="x", command="echo 'a b' c")) == ["echo", "a b", "c"]
    assert specs.command(Spec(root="x", command=["echo", "a b"])) == ["echo", "a b"]


def test_no_command_waits_in_the_init() -> None:
    empty: list[str] = []
    for nothing in (None, "", empty):
        made = config(command=nothing)
        assert made["process"]["args"] == ["/dev/init", "-P"]
        assert targets(made).index("/dev/init") > targets(made).index("/dev")


def test_environment_merges_over_defaults_and_names_the_container() -> None:
    made = config(env={"PATH": "/bin", "G8NODE_CONTAINER_ID": "0"})
    assert made["process"]["env"] == ["PATH=/bin", "HOME=/", "G8NODE_CONTAINER_ID=7"]


def test_default_capabilities_are_fourteen() -> None:
    made = config()
    sets = made["process"]["capabilities"]
    assert len(sets["bounding"]) == 14
    assert sets.keys() == {"bounding", "effective", "permitted"}


def test_device_nodes_cannot_be_made_where_no_cgroup_guards_them() -> None:
    made = config(Host(ALL, cgroups=False, open_files=1024))
    assert "CAP_MKNOD" not in made["process"]["capabilities"]["bounding"]
    assert "cgroupsPath" not in made["linux"]
    assert "resources" not in made["linux"]


def test_capabilities_are_never_more_than_our_own() -> None:
    host = Host(ALL & ~(1 << bundle.CAPABILITIES.index("CAP_SYS_RESOURCE")), True, 1024)
    assert "CAP_SYS_RESOURCE" not in bundle.capabilities(Spec(root="x", privileged=True), host)


def test_privileged_has_no_filter_and_no_masks() -> None:
    made = config(privileged=True)
    assert not made["linux"].keys() & {"seccomp", "maskedPaths", "readonlyPaths"}
    assert made["linux"]["resources"]["devices"] == [{"allow": True, "access": "rwm"}]
    assert len(made["process"]["capabilities"]["bounding"]) == len(bundle.CAPABILITIES)


def test_devices_are_denied_first() -> None:
    assert config()["linux"]["resources"]["devices"][0] == {"allow": False, "access": "rwm"}


def test_given_device_is_allowed_as_it_is_given() -> None:
    node = Device("/dev/own", "b", 8, 1, 0o660, 0, 6)
    made = config(place=replace(PLACE, devices=((node, "r"),)))
    assert made["linux"]["devices"][0]["path"] == "/dev/own"
    rule = {"allow": True, "type": "b", "major": 8, "minor": 1, "access": "r"}
    assert made["linux"]["resources"]["devices"][-1] == rule


def test_limits_are_resources() -> None:
    made = config(place=replace(PLACE, resources={"unified": {"pids.max": "5"}}))
    assert made["linux"]["resources"]["unified"] == {"pids.max": "5"}
    assert "devices" in made["linux"]["resources"]


def test_user_other_than_root_holds_no_capability() -> None:
    made = config(place=replace(PLACE, user=User(33, 34, (35,))))["process"]
    assert made["user"] == {"uid": 33, "gid": 34, "additionalGids": [35]}
    assert (made["capabilities"]["effective"], made["capabilities"]["permitted"]) == ([], [])
    assert len(made["capabilities"]["bounding"]) == 14


def test_host_network_has_no_network_namespace() -> None:
    kinds = [row["type"] for row in config(host_network=True)["linux"]["namespaces"]]
    assert kinds == ["pid", "mount", "ipc", "uts", "cgroup"]
    assert "network" in [row["type"] for row in config()["linux"]["namespaces"]]


def test_network_namespace_is_the_one_that_was_made() -> None:
    made = config(place=Place(id=1, rootfs="/r", cgroup="g", netns="/proc/1/fd/9"))
    assert {"type": "network", "path": "/proc/1/fd/9"} in made["linux"]["namespaces"]


def test_nested_mounts_come_after_the_outer_ones() -> None:
    binds = (("/3", "/a/b/c"), ("/1", "/a/"), ("/2", "/a/b"))
    made = config(place=Place(id=1, rootfs="/r", cgroup="g", binds=binds))
    assert targets(made)[-3:] == ["/a/", "/a/b", "/a/b/c"]


def test_open_files_stay_below_our_own_limit() -> None:
    rows = config(Host(ALL, True, 20000))["process"]["rlimits"]
    limit = next(row for row in rows if row["type"] == "RLIMIT_NOFILE")
    assert (limit["soft"], limit["hard"]) == (20000, 20000)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"root": ""}, "root"),
        ({"nics": [Nic(type="bridge")]}, r"nics\[0\]"),
        ({"port": {"0": 80}}, "port"),
        ({"hostname": "a b"}, "hostname"),
        ({"hostname": "-a"}, "hostname"),
        ({"hostname": "a" * 65}, "hostname"),
        ({"env": {"": "x"}}, "env"),
        ({"env": {"A": "x\0"}}, "env"),
        ({"mount": {"tmp": "/mnt"}}, "mount"),
        ({"mount": {"/tmp": "/"}}, "mount"),
        ({"mount": {"/tmp": "/a/../."}}, "mount"),
        ({"mount": {"/tmp": "//dev/"}}, "mount"),
        ({"mount": {"/tmp": "/proc"}}, "mount"),
        ({"mount": {"http://x": "mnt"}}, "mount"),
        ({"config": {"/": "x"}}, "config"),
        ({"command": "'"}, "command"),
        ({"command": ["a\0"]}, "command"),
        ({"user": "a b"}, "user"),
        ({"tmpfs": {"/": 4096}}, "tmpfs"),
        ({"devices": ["/dev/../etc/passwd"]}, "devices"),
        ({"devices": ["/dev/a//b"]}, "devices"),
        ({"sysctls": {"kernel.hostname": "x"}}, "sysctls"),
        ({"sysctls": {"net.a": "x"}, "host_network": True}, "sysctls"),
        ({"health": HealthCheck(command="")}, "health"),
    ],
)
def test_wrong_field_is_named(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidArgument, match=named):
        specs.validate(Spec(**{"root": "x", **fields}))


def test_mounts_host_knows_paths_from_flists() -> None:
    assert specs.mounts_host(Spec(mount={"/tmp": "/a"}))
    assert not specs.mounts_host(Spec(mount={"http://hub/x.flist": "/a"}))
    assert not specs.mounts_host(Spec())
