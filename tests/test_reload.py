"""Reloading: from files and cells as people save and run them, to what is served. Real files, watched for real.

Numbers such as 5.1.3 are those of the list of edge cases known to break hot reload.
"""

import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import PATIENCE, Logged, notebook, save_as_jupyter, save_by_rename, until, write_notebook

from clarens_lab import watch as watch_module
from clarens_lab.events import Ring
from clarens_lab.faults import LoadFailed, UnknownMethod
from clarens_lab.loaders import LiveCell
from clarens_lab.registry import Generation, Registry
from clarens_lab.reload import Reloader
from clarens_lab.report import Report
from clarens_lab.service import method, methods_of
from clarens_lab.settings import Settings
from clarens_lab.source import LoadError


class Bundled:
    @method
    def echo(self) -> str:
        return "bundled"


class Bench:
    """A registry with its reloader, and no HTTP around them."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.registry = Registry()
        self.events = Ring(10_000)
        bundled = [Generation("echo", methods_of("echo", Bundled()))]
        self.reloader = Reloader(self.registry, Settings(**settings), self.events, bundled)
        self._flush_file = folder / "zz_flush.py"
        self._flushes = 0

    def serve(self, *paths: Path) -> "Bench":
        """Serves the paths, else the whole folder, and watches them."""
        self._flush_file.write_text(module(0), encoding="utf-8")
        self.reloader.serve([*(paths or [self.folder]), self._flush_file])
        self.reloader.watch()
        return self

    def call(self, path: str, *arguments: object) -> Any:
        return self.registry.current.find(path)[1].function(*arguments)

    def number(self, service: str) -> int:
        """The generation that serves; 0 if none does."""
        generation = self.registry.current.services.get(service)
        return generation.number if generation is not None else 0

    def trouble(self, service: str) -> str:
        return self.registry.current.troubles.get(service, "")

    def told(self, service: str = "") -> list[str]:
        """The texts of all reports."""
        items = self.events.since(0)["items"]
        return [item["text"] for item in items if not service or item["service"] == service]

    def answers(self, path: str, value: object) -> None:
        """Waits until a method answers the value."""

        def does() -> bool:
            try:
                return bool(self.call(path) == value)
            except (LoadFailed, UnknownMethod):
                return False

        until(does)

    def flush(self) -> None:
        """Returns when all that was saved before has been looked at: a file saved after it is served."""
        self._flushes += 1
        save_by_rename(self._flush_file, module(self._flushes))
        self.answers("zz_flush.v", self._flushes)


Make = Callable[..., Bench]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Make]:
    """Makes benches of the test's folder, with settings; they are stopped when it ends."""
    made: list[Bench] = []

    def make(**settings: Any) -> Bench:
        made.append(Bench(tmp_path, **settings))
        return made[-1]

    yield make
    for one in made:
        one.reloader.stop()


def module(value: object, name: str = "v") -> str:
    """A .py service whose method answers the value."""
    return f"from clarens_lab import method\n\n@method\ndef {name}():\n    return {value!r}\n"


def cell(value: object, service: str = "", name: str = "v") -> str:
    """A service cell whose method answers the value."""
    return f"%%clarens service {service}\n{module(value, name)}"


BROKEN = "%%clarens service\nfrom clarens_lab import method\nvalue = jsn\n"


# --- 5.1: watching and reading files -----------------------------------------------------------


def test_5_1_1_a_save_by_rename_is_reloaded_once(bench: Make, tmp_path: Path) -> None:
    """
    A temporary file put in the place of the real one is one new generation.
    """
    path = write_notebook(tmp_path / "a.ipynb", cell(1))
    lab = bench().serve(path)
    save_by_rename(path, notebook(cell(2)))
    lab.answers("a.v", 2)
    lab.flush()
    assert lab.number("a") == 2


def test_5_1_2_whatever_way_a_file_is_saved_it_is_reloaded(bench: Make, tmp_path: Path) -> None:
    """
    Truncated and rewritten, deleted and made again, replaced by a link, or its link turned: the new text is served.
    """
    path = tmp_path / "a.py"
    path.write_text(module(1), encoding="utf-8")
    lab = bench().serve(path)

    path.write_text(module(2), encoding="utf-8")
    lab.answers("a.v", 2)

    path.unlink()
    time.sleep(0.1)  # long enough for the deletion to be seen by itself
    assert lab.call("a.v") == 2
    path.write_text(module(3), encoding="utf-8")
    lab.answers("a.v", 3)

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for number in (4, 5):
        (elsewhere / f"v{number}.txt").write_text(module(number), encoding="utf-8")
        link = elsewhere / "link"
        link.symlink_to(elsewhere / f"v{number}.txt")
        link.replace(path)
        lab.answers("a.v", number)

    (elsewhere / "v5.txt").write_text(module(6), encoding="utf-8")  # where no folder is watched
    lab.answers("a.v", 6)


def test_5_1_2_a_renamed_file_keeps_its_service_served(bench: Make, tmp_path: Path) -> None:
    """
    A notebook that is renamed goes on serving under the new name, without a moment in which its service is gone.
    """
    path = write_notebook(tmp_path / "old.ipynb", cell(1, "picalc"))
    lab = bench(settle_limit=0.3).serve()
    missing = []
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            if "picalc" not in lab.registry.current.services:
                missing.append(time.monotonic())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        path.rename(tmp_path / "new.ipynb")
        until(lambda: lab.number("picalc") == 2)
        until(lambda: not lab.reloader._waiting and path not in lab.reloader._files)
    finally:
        stop.set()
        thread.join()
    assert not missing
    assert lab.told("picalc")[1:] == [lab.told("picalc")[-1]]
    generation, _ = lab.registry.current.find("picalc.v")
    assert generation.source is not None
    assert generation.source.path == tmp_path / "new.ipynb"


def test_5_1_3_a_half_written_notebook_is_no_error(bench: Make, tmp_path: Path) -> None:
    """
    While Jupyter writes, a reader sees nothing or half of it: nothing is reported, and the rest is served when there.
    """
    path = write_notebook(tmp_path / "a.ipynb", cell(1))
    lab = bench(settle_limit=PATIENCE).serve(path)
    text = notebook(cell(2))
    with path.open("w", encoding="utf-8") as file:
        for part in (text[:50], text[50:100], text[100:]):
            until(lambda: path in lab.reloader._waiting)
            assert lab.call("a.v") == 1
            assert not lab.trouble("a")
            file.write(part)
            file.flush()
    lab.answers("a.v", 2)
    assert lab.told("a")[1:] == [lab.told("a")[-1]]
    assert lab.number("a") == 2


