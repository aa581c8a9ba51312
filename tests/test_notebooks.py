"""The notebooks of this repository: clean files, working services, true data, and a demo that shows what it says."""

import copy
import csv
import importlib.util
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from datetime import date, timedelta
from pathlib import Path
from types import ModuleType

import nbformat
import pytest

from clarens_lab import Fault
from clarens_lab.loaders import build, discover, read
from clarens_lab.registry import Generation
from clarens_lab.service import Kept
from clarens_lab.testing import LocalService, run_tests

ROOT = Path(__file__).parent.parent
NOTEBOOKS = ROOT / "notebooks"
SERVICES = NOTEBOOKS / "services"
DEMO = NOTEBOOKS / "demo.py"
TABLE = SERVICES / "leap-seconds.csv"
OFFICIAL = Path("/usr/share/zoneinfo/leap-seconds.list")

every_notebook = pytest.mark.parametrize(
    "path", [pytest.param(one, id=one.stem) for one in sorted(NOTEBOOKS.rglob("*.ipynb"))]
)
every_service = pytest.mark.parametrize(
    "path", [pytest.param(one, id=one.stem) for one in sorted(SERVICES.glob("*.ipynb"))]
)


def built(path: Path, kept: Kept | None = None) -> Generation:
    """A generation of the one service in a notebook."""
    (source,) = read(path)
    return build(source, kept or Kept())


def service(name: str) -> LocalService:
    return LocalService(built(SERVICES / f"{name}.ipynb"))


# --- the files ---------------------------------------------------------------------------------


@every_notebook
def test_every_notebook_is_valid_nbformat_4_5(path: Path) -> None:
    """Every notebook is valid nbformat 4.5, its cells with ids that can be read."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    nbformat.validate(copy.deepcopy(notebook))

    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    ids = [cell["id"] for cell in notebook["cells"]]
    assert [one for one in ids if not one.replace("-", "").isalpha()] == []
    assert len(set(ids)) == len(ids)


@every_notebook
def test_every_notebook_starts_clean(path: Path) -> None:
    """No notebook holds outputs or execution counts, and each is written as Jupyter writes it: a save is no diff."""
    text = path.read_text(encoding="utf-8")
    notebook = json.loads(text)
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]

    assert [cell["id"] for cell in code if cell["outputs"] or cell["execution_count"] is not None] == []
    assert text == json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def test_the_folder_of_services_holds_three_and_skips_nothing() -> None:
    """Serving notebooks/services finds hello, leapseconds and picalc, and no notebook that is no service."""
    found = discover(SERVICES)

    assert [path.stem for path in found.services] == ["hello", "leapseconds", "picalc"]
    assert found.skipped == ()


@every_service
def test_every_service_loads_without_a_remark(path: Path) -> None:
    """Every service notebook loads under its file's name with nothing to note, and documents each method."""
    generation = built(path)

    assert generation.service == path.stem
    assert generation.notes == ()
    assert [method.path for method in generation.methods.values() if not method.help] == []
    assert [method.path for method in generation.methods.values() if "undef" in method.signatures[0]] == []


@every_service
def test_every_service_passes_its_own_tests(path: Path) -> None:
    """Every service notebook has a test cell, and it is green."""
    (source,) = read(path)
    results = run_tests(built(path), source.tests)

    assert results
    assert [result.traceback for result in results if not result.ok] == []


@every_service
def test_every_service_says_how_to_serve_it(path: Path) -> None:
    """The first cell of every service notebook names the command that serves it."""
    first = json.loads(path.read_text(encoding="utf-8"))["cells"][0]

    assert first["cell_type"] == "markdown"
    assert "clarens-lab serve notebooks/services" in "".join(first["source"])


