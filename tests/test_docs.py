"""The README and every page under docs/ do what they say: their snippets run, their tables are the code's own.

A page is one session, run from top to bottom in a temporary project. The word after a fence says what a block is:

- ```` ```python hello.ipynb ```` is a cell of that notebook, saved as Jupyter saves; `hello.ipynb 2` is cell 2 anew;
- ```` ```python geometry.py ````, ```` ```toml clarens.toml ```` and the like are that file;
- ```` ```python In ```` is a cell of the page's notebook, run in a real kernel; `In 2` is the second one anew, and
  `In fails` must fail; ```` ```text Out ```` after it is what it shows;
- ```` ```python ```` runs; where it begins with `>>>`, what is shown must come out;
- ```` ```console ```` has commands after `$ ` and what they print, `...` for what differs from run to run;
- ```` ```sh ```` is for the reader's own machine: only its make targets are checked;
- other ```` ```text ```` and ```` ```javascript ```` are not run.

A server on the pages listens on 8642; here that is a free port. A save takes effect a moment later, so a command
or an example whose output differs is tried again until a deadline.
"""

import argparse
import collections.abc
import datetime
import doctest
import enum
import inspect
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import typing
import xmlrpc.client
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from serving import PATIENCE, save_as_jupyter, until, write_notebook

