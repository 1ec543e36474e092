"""An encrypted vdisk with real clients."""

from pathlib import Path

from tests.support.vdisks import Served, run


def test_encrypted_vdisk_needs_its_key_and_keeps_its_secret(tmp_path: Path) -> None:
    key, other = tmp_path / "key", tmp_path / "other"
    key.write_text("0123456789abcdef" * 4 + "\n")
    other.write_text("ab" * 32 + "\n")
    server = Served(tmp_path, "--key-file", str(key))
    refused = server.g8("create", "vd", "16M", "--encrypt", check=False)
    assert (refused.returncode, "key" in refused.stderr) == (100, True)
    server.g8("create", "vd", "16M", "--encrypt", "--key-file", str(key))
    server.g8("create", "dd", "16M", "--encrypt", "--storage", "dedup", "--key-file", str(key))
    (tmp_path / "image").write_bytes(b"secret words " * 500_000)
    server.start()
    run("nbdcopy", str(tmp_path / "image"), server.uri())
    run("nbdcopy", str(tmp_path / "image"), server.uri("dd"))
    run(
        *("fio", "--name=mix", "--ioengine=nbd", f"--uri={server.uri()}", "--rw=randrw"),
        *("--offset=8M", "--size=8M", "--bsrange=512-64k", "--bs_unaligned", "--iodepth=16"),
        *("--verify=crc32c", "--verify_fatal=1", f"--aux-path={tmp_path}"),
    )
    server.stop()
    assert b"secret" not in (server.data / "vd/data.000").read_bytes()
    (pool,) = (server.data / ".content").iterdir()
    assert b"secret" not in b"".join(file.read_bytes() for file in pool.iterdir())
    wrong = Served(tmp_path, "--key-file", str(other))
    wrong.start()
    assert run("nbdinfo", wrong.uri(), check=False).returncode != 0
    assert "another key" in wrong.log()
    wrong.stop()
    server.start()
    image = (tmp_path / "image").read_bytes()
    for vdisk in ("vd", "dd"):
        run("nbdcopy", server.uri(vdisk), str(tmp_path / vdisk))
        assert (tmp_path / vdisk).read_bytes()[: len(image)] == image
    server.stop()