def test_5_1_3_what_is_not_json_after_the_deadline_is_reported(bench: Make, tmp_path: Path, logged: Logged) -> None:
    """
    A notebook that stays half written makes its service stale, once, with the way out; the next save mends it.
    """
    path = write_notebook(tmp_path / "a.ipynb", cell(1))
    lab = bench(settle_limit=0.1).serve(path)
    path.write_text('{"cells": [', encoding="utf-8")
    logged.claim(
        r"a.ipynb is not JSON: .* \(waited 0.1 s for it to be written\); save it again; still serving generation 1"
    )
    assert lab.registry.current.is_stale("a")
    assert lab.call("a.v") == 1
    save_as_jupyter(path, cell(1))
    until(lambda: lab.told("a")[-1] == "a is mended; still serving generation 1")
    assert not lab.trouble("a")
    assert lab.number("a") == 1


def test_5_1_4_what_editors_leave_beside_a_file_changes_nothing(bench: Make, tmp_path: Path) -> None:
    """
    Checkpoints, swap files and temporary files are neither served nor reloaded, at start and later.
    """
    write_notebook(tmp_path / "a.ipynb", cell(1))
    checkpoints = tmp_path / ".ipynb_checkpoints"
    checkpoints.mkdir()
    for name in (".ipynb_checkpoints/b-checkpoint.ipynb", ".~c.ipynb", "d.tmp", "4913", ".e.ipynb.swp"):
        write_notebook(tmp_path / name, cell(1))
    lab = bench().serve()
    lab.flush()
    for name in (".ipynb_checkpoints/a-checkpoint.ipynb", ".~a.ipynb", "a.tmp", "4913", ".a.ipynb.swp"):
        write_notebook(tmp_path / name, cell(2))
    lab.flush()
    assert set(lab.registry.current.services) == {"a", "echo", "zz_flush"}
    assert (lab.call("a.v"), lab.number("a")) == (1, 1)


def test_5_1_5_saves_that_change_no_code_make_no_generation(bench: Make, tmp_path: Path) -> None:
    """
    A touch, an autosave with new outputs, metadata or markdown: the same generation serves on.
    """
    path = write_notebook(tmp_path / "a.ipynb", cell(1))
    lab = bench().serve(path)
    generation = lab.registry.current.services["a"]
    code = {"source": cell(1), "id": "cell-1"}
    saves: list[Callable[[], object]] = [
        path.touch,
        lambda: save_as_jupyter(path, {**code, "outputs": [{"output_type": "stream", "name": "stdout", "text": "1"}]}),
        lambda: save_as_jupyter(path, {**code, "execution_count": 7, "metadata": {"collapsed": True}}),
        lambda: save_as_jupyter(path, code, authors=["me"]),
        lambda: save_as_jupyter(path, {"cell_type": "markdown", "id": "m", "source": "Text"}, code),
        lambda: save_as_jupyter(path, code, {"source": "print('scratch')", "id": "s"}),
        lambda: save_as_jupyter(path, {**code, "source": cell(1).splitlines(keepends=True)}),
    ]
    for save in saves:
        save()
        lab.flush()
        assert lab.registry.current.services["a"] is generation
    assert len(lab.told("a")) == 1


def test_5_1_6_two_edits_of_one_size_within_a_second_both_count(bench: Make, tmp_path: Path) -> None:
    """
    It is the text that counts, not time and size; and bytecode is never read, nor written.
    """
    path = tmp_path / "a.py"
    path.write_text("import part\n" + module(1).replace("return 1", "return part.VALUE"), encoding="utf-8")
    part = tmp_path / "part.py"
    part.write_text("VALUE = 0", encoding="utf-8")
    lab = bench().serve(path)
    stamp = part.stat().st_mtime_ns
    for value in range(1, 6):
        part.write_text(f"VALUE = {value}", encoding="utf-8")
        os.utime(part, ns=(stamp, stamp))
        lab.answers("a.v", value)
    assert not (tmp_path / "__pycache__").exists()


def test_5_1_7_an_older_file_put_back_is_served(bench: Make, tmp_path: Path) -> None:
    """
    A modification time that goes back, as with `cp -p`, still is a change.
    """
    path = write_notebook(tmp_path / "a.ipynb", cell(2))
    old = write_notebook(tmp_path / "old", cell(1))
    os.utime(old, (1_000_000_000, 1_000_000_000))
    lab = bench().serve(path)
    shutil.copy2(old, path)
    lab.answers("a.v", 1)
    assert path.stat().st_mtime == 1_000_000_000


def test_5_1_8_fifty_files_of_a_git_switch_are_one_swap(bench: Make, tmp_path: Path) -> None:
    """
    Fifty services saved in a burst, with a module that all import, are swapped at once: nobody ever sees a mix.
    """
    paths = [tmp_path / f"s{number:02}.py" for number in range(50)]

    def switch(value: int) -> float:
        """Writes one branch's files; the longest time between two of them."""
        longest, before = 0.0, time.monotonic()
        for path in [*paths, tmp_path / "shared.py"]:
            text = f"import shared\n{module(value)}".replace(f"return {value}", f"return [{value}, shared.VALUE]")
            save_by_rename(path, f"VALUE = {value}\n" if path.stem == "shared" else text)
            now = time.monotonic()
            longest, before = max(longest, now - before), now
        return longest

    switch(0)
    lab = bench().serve()
    seen = [lab.registry.current]
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(0.0005):
            if lab.registry.current.services is not seen[-1].services:
                seen.append(lab.registry.current)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for attempt in range(1, 20):
            gap = switch(attempt)
            for path in paths:
                lab.answers(f"{path.stem}.v", [attempt, attempt])
            fast = gap < watch_module.STEP / 1000 * 0.8
            if fast:  # else this machine was too busy to save as fast as git does: once more
                break
            lab.flush()  # what was told of the slow one late must not be looked at in the middle of the next
            seen[:] = [lab.registry.current]
    finally:
        stop.set()
        thread.join()
    assert fast
    for catalogue in seen:
        answers = [catalogue.methods[f"{path.stem}.v"][1].function() for path in paths]
        assert answers in ([[attempt - 1] * 2] * 50, [[attempt] * 2] * 50)


def test_5_1_9_a_file_in_a_new_nested_folder_is_found(bench: Make, tmp_path: Path) -> None:
    """
    A folder made in a named folder, with a notebook in it, is served and watched from then on.
    """
    lab = bench().serve()
    inner = tmp_path / "one" / "two"
    inner.mkdir(parents=True)
    path = write_notebook(inner / "deep.ipynb", cell(1))
    lab.answers("deep.v", 1)
    save_as_jupyter(path, cell(2))
    lab.answers("deep.v", 2)
    prepared = tmp_path.parent / f"{tmp_path.name}-prepared"
    prepared.mkdir()
    write_notebook(prepared / "moved.ipynb", cell(3))
    prepared.rename(tmp_path / "prepared")
    lab.answers("moved.v", 3)