from clarens_lab import faults, runfiles
from clarens_lab.settings import TABLE
from clarens_lab.signature import wire_of
from clarens_lab.verbs import NOTEBOOK, TERMINAL, known_at, tree

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w+)(?: +([^\n]*?))? *\n(.*?)^```$", re.MULTILINE | re.DOTALL)
KINDS = {"python", "console", "toml", "csv", "xml", "sh", "text", "javascript"}
SERVE = re.compile(r"clarens-lab serve\b")
FEW_SECONDS = 10.0

every_page = pytest.mark.parametrize("page", [pytest.param(page, id=page.stem) for page in PAGES])


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, what follows that on the fence, its text, its line on the page."""

    kind: str
    about: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(found[1], found[2] or "", found[3], text[: found.start()].count("\n") + 1)
        for found in FENCE.finditer(text)
    ]


# --- a page as a session -----------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def fits(shown: str, printed: str) -> bool:
    """Whether the output is the one shown, where `...` stands for anything."""
    pattern = ".*?".join(re.escape(part) for part in shown.strip().split("..."))
    return re.fullmatch(pattern, printed.strip(), re.DOTALL) is not None


@dataclass
class Session:
    """One page being done, in a temporary project."""

    folder: Path
    port: int = field(default_factory=free_port)
    notebooks: dict[str, list[str]] = field(default_factory=dict)
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "__main__"})
    servers: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    kernel: Any = None
    cells: int = 0
    ran: Any = None
    """What came of the notebook's cell before."""

    def run(self, block: Block) -> None:
        """Does what a block says."""
        text = block.text.replace("8642", str(self.port))
        if block.about == "Out":
            assert fits(text, self.ran.text), f"--- shown\n{self.ran.text}--- the page shows\n{text}"
            return
        if block.kind in ("text", "sh", "javascript"):
            return
        if block.about.partition(" ")[0] == "In":
            self.run_cell(block.about.split()[1:], text)
            return
        if block.about:
            self.write(block.about, text)
        elif block.kind == "console":
            for command, shown in commands(text):
                self.type(command, shown)
        elif text.startswith(">>>"):
            self.converse(text)
        else:
            exec(compile(text, "<page>", "exec"), self.names)

    def write(self, about: str, text: str) -> None:
        """Saves a file, or a cell of a notebook."""
        name, _, number = about.partition(" ")
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix != ".ipynb":
            path.write_text(text, encoding="utf-8")
            return
        cells = self.notebooks.setdefault(name, [])
        index = int(number) - 1 if number else len(cells)
        cells[index : index + 1] = [text.removesuffix("\n")]
        (save_as_jupyter if path.exists() else write_notebook)(path, *cells)

    def run_cell(self, options: list[str], text: str) -> None:
        """Runs a cell of the page's notebook."""
        from kernels import Kernel  # beside the tests of the extension; slow to import, and few pages have cells

        if self.kernel is None:
            self.kernel = Kernel(self.folder, CLARENS_PORT=str(self.port))
        numbers = [int(one) for one in options if one != "fails"]
        self.cells += not numbers
        self.ran = self.kernel.run(text.removesuffix("\n"), cell_id=f"cell-{(numbers or [self.cells])[0]}")
        assert self.ran.ok is ("fails" not in options), self.ran.text

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "CLARENS_PORT": str(self.port),
        }

    def type(self, command: str, shown: str) -> None:
        """Types a command, and compares what it prints."""
        if SERVE.match(command):
            self.serve(command, shown)
            return
        if command.startswith("curl ") and shutil.which("curl") is None:
            return
        deadline = time.monotonic() + FEW_SECONDS
        while True:
            ended = subprocess.run(
                ["bash", "-c", command], cwd=self.folder, env=self.environment(), stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, timeout=PATIENCE, check=False,
            )  # fmt: skip
            printed = ended.stdout.decode()
            if fits(shown, printed):
                return
            assert time.monotonic() < deadline, f"$ {command}\n--- printed\n{printed}--- the page shows\n{shown}"

    def serve(self, command: str, shown: str) -> None:
        """Starts a server; what it prints until it serves is compared."""
        log = self.folder / f".log-{len(self.servers)}"
        with log.open("wb") as out:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {command}"], cwd=self.folder, env=self.environment(), stdout=out, stderr=out
            )
        self.servers.append(process)
        until(lambda: "next: " in log.read_text() or process.poll() is not None)
        printed = log.read_text()
        assert fits(shown or "...", printed), f"$ {command}\n--- printed\n{printed}--- the page shows\n{shown}"

    def converse(self, text: str) -> None:
        """Runs `>>>` examples, and compares what comes out."""
        flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        for example in doctest.DocTestParser().get_examples(text):
            deadline = time.monotonic() + FEW_SECONDS
            while True:
                told: list[str] = []
                one = doctest.DocTest([example], {}, "page", None, 0, None)
                one.globs = self.names  # not a copy: names are kept from block to block
                runner = doctest.DocTestRunner(optionflags=flags, verbose=False)
                failed = runner.run(one, out=told.append, clear_globs=False).failed
                if not failed:
                    break
                assert time.monotonic() < deadline, "".join(told)

    def end(self) -> None:
        """Closes the page's connections, and ends its servers."""
        if self.kernel is not None:
            self.kernel.stop()
        own = [server.pid for server in self.servers]
        for left in runfiles.running():  # of a page that failed between starting one and stopping it
            if left.pid not in own:
                os.kill(left.pid, signal.SIGTERM)
        for value in self.names.values():
            if isinstance(value, xmlrpc.client.ServerProxy):
                value("close")()
        for server in self.servers:
            if server.poll() is None:
                server.send_signal(signal.SIGTERM)
        for server in self.servers:
            assert server.wait(PATIENCE) == 0


def commands(text: str) -> Iterator[tuple[str, str]]:
    """Each command of a console block with the output that is shown below it."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        while command.endswith("\\"):
            more, _, shown = shown.partition("\n")
            command = f"{command}\n{more}"
        yield command, shown


@every_page
def test_every_snippet_does_what_the_page_shows(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Done from top to bottom in an empty folder, a page's snippets run, and print what the page shows."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "extension"))
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    session = Session(folder)
    try:
        for block in blocks(page):
            try:
                session.run(block)
            except Exception as error:
                error.add_note(f"in {page.name}, line {block.line}")
                raise
    finally:
        session.end()


# --- what pages are made of --------------------------------------------------------------------


@every_page
def test_every_block_says_what_it_is(page: Path) -> None:
    """Every fence has one of the languages that are run, or says that it is not."""
    text = page.read_text(encoding="utf-8")

    assert text.count("\n```") == 2 * len(blocks(page)), "a fence without a language, or not closed"
    assert {block.kind for block in blocks(page)} <= KINDS


@every_page
def test_every_link_leads_somewhere(page: Path) -> None:
    """Every relative link names a file of the repository, and a heading of it where it has a `#`."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        name, _, heading = target.partition("#")
        linked = (page.parent / name) if name else page
        assert linked.exists(), target
        if heading:
            assert heading in anchors(linked), target


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_make_target_that_is_named_exists() -> None:
    """The README's commands are targets of the Makefile, on its first screen."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))

    first_screen = "\n".join(readme.splitlines()[:25])
    for command in ("apt-get install -y git make", "make demo", "make lab", "make test"):
        assert command in first_screen
    for page in PAGES:
        assert set(re.findall(r"\bmake (demo|lab|test[a-z-]*|check|bench|clean)\b", page.read_text())) <= targets


