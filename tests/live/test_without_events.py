"""Servers whose file system events fail: at the start, or by being too many."""

import os
import signal
import sys
from pathlib import Path

import pytest
from serving import save_as_jupyter, until, write_notebook

from live.servers import Start


@pytest.mark.parametrize(
    ("call", "error", "reason"),
    [
        ("inotify_init1", "EMFILE", "Too many open files"),
        ("inotify_add_watch", "ENOSPC", "OS file watch limit reached"),
    ],
)
def test_without_inotify_the_server_polls_and_says_so(
    start: Start, tmp_path: Path, call: str, error: str, reason: str
) -> None:
    """
    5.1.10: where the system's limit of instances or of watches is reached, saves are served all the same, by polling.
    """
    head = "%%clarens service\nfrom clarens_lab import method\n@method\ndef v(): return "
    path = write_notebook(tmp_path / "a.ipynb", f"{head}1")
    refusing = Path(__file__).with_name("refusing.py")
    server = start(tmp_path, under=(sys.executable, str(refusing), call, error))
    until(lambda: server.lab.status()["watching"] == "polling")
    (line,) = [line for line in server.log.splitlines() if "saves are noticed by polling from now on" in line]
    assert reason in line
    connection = server.connect()
    for number in (2, 3):
        save_as_jupyter(path, f"{head}{number}")
        until(lambda number=number: connection.call("a.v") == number)
    write_notebook(tmp_path / "b.ipynb", f"{head}4")
    until(lambda: server.generation("b") == 1)


def test_a_save_among_too_many_events_is_served(start: Start, tmp_path: Path) -> None:
    """
    5.1.10: when the kernel's queue of events overflows, so that saves among them are never told, they are served.
    """
    head = "%%clarens service\nfrom clarens_lab import method\n@method\ndef v(): return "
    path = write_notebook(tmp_path / "a.ipynb", f"{head}1")
    server = start(tmp_path)
    until(lambda: server.lab.status()["watching"] == "events")
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text(encoding="ascii"))
    os.kill(server.pid, signal.SIGSTOP)  # it takes no events out of the queue meanwhile
    for number in range(most // 3):  # each is made, opened, closed and deleted: four events
        noise = tmp_path / f"{number}.txt"
        noise.touch()
        noise.unlink()
    save_as_jupyter(path, f"{head}2")
    write_notebook(tmp_path / "b.ipynb", f"{head}3")
    os.kill(server.pid, signal.SIGCONT)
    connection = server.connect()
    until(lambda: connection.call("a.v") == 2)
    until(lambda: server.generation("b") == 1)
