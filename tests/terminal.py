"""A terminal for tests: `clarens-lab` as a user types it, in real processes, and servers that are ended afterwards."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serving import PATIENCE, until


@dataclass
class Ended:
    """A command that has ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it answered, with --json."""
        return json.loads(self.out)


@dataclass
class Serving:
    """A `clarens-lab serve` that runs."""

    process: "subprocess.Popen[str]"
    folder: Path
    url: str
    token: str
    run_file: Path
    err_file: Path

    @property
    def err(self) -> str:
        """What it wrote to stderr until now."""
        return self.err_file.read_text(encoding="utf-8")

    def end(self, number: int = signal.SIGTERM) -> int:
        """Its exit status after a signal."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(PATIENCE)


@dataclass
class Terminal:
    """Where a user types: a working folder, and run files of its own."""

    folder: Path
    runtime: Path
    environment: dict[str, str] = field(default_factory=dict)
    servers: list[Serving] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.runtime.mkdir(mode=0o700, exist_ok=True)

    def start(self, *words: str, **options: Any) -> "subprocess.Popen[str]":
        """Starts a command."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("CLARENS_")}
        environment = {**inherited, "XDG_RUNTIME_DIR": str(self.runtime), **self.environment}
        command = [sys.executable, "-m", "clarens_lab", *words]
        return subprocess.Popen(command, **{"cwd": self.folder, "env": environment, "text": True, **options})

    def run(self, *words: str) -> Ended:
        """Runs a command to its end."""
        pipe = subprocess.PIPE
        process = self.start(*words, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe)
        out, err = process.communicate(timeout=PATIENCE)
        return Ended(process.returncode, out, err)

    def serve(self, *words: str) -> Serving:
        """Starts a server on a free port; returns once its run file says that it serves."""
        number = len(self.servers)
        run_file, err_file = self.runtime / f"run-{number}.json", self.runtime / f"err-{number}"
        with err_file.open("w") as err:
            process = self.start("serve", *words, "--port", "0", "--run-file", str(run_file), stderr=err)
        until(lambda: run_file.exists() or process.poll() is not None)
        assert process.poll() is None, err_file.read_text()
        told = json.loads(run_file.read_text())
        self.servers.append(Serving(process, self.folder, told["url"], told["token"], run_file, err_file))
        return self.servers[-1]

    def end(self) -> None:
        """Ends the servers."""
        for server in self.servers:
            if server.process.poll() is None:
                server.process.kill()
                server.process.wait(PATIENCE)
