"""The main job on real notebooks: serve, call, save, break, mend.

It works on a temporary copy of notebooks/services and prints what came back. Whatever else comes back than
should ends it with a sentence and status 1.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xmlrpc.client
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

SERVICES = Path(__file__).parent / "services"
PATIENCE = 15.0
"""Seconds that anything may take: a start on a busy machine takes 2, a reload well under 1."""


class Unexpected(Exception):
    """Something came back that should not have; the text says what."""


# --- the server, and its clients ---------------------------------------------------------------


class Transport(xmlrpc.client.Transport):
    """The standard library's own, with a time limit, and the answer's header at hand that names stale services."""

    stale = ""

    def make_connection(self, host: Any) -> HTTPConnection:
        connection = super().make_connection(host)
        connection.timeout = PATIENCE
        return connection

    def parse_response(self, response: HTTPResponse) -> Any:
        self.stale = response.getheader("X-Clarens-Stale", "")
        return super().parse_response(response)


class Server:
    """`clarens-lab serve` as a process of its own: `url` for every caller, `lab_url` for its developer."""

    def __init__(self, folder: Path, work: Path) -> None:
        self.run_file = work / "run.json"
        self.log = work / "server.log"
        command = ["serve", str(folder), "--port", "0", "--run-file", str(self.run_file)]
        print(f"  $ clarens-lab {' '.join(command)}")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "clarens_lab", *command], stdout=log, stderr=log, env=plain_environment()
            )

    def wait_until_it_serves(self) -> None:
        wait_for("the server to write its run file", lambda: self.run_file.exists() or self.process.poll() is not None)
        if self.process.poll() is not None:
            raise Unexpected(f"the server ended at once, with status {self.process.returncode}")
        told = json.loads(self.run_file.read_text(encoding="utf-8"))
        self.url: str = told["url"]
        self.lab_url = self.url.replace("://", f"://lab:{told['token']}@", 1)

    def stop(self) -> int:
        """Its exit status, after a SIGTERM."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise Unexpected(f"the server did not end within {PATIENCE:.0f} s of a SIGTERM") from None

    def end(self) -> None:
        """Ends it, whatever state it is in."""
        try:
            self.stop()
        except Unexpected:
            self.process.kill()
            self.process.wait()

    def last_words(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
        return "\n".join(f"    {line}" for line in lines)


def plain_environment() -> dict[str, str]:
    """Ours without CLARENS_ settings: the demo shows the defaults, whatever its user has set."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CLARENS_")}


@contextmanager
def serving(folder: Path, work: Path) -> Iterator[Server]:
    """A server for the block. It does not outlive it; where the block fails, its log is shown."""
    server = Server(folder, work)
    try:
        server.wait_until_it_serves()
        yield server
    except Exception:
        server.end()
        print(f"\nThe server's log ends with:\n{server.last_words()}", file=sys.stderr)
        raise
    finally:
        server.end()


# --- waiting, and looking at what came ---------------------------------------------------------


def wait_for(what: str, happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happened():
        if time.monotonic() > deadline:
            raise Unexpected(f"waited {PATIENCE:.0f} s for {what}")
        time.sleep(0.005)


def expect(what: str, got: object, wanted: object) -> None:
    if got != wanted:
        raise Unexpected(f"{what}: {got!r} came back, and not {wanted!r}")


class Reports:
    """The reload reports from this moment on, as the server's developer reads them."""

    def __init__(self, lab: Any) -> None:
        self._lab = lab
        self._next: int = lab.events(-1)["next"]

    def of(self, service: str) -> dict[str, Any]:
        """The next report on a service."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            answer = self._lab.events(self._next, 1.0)
            self._next = answer["next"]
            for item in answer["items"]:
                if item["event"] == "reload" and item["service"] == service:
                    return dict(item)
        raise Unexpected(f"waited {PATIENCE:.0f} s for a reload report on {service}")


def edit(path: Path, cell_id: str, old: str, new: str) -> float:
    """Changes a cell and saves as Jupyter does, truncating and rewriting the file; the time it was saved."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cell = next(cell for cell in notebook["cells"] if cell["id"] == cell_id)
    text = "".join(cell["source"])
    if text.count(old) != 1:
        raise Unexpected(f"{path.name}: {old!r} should be in its cell {cell_id!r} once, for the demo to change it")
    cell["source"] = text.replace(old, new).splitlines(keepends=True)
    print(f"  in {path.name}:  {old}  ->  {new}")
    with path.open("w", encoding="utf-8") as file:
        json.dump(notebook, file, indent=1, ensure_ascii=False)
        file.write("\n")
    return time.perf_counter()


def since(moment: float) -> str:
    return f"{(time.perf_counter() - moment) * 1000:.0f} ms"


# --- the story ---------------------------------------------------------------------------------


class Story:
    """What a caller and the author of a notebook see, step by step."""

    def __init__(self, server: Server, notebook: Path, client: Any, transport: Transport, lab: Any) -> None:
        self.server = server
        self.notebook = notebook
        self.client = client
        self.transport = transport
        self.lab = lab

    def call(self, method: str, *arguments: object, wanted: object) -> None:
        """A call that must answer what is wanted."""
        started = time.perf_counter()
        answer = getattr(self.client, method)(*arguments)
        took = since(started)
        shown = ", ".join(map(repr, arguments))
        expect(f"{method}({shown})", answer, wanted)
        print(f"  {method}({shown})  ->  {answer!r}   ({took})")

    def call_methods(self) -> None:
        listed = self.client.system.listMethods()
        print(f"  system.listMethods()  ->  {len(listed)} names, of the notebooks:")
        for notebook in sorted(self.notebook.parent.glob("*.ipynb")):
            methods = [name for name in listed if name.startswith(f"{notebook.stem}.")]
            if not methods:
                raise Unexpected(f"no method of {notebook.name} is listed")
            print(f"    {', '.join(methods)}")
        self.call("hello.greet", "Ada", wanted="Hello, Ada!")
        self.call("picalc.digits", 20, wanted="3.1415926535897932385")
        self.call("leapseconds.tai_minus_utc", "2016-12-31", wanted=36)

    def save_a_change(self) -> None:
        reports = Reports(self.lab)
        saved = edit(self.notebook, "greet", 'f"Hello, {name}!"', 'f"Good morning, {name}!"')
        self.call_until("Hello, Ada!", "Good morning, Ada!", saved)
        self.show_loaded(reports)

    def save_a_mistake(self) -> None:
        reports = Reports(self.lab)
        saved = edit(self.notebook, "greet", 'f"Good morning, {name}!"', 'f"Good evening, {name}!')
        report = reports.of("hello")
        print(f"  reload report, {since(saved)} after the save:\n    {report['text']}")
        expect("the outcome of the reload", report["outcome"], "failed")
        if "hello.ipynb cell 3, line 5" not in report["text"]:
            raise Unexpected("the report does not name the cell and the line of the mistake")
        self.call("hello.greet", "Ada", wanted="Good morning, Ada!")
        self.show_stale("hello")

    def mend(self) -> None:
        reports = Reports(self.lab)
        saved = edit(self.notebook, "greet", 'f"Good evening, {name}!', 'f"Good evening, {name}!"')
        self.call_until("Good morning, Ada!", "Good evening, Ada!", saved)
        self.show_loaded(reports)
        self.show_stale("")

    def call_until(self, old: str, new: str, saved: float) -> None:
        """Calls without a pause while a save is taken in: the old code answers every call, and then the new."""
        answers: list[str] = []

        def is_new() -> bool:
            answers.append(self.client.hello.greet("Ada"))
            return answers[-1] != old

        wait_for(f"{new!r} to be served", is_new)
        expect("hello.greet('Ada')", answers[-1], new)
        print(f"  hello.greet('Ada')  ->  {new!r}   ({since(saved)} after the save; call {len(answers)}, none failed)")

    def show_loaded(self, reports: Reports) -> None:
        report = reports.of("hello")
        expect("the outcome of the reload", report["outcome"], "loaded")
        print(f"  reload report: {report['text']}")

    def show_stale(self, wanted: str) -> None:
        """Which services are stale: by the header of the last answer, and for the developer."""
        stale = [one["service"] for one in self.lab.services() if one["stale"]]
        expect("the header X-Clarens-Stale", self.transport.stale, wanted)
        expect("what lab.services() calls stale", stale, [wanted] if wanted else [])
        print(f"  stale: {', '.join(stale) or 'nothing'}   (the header X-Clarens-Stale and lab.services() agree)")

    def stop(self) -> None:
        started = time.perf_counter()
        status = self.server.stop()
        expect("the server's exit status", status, 0)
        expect("the run file is still there", self.server.run_file.exists(), False)
        print(f"  SIGTERM  ->  exit status {status}   ({since(started)})")


@contextmanager
def story_of(server: Server, notebook: Path) -> Iterator[Story]:
    """A story with its two clients: one for everyone, and one for the developer, who has the token."""
    transport = Transport()
    with (
        xmlrpc.client.ServerProxy(server.url, transport=transport) as client,
        xmlrpc.client.ServerProxy(server.lab_url, transport=Transport()) as developer,
    ):
        yield Story(server, notebook, client, transport, developer.lab)


def tell(work: Path) -> None:
    """The whole story, in a temporary folder."""
    folder = work / "services"
    print("Serve a copy of notebooks/services:")
    shutil.copytree(SERVICES, folder, ignore=shutil.ignore_patterns(".*", "__pycache__"))
    started = time.perf_counter()
    with serving(folder, work) as server, story_of(server, folder / "hello.ipynb") as story:
        print(f"  at {server.url}   ({since(started)})")
        for title, step in (
            ("Call it with the standard library's xmlrpc.client:", story.call_methods),
            ("Change a cell, and save as Jupyter does:", story.save_a_change),
            ("Save a typing mistake:", story.save_a_mistake),
            ("Mend it:", story.mend),
            ("Stop the server:", story.stop),
        ):
            print(f"\n{title}")
            step()


def reason(error: Exception) -> str:
    if isinstance(error, Unexpected):
        return str(error)
    if isinstance(error, xmlrpc.client.ProtocolError):  # its own text holds the token
        return f"the server answered HTTP {error.errcode} {error.errmsg}"
    return f"{type(error).__name__}: {error}"


def main() -> int:
    started = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory(prefix="clarens-demo-") as work:
            tell(Path(work).resolve())
    except KeyboardInterrupt:
        print("\nThe demo was interrupted; its server is stopped and its folder removed.", file=sys.stderr)
        return 130
    except Exception as error:  # noqa: BLE001  # whatever it is, the demo did not show what it should
        print(f"\nThe demo failed: {reason(error)}", file=sys.stderr)
        return 1
    print(f"\nAll of it came back as it should, in {time.perf_counter() - started:.1f} s.")
    return 0


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # so that a pipe shows it as it happens
    for signum in (signal.SIGINT, signal.SIGTERM):  # also SIGTERM, and also from a background job, where INT is ignored
        signal.signal(signum, signal.default_int_handler)
    sys.exit(main())
