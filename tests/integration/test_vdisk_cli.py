"""`g8 vdisk` with deduplicated vdisks and templates, beside a real server of them."""

import json
from pathlib import Path

from tests.support.vdisks import Served, run


def test_clones_of_a_template_and_a_collection(tmp_path: Path) -> None:
    server = Served(tmp_path)
    server.g8("create", "image", "16M", "--type", "boot")
    server.start()
    run("qemu-io", "-f", "raw", "-c", "write -P 5 0 4M", "-c", "write -P 6 8M 4k", server.uri("image"))
    server.stop()
    server.g8("create", "one", "16M", "--template", "image")
    refused = server.g8("delete", "image", check=False)
    assert (refused.returncode, "template of one" in refused.stderr) == (100, True)
    refused = server.g8("create", "two", "8M", "--template", "image", "--storage", "plain", check=False)
    assert (refused.returncode, "template" in refused.stderr) == (100, True)
    refused = server.g8("create", "two", "16M", "--storage", "odd", check=False)
    assert (refused.returncode, "storage" in refused.stderr) == (100, True)
    server.start()
    shown = run("qemu-io", "-f", "raw", "-c", "read -P 5 1M 2M", "-c", "write -z 8M 1M", server.uri("one"))
    assert "failed" not in shown.stdout
    server.kill()
    assert json.loads(server.g8("check", "one", "--json").stdout) == {"problems": []}
    server.g8("delete", "one")
    server.g8("delete", "image")
    (found,) = json.loads(server.g8("gc", "--json").stdout)
    assert found == {"block_size": 4096, "encrypted": False, "freed": 2 * 4096, "kept": 0, "problem": ""}
    assert server.g8("gc", "--bandwidth", "1G").stdout.count("\n") == 2
