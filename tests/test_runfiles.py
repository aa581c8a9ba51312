"""Run files: where a server leaves its address and token, for its user alone."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from serving import until

from clarens_lab import runfiles
from clarens_lab.runfiles import Running


def a_server(**changed: object) -> Running:
    told = {"url": "http://127.0.0.1:8642/clarens/", "token": "hush", "pid": os.getpid(), "paths": ("/a/b.ipynb",)}
    return Running(**{**told, **changed})  # type: ignore[arg-type]  # the fields' own types


def ended_process() -> int:
    """The number of a process that has been and gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_server_is_found_while_its_process_lives() -> None:
    """What a server wrote is what the user's other programs find."""
    server = a_server(project="/a")
    path = runfiles.write(server)

    assert list(runfiles.running()) == [server]

    path.unlink()
    assert list(runfiles.running()) == []


def test_a_run_file_is_its_users_alone(tmp_path: Path) -> None:
    """A run file has mode 0600 in a folder of mode 0700, whatever the umask, and nothing is left beside it."""
    before = os.umask(0)
    try:
        path = runfiles.write(a_server())
        runfiles.write_to(tmp_path / "named.json", {"token": "hush"})
    finally:
        os.umask(before)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600 == stat.S_IMODE((tmp_path / "named.json").stat().st_mode)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    assert [one.name for one in tmp_path.iterdir()] == ["named.json"]


def test_a_run_file_is_written_by_rename(tmp_path: Path) -> None:
    """Who has the old file open reads the old content: the new one takes its place whole."""
    path = tmp_path / "run.json"
    runfiles.write_to(path, {"port": 1})
    with path.open() as old:
        runfiles.write_to(path, {"port": 2})

        assert json.load(old) == {"port": 1}
    assert json.loads(path.read_text()) == {"port": 2}


def test_a_run_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    """A write that fails leaves neither half a file nor a temporary one."""
    with pytest.raises(TypeError):
        runfiles.write_to(tmp_path / "run.json", {"x": object()})

    assert list(tmp_path.iterdir()) == []


def test_what_a_dead_server_left_is_removed() -> None:
    """The run file of a process that is gone is removed by the next who looks."""
    path = runfiles.write(a_server(pid=ended_process()))

    assert list(runfiles.running()) == []
    assert not path.exists()


def test_a_process_that_nobody_waited_for_is_dead() -> None:
    """A server that ended is not taken for running because its parent has not noticed yet."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    until(lambda: not runfiles.is_alive(process.pid))

    assert process.wait() == 0


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"url": 1}', "\ud800"])
def test_a_file_that_is_no_run_file_is_passed_over(content: str) -> None:
    """Whatever else lies in the folder is left alone."""
    stranger = runfiles.directory() / "x.json"
    stranger.write_bytes(content.encode("utf-8", "surrogatepass"))
    server = a_server()
    runfiles.write(server)

    assert list(runfiles.running()) == [server]
    assert stranger.exists()


def test_without_a_runtime_directory_the_temporary_one_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where XDG_RUNTIME_DIR is missing, run files go to a folder of the user's own in the temporary one."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "missing"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    assert runfiles.directory() == tmp_path / f"clarens-lab-{os.getuid()}"
    assert stat.S_IMODE(runfiles.directory().stat().st_mode) == 0o700


def test_no_token_goes_to_a_folder_that_others_can_enter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of run files that others can read, or that is a link, is refused with the way out."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    folder = tmp_path / "clarens-lab"
    folder.mkdir()
    folder.chmod(0o755)
    with pytest.raises(PermissionError, match="not a folder of yours alone, so no token is written to it; remove it"):
        runfiles.write(a_server())

    folder.rmdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    folder.symlink_to(elsewhere)
    with pytest.raises(PermissionError, match="not a folder of yours alone"):
        runfiles.write(a_server())
    assert list(elsewhere.iterdir()) == []


def test_only_who_wrote_a_run_file_takes_it_back(tmp_path: Path) -> None:
    """A process that ends removes its own run file, not one that another server has written there since."""
    path = tmp_path / "run.json"
    runfiles.write_to(path, {"pid": os.getpid() + 1})
    runfiles.take_back(path)
    assert path.exists()

    runfiles.write_to(path, {"pid": os.getpid()})
    runfiles.take_back(path)
    assert not path.exists()

    runfiles.take_back(path)


def test_the_token_is_not_in_the_repr() -> None:
    """A server that is printed or logged does not show its token."""
    assert "hush" not in repr(a_server())


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("http://127.0.0.1:8642/clarens/", True),
        ("http://127.0.0.1:8642", True),
        ("http://localhost:8642/RPC2", True),
        ("localhost:8642", True),
        ("http://127.0.0.1:8643/clarens/", False),
        ("http://127.0.0.1/clarens/", False),
        ("http://example.org:8642/", False),
        ("http://127.0.0.1:port/", False),
        ("", False),
    ],
)
def test_an_address_is_the_same_however_it_is_written(url: str, same: bool) -> None:
    """A server is known by host and port, with or without a path."""
    assert a_server().is_at(url) is same


def test_a_server_belongs_to_its_project_and_to_the_folders_above_its_paths(tmp_path: Path) -> None:
    """A server is found from everywhere in its project, and from a folder that holds what it serves."""
    inside, beside = tmp_path / "project" / "sub", tmp_path / "other"
    inside.mkdir(parents=True)
    beside.mkdir()
    (tmp_path / "project" / "clarens.toml").touch()
    server = a_server(project=str(tmp_path / "project"), paths=(str(tmp_path / "project" / "x.ipynb"),))

    assert server.serves(inside)
    assert server.serves(tmp_path)
    assert not server.serves(beside)
