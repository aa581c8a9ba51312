"""Fixtures of the extension's tests: a shell in this process, kernels, and Jupyter's folders kept apart."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell
from kernels import Kernel, Shell
from traitlets.config import Config


@pytest.fixture(autouse=True)
def _own_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the user's own IPython is read or written; embedded servers take any free port."""
    folder = tmp_path_factory.mktemp("jupyter")
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR"):
        monkeypatch.setenv(name, str(folder / name.lower()))
    monkeypatch.setenv("CLARENS_PORT", "0")
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    """A new IPython shell in a folder of its own, without the extension."""
    monkeypatch.chdir(tmp_path)
    settings = Config()
    settings.HistoryManager.enabled = False
    settings.InteractiveShell.colors = "nocolor"
    settings.InteractiveShell.cache_size = 0
    hook, main = sys.displayhook, sys.modules["__main__"]
    shell = InteractiveShell.instance(config=settings)
    yield Shell(shell)
    shell.extension_manager.unload_extension("clarens_lab")
    shell.restore_sys_module_state()
    InteractiveShell.clear_instance()
    sys.displayhook, sys.modules["__main__"] = hook, main


@pytest.fixture
def shell(bare: Shell) -> Shell:
    """A new IPython shell with the extension."""
    return bare.load()


@pytest.fixture
def kernels(tmp_path: Path) -> Iterator[Callable[..., Kernel]]:
    """Starts kernels with the extension loaded, in the test's folder; they are ended with the test."""
    started: list[Kernel] = []

    def start(*, load: bool = True, **environment: str) -> Kernel:
        kernel = Kernel(tmp_path, **environment)
        started.append(kernel)
        return kernel.load() if load else kernel

    yield start
    for kernel in started:
        kernel.stop()


@pytest.fixture
def kernel(kernels: Callable[..., Kernel]) -> Kernel:
    """A kernel with the extension loaded."""
    return kernels()
