"""Settings and the home directory: where they come from, and what is said where they cannot be."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from server.config import Config, ConfigError, Home, home_path, load


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def test_without_a_file_the_defaults_hold(file: Path) -> None:
    assert load(file, {}) == Config()
    assert Config().segment_bytes == 1 << 30


def test_the_file_overrules_the_defaults_and_the_environment_the_file(file: Path) -> None:
    file.write_text("segment_bytes = 1_000_000\n")

    assert load(file, {}).segment_bytes == 1_000_000
    assert load(file, {"STENO_SEGMENT_BYTES": "2000000"}).segment_bytes == 2_000_000


def test_variables_that_are_no_settings_are_let_be(file: Path) -> None:
    assert load(file, {"STENO_HOME": "/x", "STENO_SESSION": "y", "SEGMENT_BYTES": "1"}) == Config()


def test_an_unknown_setting_is_refused_with_the_nearest_known_one(file: Path) -> None:
    file.write_text("segment_byte = 1_000_000\n")

    with pytest.raises(ConfigError) as refused:
        load(file, {})
    assert str(refused.value) == f"{file}: unknown setting 'segment_byte'"
    assert refused.value.hint == "the nearest known one is 'segment_bytes'"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("segment_bytes = 1", "65536"),
        ("segment_bytes = 'much'", "int"),
        ("segment_bytes = [1]", "int"),
        ("segment_bytes = ", "Invalid value"),
        ("[segment_bytes]\nx = 1", "int"),
    ],
)
def test_a_setting_that_cannot_be_names_its_file(file: Path, text: str, said: str) -> None:
    file.write_text(text)

    with pytest.raises(ConfigError, match=said) as refused:
        load(file, {})
    assert str(file) in str(refused.value)


def test_a_file_that_is_not_text_is_refused(file: Path) -> None:
    file.write_bytes(b"segment_bytes = \xff\n")

    with pytest.raises(ConfigError, match="utf-8"):
        load(file, {})


def test_a_variable_that_cannot_be_is_named(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"\$STENO_SEGMENT_BYTES: .*int"):
        load(file, {"STENO_SEGMENT_BYTES": "much"})


def test_settings_do_not_change() -> None:
    with pytest.raises(AttributeError):
        Config().segment_bytes = 1  # type: ignore[misc]
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.convert({"unknown": 1}, Config)


# -- the home directory --------------------------------------------------------------------------------------------


def test_the_flag_overrules_the_environment(tmp_path: Path) -> None:
    assert home_path(str(tmp_path / "flag"), {"STENO_HOME": "/variable"}) == tmp_path / "flag"
    assert home_path(None, {"STENO_HOME": str(tmp_path / "variable")}) == tmp_path / "variable"


def test_without_either_it_is_the_users_data_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))

    assert home_path(None, {}) == tmp_path / "steno"
    assert home_path(None, {"STENO_HOME": ""}) == tmp_path / "steno"


def test_a_relative_home_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recorder may be somewhere else when it opens it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))

    assert home_path("here", {}) == tmp_path / "here"
    assert home_path("~/there", {}) == tmp_path / "me" / "there"


def test_a_home_is_its_owners_alone(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.create()
    home.create()

    assert [path.stat().st_mode & 0o777 for path in (home.path, home.log, home.run)] == [0o700] * 3


def test_a_home_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(FileExistsError, match=str(tmp_path / "file")):
        Home(tmp_path / "file").create()
    with pytest.raises(NotADirectoryError, match=str(tmp_path / "file" / "home")):
        Home(tmp_path / "file" / "home").create()
