"""The lines of the original's stdout."""

from g8node.vdisk.cluster.events import Event, ServerData, figures, line, status_of


def test_event_is_a_line_of_level_20() -> None:
    assert (
        line(Event("ardb", 421, ServerData("1.1.1.1:22", 3, "primary", "vd")))
        == '20::{"subject":"ardb","status":421,"data":'
        '{"address":"1.1.1.1:22","db":3,"type":"primary","vdiskID":"vd"}}'
    )
    assert (
        line(Event("etcd", 401, ["1.1.1.1:22"]))
        == '20::{"subject":"etcd","status":401,"data":["1.1.1.1:22"]}'
    )


def test_reason_has_its_status() -> None:
    assert status_of("h:1 has not answered for 2 s") == 421
    assert status_of("Connection refused") == 422
    assert status_of("WRONGPASS") == 400


def test_figures_are_averages_of_what_was_done_since() -> None:
    before = {"read_ops": 10, "write_ops": 5, "read_bytes": 4096, "write_bytes": 100_000}
    now = {"read_ops": 70, "write_ops": 5, "read_bytes": 4096 + 30 * 1024, "write_bytes": 30 * 1024}
    assert figures("a:b", "cluster=c", before, now, 30).splitlines() == [
        "10::vdisk.iops.read@virt.a:b:2.000000|A|cluster=c",
        "10::vdisk.iops.write@virt.a:b:0.000000|A|cluster=c",
        "10::vdisk.throughput.read@virt.a:b:1.000000|A|cluster=c",
        "10::vdisk.throughput.write@virt.a:b:1.000000|A|cluster=c",  # it was opened anew
    ]
