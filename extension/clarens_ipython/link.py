"""Which server this kernel talks to: one inside the kernel, or one of its own that it is connected to."""

import atexit
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clarens_ipython.views import CallFailed, Failed, Interrupted
from clarens_lab import __version__, runfiles
from clarens_lab.faults import CannotEncode, Fault, TransportFailed
from clarens_lab.settings import project_of, read

if TYPE_CHECKING:
    from clarens_lab.client import Client
    from clarens_lab.server import Server

NEXT_PORTS = 20
START_SECONDS = 15.0
DRAIN_SECONDS = 0.5
CONNECT_SECONDS = 5.0
STOP_SECONDS = 30.0
HOW = "a '%%clarens service NAME' cell or '%clarens serve' starts one here, '%clarens connect' finds one that runs"
OWN_LOG = logging.getLogger("clarens_lab")


class Link:
    """The kernel's link to its server. Its methods raise Failed with one sentence."""

    def __init__(self) -> None:
        self.embedded: Server | None = None
        self.remote: runfiles.Running | None = None
        self.methods: list[str] = []
        """The paths that the server publishes, as last seen: for completion, which never asks the server."""
        self.notebook: Path | None = None
        """This kernel's notebook, where it is known: its cells are live as they are run, and its file is not served."""
        self._client: Client | None = None
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        """The servers that this kernel started as processes of their own."""
        self._pid = os.getpid()

    @property
    def url(self) -> str:
        """The server's address; empty without one."""
        return self.embedded.url if self.embedded else self.remote.url if self.remote else ""

    # --- having a server ------------------------------------------------------------------------

    def ensure(self) -> bool:
        """Starts the embedded server unless there is one; whether it did."""
        if self.url:
            return False
        self.serve([])
        return True

    def serve(self, paths: Sequence[Path], port: int | None = None, host: str | None = None) -> None:
        """Starts the embedded server, or has the one that runs serve these paths too."""
        self._check_paths(paths)
        if self.embedded is not None:
            if port not in (None, self.embedded.port):
                raise Failed(f"a server runs here already, on port {self.embedded.port}; '%clarens stop' ends it")
            self.embedded.reloader.serve(paths)
        elif self.remote is not None:
            raise Failed(f"this kernel is connected to {self.remote.url}; '%clarens stop' disconnects it")
        else:
            from clarens_lab.client import Client  # not before there is a server

            self.embedded = self._started(paths, port, host)
            self._client = Client(self.embedded.url, token=self.embedded.token)
            OWN_LOG.propagate = False  # '%clarens log' shows it; the user's own handlers would print it into some cell
            atexit.register(self.close)
        self.refresh()

    def _check_paths(self, paths: Sequence[Path]) -> None:
        for path in paths:
            if not path.exists():
                raise Failed(f"{str(path)!r} does not exist; serve takes notebooks, .py files, packages and folders")
            if self.notebook is not None and path.resolve() == self.notebook.resolve():
                raise Failed(
                    f"{path.name} is this notebook: its service cells are live as soon as they are run; "
                    "'clarens-lab serve' in a terminal serves it as it is saved"
                )

    def _started(self, paths: Sequence[Path], port: int | None, host: str | None) -> "Server":
        from clarens_lab.server import PortInUse, Server  # slow to import: not before there is a server

        project = project_of(paths[0] if paths else Path.cwd())
        settings = replace(read(project, given={"port": port, "host": host}), drain_limit=DRAIN_SECONDS)
        ports = [settings.port]
        if port is None and settings.port:  # the usual one, else the next free one; one that was asked for is strict
            ports += [*range(settings.port + 1, min(settings.port + NEXT_PORTS, 65536)), 0]
        for number in ports:
            server = Server(paths, replace(settings, port=number))
            if self.notebook is not None:
                server.reloader.left_alone.add(self.notebook)
            try:
                return server.start()
            except PortInUse as error:
                if number == ports[-1]:
                    raise Failed(str(error.strerror)) from None
            except OSError as error:
                raise Failed(str(error.strerror or error)) from None
            except KeyboardInterrupt:
                server.stop()
                raise Interrupted("interrupted; no server was started") from None
        raise AssertionError("a port of 0 is never in use")

    def detach(self, paths: Sequence[Path], port: int | None, host: str | None) -> None:
        """Starts a server in a process of its own, which outlives the kernel, and connects to it."""
        if self.url:
            raise Failed(f"this kernel has a server, {self.url}; '%clarens stop' first")
        self._check_paths(paths)
        own = runfiles.directory() / f"detached-{os.getpid()}-{time.monotonic_ns()}"
        run_file, errors = own.with_suffix(".run"), own.with_suffix(".err")
        command = [sys.executable, "-m", "clarens_lab", "serve", *map(str, paths), "--run-file", str(run_file)]
        command += ["--log-file", str(own.with_suffix(".log")), *([] if paths else ["--empty"])]
        command += [*_option("--port", port), *_option("--host", host)]
        with errors.open("w") as said:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
            )
        self._children[process.pid] = process
        deadline = time.monotonic() + START_SECONDS
        while not run_file.exists():
            if process.poll() is not None:
                raise Failed(_last_words(errors) or "the server ended before it served")
            if time.monotonic() > deadline:
                process.terminate()
                raise Failed(f"the server has not started within {START_SECONDS:g} s; what it said is in {errors}")
            time.sleep(0.02)
        self._use(next(one for one in runfiles.running() if one.pid == process.pid))

    def connect(self, url: str | None) -> None:
        """Connects to a server of this project that runs, or to the one at `url`."""
        if self.embedded is not None:
            raise Failed(f"this kernel has a server, {self.url}; '%clarens stop' first")
        self._use(self._at(url) if url else self._found())

    def _at(self, url: str) -> runfiles.Running:
        known = next((one for one in self.running() if one.is_at(url)), None)
        if known is not None:
            return known
        if "://" not in url:
            url = f"http://{url}"
        return runfiles.Running(url, os.environ.get("CLARENS_TOKEN", ""), 0, ())

    def _found(self) -> runfiles.Running:
        """The one server of this project that is a process of its own."""
        here = [one for one in self.running() if one.serves(Path.cwd()) and one.pid != os.getpid()]
        wanted = [one for one in here if not one.embedded]
        if len(wanted) == 1:
            return wanted[0]
        shown = "".join(f"\n  %clarens connect {one.url}" for one in wanted or here)
        if wanted:
            raise Failed(f"several servers of this project run; choose one:{shown}")
        if here:
            raise Failed(f"servers of this project run only inside other notebooks:{shown}")
        raise Failed(
            "no server of this project runs; '%clarens serve --detach PATH' starts one, "
            "and so does 'clarens-lab serve PATH' in a terminal"
        )

    def _use(self, server: runfiles.Running) -> None:
        from clarens_lab.client import Client  # not before there is a server

        try:
            client = Client(server.url, token=server.token or None)
        except ValueError as error:
            raise Failed(str(error)) from None
        try:
            status = client.with_timeout(CONNECT_SECONDS).call("lab.status")
        except Fault as fault:
            client.close()
            if fault.code == NO_TOKEN and not server.token:
                raise Failed(f"{server.url} wants its token: set CLARENS_TOKEN, then connect again") from None
            raise Failed(_said(fault, server.url)) from None
        version = str(status.get("version", "")) if isinstance(status, dict) else ""
        if version.rpartition(".")[0] != __version__.rpartition(".")[0]:
            client.close()
            raise Failed(
                f"{server.url} is clarens-lab {version or 'of an unknown version'}, and this is {__version__}: "
                "start it again with the version that is installed here"
            )
        self.close()
        self.remote, self._client = server, client
        self.refresh()

    def running(self) -> list[runfiles.Running]:
        """The user's servers that run."""
        for child in self._children.values():
            child.poll()  # one that ended is a process until its parent has looked
        return list(runfiles.running())

    def stop(self) -> str:
        """Ends what this kernel started, else disconnects; says which."""
        url, embedded, remote = self.url, self.embedded, self.remote
        self.close()
        if embedded is not None:
            return f"stopped {url}"
        if remote is None:
            return "no server was started or connected here"
        child = self._children.pop(remote.pid, None)
        if child is not None:
            child.terminate()
            child.wait(STOP_SECONDS)
            return f"stopped {url}"
        if not any(one.url == url for one in self.running()):
            return f"disconnected from {url}, which does not run any more"
        return f"disconnected; {url} runs on, and 'clarens-lab stop --url {url}' in a terminal stops it"

    def close(self) -> None:
        """Lets everything go, quietly."""
        embedded, client = self.embedded, self._client
        self.embedded = self.remote = self._client = None
        self.methods = []
        atexit.unregister(self.close)
        if client is not None:
            client.close()
        if embedded is not None and os.getpid() == self._pid:
            embedded.stop()
            OWN_LOG.propagate = True

    # --- using it -------------------------------------------------------------------------------

    def ask(self, method: str, *arguments: Any) -> Any:
        """What `lab.METHOD` or another method answers; Failed in one sentence if it does not."""
        if self._client is None:
            raise Failed(f"no server: {HOW}")
        try:
            return self._client.call(method, *arguments)
        except Fault as fault:
            raise Failed(_said(fault, self.url)) from None
        except KeyboardInterrupt:
            raise Interrupted("interrupted") from None

    def call(self, path: str, arguments: list[Any]) -> Any:
        """A method's value; what it printed is printed here. Raises CallFailed."""
        from clarens_lab.codec import encode_call  # slow to import: not before there is a call

        try:
            encode_call(path, arguments)  # what cannot travel is named by its place among these arguments
            told = self.ask("lab.call", path, arguments)
        except CannotEncode as error:
            raise Failed(f"{path}: {error.text.replace('return ', 'pass ')}") from None
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted; {path} may be running still, in the server") from None
        if told["output"]:
            print(told["output"], end="" if told["output"].endswith("\n") else "\n")
        if "fault" in told:
            raise CallFailed(told["fault"]["code"], told["fault"]["text"], told["fault"]["id"])
        return told["value"]

    def function(self, path: str) -> Callable[..., Any]:
        """The Python function of a method; only of the embedded server."""
        if self.embedded is None:
            raise Failed(f"{path}.function needs the server inside this kernel; this one is {self.url or 'not there'}")
        return self.embedded.registry.current.find(path)[1].function

    def lend(self, service: str, things: Mapping[str, object]) -> None:
        """Lends objects of the notebook to a service of the embedded server."""
        if self.embedded is not None:
            self.embedded.reloader.lent[service].update(things)

    def refresh(self) -> None:
        """Learns what the server publishes now."""
        self.methods = self.ask("system.listMethods")

    def services(self) -> list[dict[str, Any]]:
        """As `lab.services`."""
        told: list[dict[str, Any]] = self.ask("lab.services")
        return told


NO_TOKEN = -32401
LAB_WORDS = re.compile(r"^lab\.\w+: |^result: | \[fault \d+\]$")
"""What the lab's own sentences begin and end with, and what says nothing to who typed a verb."""


def _said(fault: Fault, url: str) -> str:
    if isinstance(fault, TransportFailed):
        return f"{fault.text.rstrip('.')}.\n'%clarens connect' finds it again once it runs; '%clarens stop' lets it go"
    if fault.code == NO_TOKEN:
        return f"{url} does not take this kernel's token (it was started anew?): '%clarens connect' reads the new one"
    return LAB_WORDS.sub("", fault.text)


def _option(name: str, value: object) -> list[str]:
    return [] if value is None else [name, str(value)]


def _last_words(errors: Path) -> str:
    """What a server that did not start said last."""
    lines = errors.read_text(encoding="utf-8", errors="replace").strip().split("\n")
    return next((line.removeprefix("clarens-lab: ") for line in lines if line.startswith("clarens-lab: ")), lines[-1])
