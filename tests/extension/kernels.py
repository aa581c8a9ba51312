"""Notebooks for tests: an IPython shell in this process, and real kernels; both run cells and tell what came of it."""

import os
import queue
import re
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clarens_ipython.views import View
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from jupyter_client.manager import KernelManager
from serving import PATIENCE

COLOURS = re.compile(r"\x1b\[[0-9;]*m")

PICALC = '''%%clarens service picalc
from clarens_lab import method

PI = "3.14159265358979"

@method
def digits(n: int = 5) -> str:
    """The first n digits of pi."""
    return PI[: n + 1]

@method
def inverse(n: float) -> float:
    return 1 / n
'''


@dataclass
class Ran:
    """What came of a cell: whether it ended well, its text (printed, shown or raised), its rich outputs, its value."""

    ok: bool
    text: str
    outputs: list[dict[str, Any]] = field(default_factory=list)
    value: Any = None

    @property
    def lines(self) -> list[str]:
        """The text's lines."""
        return self.text.strip().split("\n")

    @property
    def html(self) -> str:
        """The HTML of what it shows."""
        if isinstance(self.value, View):
            return self.value.html()
        return str(next(one["text/html"] for one in reversed(self.outputs) if "text/html" in one))


class Shell:
    """A shell in this process."""

    def __init__(self, shell: InteractiveShell) -> None:
        self.shell = shell

    def run(self, cell: str, **options: Any) -> Ran:
        """Runs a cell."""
        with capture_output() as captured:
            result = self.shell.run_cell(cell, store_history=True, **options)
        outputs = [one.data for one in captured.outputs]
        shown = [one["text/plain"] for one in outputs if "text/plain" in one]
        text = COLOURS.sub("", "".join([captured.stdout, captured.stderr, *(f"{one}\n" for one in shown)]))
        return Ran(bool(result.success), text, outputs, result.result)

    def load(self) -> "Shell":
        """Loads the extension."""
        assert self.run("%load_ext clarens_lab").ok
        return self

    def magics(self) -> Any:
        """The extension's own object."""
        return self.shell.magics_manager.registry["ClarensMagics"]

    def completed(self, line: str) -> list[str]:
        """The completions at the end of a line."""
        with provisionalcompleter():
            return [one.text for one in self.shell.Completer.completions(line, len(line))]


class Kernel:
    """A kernel in a process of its own."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        # Sockets that only this user reaches; in a folder with a short name, since theirs may have 107 bytes.
        self._sockets = tempfile.TemporaryDirectory(prefix="k")
        self.manager = KernelManager(kernel_name="python3", transport="ipc", ip=f"{self._sockets.name}/s")
        self.manager.start_kernel(cwd=str(folder), env={**os.environ, **environment})
        self._connect()

    def _connect(self) -> None:
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=PATIENCE)

    @property
    def pid(self) -> int:
        """Its process."""
        return int(self.manager.provisioner.pid)  # type: ignore[union-attr]  # it runs

    def run(
        self, cell: str, answers: list[str] | None = None, cell_id: str = "", patience: float = PATIENCE, **hooks: Any
    ) -> Ran:
        """Runs a cell; `answers` are typed where it asks for input, `cell_id` is what a front end tells of the cell."""
        number = self.start(cell, stdin=answers is not None, cell_id=cell_id)
        return self.end(number, answers, patience=patience, **hooks)

    def start(self, cell: str, *, stdin: bool = False, cell_id: str = "") -> str:
        """Sends a cell, and does not wait for it."""
        content = {"code": cell, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": stdin}
        metadata = {"cellId": cell_id} if cell_id else {}
        message = self.client.session.msg("execute_request", {**content, "stop_on_error": False}, metadata=metadata)
        self.client.shell_channel.send(message)
        return str(message["header"]["msg_id"])

    def end(
        self,
        number: str,
        answers: list[str] | None = None,
        asked: Callable[[], object] = lambda: None,
        patience: float = PATIENCE,
    ) -> Ran:
        """What came of a cell that was sent; `asked` is called at each question for input."""
        deadline = time.monotonic() + patience
        texts: list[str] = []
        outputs: list[dict[str, Any]] = []
        typed = iter(answers or ())
        idle = False
        while not idle:
            assert time.monotonic() < deadline, f"the cell goes on and on: {texts}"
            if answers is not None:
                try:
                    self.client.get_stdin_msg(timeout=0.01)
                    asked()
                    self.client.input(next(typed))
                except queue.Empty:
                    pass
            try:
                message = self.client.get_iopub_msg(timeout=0.05)
            except queue.Empty:
                continue
            if message["parent_header"].get("msg_id") != number:
                continue
            kind, content = message["msg_type"], message["content"]
            idle = kind == "status" and content["execution_state"] == "idle"
            if kind == "stream":
                texts.append(content["text"])
            elif kind == "error":
                texts.append("\n".join(content["traceback"]) + "\n")
            elif kind in ("display_data", "execute_result"):
                outputs.append(content["data"])
                texts.append(content["data"].get("text/plain", "") + "\n")
        while (reply := self.client.get_shell_msg(timeout=PATIENCE))["parent_header"].get("msg_id") != number:
            continue
        return Ran(reply["content"]["status"] == "ok", COLOURS.sub("", "".join(texts)), outputs)

    def ask(self, cell: str) -> Any:
        """What a cell's last expression is, as Python's literal says it."""
        ran = self.run(cell)
        assert ran.ok, ran.text
        return eval(ran.text)

    def url(self) -> str:
        """The address of its server."""
        return str(self.ask("get_ipython().magics_manager.registry['ClarensMagics'].link.url"))

    def load(self) -> "Kernel":
        """Loads the extension."""
        ran = self.run("%load_ext clarens_lab")
        assert ran.ok, ran.text
        return self

    def interrupt(self) -> None:
        """As the stop button."""
        os.kill(self.pid, signal.SIGINT)

    def restart(self) -> float:
        """As the restart button; how many seconds the old process took to end and the new one to be ready."""
        started = time.monotonic()
        self.client.stop_channels()
        self.manager.restart_kernel(now=False)
        self._connect()
        return time.monotonic() - started

    def stop(self) -> None:
        """Ends it."""
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()
        self._sockets.cleanup()
