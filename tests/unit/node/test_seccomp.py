"""The system call filter as data."""

from typing import Any

from g8node.node.bundle import CAPABILITIES, DEFAULT_CAPABILITIES
from g8node.node.seccomp import profile


def names(made: dict[str, Any], action: str) -> set[str]:
    return {
        name
        for rule in made["syscalls"]
        if rule["action"] == action and "args" not in rule
        for name in rule["names"]
    }


def test_no_call_is_both_allowed_and_refused() -> None:
    for capabilities in (frozenset(), DEFAULT_CAPABILITIES, frozenset(CAPABILITIES)):
        made = profile(frozenset(capabilities))
        assert not names(made, "SCMP_ACT_ALLOW") & names(made, "SCMP_ACT_ERRNO")


def test_unknown_calls_answer_enosys() -> None:
    made = profile(DEFAULT_CAPABILITIES)
    assert (made["defaultAction"], made["defaultErrnoRet"]) == ("SCMP_ACT_ERRNO", 38)


def test_dangerous_calls_are_refused_by_default() -> None:
    refused = names(profile(DEFAULT_CAPABILITIES), "SCMP_ACT_ERRNO")
    assert refused >= {
        "bpf",
        "kexec_load",
        "init_module",
        "open_by_handle_at",
        "setns",
        "userfaultfd",
        "settimeofday",
    }


def test_keys_of_the_node_are_out_of_reach() -> None:
    for capabilities in (DEFAULT_CAPABILITIES, frozenset(CAPABILITIES)):
        allowed = names(profile(frozenset(capabilities)), "SCMP_ACT_ALLOW")
        assert not allowed & {"add_key", "keyctl", "request_key"}


def test_a_capability_brings_its_calls() -> None:
    allowed = names(profile(DEFAULT_CAPABILITIES | {"CAP_SYS_ADMIN"}), "SCMP_ACT_ALLOW")
    assert {"bpf", "setns"} <= allowed
    assert "chroot" in names(profile(DEFAULT_CAPABILITIES), "SCMP_ACT_ALLOW")


def test_audit_sockets_need_audit_write() -> None:
    rules = [rule for rule in profile(frozenset())["syscalls"] if rule["names"] == ["socket"]]
    assert rules[0]["action"] == "SCMP_ACT_ERRNO"
    assert all("args" in rule for rule in rules)


def test_architectures_follow_the_machine() -> None:
    assert profile(DEFAULT_CAPABILITIES, "x86_64")["architectures"][0] == "SCMP_ARCH_X86_64"
    assert profile(DEFAULT_CAPABILITIES, "aarch64")["architectures"][0] == "SCMP_ARCH_AARCH64"
