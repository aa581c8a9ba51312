"""`%load_ext clarens_lab`, and what is left after `%unload_ext clarens_lab`."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from kernels import PICALC, Shell
from serving import until


def sockets() -> int:
    """How many sockets this process has open."""
    folder = Path("/proc/self/fd")
    links = [folder / name for name in os.listdir(folder)]  # noqa: PTH208  # a list, made before it is looked through
    return sum(link.is_symlink() and str(link.readlink()).startswith("socket:") for link in links)


def test_loading_twice_is_harmless(shell: Shell) -> None:
    """Loading again adds no second matcher and no second event, and keeps the server."""
    shell.run(PICALC)
    url = shell.magics().link.url
    matchers = len(shell.shell.Completer.custom_matchers)

    assert shell.run("%load_ext clarens_lab").ok
    assert shell.run("%reload_ext clarens_lab").ok

    assert len(shell.shell.Completer.custom_matchers) == matchers
    assert len(shell.shell.events.callbacks["pre_run_cell"]) == 1
    assert url


def test_unloading_leaves_nothing(bare: Shell) -> None:
    """`%unload_ext` takes away magics, completion, events, names, the server, its threads and its sockets."""
    bare.run("1")
    threads, open_sockets = set(threading.enumerate()), sockets()
    stdout = sys.stdout
    bare.load()
    assert bare.run(PICALC).ok
    assert bare.run("picalc.digits(2)").value == "3.1"

    assert bare.run("%unload_ext clarens_lab").ok

    magics = bare.shell.magics_manager
    assert "clarens" not in magics.magics["line"] | magics.magics["cell"]
    assert "ClarensMagics" not in magics.registry
    assert bare.shell.Completer.custom_matchers == []
    assert bare.shell.events.callbacks["pre_run_cell"] == []
    assert bare.shell.events.callbacks["post_run_cell"] == []
    until(lambda: set(threading.enumerate()) <= threads)
    assert sockets() == open_sockets
    assert sys.stdout is stdout
    assert not [name for name in bare.shell.user_ns if "clarens" in name or name == "picalc"]


def test_it_can_be_loaded_again_after_unloading(shell: Shell) -> None:
    """Unloaded and loaded, it works as at first."""
    shell.run(PICALC)
    shell.run("%unload_ext clarens_lab")

    shell.load()

    assert shell.run(PICALC).ok
    assert shell.run("picalc.digits(1)").value == "3."


def test_unloading_leaves_a_variable_of_the_user_alone(shell: Shell) -> None:
    """A name that the user bound is still there after `%unload_ext`."""
    shell.run("picalc = 5")
    shell.run(PICALC)

    shell.run("%unload_ext clarens_lab")

    assert shell.run("picalc").value == 5


def test_slow_modules_are_not_imported() -> None:
    """Neither loading nor the first service cell imports nbformat, jsonschema, ipywidgets, anywidget or aiohttp."""
    program = f"""
import sys
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config
settings = Config()
settings.HistoryManager.enabled = False
shell = InteractiveShell.instance(config=settings)
shell.run_cell("%load_ext clarens_lab")
first = [name for name in ("tornado", "clarens_lab.server", "clarens_lab.loaders") if name in sys.modules]
assert shell.run_cell({PICALC!r}).success
slow = [name for name in ("nbformat", "jsonschema", "ipywidgets", "anywidget", "aiohttp") if name in sys.modules]
print(first, slow)
"""
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert told.stdout.strip().split("\n")[-1] == "[] []", told


def test_loading_takes_little_time() -> None:
    """`%load_ext clarens_lab` costs less than 250 ms beyond IPython."""
    program = """
import time
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config
settings = Config()
settings.HistoryManager.enabled = False
shell = InteractiveShell.instance(config=settings)
shell.run_cell("1;")
started = time.process_time()
shell.run_cell("%load_ext clarens_lab")
print(time.process_time() - started)
"""
    runs = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True) for _ in range(3)
    ]
    assert min(float(run.stdout.split()[-1]) for run in runs) < 0.25


@pytest.mark.parametrize("name", ["clarens_lab", "clarens_lab.server", "clarens_lab.verbs", "clarens_lab.proxy"])
def test_the_package_works_without_ipython(name: str) -> None:
    """`clarens_lab` is imported, and its server too, where there is no IPython."""
    program = f"import sys; sys.modules['IPython'] = None; import {name}"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0
