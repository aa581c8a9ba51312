"""Where running servers leave their address and token: one file per server in the user's own runtime directory.

Mode 0600, never in the project. Written by rename, so that who finds one finds it whole.
"""

import json
import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from clarens_lab.settings import project_of


@dataclass(frozen=True)
class Running:
    """A running server: its XML-RPC address, the lab token, its process, the paths it was given, its project.

    `embedded` says that it runs on a thread of some other program, such as a notebook's kernel.
    """

    url: str
    token: str
    pid: int
    paths: tuple[str, ...]
    project: str = ""
    embedded: bool = False

    def __repr__(self) -> str:
        return f"<server {self.url}, pid {self.pid}>"  # never the token

    def is_at(self, url: str) -> bool:
        """Whether `url` is its address, however it is written: `localhost:8642` and the like."""
        return _place(url) == _place(self.url)

    def listens_here(self) -> bool:
        """Whether some program listens at its address, on this machine."""
        host, port = _place(self.url)
        if port is None or not (host.startswith("127.") or host == "::1"):
            return False
        try:
            socket.create_connection((host, port), timeout=1).close()
        except OSError:
            return False
        return True

    def serves(self, folder: Path) -> bool:
        """Whether it is a server of that folder's project, or serves something in the folder."""
        folder = folder.resolve()
        if self.project == str(project_of(folder)):
            return True
        return any(folder in (path, *path.parents) for path in (Path(each).resolve() for each in self.paths))


def _place(url: str) -> tuple[str, int | None]:
    parts = urlsplit(url if "://" in url else f"http://{url}")
    try:
        port = parts.port
    except ValueError:  # no number, or none of a port
        port = None
    return {"localhost": "127.0.0.1"}.get(parts.hostname or "", parts.hostname or ""), port


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
    path = directory() / f"{server.pid}-{_place(server.url)[1]}.json"
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


def take_back(path: Path) -> None:
    """Removes a run file that this process wrote, and leaves another's alone."""
    try:
        mine = json.loads(path.read_text(encoding="utf-8"))["pid"] == os.getpid()
    except (OSError, ValueError, TypeError, KeyError):  # gone already, or not a run file any more
        return
    if mine:
        path.unlink(missing_ok=True)


def running() -> Iterator[Running]:
    """The servers of this user that run now; what dead ones left behind is removed."""
    for path in sorted(directory().glob("*.json")):
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            server = Running(**{**told, "paths": tuple(told["paths"])})
        except (OSError, ValueError, TypeError, KeyError):
            continue  # being removed, or not ours
        if is_alive(server.pid):
            yield server
        else:
            path.unlink(missing_ok=True)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent to notice does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):  # a system without it, or it has ended in this moment
        return True
    return state != "Z"