def test_5_1_10_without_events_files_are_polled(bench: Make, tmp_path: Path, logged: Logged) -> None:
    """
    With the setting `watch = poll` saves, new files and new folders are served all the same, and status says so.
    """
    path = write_notebook(tmp_path / "a.ipynb", cell(1))
    lab = bench(watch="poll", settle_limit=1.0).serve()
    assert lab.reloader.watching == "polling"
    save_as_jupyter(path, cell(2))
    lab.answers("a.v", 2)
    save_as_jupyter(path, cell(3))
    lab.answers("a.v", 3)
    (tmp_path / "new").mkdir()
    write_notebook(tmp_path / "new" / "b.ipynb", cell(4))
    lab.answers("b.v", 4)
    path.unlink()
    logged.claim("a is withdrawn: a.ipynb is not there any more")
    assert "a" not in lab.registry.current.services


def test_5_1_11_a_deleted_files_service_is_withdrawn_and_comes_back(
    bench: Make, tmp_path: Path, logged: Logged
) -> None:
    """
    A file that is gone takes its service away, after the time in which it might be being saved; its return brings it.
    """
    path = write_notebook(tmp_path / "a.ipynb", cell(1, "x"), cell(2, "y"))
    lab = bench(settle_limit=0.2).serve(path)
    path.unlink()
    logged.claim("x is withdrawn: a.ipynb is not there any more")
    logged.claim("y is withdrawn")
    with pytest.raises(UnknownMethod):
        lab.call("x.v")
    write_notebook(path, cell(3, "x"))
    lab.answers("x.v", 3)
    assert lab.number("x") == 2
    assert "y" not in lab.registry.current.services


def test_5_1_12_odd_bytes_in_a_save_are_read_or_refused(bench: Make, tmp_path: Path, logged: Logged) -> None:
    """
    A BOM, CRLF, tabs and a declared encoding are read; a NUL or undecodable byte makes the service stale.
    """
    path = tmp_path / "a.py"
    path.write_text(module(0), encoding="utf-8")
    lab = bench().serve(path)
    saves = {
        "bom": b"\xef\xbb\xbf" + module("bom").encode(),
        "crlf": module("crlf").replace("\n", "\r\n").encode(),
        "tabs": module("tabs").replace("    ", "\t").encode(),
        "\xe9": b"# coding: latin-1\n" + module("\xe9").encode("latin-1"),
    }
    for value, data in saves.items():
        path.write_bytes(data)
        lab.answers("a.v", value)
    path.write_bytes(module("\xe9").encode("latin-1"))
    logged.claim("a.py: its text cannot be decoded: .*; still serving generation 5")
    path.write_bytes(b"\x00" + module(1).encode())
    logged.claim("a.py.*null byte.*; still serving generation 5")
    assert lab.call("a.v") == "\xe9"
    logged.expect("Traceback", "null byte")


def test_5_1_12_a_notebook_with_10_mb_of_outputs_is_served(bench: Make, tmp_path: Path) -> None:
    """
    Large outputs neither slow a save down to seconds nor make a generation.
    """
    path = write_notebook(tmp_path / "a.ipynb", cell(1))
    lab = bench().serve(path)
    output = {"output_type": "stream", "name": "stdout", "text": "x" * 10_000_000}
    save_as_jupyter(path, {"source": cell(2), "outputs": [output]})
    lab.answers("a.v", 2)
    assert lab.number("a") == 2


# --- stale and mended --------------------------------------------------------------------------


def test_a_broken_save_keeps_the_old_generation_and_says_so(bench: Make, tmp_path: Path, logged: Logged) -> None:
    """
    The service is stale until it is mended; a failed load takes no number.
    """
    path = write_notebook(tmp_path / "a.ipynb", cell(1))
    lab = bench().serve(path)
    save_as_jupyter(path, BROKEN)
    logged.claim("a.ipynb cell 1, line 3: NameError: name 'jsn' is not defined.*; still serving generation 1")
    logged.claim("Traceback")
    assert lab.registry.current.is_stale("a")
    assert lab.call("a.v") == 1
    with pytest.raises(UnknownMethod, match=r"'a' is stale: a\.ipynb cell 1, line 3"):
        lab.call("a.w")
    save_as_jupyter(path, cell(2))
    lab.answers("a.v", 2)
    assert not lab.trouble("a")
    assert lab.number("a") == 2


def test_undoing_a_broken_edit_mends_without_a_new_generation(bench: Make, tmp_path: Path, logged: Logged) -> None:
    """
    When the file's text is again what serves, the service is mended and runs nothing.
    """
    path = write_notebook(tmp_path / "a.ipynb", cell(1))
    lab = bench().serve(path)
    save_as_jupyter(path, BROKEN)
    until(lambda: lab.trouble("a"))
    save_as_jupyter(path, cell(1))
    until(lambda: not lab.trouble("a"))
    assert lab.number("a") == 1
    logged.expect("jsn")


def test_a_service_that_never_loaded_answers_with_the_reason(bench: Make, tmp_path: Path, logged: Logged) -> None:
    """
    A first load that fails leaves others untouched; callers learn why; mending the file serves it as generation 1.
    """
    write_notebook(tmp_path / "good.ipynb", cell(1))
    path = write_notebook(tmp_path / "bad.ipynb", BROKEN)
    lab = bench().serve()
    logged.claim("bad.ipynb cell 1, line 3: NameError")
    logged.claim("Traceback")
    assert lab.call("good.v") == 1
    with pytest.raises(LoadFailed, match=r"'bad' could not be loaded: bad\.ipynb cell 1, line 3: NameError"):
        lab.call("bad.v")
    save_as_jupyter(path, cell(2))
    lab.answers("bad.v", 2)
    assert lab.number("bad") == 1


def test_a_file_that_could_not_be_read_leaves_no_trouble_under_its_own_name(
    bench: Make, tmp_path: Path, logged: Logged
) -> None:
    """
    What was only known by its file's name, since it was no notebook, is forgotten once its services are known.
    """
    path = tmp_path / "a.ipynb"
    path.write_text("[1, 2]", encoding="utf-8")
    lab = bench().serve(path)
    logged.claim("a.ipynb is JSON, but no notebook")
    with pytest.raises(LoadFailed, match="no notebook"):
        lab.call("a.v")
    write_notebook(path, cell(1, "picalc"))
    lab.answers("picalc.v", 1)
    assert not lab.registry.current.troubles
    logged.claim("a is withdrawn: a.ipynb has it no more")