def documented_commands() -> list[str]:
    """Every command that README and notebooks tell their reader, but for `serve`."""
    texts = [(NOTEBOOKS / "README.md").read_text(encoding="utf-8")]
    for path in sorted(SERVICES.glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        texts += ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    return sorted(set(re.findall(r"clarens-lab (?!serve)([^`\n]+)", "\n".join(texts))))


def test_the_commands_in_the_text_work(tmp_path: Path) -> None:
    """Every command that the notebooks and their README tell works, beside a server that was started as they tell."""
    environment = os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)}  # no other server of this user is found there
    program = [sys.executable, "-m", "clarens_lab"]
    serve = [*program, "serve", "notebooks/services", "--port", "0", "--run-file", str(tmp_path / "run.json")]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(serve, cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        wait_for_one(tmp_path, "run.json")
        commands = documented_commands()
        ended = {
            command: subprocess.run([*program, *shlex.split(command)], cwd=ROOT, env=environment, capture_output=True)
            for command in commands
        }
    finally:
        server.terminate()
        server.wait(20)

    assert {"call hello.greet Ada", "reload picalc --fresh"} <= set(commands)
    assert [(command, one.stderr) for command, one in ended.items() if one.returncode] == []
    assert ended["call hello.greet Ada"].stdout == b"Hello, Ada!\n"
    assert ended["call leapseconds.tai_minus_utc 2016-12-31"].stdout == b"36\n"


# --- what they answer --------------------------------------------------------------------------


def test_hello_greets() -> None:
    """hello answers a greeting for one person or several, and refuses a name that is no text."""
    hello = service("hello")

    assert hello.greet("Ada") == "Hello, Ada!"
    assert hello.greet_all(["Ada", "Emmy"]) == ["Hello, Ada!", "Hello, Emmy!"]
    with pytest.raises(Fault, match=r"hello\.greet\(name: str\) -> str") as refused:
        hello.greet(42)
    assert refused.value.code == -32602


def test_picalc_rounds() -> None:
    """picalc gives pi rounded to the digits asked for, and refuses none and more than it has time for."""
    picalc = service("picalc")

    assert [picalc.digits(n) for n in (1, 2, 3, 4, 5)] == ["3", "3.1", "3.14", "3.142", "3.1416"]
    # From the 762nd decimal on there are six nines and an 8: rounded amid them, zeros.
    assert (picalc.digits(768)[-7:], picalc.digits(769)[-7:]) == ("5000000", "9999998")
    assert len(picalc.digits(10_000)) == 10_001
    for n in (0, -1, 10_001):
        with pytest.raises(Fault, match="ask for 1 to 10000"):
            picalc.digits(n)


def test_picalc_keeps_its_answers_over_a_reload(tmp_path: Path) -> None:
    """What picalc has computed is there after a reload, and gone once it is loaded fresh."""
    path, kept = SERVICES / "picalc.ipynb", Kept()
    before = LocalService(built(path, kept))
    for n in (5, 50, 5):
        before.digits(n)

    assert before.answers_kept() == 2
    assert LocalService(built(path, kept)).answers_kept() == 2
    assert LocalService(built(path, Kept())).answers_kept() == 0


@pytest.mark.parametrize(
    ("day", "seconds"),
    [("1972-01-01", 10), ("1972-06-30", 10), ("1972-07-01", 11), ("1998-12-31", 31), ("1999-01-01", 32),
     ("2008-12-31", 33), ("2012-07-01", 35), ("2016-12-31", 36), ("2017-01-01", 37), ("2025-06-01", 37)],
)  # fmt: skip
def test_leapseconds_tells_tai_minus_utc(day: str, seconds: int) -> None:
    """leapseconds gives the value in force on a day: the new one from the day after a leap second."""
    assert service("leapseconds").tai_minus_utc(day) == seconds


@pytest.mark.parametrize(
    ("day", "code", "text"),
    [("1971-12-31", 2002, "1971-12-31 is before 1972-01-01"), ("2016-13-01", 2001, "'2016-13-01' is no day"),
     ("yesterday", 2001, "write it as 2016-12-31"), ("", 2001, "'' is no day")],
)  # fmt: skip
def test_leapseconds_says_which_days_it_cannot_answer(day: str, code: int, text: str) -> None:
    """A day before 1972, and what is no day, get leapseconds' own faults and no traceback."""
    with pytest.raises(Fault, match=text) as refused:
        service("leapseconds").tai_minus_utc(day)
    assert refused.value.code == code
    assert "Traceback" not in refused.value.text


# --- the data ----------------------------------------------------------------------------------


def changes() -> list[tuple[date, int]]:
    with TABLE.open(newline="", encoding="utf-8") as file:
        return [(date.fromisoformat(row["from"]), int(row["tai_minus_utc"])) for row in csv.DictReader(file)]


def test_the_table_has_the_form_of_leap_seconds() -> None:
    """The table begins with 10 s in 1972, adds 27 seconds, one at a time, each at the end of a June or December."""
    days, seconds = zip(*changes(), strict=True)

    assert (days[0], seconds[0]) == (date(1972, 1, 1), 10)
    assert (days[-1], seconds[-1]) == (date(2017, 1, 1), 37)
    assert list(seconds) == list(range(10, 38))
    assert list(days) == sorted(set(days))
    assert {(day.month, day.day) for day in days} == {(1, 1), (7, 1)}
    assert sum(day.month == 7 for day in days) == 11
    assert TABLE.stat().st_size < 50_000


@pytest.mark.skipif(not OFFICIAL.exists(), reason="this machine has no copy of the official list")
def test_the_table_agrees_with_the_official_list() -> None:
    """Up to 2017 the table is, day by day and second by second, the list that operating systems go by."""
    lines = [line.split() for line in OFFICIAL.read_text().splitlines() if not line.startswith("#")]
    official = [(date(1900, 1, 1) + timedelta(seconds=int(since)), int(offset)) for since, offset, *_ in lines]

    assert changes() == [row for row in official if row[0] <= date(2017, 1, 1)]


def test_the_data_names_its_source_and_licence() -> None:
    """Where the table comes from stands in the notebook and beside the file, its licence beside the file."""
    beside = (SERVICES / "leap-seconds.txt").read_text(encoding="utf-8")

    assert "Bulletin C" in (SERVICES / "leapseconds.ipynb").read_text(encoding="utf-8")
    assert "Bulletin C" in beside
    assert "public domain" in beside


# --- the demo ----------------------------------------------------------------------------------


def contents() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(SERVICES.iterdir()) if path.is_file()}


