"""The log: text for people, JSON for programs, to stderr or to a file that is rotated."""

import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clarens_lab.logs import JsonLines, TextLines, as_json, as_text, set_up
from clarens_lab.settings import Settings

DATE = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}"


@pytest.fixture
def _loggers_as_they_were() -> Iterator[None]:
    """Puts back what `set_up` changes for the whole process."""
    root, ours = logging.getLogger(), logging.getLogger("clarens_lab")
    handlers, levels = list(root.handlers), (root.level, ours.level)
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


def a_record(
    text: str, *args: object, name: str = "clarens_lab.reload", level: int = logging.INFO
) -> logging.LogRecord:
    return logging.LogRecord(name, level, __file__, 1, text, args, None)


def with_traceback(text: str) -> logging.LogRecord:
    try:
        raise ValueError("first line\nsecond line")
    except ValueError:
        return logging.LogRecord("clarens_lab.reload", logging.ERROR, __file__, 1, text, (), sys.exc_info())


def test_a_text_line_has_time_level_name_and_text() -> None:
    """A text line is local time, the level unless it is info, the logger's short name, the text."""
    assert re.fullmatch(f"{DATE} reload: hello serves", TextLines().format(a_record("%s serves", "hello")))
    warning = TextLines().format(a_record("stale", level=logging.WARNING))
    assert re.fullmatch(f"{DATE} warning reload: stale", warning)
    assert re.fullmatch(f"{DATE} tornado.general: x", TextLines().format(a_record("x", name="tornado.general")))


@pytest.mark.parametrize(
    "record", [with_traceback("it failed"), a_record("one\ntwo\r\n2026-01-01 00:00:00.000 x: forged")]
)
def test_only_a_line_of_the_log_begins_with_a_date(record: logging.LogRecord) -> None:
    """What follows the first line of a text is indented, so that no caller's text passes for a line of the log."""
    first, *others = TextLines().format(record).splitlines()

    assert re.match(DATE, first)
    assert others
    assert all(line.startswith("    ") for line in others)


@pytest.mark.parametrize("record", [with_traceback("it failed"), a_record("one\ntwo\u2028three")])
def test_a_json_line_is_one_line(record: logging.LogRecord) -> None:
    """A JSON line stays one line, tracebacks included."""
    line = JsonLines().format(record)

    assert "\n" not in line
    told = json.loads(line)
    assert list(told) == ["time", "level", "name", "text"]
    assert told["name"] == "reload"
    assert "\n" in told["text"]


def test_a_json_access_line_has_fields() -> None:
    """The JSON line of a call tells method, caller, generation, milliseconds and outcome apart."""
    args = ("hello.greet", "127.0.0.1", "hello=3", 1.23456, "ok")
    told = json.loads(JsonLines().format(a_record("%s %s %s %.1f ms %s", *args, name="clarens_lab.access")))

    assert told["text"] == "hello.greet 127.0.0.1 hello=3 1.2 ms ok"
    assert {key: told[key] for key in ("method", "caller", "generation", "ms", "outcome")} == {
        "method": "hello.greet", "caller": "127.0.0.1", "generation": "hello=3", "ms": 1.235, "outcome": "ok",
    }  # fmt: skip


def test_lines_of_a_server_read_as_those_of_its_own_log() -> None:
    """A line from `lab.log` is written as the server writes it itself."""
    line = {"time": "2026-01-02T03:04:05.678+00:00", "level": "warning", "name": "clarens_lab.reload", "text": "a\nb"}

    assert re.fullmatch(f"{DATE} warning reload: a\n    b", as_text(line))
    assert json.loads(as_json(line)) == {**line, "name": "reload"}


@pytest.mark.usefixtures("_loggers_as_they_were")
def test_a_log_file_is_rotated(tmp_path: Path) -> None:
    """A log that goes to a file is rotated at its size; three old ones are kept."""
    set_up(Settings(log_file=str(tmp_path / "server.log"), log_file_bytes=1000))
    log = logging.getLogger("clarens_lab.test")
    for number in range(200):
        log.info("line %d", number)

    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["server.log", "server.log.1", "server.log.2", "server.log.3"]
    assert all(path.stat().st_size <= 1000 for path in tmp_path.iterdir())
    assert (tmp_path / "server.log").read_text().endswith("test: line 199\n")


@pytest.mark.usefixtures("_loggers_as_they_were")
def test_a_log_file_that_cannot_be_opened_is_an_error_at_once(tmp_path: Path) -> None:
    """A log file in a folder that is not there is an error when the server starts, not a lost log."""
    with pytest.raises(FileNotFoundError, match="missing"):
        set_up(Settings(log_file=str(tmp_path / "missing" / "server.log")))


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_without_a_file_the_log_goes_to_stderr(log_format: str) -> None:
    """The log goes to stderr, the server's own lines from info up, those of libraries from warning up."""
    program = f"""
import logging
from clarens_lab.logs import set_up
from clarens_lab.settings import Settings
set_up(Settings(log_format={log_format!r}))
logging.getLogger("clarens_lab.reload").info("ours")
logging.getLogger("clarens_lab.reload").debug("too fine")
logging.getLogger("other").info("theirs")
logging.getLogger("other").warning("theirs, and it matters")
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    lines = ended.stderr.splitlines()
    texts = (
        [json.loads(line)["text"] for line in lines]
        if log_format == "json"
        else [line.split(": ")[1] for line in lines]
    )
    assert texts == ["ours", "theirs, and it matters"]
    assert ended.stdout == ""