@pytest.mark.parametrize("endless", ["while True:\n    pass", "import time\ntime.sleep(1)"])
def test_a_load_beyond_its_limit_is_given_up(bench: Make, tmp_path: Path, logged: Logged, endless: str) -> None:
    """
    Code that loops or sleeps at load is left after the limit, which names cell and line; then the next save counts.
    """
    path = write_notebook(tmp_path / "a.ipynb", cell(1))
    lab = bench(load_limit=0.3).serve(path)
    save_as_jupyter(path, f"{cell(2)}\n{endless}\n")
    logged.claim(r"a.ipynb cell 1, line \d: still running after 0.3 s, the load limit: .*; still serving generation 1")
    lab.flush()
    assert len(lab.told("a")) == 2
    assert lab.call("a.v") == 1
    save_as_jupyter(path, cell(3))
    lab.answers("a.v", 3)
    until(lambda: not [thread for thread in threading.enumerate() if thread.name == "load a"])
    assert lab.number("a") == 2


def test_a_failed_load_leaves_nothing_behind(bench: Make, tmp_path: Path, logged: Logged) -> None:
    """
    5.3.27: modules, sys.path and the names of the serving generation are as they were before a load that failed.
    """
    import sys

    path = write_notebook(tmp_path / "a.ipynb", cell(1))
    lab = bench().serve(path)
    names = dict(lab.registry.current.services["a"].namespace)
    modules, paths = set(sys.modules), list(sys.path)
    save_as_jupyter(path, cell(2), BROKEN)
    until(lambda: lab.trouble("a"))
    assert (set(sys.modules), sys.path) == (modules, paths)
    assert lab.registry.current.services["a"].namespace == names
    logged.expect("jsn")


# --- local modules and packages ----------------------------------------------------------------


def importing(name: str, expression: str) -> str:
    return f"import {name}\n" + module(0).replace("return 0", f"return {expression}")


def test_a_local_module_is_part_of_its_service(bench: Make, tmp_path: Path, logged: Logged) -> None:
    """
    Saving a module reloads who imports it, broken it makes them stale with its line, and mended it serves.
    """
    (tmp_path / "part.py").write_text("VALUE = 1\n", encoding="utf-8")
    path = write_notebook(tmp_path / "a.ipynb", "%%clarens service\n" + importing("part", "part.VALUE"))
    write_notebook(tmp_path / "other.ipynb", cell(0))
    lab = bench().serve()
    (tmp_path / "part.py").write_text("VALUE = 2\n", encoding="utf-8")
    lab.answers("a.v", 2)
    (tmp_path / "part.py").write_text("VALUE = \n", encoding="utf-8")
    logged.claim("part.py, line 1: SyntaxError: invalid syntax; still serving generation 2")
    logged.claim("Traceback|SyntaxError")
    assert lab.call("a.v") == 2
    (tmp_path / "part.py").write_text("VALUE = 3\n", encoding="utf-8")
    lab.answers("a.v", 3)
    assert lab.number("other") == 1
    assert path.exists()


def test_a_missing_module_that_appears_later_mends_its_service(bench: Make, tmp_path: Path, logged: Logged) -> None:
    """
    A service that failed for want of a module is loaded when that module is saved; other saves do not run it again.
    """
    write_notebook(tmp_path / "a.ipynb", "%%clarens service\n" + importing("latecomer_1", "latecomer_1.VALUE"))
    lab = bench().serve()
    logged.claim("a.ipynb cell 1, line 2: ModuleNotFoundError: No module named 'latecomer_1'")
    logged.claim("Traceback")
    (tmp_path / "stranger.py").write_text("X = 1\n", encoding="utf-8")
    lab.flush()
    assert len(lab.told("a")) == 1
    (tmp_path / "latecomer_1.py").write_text("VALUE = 1\n", encoding="utf-8")
    lab.answers("a.v", 1)


def test_a_missing_module_is_noticed_by_polling_too(bench: Make, tmp_path: Path, logged: Logged) -> None:
    """
    Where there are no events, a module that appears still mends the service that lacked it.
    """
    write_notebook(tmp_path / "a.ipynb", "%%clarens service\n" + importing("latecomer_2", "latecomer_2.VALUE"))
    lab = bench(watch="poll").serve()
    logged.claim("latecomer_2")
    logged.claim("Traceback")
    (tmp_path / "latecomer_2.py").write_text("VALUE = 1\n", encoding="utf-8")
    lab.answers("a.v", 1)


def test_a_module_that_cannot_be_decoded_is_mended_by_its_next_save(
    bench: Make, tmp_path: Path, logged: Logged
) -> None:
    """
    Also one that was broken when the service was first read.
    """
    (tmp_path / "undecoded.py").write_bytes(b"VALUE = '\xe9'\n")
    write_notebook(tmp_path / "a.ipynb", "%%clarens service\n" + importing("undecoded", "undecoded.VALUE"))
    lab = bench().serve(tmp_path / "a.ipynb")
    logged.claim("undecoded.py: its text cannot be decoded")
    (tmp_path / "undecoded.py").write_text("VALUE = 1\n", encoding="utf-8")
    lab.answers("a.v", 1)


def test_a_packages_submodules_are_part_of_it(bench: Make, tmp_path: Path) -> None:
    """
    Editing, adding and removing modules of a package that is a service, or that one imports, reloads it.
    """
    package = tmp_path / "pack"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text(
        "from clarens_lab import method\nfrom .inner.deep import VALUE\n@method\ndef v():\n    return VALUE\n",
        encoding="utf-8",
    )
    (package / "inner" / "__init__.py").write_text("", encoding="utf-8")
    (package / "inner" / "deep.py").write_text("VALUE = 1\n", encoding="utf-8")
    write_notebook(tmp_path / "a.ipynb", "%%clarens service\n" + importing("pack.inner.deep", "pack.inner.deep.VALUE"))
    lab = bench().serve()
    assert (lab.call("pack.v"), lab.call("a.v")) == (1, 1)
    (package / "inner" / "deep.py").write_text("from .deeper import VALUE\n", encoding="utf-8")
    (package / "inner" / "deeper.py").write_text("VALUE = 2\n", encoding="utf-8")
    lab.answers("pack.v", 2)
    lab.answers("a.v", 2)
    (package / "inner" / "deeper.py").write_text("VALUE = 3\n", encoding="utf-8")
    lab.answers("pack.v", 3)
    lab.answers("a.v", 3)


# --- names, folders and who may have which -----------------------------------------------------