def started_demo(**environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(DEMO)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )


def test_the_demo_shows_the_main_job_and_ends_by_itself(tmp_path: Path) -> None:
    """The demo serves, saves, breaks, mends and stops, within a minute, with status 0, and leaves nothing behind."""
    before = contents()
    # Settings of its user, and a folder of temporary files that can be looked at afterwards.
    demo = started_demo(TMPDIR=str(tmp_path), CLARENS_PORT="1", CLARENS_RELOAD="off")
    said, complaints = demo.communicate(timeout=60)

    assert (demo.returncode, complaints) == (0, ""), said + complaints
    assert "hello.greet('Ada')  ->  'Good morning, Ada!'" in said
    assert "reload report: hello generation 2 serves (changed greet; " in said
    assert "hello.ipynb cell 3, line 5: SyntaxError: " in said
    assert "; still serving generation 2" in said
    assert "stale: hello" in said
    assert "reload report: hello generation 3 serves (changed greet; " in said
    assert "SIGTERM  ->  exit status 0" in said
    assert contents() == before
    assert list(tmp_path.glob("clarens-demo-*")) == []


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=lambda signum: signum.name)
def test_an_interrupted_demo_takes_its_server_along(tmp_path: Path, signum: signal.Signals) -> None:
    """Ctrl-C or SIGTERM ends the demo at once, and neither its server nor its folder is left behind."""
    demo = started_demo(TMPDIR=str(tmp_path))
    run_file = wait_for_one(tmp_path, "clarens-demo-*/run.json")
    server = json.loads(run_file.read_text(encoding="utf-8"))["pid"]
    demo.send_signal(signum)
    _, complaints = demo.communicate(timeout=30)

    assert demo.returncode == 130
    assert "interrupted" in complaints
    with pytest.raises(ProcessLookupError):
        os.kill(server, 0)
    assert list(tmp_path.glob("clarens-demo-*")) == []


def wait_for_one(folder: Path, pattern: str) -> Path:
    deadline = time.monotonic() + 20
    while not (found := list(folder.glob(pattern))):
        assert time.monotonic() < deadline, f"no {pattern} in 20 s"
        time.sleep(0.005)
    return found[0]


def test_the_demo_fails_where_something_else_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A service that answers wrongly ends the demo with status 1, what came back and what should have."""
    demo = demo_module()
    services = changed_services(tmp_path, "hello.ipynb", "Hello,", "Hullo,")
    monkeypatch.setattr(demo, "SERVICES", services)

    assert demo.main() == 1
    complaints = capsys.readouterr().err
    assert "The demo failed: hello.greet('Ada'): 'Hullo, Ada!' came back, and not 'Hello, Ada!'" in complaints
    assert "The server's log ends with:" in complaints


def test_the_demo_fails_where_no_server_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the server does not start, the demo says so with the server's own last words, and ends with status 1."""
    demo = demo_module()
    monkeypatch.setattr(demo.sys, "executable", "/bin/false")

    assert demo.main() == 1
    assert "The demo failed: the server ended at once, with status 1" in capsys.readouterr().err


def changed_services(folder: Path, name: str, old: str, new: str) -> Path:
    """A copy of notebooks/services with one text changed."""
    copied = folder / "changed"
    copied.mkdir()
    for path in SERVICES.iterdir():
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            (copied / path.name).write_text(text.replace(old, new) if path.name == name else text, encoding="utf-8")
    return copied


def demo_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("clarens_demo", DEMO)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
