"""Log lines as text or as JSON, to stderr or to a file that is rotated."""

import json
import logging
import logging.handlers
import sys
from datetime import datetime

from clarens_lab.settings import Settings

OLD_FILES = 3


class TextLines(logging.Formatter):
    """`2026-11-22 13:45:01.123 warning reload: picalc.ipynb cell 4, line 2: ...`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        time = datetime.fromtimestamp(record.created).isoformat(" ", "milliseconds")
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()} "
        line = f"{time} {level}{_short(record.name)}: {record.getMessage()}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, name, text."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        text = record.getMessage()
        if record.exc_info:
            text = f"{text}\n{self.formatException(record.exc_info)}"
        time = datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")
        told = {"time": time, "level": record.levelname.lower(), "name": _short(record.name), "text": text}
        return json.dumps(told, ensure_ascii=False)


def _short(name: str) -> str:
    return name.removeprefix("clarens_lab.")


def set_up(settings: Settings) -> None:
    """Sends this process's log where the settings say, in their format."""
    handler: logging.Handler
    if settings.log_file:
        handler = logging.handlers.RotatingFileHandler(
            settings.log_file, maxBytes=settings.log_file_bytes, backupCount=OLD_FILES, encoding="utf-8"
        )
    else:
        handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if settings.log_format == "json" else TextLines())
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("clarens_lab").setLevel(logging.INFO)
