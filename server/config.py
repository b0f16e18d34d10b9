"""Settings, merged once: defaults < config.toml < STENO_* environment < flags; passed down, never global.

And the home directory's layout, so that its names stand in one place.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

ENVIRONMENT_PREFIX = "STENO_"


class ConfigError(Exception):
    """A setting that cannot be: names the file or variable, and the nearest known key."""

    hint: str | None = None


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """segment_bytes: a segment of the log is sealed at this size on disk; retention deletes whole segments."""

    segment_bytes: Annotated[int, msgspec.Meta(ge=65_536, le=1 << 40)] = 1 << 30


class Home:
    """One home directory: the log, what is derived from it, and what lives only while processes do."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = path / "log"
        self.views = path / "views"
        self.run = path / "run"
        self.config = path / "config.toml"

    def create(self) -> None:
        """Make it, mode 0700.

        Raises:
            OSError: with the path that cannot be made or is not a directory.
        """
        for path in (self.path, self.log, self.run):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)


def home_path(flag: str | None, environ: Mapping[str, str]) -> Path:
    """``--home``, else ``$STENO_HOME``, else the platform's user data directory."""
    chosen = flag or environ.get("STENO_HOME")
    if chosen:
        return Path(chosen).expanduser().absolute()
    import platformdirs  # 5 ms that most calls in scripts, which name their home, need not pay

    return Path(platformdirs.user_data_dir("steno", appauthor=False))


def load(path: Path, environ: Mapping[str, str]) -> Config:
    """The settings of config.toml and the environment.

    Raises:
        ConfigError: not TOML, an unknown key, a value out of range.
    """
    values: dict[str, Any] = {}
    if path.is_file():
        import tomllib  # 30 ms that a home without settings need not pay

        try:
            values = tomllib.loads(path.read_text("utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: {error}") from error
        _refuse_unknown(path, values)
    origin = str(path)
    for name in Config.__struct_fields__:
        variable = ENVIRONMENT_PREFIX + name.upper()
        if variable in environ:
            values[name] = environ[variable]
            origin = f"{path} or ${variable}"
    try:
        return msgspec.convert(values, Config, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{origin}: {error}") from error


def _refuse_unknown(path: Path, values: Mapping[str, Any]) -> None:
    known = Config.__struct_fields__
    for key in values:
        if key not in known:
            error = ConfigError(f"{path}: unknown setting '{key}'")
            nearest = difflib.get_close_matches(key, known, n=1, cutoff=0)
            error.hint = f"the nearest known one is '{nearest[0]}'" if nearest else None
            raise error
