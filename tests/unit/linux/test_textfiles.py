"""Reading the files of include folders: order, limits, and what is no text file."""

import os
from pathlib import Path

from g8node.linux.textfiles import read_folders


def read(*folders: Path, size_max: int = 10, count_max: int = 10) -> tuple[list[tuple[str, str]], list[str]]:
    texts, problems = read_folders(list(map(str, folders)), ".toml", size_max=size_max, count_max=count_max)
    return [(os.path.basename(path), text) for path, text in texts], problems


def test_files_come_by_name_folder_after_folder(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    (tmp_path / "one/b.toml").write_text("1b")
    (tmp_path / "one/a.toml").write_text("1a")
    (tmp_path / "one/c.txt").write_text("no")
    (tmp_path / "two/a.toml").write_text("2a")
    assert read(tmp_path / "one", tmp_path / "two") == (
        [("a.toml", "1a"), ("b.toml", "1b"), ("a.toml", "2a")],
        [],
    )


def test_what_cannot_be_read_is_a_problem_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "1.toml").write_bytes(b"\xff")
    (tmp_path / "2.toml").write_text("x" * 11)
    (tmp_path / "3.toml").mkdir()
    (tmp_path / "4.toml").symlink_to("nowhere")
    os.mkfifo(tmp_path / "5.toml")
    texts, problems = read(tmp_path, tmp_path / "none")
    assert texts == [("5.toml", "")]
    assert [problem.removeprefix(f"{tmp_path}/") for problem in problems] == [
        "1.toml: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte",
        "2.toml: larger than 10 bytes",
        "3.toml: Is a directory",
        "4.toml: No such file or directory",
        "none: No such file or directory",
    ]


def test_number_of_files_is_bounded(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"{number}.toml").write_text("x")
    texts, problems = read(tmp_path, count_max=2)
    assert len(texts) == 2
    assert problems == [f"{tmp_path}: 4 files, only the first 2 are read"]
