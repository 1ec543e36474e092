"""What a client of the gate may do."""

import pytest

from g8node.errors import InvalidArgument, PermissionDenied
from g8node.jobs.access import RULES, Brake, check, check_role
from g8node.jobs.model import Caller, Role

ADMIN = Caller("a", "admin")
READER = Caller("r", "reader")


def owner(id: str) -> Caller | None:
    return {"mine": READER, "other": ADMIN}.get(id)


@pytest.mark.parametrize("key", [b"result:1", b"result:1:flag", b"stream:1", b"logger:x", b"statistics:300"])
def test_access_admin_sees_every_job_key(key: bytes) -> None:
    assert check(RULES["LLEN"], [key], ADMIN, owner) == [key.decode()]


@pytest.mark.parametrize(
    "key", [b"core:default", b"core:pending", b"results:1", b"result", b"", b"state:x", b"\xff"]
)
def test_access_other_keys_are_refused(key: bytes) -> None:
    for name in ("LLEN", "TTL", "EXISTS"):
        with pytest.raises(PermissionDenied):
            check(RULES[name], [key], ADMIN, owner)


def test_access_every_key_of_a_call_counts() -> None:
    with pytest.raises(PermissionDenied, match="core:default"):
        check(RULES["EXISTS"], [b"result:1", b"core:default"], ADMIN, owner)
    with pytest.raises(PermissionDenied, match="core:default"):
        check(RULES["BLPOP"], [b"result:1", b"core:default", b"1"], ADMIN, owner)


def test_access_rotation_needs_the_same_list_twice() -> None:
    with pytest.raises(PermissionDenied, match="same list"):
        check(RULES["RPOPLPUSH"], [b"result:1", b"result:2"], ADMIN, owner)
    with pytest.raises(PermissionDenied, match="same list"):
        check(RULES["BRPOPLPUSH"], [b"result:1", b"core:default", b"1"], ADMIN, owner)


def test_access_arity_is_checked() -> None:
    with pytest.raises(InvalidArgument, match="lrange"):
        check(RULES["LRANGE"], [b"result:1"], ADMIN, owner)


@pytest.mark.parametrize("key", [b"result:other", b"result:other:flag", b"stream:unknown", b"logger:x"])
def test_access_reader_sees_only_its_own_jobs(key: bytes) -> None:
    assert check(RULES["TTL"], [b"result:mine:flag"], READER, owner)
    with pytest.raises(PermissionDenied):
        check(RULES["TTL"], [key], READER, owner)


def test_access_role_is_at_least_the_command_s() -> None:
    check_role(ADMIN, Role.OPERATOR, "x")
    with pytest.raises(PermissionDenied, match="needs role operator"):
        check_role(READER, Role.OPERATOR, "x")


def test_brake_slows_an_address_down_after_its_free_failures() -> None:
    brake = Brake(free=2, spacing_s=1.0, patience_s=2.0)
    for _ in range(2):
        assert brake.delay("x", 0.0) == 0.0
        brake.failed("x", 0.0)
    assert [brake.delay("x", 0.0) for _ in range(4)] == [0.0, 1.0, 2.0, None]
    assert brake.delay("y", 0.0) == 0.0
    assert brake.delay("x", 100.0) == 0.0


def test_brake_memory_is_bounded() -> None:
    brake = Brake(addresses_max=10)
    for number in range(100):
        brake.failed(str(number), 0.0)
    assert len(brake._failures) == 10