def test_every_page_is_reached_from_the_readme() -> None:
    """The README links every page of docs/."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")

    assert [page.name for page in PAGES[1:] if f"docs/{page.name}" not in readme] == []


# --- pages and code agree ----------------------------------------------------------------------


def sections(name: str, level: str) -> dict[str, str]:
    """The text under each heading of a page, by the heading without its backquotes."""
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    parts = re.split(rf"^{level} (.+)$", text, flags=re.MULTILINE)
    return dict(zip((part.strip("`") for part in parts[1::2]), parts[2::2], strict=True))


def test_every_setting_has_its_heading_with_its_default() -> None:
    """docs/settings.md has a heading for each setting and no other, in the order of the table, with the default."""
    told = sections("settings.md", "###")

    assert list(told) == list(TABLE)
    for name, spec in TABLE.items():
        assert f"Default: `{json.dumps(spec.default)}`" in told[name], name


def verbs(door: str = TERMINAL) -> dict[str, argparse.ArgumentParser]:
    (choices,) = [action.choices for action in tree(door)._actions if isinstance(action.choices, dict)]
    return choices


def test_every_verb_has_its_heading_with_its_options() -> None:
    """docs/command-line.md has a heading for each verb of the terminal and no other, which names each option."""
    told = {name: text for name, text in sections("command-line.md", "###").items() if name in verbs()}

    assert list(told) == list(verbs())
    for name, parser in verbs().items():
        shared = {"-h", "--help", "--url", "--token", "--json"}
        options = {option for action in parser._actions for option in action.option_strings} - shared
        missing = [option for option in options if not re.search(rf"`{re.escape(option)}\b", told[name])]
        assert missing == [], name


def test_every_verb_of_the_notebook_has_its_row_with_its_options() -> None:
    """docs/in-the-notebook.md has a row for each `%clarens` verb and no other, which names each option."""
    page = (ROOT / "docs" / "in-the-notebook.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `%clarens (\w+)(.*)$", page, re.MULTILINE))

    assert list(rows) == list(known_at(NOTEBOOK))
    for name, parser in verbs(NOTEBOOK).items():
        options = {option for action in parser._actions for option in action.option_strings}
        assert [one for one in options - {"-h", "--help", "--json"} if f"`{one}`" not in rows[name]] == [], name


def test_the_readme_leads_from_loading_to_an_answer_in_four_cells() -> None:
    """The README's first session is in a notebook: `%load_ext`, a service cell, a call with its answer."""
    cells = [one for one in blocks(ROOT / "README.md") if one.about.partition(" ")[0] in ("In", "Out")]
    answer = next(index for index, one in enumerate(cells) if one.text == "'Hello, Ada!'\n")

    assert cells[0].text == "%load_ext clarens_lab\n"
    assert len([one for one in cells[:answer] if one.about == "In"]) <= 4
    assert blocks(ROOT / "README.md")[1] == cells[0]


def test_every_number_of_a_fault_is_on_the_page_of_the_wire() -> None:
    """docs/wire.md lists every number that a fault of the server's own can have."""
    classes = [one for _, one in inspect.getmembers(faults, inspect.isclass) if issubclass(one, faults.ServerFault)]
    table = set(map(int, re.findall(r"^\| (-32\d{3}) \|", (ROOT / "docs" / "wire.md").read_text(), re.MULTILINE)))

    assert table == {one.number for one in classes}


class Colour(enum.Enum):
    """Stands for the Enum of the table."""

    RED = "red"


@dataclass
class Point:
    """Stands for the dataclass of the table."""

    x: float


class Options(typing.TypedDict):
    """Stands for the TypedDict of the table."""

    x: int


def test_the_table_of_hints_is_the_codes_own() -> None:
    """Each hint of the table in docs/notebooks.md is listed by `system.methodSignature` as the table says."""
    names: dict[str, Any] = {
        **vars(typing), **vars(collections.abc), "datetime": datetime.datetime,
        "Colour": Colour, "Point": Point, "Options": Options,
    }  # fmt: skip
    rows = re.findall(r"^\| (`.+?) \| `([\w.0-9]+)` \|", (ROOT / "docs" / "notebooks.md").read_text(), re.MULTILINE)

    assert len(rows) > 10
    for hints, wire in rows:
        for hint in re.findall(r"`([^`]+)`", hints.replace("\\|", "|")):
            if hint != "np.ndarray":  # numpy is not needed to run the tests of the docs
                assert wire_of(eval(hint, names))[0] == wire, hint
