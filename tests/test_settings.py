"""The settings: one table; the command line wins over the environment, that over clarens.toml, that over defaults."""

import dataclasses
import re
from pathlib import Path

import pytest

from clarens_lab.settings import TABLE, Settings, SettingsError, project_of, read, value_of, variable

PACKAGE = Path(__file__).parent.parent / "clarens_lab"


def project(folder: Path, toml: str = "") -> Path:
    (folder / "clarens.toml").write_text(toml, encoding="utf-8")
    return folder


# --- the table ---------------------------------------------------------------------------------


def test_the_defaults_are_those_that_the_server_promises() -> None:
    """A server that nobody configured is reached from this machine only and keeps to the published limits."""
    settings = Settings()

    assert (settings.host, settings.port, settings.loopback) == ("127.0.0.1", 8642, True)
    assert settings.body_limit == 64 * 1024 * 1024
    assert settings.header_limit == 64 * 1024
    assert (settings.depth_limit, settings.int_digits) == (200, 20)
    assert (settings.worker_threads, settings.queue_limit) == (32, 10_000)
    assert (settings.call_limit, settings.load_limit) == (0, 30)
    assert (settings.settle_limit, settings.drain_limit) == (2, 5)
    assert (settings.event_ring, settings.log_lines, settings.log_bytes) == (1_000, 10_000, 4 * 1024 * 1024)


@pytest.mark.parametrize("name", TABLE)
def test_every_setting_is_used(name: str) -> None:
    """Every setting of the table is read somewhere else in the package: none is there for show."""
    users = [path for path in PACKAGE.rglob("*.py") if path.name != "settings.py"]
    asked = {"debug": "tells_tracebacks"}.get(name, name)

    assert any(re.search(rf"settings\.{asked}\b", path.read_text(encoding="utf-8")) for path in users)


@pytest.mark.parametrize("name", TABLE)
def test_every_setting_says_what_it_is(name: str) -> None:
    """Every setting has a help text of one line, and a default of the type that it takes."""
    spec = TABLE[name]

    assert 10 < len(spec.metadata["help"]) < 110
    assert "\n" not in spec.metadata["help"]
    assert spec.type is type(spec.default)


# --- who wins ----------------------------------------------------------------------------------


def test_what_is_given_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    """The command line wins over the environment, the environment over clarens.toml, that over the default."""
    project(tmp_path, 'port = 1\nload_limit = 1.5\nlog_format = "json"\n')

    settings = read(tmp_path, {"CLARENS_PORT": "2", "CLARENS_LOAD_LIMIT": "2.5"}, {"port": 3, "host": None})

    assert (settings.port, settings.load_limit, settings.log_format) == (3, 2.5, "json")
    assert settings.host == "127.0.0.1"


def test_a_project_without_a_file_has_the_defaults(tmp_path: Path) -> None:
    """Without clarens.toml and environment every setting has its default."""
    assert read(tmp_path, {}) == Settings() == read(None, {})


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("port", "0", 0),
        ("call_limit", "2", 2.0),
        ("call_limit", 2, 2.0),
        ("reload", "off", False),
        ("reload", "TRUE", True),
        ("reload", False, False),
        ("debug", True, "on"),
        ("debug", "0", "off"),
        ("debug", "auto", "auto"),
        ("host", "0.0.0.0", "0.0.0.0"),
        ("allowed_hosts", "", ""),
        ("allowed_origins", "https://a.example, http://localhost:8888", "https://a.example, http://localhost:8888"),
        ("allowed_origins", "vscode-webview://0a1b, http://[::1]:80,", "vscode-webview://0a1b, http://[::1]:80,"),
    ],
)
def test_values_are_read_as_their_setting_takes_them(name: str, text: object, value: object) -> None:
    """Text from the environment and values of TOML become what the setting takes."""
    converted = value_of(name, text, where="here")

    assert converted == value
    assert type(converted) is type(value)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("port", "abc", "port = 'abc': it takes a whole number"),
        ("port", 65536, "port = 65536: it takes a number from 0 to 65535"),
        ("port", 8642.0, "port = 8642.0: it takes a whole number"),
        ("port", True, "port = True: it takes a whole number"),
        ("port", "8_642", "port = '8_642': it takes a whole number"),
        ("worker_threads", 0, "worker_threads = 0: it takes a number from 1 up"),
        ("drain_limit", -1.0, "drain_limit = -1: it takes a number from 0 up"),
        ("call_limit", "nan", "call_limit = nan: it takes a number from 0 up"),
        ("call_limit", "inf", "call_limit = inf: it takes a number from 0 up"),
        ("load_limit", 0, "load_limit = 0: it takes a number from 0.01 up"),
        ("reload", "perhaps", "reload = 'perhaps': it takes true or false"),
        ("reload", 2, "reload = 2: it takes true or false"),
        ("debug", "maybe", "debug = 'maybe': it takes auto, on, off"),
        ("watch", True, "watch = True: it takes text"),
        ("log_format", "xml", "log_format = 'xml': it takes text, json"),
        ("host", 127, "host = 127: it takes text"),
        ("allowed_origins", "a.example", "allowed_origins: 'a.example' is no origin: one is written scheme://host"),
        ("allowed_origins", "*", "allowed_origins: '*' is no origin"),
        ("allowed_origins", "https://a.example, null", "allowed_origins: 'null' is no origin"),
        ("allowed_origins", "https://a.example/", "allowed_origins: 'https://a.example/' is no origin"),
        ("allowed_origins", "https://A.example", "allowed_origins: 'https://A.example' is no origin"),
        ("allowed_origins", "https://a.example b", "allowed_origins: 'https://a.example b' is no origin"),
    ],
)
def test_a_value_that_a_setting_cannot_take_is_refused_with_its_place(name: str, value: object, reason: str) -> None:
    """A value of the wrong kind is refused; the sentence names where it stands, the setting, the value and the kind."""
    with pytest.raises(SettingsError, match=f"^clarens.toml: {re.escape(reason)}"):
        value_of(name, value, where="clarens.toml")