def test_a_folder_serves_what_shows_itself_and_follows_what_is_added(
    bench: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """
    In a folder only files that show a service are one, told in a line; one added, or made a service, is served.
    """
    write_notebook(tmp_path / "service.ipynb", cell(1))
    write_notebook(tmp_path / "scratch.ipynb", "raise SystemExit")
    (tmp_path / "helper.py").write_text("X = 1\n", encoding="utf-8")
    caplog.set_level("INFO", "clarens_lab")
    lab = bench().serve()
    lines = [record.getMessage() for record in caplog.records if "skipped" in record.getMessage()]
    assert len(lines) == 1
    assert "skipped helper.py, scratch.ipynb" in lines[0]
    assert set(lab.registry.current.services) == {"service", "echo", "zz_flush"}
    save_as_jupyter(tmp_path / "scratch.ipynb", cell(2))
    lab.answers("scratch.v", 2)
    write_notebook(tmp_path / "added.ipynb", cell(3))
    lab.answers("added.v", 3)


def test_a_file_in_a_folder_that_shows_no_service_any_more_is_withdrawn(
    bench: Make, tmp_path: Path, logged: Logged
) -> None:
    """
    A notebook whose last service cell goes is not served whole in its place: what is in it never runs.
    """
    path = write_notebook(tmp_path / "a.ipynb", cell(1))
    lab = bench().serve()
    save_as_jupyter(path, f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    logged.claim("a is withdrawn: a.ipynb has no service any more")
    assert "a" not in lab.registry.current.services
    save_as_jupyter(path, cell(2))
    lab.answers("a.v", 2)
    assert not (tmp_path / "ran").exists()


def test_a_service_renamed_in_its_cell_is_another(bench: Make, tmp_path: Path, logged: Logged) -> None:
    """
    The old name is withdrawn and the new one served, in one swap.
    """
    path = write_notebook(tmp_path / "a.ipynb", cell(1, "old"))
    lab = bench().serve(path)
    save_as_jupyter(path, cell(1, "new"))
    lab.answers("new.v", 1)
    assert "old" not in lab.registry.current.services
    logged.claim("old is withdrawn: a.ipynb has it no more")


def test_a_file_named_twice_is_loaded_once(bench: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    However often and in whatever spelling a path is named, also beside its folder, it is one service.
    """
    path = write_notebook(tmp_path / "a.ipynb", cell(1))
    monkeypatch.chdir(tmp_path)
    lab = bench().serve(path, Path("a.ipynb"), tmp_path / ".." / tmp_path.name / "a.ipynb", Path())
    assert lab.number("a") == 1
    assert len(lab.told("a")) == 1
    save_as_jupyter(path, cell(2))
    lab.answers("a.v", 2)
    assert lab.number("a") == 2


def test_a_second_file_that_claims_a_name_is_refused(bench: Make, tmp_path: Path, logged: Logged) -> None:
    """
    One service, one file: the refusal names the first's path, which serves on; freed by `remove`, the name is taken.
    """
    first = write_notebook(tmp_path / "first.ipynb", cell(1, "picalc"))
    second = write_notebook(tmp_path / "second.ipynb", cell(2, "picalc"), cell(3, "other"))
    lab = bench().serve(first)
    lab.reloader.serve([second])
    line = logged.claim("second.ipynb: the service 'picalc' is served from")
    assert f"from {first} already; give one of them another name, or free it with 'remove picalc'" in line
    assert line.endswith("still serving generation 1")
    assert (lab.call("picalc.v"), lab.call("other.v")) == (1, 3)
    report = lab.reloader.remove("picalc")
    assert report.outcome == "withdrawn"
    logged.claim("picalc is withdrawn: it was removed; 'reload picalc' brings it back")
    assert lab.call("picalc.v") == 2
    save_as_jupyter(first, cell(4, "picalc"))
    lab.flush()
    assert lab.call("picalc.v") == 2


def test_a_refused_name_is_taken_when_its_owner_gives_it_up(bench: Make, tmp_path: Path, logged: Logged) -> None:
    """
    When the first file names its service otherwise, or goes, the second one's is served without another save.
    """
    first = write_notebook(tmp_path / "first.ipynb", cell(1, "picalc"))
    second = write_notebook(tmp_path / "second.ipynb", cell(2, "picalc"), cell(3, "other"))
    lab = bench(settle_limit=0.2).serve(first, second)
    logged.claim("second.ipynb: the service 'picalc' is served from")
    save_as_jupyter(first, cell(1, "mine"))
    lab.answers("picalc.v", 2)
    assert lab.call("mine.v") == 1
    logged.claim("picalc is withdrawn: first.ipynb has it no more")


@pytest.mark.parametrize("name", ["system", "lab"])
def test_the_servers_own_names_are_refused(bench: Make, tmp_path: Path, logged: Logged, name: str) -> None:
    """
    No service can be called `system` or `lab`: by its cell, by its file, broken or not, or live.
    """
    path = write_notebook(tmp_path / "a.ipynb", cell(1, name))
    broken = tmp_path / f"{name}.ipynb"
    broken.write_text("[]", encoding="utf-8")
    lab = bench().serve(path, broken)
    logged.claim(f"a.ipynb: no service can be called '{name}': that is the server's own; give it another name")
    logged.claim("no notebook")
    assert lab.reloader.register(name, LiveCell(cell(1, name))).outcome == "refused"
    logged.claim("that is the server's own")
    assert name not in lab.registry.current.services
    assert not lab.registry.current.troubles


def test_a_users_service_replaces_a_bundled_one_until_it_goes(
    bench: Make, tmp_path: Path, logged: Logged, caplog: pytest.LogCaptureFixture
) -> None:
    """
    The log says that it does; broken, removed or deleted, the bundled one is back.
    """
    path = write_notebook(tmp_path / "a.ipynb", cell("mine", "echo", "echo"))
    caplog.set_level("INFO", "clarens_lab")
    lab = bench(settle_limit=0.2).serve(path)
    assert "echo replaces the bundled service of that name" in caplog.text
    assert lab.call("echo.echo") == "mine"
    lab.reloader.remove("echo")
    assert lab.call("echo.echo") == "bundled"
    assert lab.reloader.reload("echo").outcome == "loaded"
    assert lab.call("echo.echo") == "mine"
    path.unlink()
    lab.answers("echo.echo", "bundled")
    logged.expect("echo is withdrawn")
    with pytest.raises(LoadError, match="came neither from a file nor from a cell"):
        lab.reloader.remove("echo")


def test_a_removed_service_comes_back_when_it_is_reloaded_by_name(bench: Make, tmp_path: Path, logged: Logged) -> None:
    """
    Saves of its file do not bring it back; `reload` does, unless the file has it no more.
    """
    path = write_notebook(tmp_path / "a.ipynb", cell(1))
    lab = bench().serve(path)
    lab.reloader.remove("a")
    logged.claim("a is withdrawn")
    save_as_jupyter(path, cell(2))
    lab.flush()
    assert "a" not in lab.registry.current.services
    assert lab.reloader.reload("a").generation == 2
    assert lab.call("a.v") == 2
    lab.reloader.remove("a")
    logged.claim("a is withdrawn")
    save_as_jupyter(path, cell(3, "other"))
    lab.answers("other.v", 3)
    with pytest.raises(LoadError, match=r"a\.ipynb holds no service 'a' any more"):
        lab.reloader.reload("a")


def test_reload_loads_again_what_did_not_change(bench: Make, tmp_path: Path) -> None:
    """
    `reload NAME` makes a generation of the same text; what `keep` made survives it unless it is loaded fresh.
    """
    text = cell(0).replace("return 0", "return id(thing)") + "from clarens_lab import keep\nthing = keep('t', object)\n"
    lab = bench().serve(write_notebook(tmp_path / "a.ipynb", text))
    kept = lab.call("a.v")
    assert lab.reloader.reload("a").generation == 2
    assert lab.call("a.v") == kept
    old = lab.registry.current.services["a"].namespace["thing"]
    assert lab.reloader.reload("a", fresh=True).generation == 3
    assert lab.registry.current.services["a"].namespace["thing"] is not old
    with pytest.raises(LoadError, match="'nope' came neither from a file nor from a cell"):
        lab.reloader.reload("nope")


def test_reload_waits_for_a_file_that_is_being_written(bench: Make, tmp_path: Path) -> None:
    """
    `reload` during a save answers for the whole file.
    """
    path = write_notebook(tmp_path / "a.ipynb", cell(1))
    lab = bench(settle_limit=PATIENCE).serve(path)
    path.write_text("", encoding="utf-8")
    reports: list[Report] = []
    thread = threading.Thread(target=lambda: reports.append(lab.reloader.reload("a")))
    thread.start()
    until(lambda: path in lab.reloader._waiting)
    write_notebook(path, cell(2))
    thread.join(PATIENCE)
    assert (reports[0].outcome, lab.call("a.v")) == ("loaded", 2)


# --- positions ---------------------------------------------------------------------------------


def test_positions_follow_a_cell_that_moved(bench: Make, tmp_path: Path, logged: Logged) -> None:
    """
    A cell is named by where it stands now, though it was loaded when it stood elsewhere.
    """
    code = {"source": cell(1), "id": "mine"}
    path = write_notebook(tmp_path / "a.ipynb", code)
    lab = bench().serve(path)
    generation = lab.registry.current.services["a"]
    assert generation.source is not None
    (unit,) = generation.source.units
    assert unit.at(2) == "a.ipynb cell 1, line 2"
    save_as_jupyter(path, {"cell_type": "markdown", "id": "text", "source": "Title"}, "scratch = 1", code)
    lab.flush()
    assert lab.registry.current.services["a"] is generation
    assert unit.at(2) == "a.ipynb cell 3, line 2"


# --- cells that are run ------------------------------------------------------------------------


def live(text: str, **told: Any) -> LiveCell:
    return LiveCell(text, **told)


def test_a_live_cell_is_served_when_register_returns(bench: Make, tmp_path: Path) -> None:
    """
    A cell that was run makes the service or its next generation; run again unchanged, it makes none.
    """
    lab = bench()
    report = lab.reloader.register("pi", live(cell(1, "pi"), id="x", execution_count=3))
    assert (report.outcome, report.generation, lab.call("pi.v")) == ("loaded", 1, 1)
    assert report.run == ("pi In[3]",)
    assert lab.reloader.register("pi", live(cell(1, "pi"), id="x", execution_count=4)).outcome == "unchanged"
    assert lab.number("pi") == 1
    assert lab.reloader.register("pi", live(cell(2, "pi"), id="x")).generation == 2
    assert lab.call("pi.v") == 2


def test_a_live_cell_takes_the_place_of_the_unit_it_is_an_edit_of(bench: Make, tmp_path: Path, logged: Logged) -> None:
    """
    Two cells are one unit if the id matches, else if the text is equal, else if one publishes the other's method.
    """
    lab = bench()
    lab.reloader.register("pi", live(cell(1, "pi", "a"), id="1"))
    lab.reloader.register("pi", live(cell(1, "pi", "b"), id="2"))

    def units() -> int:
        source = lab.registry.current.services["pi"].source
        assert source is not None
        return len(source.units)

    assert units() == 2
    lab.reloader.register("pi", live(cell(1, "pi", "c"), id="2"))  # the id: b is renamed to c
    assert sorted(lab.registry.current.services["pi"].methods) == ["a", "c"]
    lab.reloader.register("pi", live(cell(1, "pi", "c"), id="other"))  # equal text
    assert units() == 2
    lab.reloader.register("pi", live(cell(5, "pi", "a"), id="third"))  # the same method
    assert units() == 2
    logged.claim(r"pi In\[\] takes over a from pi In\[\]")
    assert (lab.call("pi.a"), lab.call("pi.c")) == (5, 1)
    lab.reloader.register("pi", live(cell(6, "pi", "d"), id="4"))
    assert units() == 3


def test_live_cells_lie_on_top_of_a_file_until_its_next_save(bench: Make, tmp_path: Path) -> None:
    """
    An unsaved cell is served with the rest of the file; saving the same text makes no generation, other text replaces.
    """
    path = write_notebook(tmp_path / "a.ipynb", cell(1), cell(2, name="w"))
    lab = bench().serve(path)
    lab.reloader.register("a", live(cell(3), id="cell-1", notebook=path))
    assert (lab.call("a.v"), lab.call("a.w"), lab.number("a")) == (3, 2, 2)
    save_as_jupyter(path, cell(3), cell(2, name="w"))
    lab.flush()
    assert lab.number("a") == 2
    save_as_jupyter(path, cell(4), cell(2, name="w"))
    lab.answers("a.v", 4)
    assert lab.number("a") == 3


def test_a_broken_live_cell_makes_the_service_stale_and_an_equal_one_mends_it(
    bench: Make, tmp_path: Path, logged: Logged
) -> None:
    """
    The report carries the failure, the old generation serves, and running the good text again mends it.
    """
    lab = bench()
    assert lab.reloader.register("pi", live("%%clarens service pi\nx = jsn", id="0")).outcome == "failed"
    assert not lab.registry.current.troubles
    lab.reloader.register("pi", live(cell(1, "pi"), id="1"))
    report = lab.reloader.register("pi", live("%%clarens service pi\nx = jsn", id="1", execution_count=9))
    assert (report.outcome, report.generation) == ("failed", 1)
    assert report.error.startswith("pi In[9], line 2: NameError: name 'jsn' is not defined")
    assert lab.registry.current.is_stale("pi")
    assert lab.call("pi.v") == 1
    assert lab.reloader.register("pi", live(cell(1, "pi"), id="1")).outcome == "mended"
    assert not lab.registry.current.troubles
    logged.expect("jsn")


def test_a_cell_of_another_notebook_does_not_take_a_service_over(bench: Make, tmp_path: Path, logged: Logged) -> None:
    """
    One service, one source file holds for cells too; one whose notebook is not known is let in.
    """
    path = write_notebook(tmp_path / "a.ipynb", cell(1))
    lab = bench().serve(path)
    other = write_notebook(tmp_path / "b.ipynb", "")
    report = lab.reloader.register("a", live(cell(2, "a"), notebook=other))
    assert (report.outcome, report.generation, lab.call("a.v")) == ("refused", 1, 1)
    logged.claim(f"the service 'a' is served from {path} already")
    assert lab.reloader.register("a", live(cell(3, "a"))).outcome == "loaded"
    logged.claim(r"a In\[\] takes over v from a.ipynb cell 1")
    assert lab.call("a.v") == 3


def test_a_live_service_is_removed_and_run_again(bench: Make, tmp_path: Path, logged: Logged) -> None:
    """
    Removed, it is gone; run again it is back, and then its notebook's saves count as well.
    """
    path = write_notebook(tmp_path / "a.ipynb", cell(1))
    lab = bench().serve(path)
    lab.reloader.remove("a")
    logged.claim("'reload a' brings it back")
    lab.reloader.register("a", live(cell(2), id="cell-1", notebook=path))
    assert lab.call("a.v") == 2
    save_as_jupyter(path, cell(3))
    lab.answers("a.v", 3)
    lab.reloader.register("pi", live(cell(1, "pi")))
    assert lab.reloader.remove("pi").text() == "pi is withdrawn: it was removed"
    logged.claim("pi is withdrawn: it was removed$")
    with pytest.raises(UnknownMethod):
        lab.call("pi.v")


def test_reload_runs_live_cells_again(bench: Make, tmp_path: Path) -> None:
    """
    A service made of cells alone is loaded again from their text.
    """
    lab = bench()
    lab.reloader.register("pi", live(cell(0, "pi").replace("return 0", "return LOADED") + "import time\n"
                                     "LOADED = time.monotonic_ns()\n"))  # fmt: skip
    first = lab.call("pi.v")
    assert lab.reloader.reload("pi").generation == 2
    assert lab.call("pi.v") > first


def test_objects_of_the_notebook_are_lent(bench: Make, tmp_path: Path, logged: Logged) -> None:
    """
    `--use` gives the cell what the notebook lent, a changed object included; what nobody lends is refused.
    """
    lab = bench()
    text = "%%clarens service pi --use model\nfrom clarens_lab import method\n@method\ndef v():\n    return model\n"
    report = lab.reloader.register("pi", live(text, id="1", lent=("model",)))
    assert report.outcome == "failed"
    logged.claim("pi: --use model works only with a server inside the notebook's own kernel")
    for value in (1, 2):
        lab.reloader.lent["pi"]["model"] = value
        report = lab.reloader.register("pi", live(text, id="1", lent=("model",)))
        assert (report.outcome, lab.call("pi.v")) == ("loaded", value)


def test_tests_are_kept_from_files_and_cells(bench: Make, tmp_path: Path) -> None:
    """
    A file's test cells come with it, changed ones without a new generation; a test that was run takes its place.
    """
    test = {"source": "%%clarens test\nassert True", "id": "t"}
    path = write_notebook(tmp_path / "a.ipynb", cell(1), test)
    lab = bench().serve(path)
    assert [unit.text for unit in lab.reloader.tests["a"]] == [test["source"]]
    save_as_jupyter(path, cell(1), {**test, "source": "%%clarens test\nassert 1"})
    lab.flush()
    assert [unit.text for unit in lab.reloader.tests["a"]] == ["%%clarens test\nassert 1"]
    assert lab.number("a") == 1
    lab.reloader.register_test("a", live("%%clarens test\nassert 2", id="t", notebook=path))
    lab.reloader.register_test("a", live("%%clarens test\nassert 3", id="u", notebook=path))
    assert [unit.text[-1] for unit in lab.reloader.tests["a"]] == ["2", "3"]


def test_a_save_while_a_cell_of_its_service_runs_waits_for_it(bench: Make, tmp_path: Path) -> None:
    """
    A cell run by hand has no time limit and holds up nobody else's reload; its own file is loaded after it.
    """
    path = write_notebook(tmp_path / "a.ipynb", cell(1))
    other = write_notebook(tmp_path / "b.ipynb", cell(1))
    lab = bench().serve(path, other)
    gate = tmp_path / "gate"
    slow = cell(2) + f"import os, time\nwhile not os.path.exists({str(gate)!r}):\n    time.sleep(0.01)\n"
    thread = threading.Thread(target=lambda: lab.reloader.register("a", live(slow, id="cell-1", notebook=path)))
    thread.start()
    until(lambda: lab.reloader._turns["a"].locked())
    save_as_jupyter(path, cell(3))
    save_as_jupyter(other, cell(2))
    lab.answers("b.v", 2)
    assert lab.call("a.v") == 1
    gate.touch()
    lab.answers("a.v", 3)
    thread.join(PATIENCE)
    assert lab.number("a") == 3


# --- reports -----------------------------------------------------------------------------------


def test_what_is_printed_and_noted_at_load_is_in_the_report(bench: Make, tmp_path: Path, logged: Logged) -> None:
    """
    Output and warnings of a load are told with it, in the log and as an event.
    """
    text = cell(1) + "print('hello')\ndef later():\n    return nobody_knows\n"
    lab = bench()
    (report,) = lab.reloader.serve([write_notebook(tmp_path / "a.ipynb", text)])
    assert report.output in ("hello\n", "")  # where nobody captures, it went to the console
    logged.claim("a.later uses nobody_knows")
    event = lab.events.since(0)["items"][-1]
    assert (event["event"], event["outcome"], event["added"]) == ("reload", "loaded", ["v"])
    json.dumps(event)


def test_a_reload_that_fails_inside_the_server_ends_nothing(
    bench: Make, tmp_path: Path, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    An error of our own is logged, what was served is served on, and the next save is loaded.
    """
    path = write_notebook(tmp_path / "a.ipynb", cell(1))
    lab = bench().serve(path)
    with monkeypatch.context() as patched:
        patched.setattr(lab.reloader, "_read", lambda *_: 1 / 0)
        save_as_jupyter(path, cell(2))
        logged.claim("a reload failed in the server itself; what was served is served on(.|\n)*ZeroDivisionError")
    logged.expect("a reload failed in the server itself")
    assert lab.call("a.v") == 1
    save_as_jupyter(path, cell(3))
    lab.answers("a.v", 3)


def test_paths_iterates_as_named(bench: Make, tmp_path: Path) -> None:
    """
    The reloader tells the paths that were named, absolute, and how saves are noticed.
    """
    lab = bench()
    assert lab.reloader.watching == "off"
    lab.serve(tmp_path)
    assert lab.reloader.paths[0] == tmp_path
    until(lambda: lab.reloader.watching == "events")


def test_a_local_module_that_is_cut_short_before_it_is_written_serves_the_old_text(bench: Make, tmp_path: Path) -> None:
    """
    Whoever saves in place empties the file first: an empty module is waited for, and counts once it stays empty.
    """
    path = tmp_path / "a.py"
    path.write_text("import part\n" + module(1).replace("return 1", "return vars(part).get('VALUE')"), encoding="utf-8")
    part = tmp_path / "part.py"
    part.write_text("VALUE = 5", encoding="utf-8")
    lab = bench(settle_limit=0.5).serve(path)
    part.write_text("", encoding="utf-8")
    time.sleep(0.2)  # longer than any save takes to be served, shorter than the limit
    assert lab.call("a.v") == 5
    lab.answers("a.v", None)
    part.write_text("VALUE = 6", encoding="utf-8")
    lab.answers("a.v", 6)


@pytest.fixture
def unprivileged(tmp_path: Path) -> Iterator[Path]:
    """A folder of an ordinary user's, who is who runs the test: root may look everywhere."""
    if os.geteuid():
        yield tmp_path
        return
    folder = Path(tempfile.mkdtemp())
    write_notebook(tmp_path / "warm.ipynb", cell(1))
    Bench(tmp_path).reloader.serve([tmp_path])  # what Python imports late may stand where that user may not look
    os.chown(folder, 65534, 65534)
    os.seteuid(65534)
    try:
        yield folder
    finally:
        os.seteuid(0)
        shutil.rmtree(folder)


@pytest.mark.parametrize("watch", ["auto", "poll"])
def test_a_folder_that_may_not_be_looked_into_ends_no_reload(unprivileged: Path, logged: Logged, watch: str) -> None:
    """
    Its own services are stale; what is saved elsewhere is reloaded, and it is mended when it may be read again.
    """
    shut = unprivileged / "shut"
    shut.mkdir()
    write_notebook(shut / "a.ipynb", cell(1))
    other = write_notebook(unprivileged / "b.ipynb", cell(1))
    lab = Bench(unprivileged, watch=watch).serve()
    try:
        shut.chmod(0)
        save_by_rename(other, notebook(cell(2)))
        lab.answers("b.v", 2)
        logged.claim(r"a.ipynb cannot be read: Permission denied; still serving generation 1")
        assert lab.call("a.v") == 1
        save_by_rename(other, notebook(cell(3)))
        lab.answers("b.v", 3)
        shut.chmod(0o700)
        save_by_rename(shut / "a.ipynb", notebook(cell(4)))
        lab.answers("a.v", 4)
    finally:
        shut.chmod(0o700)
        lab.reloader.stop()


def test_a_pipe_in_a_notebooks_place_holds_nobody_up(bench: Make, tmp_path: Path, logged: Logged) -> None:
    """
    Put where a served notebook was, it makes that service stale, and others are reloaded.
    """
    path = write_notebook(tmp_path / "a.ipynb", cell(1))
    lab = bench().serve(path)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "pipe").replace(path)
    logged.claim(r"a.ipynb is no file that can be read to its end: .*; still serving generation 1")
    lab.flush()


def test_a_save_of_what_a_link_leads_to_is_seen_at_once(
    bench: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A notebook that is a link into another folder is reloaded by that folder's event, not by the next look at all.
    """
    monkeypatch.setattr(watch_module, "LOOK_AGAIN", 1000.0)
    (tmp_path / "real").mkdir()
    (tmp_path / "lab").mkdir()
    real = write_notebook(tmp_path / "real" / "a.ipynb", cell(1))
    (tmp_path / "lab" / "a.ipynb").symlink_to(real)
    lab = bench().serve(tmp_path / "lab" / "a.ipynb")
    lab.flush()
    save_as_jupyter(real, cell(2))
    lab.answers("a.v", 2)


def test_refused_files_are_listed_with_the_reason(bench: Make, tmp_path: Path, logged: Logged) -> None:
    """
    A file whose service's name is taken is listed until it takes another one.
    """
    first = write_notebook(tmp_path / "a.ipynb", cell(1))
    second = write_notebook(tmp_path / "b.ipynb", cell(2, "a"))
    lab = bench().serve(first, second)
    logged.claim("is served from")
    assert list(lab.reloader.refused) == [second]
    assert lab.reloader.refused[second].startswith(f"the service 'a' is served from {first} already")
    save_by_rename(second, notebook(cell(2, "b")))
    lab.answers("b.v", 2)
    assert not lab.reloader.refused


def test_reload_of_what_is_gone_says_where_it_came_from(bench: Make, tmp_path: Path, logged: Logged) -> None:
    """
    A service whose notebook was deleted, or has it no more, is not said to have come from nowhere.
    """
    path = write_notebook(tmp_path / "stats.ipynb", cell(1, "stats"), cell(1, "more", "w"))
    lab = bench(settle_limit=0.1).serve(path)
    logged.expect("is withdrawn: stats.ipynb ")
    save_by_rename(path, notebook(cell(1, "stats")))
    until(lambda: not lab.number("more"))
    with pytest.raises(LoadError, match=r"^'more' came from stats\.ipynb, which has it no more"):
        lab.reloader.reload("more")
    path.unlink()
    until(lambda: not lab.number("stats"))
    with pytest.raises(LoadError, match=r"^'stats' came from stats\.ipynb, which is not there any more"):
        lab.reloader.reload("stats")


def test_a_load_that_took_too_long_is_tried_again_by_the_next_save(bench: Make, tmp_path: Path, logged: Logged) -> None:
    """
    The very same text, saved again when what it waited for is there, is loaded; the message says how else.
    """
    wait = f"import pathlib, time\nwhile not pathlib.Path({str(tmp_path / 'go')!r}).exists(): time.sleep(0.01)\n"
    path = write_notebook(tmp_path / "a.ipynb", cell(1) + wait)
    lab = bench(load_limit=0.3).serve(path)
    logged.claim(r"the load limit: .*'reload a --fresh' tries again, with nothing kept")
    (tmp_path / "go").touch()
    save_as_jupyter(path, cell(1) + wait)
    lab.answers("a.v", 1)
