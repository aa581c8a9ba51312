"""The settings, in one table: name, default, help. The CLI, the environment, clarens.toml and the docs read it.

A value on the command line wins over `CLARENS_NAME` in the environment, that over the project's
`clarens.toml`, that over the default. All reading happens in `read`; nothing else looks for settings.
"""

import dataclasses
import math
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clarens_lab.faults import nearest

FILE = "clarens.toml"
MIB = 1024 * 1024


class SettingsError(ValueError):
    """A setting that does not exist, or a value that it cannot take."""


def _setting(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Settings:
    """Every setting with its value, as one server uses them."""

    host: str = _setting("127.0.0.1", "address to listen on; other machines reach the server only if this is changed")
    port: int = _setting(8642, "port to listen on; 0 takes any free one")
    allowed_hosts: str = _setting("", "further names, comma-separated, under which clients may address the server")
    allowed_origins: str = _setting("", "web origins, comma-separated, whose pages may call the server")
    debug: str = _setting("auto", "whether a fault tells the caller its traceback: on, off or auto (on loopback only)")
    dev_dn: str = _setting("", "the caller's DN while there is no login; empty: /O=clarens-lab/CN= and your login name")
    reload: bool = _setting(True, "whether saved files are reloaded")
    watch: str = _setting("auto", "how saves are noticed: auto (events, else polling) or poll (network file systems)")
    load_limit: float = _setting(30.0, "seconds that loading a saved file may take")
    settle_limit: float = _setting(2.0, "seconds that a half-written or vanished file is waited for before it counts")
    call_limit: float = _setting(0.0, "seconds that a call may take where its method says nothing; 0: no limit")
    drain_limit: float = _setting(5.0, "seconds that calls in flight may take to end when the server stops")
    worker_threads: int = _setting(32, "threads that run plain functions")
    queue_limit: int = _setting(10_000, "calls that may wait for a thread; beyond it the answer is HTTP 503")
    body_limit: int = _setting(64 * MIB, "bytes of a request's body, also once decompressed; beyond it HTTP 413")
    header_limit: int = _setting(64 * 1024, "bytes of a request's headers; beyond it HTTP 431")
    depth_limit: int = _setting(200, "levels of arrays and structs in a call")
    int_digits: int = _setting(20, "digits of an integer in a call")
    output_limit: int = _setting(256 * 1024, "characters of printed output kept of one call")
    event_ring: int = _setting(1_000, "events that lab.events keeps")
    log_lines: int = _setting(10_000, "log lines that lab.log keeps")
    log_bytes: int = _setting(4 * MIB, "bytes of log lines that lab.log keeps")
    log_file: str = _setting("", "file the log goes to instead of stderr; rotated")
    log_file_bytes: int = _setting(10 * MIB, "size at which the log file is rotated; three old ones are kept")
    log_format: str = _setting("text", "how log lines are written: text or json")

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise SettingsError(f"{name} = {value!r}: it takes {', '.join(choices)}.")
        if not 0 <= self.port <= 65535:
            raise SettingsError(f"port = {self.port}: it takes a number from 0 to 65535.")
        for origin in map(str.strip, self.allowed_origins.split(",")):
            if origin and not ORIGIN.fullmatch(origin):
                raise SettingsError(
                    f"allowed_origins: {origin!r} is no origin: one is written scheme://host or scheme://host:port, "
                    "in small letters and with no path, such as https://notebooks.example.org."
                )
        for name in TABLE:
            value, least = getattr(self, name), LEAST.get(name, 0)
            if type(value) in (int, float) and not least <= value < math.inf:  # also for nan
                raise SettingsError(f"{name} = {value:g}: it takes a number from {least:g} up.")

    @property
    def loopback(self) -> bool:
        """Whether only programs on this machine can reach the server."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")

    @property
    def tells_tracebacks(self) -> bool:
        """Whether a fault's text shows its traceback to the caller."""
        return self.loopback if self.debug == "auto" else self.debug == "on"


ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")
"""An origin as browsers send it; anything else would never match what they send."""
CHOICES = {"debug": ("auto", "on", "off"), "watch": ("auto", "poll"), "log_format": ("text", "json")}
LEAST = {
    "load_limit": 0.01,
    **dict.fromkeys(("worker_threads", "queue_limit", "body_limit", "header_limit", "depth_limit", "int_digits"), 1),
    **dict.fromkeys(("event_ring", "log_lines", "log_bytes", "log_file_bytes"), 1),
}
"""The smallest value of each number; of the others it is 0."""
TABLE = {spec.name: spec for spec in dataclasses.fields(Settings)}


def project_of(start: Path) -> Path:
    """The project that `start` (a file or folder) belongs to.

    It is the nearest folder upwards with a `clarens.toml`, else with a `pyproject.toml` or `.git`, else
    the folder where the search began.
    """
    folder = start.resolve()
    if not folder.is_dir():
        folder = folder.parent
    upwards = (folder, *folder.parents)
    for marks in ((FILE,), ("pyproject.toml", ".git")):
        for candidate in upwards:
            if any((candidate / mark).exists() for mark in marks):
                return candidate
    return folder


def read(
    project: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    given: Mapping[str, object] | None = None,
) -> Settings:
    """The settings of a project: what is `given`, else the environment's, else the file's, else defaults.

    Raises SettingsError naming the key, the value and where it was written.
    """
    values: dict[str, object] = {}
    if project is not None and (file := project / FILE).exists():
        values |= _from_file(file)
    for name in TABLE:
        text = environ.get(variable(name))
        if text is not None:
            values[name] = value_of(name, text, where=f"{variable(name)} in the environment")
    values |= {name: value for name, value in (given or {}).items() if value is not None}
    return Settings(**values)  # type: ignore[arg-type]  # each value was checked against its field


def variable(name: str) -> str:
    """The environment variable of a setting: `CLARENS_LOG_FILE`."""
    return f"CLARENS_{name.upper()}"


def _from_file(file: Path) -> dict[str, object]:
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file}: not readable as TOML: {error}") from None
    return {name: value_of(name, value, where=str(file)) for name, value in table.items()}


def value_of(name: str, value: object, *, where: str) -> object:
    """`value` (a TOML value, or text) as the setting `name` takes it; SettingsError if it cannot."""
    if name not in TABLE:
        near = nearest(name, TABLE)
        hint = f" Did you mean {near!r}?" if near else " `clarens-lab config` lists them."
        raise SettingsError(f"{where}: no setting {name!r}.{hint}")
    kind = type(TABLE[name].default)
    try:
        converted = _switch(value) if "on" in CHOICES.get(name, ()) else _convert(kind, value)
        Settings(**{name: converted})  # type: ignore[arg-type]  # its own checks on this one value
    except SettingsError as error:
        raise SettingsError(f"{where}: {error}") from None
    except ValueError:
        raise SettingsError(f"{where}: {name} = {value!r}: it takes {KINDS[kind]}.") from None
    return converted


KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
WORDS = {"true": True, "on": True, "yes": True, "1": True, "false": False, "off": False, "no": False, "0": False}


def _switch(value: object) -> object:
    """A setting that is on, off or something in between, also written as true or false."""
    known = WORDS.get(value.lower(), value) if isinstance(value, str) else value
    return _convert(str, {True: "on", False: "off"}[known] if isinstance(known, bool) else known)


def _convert(kind: type, value: object) -> object:
    if kind is bool and isinstance(value, str) and value.lower() in WORDS:
        return WORDS[value.lower()]
    if kind in (int, float) and isinstance(value, str) and "_" not in value:
        return kind(value)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise ValueError
    return value
