"""Settings: defaults, the original's key matching, warnings that name file, line and key."""

import pytest

from g8node import config
from g8node.errors import InvalidArgument


def test_empty_text_gives_the_defaults() -> None:
    assert config.load("") == (config.Config(), [])


@pytest.mark.parametrize("key", ["max_jobs", "MaxJobs", "MAXJOBS", "Max_Jobs"])
def test_keys_match_without_case_and_underscores(key: str) -> None:
    settings, warnings = config.load(f"[main]\n{key} = 7")
    assert settings.main.max_jobs == 7
    assert not warnings


def test_nested_sections_are_read() -> None:
    settings, _ = config.load("[logging.file]\nlevels = [1, 2]\n[logging.ledis]\nsize = 10")
    assert settings.logging.file.levels == (1, 2)
    assert settings.logging.ledis.size == 10


def test_unknown_key_is_dropped_with_its_line() -> None:
    settings, warnings = config.load("[main]\nmax_jobs = 7\nfoo = 1\n", file="node.toml")
    assert settings.main.max_jobs == 7
    assert warnings == ["node.toml:3: main.foo: unknown key, dropped"]


def test_unknown_section_is_dropped_with_its_line() -> None:
    assert config.load("\n[nonsense]\na = 1\n", file="f")[1] == ["f:2: nonsense: unknown key, dropped"]


@pytest.mark.parametrize("value", ['"many"', "0", "[1]"])
def test_ill_typed_value_is_dropped_with_its_line(value: str) -> None:
    settings, [warning] = config.load(f"[main]\nmax_jobs = {value}\n", file="f")
    assert settings.main.max_jobs == 524288
    assert warning.startswith("f:2: main.max_jobs: Expected `int`")


def test_a_value_where_a_table_is_expected_is_dropped() -> None:
    assert config.load("gate = 1", file="f")[1] == ["f:1: gate: expected a table, dropped"]


def test_text_that_is_no_toml_is_an_error_that_names_the_file() -> None:
    with pytest.raises(InvalidArgument, match=r"node\.toml: .*table declaration"):
        config.load("[main", file="node.toml")


def test_kernel_words_override_the_file() -> None:
    words = [("g8.main.max_jobs", "9"), ("quiet", ""), ("g8.stats.enabled", "false")]
    settings, warnings = config.load("[main]\nmax_jobs = 7\nnetwork = 'n'", overrides=words)
    assert (settings.main.max_jobs, settings.main.network) == (9, "n")
    assert settings.stats.enabled is False
    assert not warnings


def test_bad_kernel_word_is_a_warning() -> None:
    _, warnings = config.load("", overrides=[("g8.main.max_jobs", "x"), ("g8.a.b", "1")])
    assert len(warnings) == 2
    assert all(warning.startswith("kernel command line: ") for warning in warnings)


def test_describe_lists_every_setting_once() -> None:
    keys = [key for key, *_ in config.describe()]
    assert len(keys) == len(set(keys))
    assert ("gate.max_clients", "int", 4096, "") in config.describe()
