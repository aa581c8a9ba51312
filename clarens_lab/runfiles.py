"""Where running servers leave their address and token: one file per server in the user's own runtime directory.

Mode 0600, never in the project. Written by rename, so that who finds one finds it whole.
"""

import json
import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Running:
    """A running server: its XML-RPC address, the lab token, its process, the paths it was given, its project."""

    url: str
    token: str
    pid: int
    paths: tuple[str, ...]
    project: str = ""

    def __repr__(self) -> str:
        return f"<server {self.url}, pid {self.pid}>"  # never the token


def directory() -> Path:
    """The user's folder of run files; made if need be, and only if it is really the user's own."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and Path(runtime).is_dir():
        folder = Path(runtime) / "clarens-lab"
    else:
        folder = Path(tempfile.gettempdir()) / f"clarens-lab-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    told = folder.lstat()
    if not stat.S_ISDIR(told.st_mode) or told.st_uid != os.getuid() or told.st_mode & 0o077:
        raise PermissionError(f"{folder} is not a folder of yours alone, so no token is written to it; remove it")
    return folder


def write(server: Running) -> Path:
    """Leaves a server's run file; returns where."""
    port = server.url.rstrip("/").rpartition(":")[2].partition("/")[0]
    path = directory() / f"{server.pid}-{port}.json"
    write_to(path, asdict(server))
    return path


def write_to(path: Path, content: dict[str, Any]) -> None:
    """Writes JSON to a file that only its owner can read, by rename."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(content, file)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def running() -> Iterator[Running]:
    """The servers of this user that run now; what dead ones left behind is removed."""
    for path in sorted(directory().glob("*.json")):
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            server = Running(**{**told, "paths": tuple(told["paths"])})
        except (OSError, ValueError, TypeError, KeyError):
            continue  # being removed, or not ours
        if _is_alive(server.pid):
            yield server
        else:
            path.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
