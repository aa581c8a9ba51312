"""Log lines as text or as JSON, to stderr or to a file that is rotated.

A line is a struct of time, level, name and text, wherever it comes from: this process's log, or `lab.log`.
"""

import json
import logging
import logging.handlers
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from clarens_lab.settings import Settings

OLD_FILES = 3
ACCESS = "clarens_lab.access"
ACCESS_FIELDS = ("method", "caller", "generation", "ms", "outcome")
"""What the arguments of an access line are, in their order."""


class TextLines(logging.Formatter):
    """`2026-11-22 13:45:01.123 warning reload: picalc.ipynb cell 4, line 2: ...`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        return as_text(line_of(record))


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, name, text; of a call also its method, caller, generation, ms, outcome."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = line_of(record)
        if record.name.startswith(ACCESS) and isinstance(record.args, tuple):
            line |= dict(zip(ACCESS_FIELDS, record.args, strict=False))
            line["ms"] = round(line["ms"], 3)
        return as_json(line)


def line_of(record: logging.LogRecord) -> dict[str, Any]:
    """The line that a record is; a new struct, made ready once however many handlers there are."""
    line: dict[str, Any] | None = getattr(record, "line", None)
    if line is None:
        text = record.getMessage()
        if record.exc_info:
            text = f"{text}\n{logging.Formatter().formatException(record.exc_info)}"
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": time, "level": record.levelname.lower(), "name": record.name, "text": text}
        record.line = line
    return dict(line)


def as_text(line: Mapping[str, Any]) -> str:
    """A line for people: local time, the level unless it is info, and what follows the first line indented.

    So a line that begins with a date is always one of the log's own, whatever text a caller or a service put in.
    """
    time = f"{_local(line['time'][:19])}{line['time'][19:23]}"
    level = "" if line["level"] == "info" else f"{line['level']} "
    text = "\n    ".join(line["text"].splitlines())
    return f"{time} {level}{_short(line['name'])}: {text}"


@lru_cache(maxsize=8)
def _local(second: str) -> str:
    """A second of UTC as local time; the lines of a busy server share it."""
    return datetime.fromisoformat(f"{second}+00:00").astimezone().replace(tzinfo=None).isoformat(" ")


def as_json(line: Mapping[str, Any]) -> str:
    """A line for programs: one JSON object on one line, in UTC."""
    return json.dumps({**line, "name": _short(line["name"])}, ensure_ascii=False, default=str)


def _short(name: str) -> str:
    return name.removeprefix("clarens_lab.")


class _RotatedFile(logging.handlers.RotatingFileHandler):
    """As its base, but it counts what it writes, instead of asking the file system three times a line."""

    _size = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Writes the line, into a new file if the old one is full."""
        try:
            line = f"{self.format(record)}\n"
            self._size += len(line.encode("utf-8", "backslashreplace"))
            if self._size > self.maxBytes > 0:
                self.doRollover()
                self._size = len(line)
            stream = self.stream = self.stream or self._open()
            stream.write(line)
            stream.flush()
        except Exception:  # noqa: BLE001  # as logging's own handlers: a line that fails must not fail the call
            self.handleError(record)

    def _open(self) -> Any:
        stream = super()._open()
        self._size = os.fstat(stream.fileno()).st_size
        return stream


def set_up(settings: Settings) -> None:
    """Sends this process's log where the settings say, in their format; OSError if the file cannot be opened."""
    handler: logging.Handler
    if settings.log_file:
        handler = _RotatedFile(
            settings.log_file,
            maxBytes=settings.log_file_bytes,
            backupCount=OLD_FILES,
            encoding="utf-8",
            errors="backslashreplace",
        )
    else:
        handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if settings.log_format == "json" else TextLines())
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("clarens_lab").setLevel(logging.INFO)