def test_an_unknown_setting_is_refused_with_the_nearest(tmp_path: Path) -> None:
    """A key that is no setting is refused with the file it stands in and the nearest setting."""
    project(tmp_path, "prot = 1\n")

    with pytest.raises(SettingsError, match=r"clarens\.toml: no setting 'prot'. Did you mean 'port'\?"):
        read(tmp_path, {})
    with pytest.raises(SettingsError, match="`clarens-lab config` lists them"):
        value_of("zzzzzz", 1, where="here")


@pytest.mark.parametrize("content", [b"port = ", b"port = 1\nport = 2\n", b"\xff\xfe"])
def test_a_file_that_is_no_toml_is_refused_with_its_path(tmp_path: Path, content: bytes) -> None:
    """A clarens.toml that cannot be read is refused with its path."""
    (tmp_path / "clarens.toml").write_bytes(content)

    with pytest.raises(SettingsError, match=re.escape(f"{tmp_path}/clarens.toml: not readable as TOML")):
        read(tmp_path, {})


def test_a_wrong_value_in_the_environment_names_the_variable() -> None:
    """A wrong value in the environment is refused with the variable's name."""
    assert variable("call_limit") == "CLARENS_CALL_LIMIT"
    with pytest.raises(SettingsError, match="CLARENS_CALL_LIMIT in the environment: call_limit = 'x'"):
        read(None, {"CLARENS_CALL_LIMIT": "x"})


# --- what follows from them --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("debug", "host", "told"),
    [
        ("auto", "127.0.0.1", True),
        ("auto", "127.0.1.1", True),
        ("auto", "localhost", True),
        ("auto", "::1", True),
        ("auto", "0.0.0.0", False),
        ("auto", "192.168.1.5", False),
        ("on", "0.0.0.0", True),
        ("off", "127.0.0.1", False),
    ],
)
def test_tracebacks_are_told_on_loopback_only_unless_said_otherwise(debug: str, host: str, told: bool) -> None:
    """Where other machines reach the server, callers are told no traceback unless debug is on."""
    assert Settings(debug=debug, host=host).tells_tracebacks is told


def test_settings_cannot_be_changed_while_they_are_used() -> None:
    """A server's settings are one immutable value."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().port = 1  # type: ignore[misc]  # that is the test


# --- the project -------------------------------------------------------------------------------


def test_a_project_is_the_nearest_folder_upwards_with_clarens_toml(tmp_path: Path) -> None:
    """clarens.toml marks a project before pyproject.toml and .git do, even where those are nearer."""
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    (tmp_path / "a" / ".git").mkdir()
    assert project_of(deep) == tmp_path / "a"

    project(tmp_path)

    assert project_of(deep) == tmp_path
    assert project_of(deep / "x.ipynb") == tmp_path


def test_without_a_mark_the_project_is_where_the_search_began(tmp_path: Path) -> None:
    """A file in a folder without any mark above it belongs to its own folder."""
    notebook = tmp_path / "x.ipynb"
    notebook.touch()

    assert project_of(notebook) == tmp_path == project_of(tmp_path)
