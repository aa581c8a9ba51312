"""A service without a server: loaded as an object for pytest, called through the codec, its test cells run."""

import asyncio
import datetime
import re
import sys
from pathlib import Path

import pytest
from serving import write_notebook

import clarens_lab
from clarens_lab import Fault, load
from clarens_lab.loaders import build, read
from clarens_lab.service import Kept
from clarens_lab.source import LoadError
from clarens_lab.testing import Result, run_tests, run_tests_in

CELL = """%%clarens service pi
from dataclasses import dataclass
from clarens_lab import Fault, current_call, keep, method

@dataclass
class Point:
    x: float

@method
def digits(n: int = 3) -> str:
    "The first n digits."
    print("asked")
    return "3.1415926"[: n + 2]

@method(name="deep.er.name")
def deeper() -> list[int]:
    return [1]

@method
async def later(p: Point) -> float:
    return p.x

@method
def own() -> None:
    raise Fault(2001, "no such run")

@method
def classic() -> None:
    raise RuntimeError(7, "as Clarens raises it")

@method
def fails() -> float:
    return 1 / 0

@method
def told() -> str:
    return current_call().method

@method
def unfit() -> object:
    return {"a": [object()]}

@method
def shapes() -> object:
    return (1, {2})
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_notebook(tmp_path / "pi.ipynb", CELL)


def results(path: Path) -> list[Result]:
    (source,) = read(path)
    return run_tests(build(source, Kept()), source.tests)


def test_a_loaded_service_is_called_like_an_object(path: Path) -> None:
    """load gives the service; its methods are attributes, its async ones included, dotted names too."""
    pi = load(path)

    assert pi.digits(5) == "3.14159"
    assert pi.digits() == "3.141"
    assert pi.later({"x": 2}) == 2.0
    assert pi.deep.er.name() == [1]
    assert pi.told() == "pi.told"
    assert pi.digits.function(1) == "3.1"
    assert pi.digits.__doc__ == "The first n digits."
    assert "digits" in dir(pi)
    assert repr(pi).startswith("<service pi: digits(n: int = 3) -> str, ")
    assert repr(pi.digits) == "<method pi.digits(n: int = 3) -> str>"


def test_a_call_goes_through_signature_and_codec(path: Path) -> None:
    """What would not pass over the wire does not pass here; tuples and sets come back as lists."""
    pi = load(str(path))

    assert pi.shapes() == [1, [2]]
    for arguments, code, text in (
        (("x",), -32602, "n takes an int"),
        ((1, 2), -32602, "takes 0 to 1 argument, 2 given"),
        ((object(),), -32603, "object"),
        ((datetime.datetime(2026, 1, 1, 0, 0, 0, 5),), -32603, "microsecond"),
    ):
        with pytest.raises(Fault, match=text) as refused:
            pi.digits(*arguments)
        assert refused.value.code == code
    with pytest.raises(Fault, match=r"\['a'\]\[0\]"):
        pi.unfit()


def test_faults_come_as_over_the_wire(path: Path) -> None:
    """A service's own fault keeps number and text; what else it raises is -32500 with cell and line."""
    pi = load(path)

    for name, code, text in (("own", 2001, "no such run"), ("classic", 7, "as Clarens raises it")):
        with pytest.raises(Fault, match=text) as own:
            getattr(pi, name)()
        assert (own.value.code, own.value.text) == (code, text)
    with pytest.raises(Fault, match=r"pi\.ipynb cell 1, line 33 \(fails\)") as raised:
        pi.fails()
    assert raised.value.code == -32500
    assert isinstance(raised.value.__cause__, ZeroDivisionError)


def test_an_unknown_method_names_the_nearest(path: Path) -> None:
    """A method that is not there is an AttributeError which names the one that was meant."""
    pi = load(path)

    with pytest.raises(AttributeError, match=r"Did you mean 'pi\.digits'"):
        _ = pi.digit
    with pytest.raises(AttributeError, match=r"pi\.deep\.er\.nam"):
        _ = pi.deep.er.nam
    assert not hasattr(pi, "_repr_html_")


def test_async_methods_work_inside_of_a_notebooks_loop(path: Path) -> None:
    """A notebook's own event loop runs while a cell does; async methods can be called all the same."""

    async def cell() -> object:
        return load(path).later({"x": 5})

    assert asyncio.run(cell()) == 5.0


def test_of_several_services_one_is_chosen(tmp_path: Path) -> None:
    """load says which services a notebook holds where it cannot know which is wanted."""
    method = "from clarens_lab import method\n@method\ndef f(): return"
    path = write_notebook(tmp_path / "n.ipynb", f"%%clarens service a\n{method} 1", f"%%clarens service b\n{method} 2")

    assert load(path, "b").f() == 2
    with pytest.raises(LoadError, match=r"n\.ipynb holds the services a, b: say which"):
        load(path)
    with pytest.raises(LoadError, match=r"holds no service 'c'; it holds a, b"):
        load(path, "c")


def test_what_is_no_notebook_says_so(tmp_path: Path) -> None:
    """A file that is no notebook is a LoadError."""
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(LoadError, match=r"x\.txt is no service"):
        load(tmp_path / "x.txt")


def test_a_file_that_is_not_there_is_told_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path that is not there is FileNotFoundError, with the whole path, since pytest's folder may surprise."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=re.escape(f"'{tmp_path}/gone.ipynb'")) as raised:
        load("gone.ipynb")
    assert raised.value.filename == str(tmp_path / "gone.ipynb")


def test_the_package_offers_load() -> None:
    """clarens_lab.load is the function of this module."""
    assert clarens_lab.load is load


# --- test cells --------------------------------------------------------------------------------


def test_test_cells_see_the_service_and_its_names(tmp_path: Path) -> None:
    """A test cell has the service under its name, called through the codec, and all that the service defines."""
    path = write_notebook(
        tmp_path / "pi.ipynb",
        CELL,
        "%%clarens test pi\nassert pi.digits(1) == '3.1'\nassert pi.shapes() == [1, [2]]\nassert Point(1).x == 1\n",
        "%%clarens test\nimport dataclasses\n@dataclasses.dataclass\nclass Local:\n    x: 'int'\nprint(Local(1).x)\n",
    )
    first, second = results(path)

    assert (first.ok, first.test, first.error, first.output) == (True, "pi.ipynb cell 2", "", "asked\n")
    assert (second.ok, second.error, second.output) == (True, "", "1\n")
    assert first.as_struct()["service"] == "pi"


@pytest.mark.parametrize(
    ("cell", "error"),
    [
        ("assert pi.digits(2) == 'x'", "pi.ipynb cell 2, line 2: AssertionError"),
        ("1/0", "pi.ipynb cell 2, line 2: ZeroDivisionError: division by zero"),
        ("pi.own()", "pi.ipynb cell 2, line 2: Fault: no such run (2001)"),
        ("pi.digits('x')", "pi.ipynb cell 2, line 2: BadArguments: pi.digits"),
        ("x = = 2", "pi.ipynb cell 2, line 2: SyntaxError: invalid syntax"),
        ("raise SystemExit(3)", "pi.ipynb cell 2, line 2: SystemExit: 3"),
        ("input()", "pi.ipynb cell 2, line 2: RuntimeError: input() is not for a service"),
        ("pi.fails()", "pi.ipynb cell 2, line 2: ServiceRaised: "),
    ],
)
def test_a_red_test_names_its_line(tmp_path: Path, cell: str, error: str) -> None:
    """A test that fails, however it does, is told with cell and line, and the next one runs."""
    path = write_notebook(tmp_path / "pi.ipynb", CELL, f"%%clarens test pi\n{cell}", "%%clarens test pi\nprint('ran')")
    red, green = results(path)

    assert not red.ok
    assert red.error.startswith(error), red.error
    assert red.traceback
    assert (green.ok, green.output) == (True, "ran\n")


def test_a_test_leaves_the_service_as_it_was(tmp_path: Path) -> None:
    """Names that a test binds are its own: the next test finds the service untouched."""
    path = write_notebook(
        tmp_path / "pi.ipynb",
        CELL,
        "%%clarens test pi\nPoint = None\nmine = 1",
        "%%clarens test pi\nassert Point and 'mine' not in globals()",
    )

    assert [result.error for result in results(path)] == ["", ""]


def test_tests_of_no_known_service_are_told(tmp_path: Path) -> None:
    """A test cell without a name belongs to the notebook's only service; one that names a stranger is noted."""
    path = write_notebook(
        tmp_path / "any.ipynb", CELL, "%%clarens test\nassert pi.digits(1)", "%%clarens test po\nassert False"
    )
    (source,) = read(path)

    assert [unit.label for unit in source.tests] == ["any.ipynb cell 2"]
    assert source.notes == ("any.ipynb cell 3 tests 'po', which is no service of this notebook",)


# --- the tests of files ------------------------------------------------------------------------


def test_what_is_built_for_a_files_tests_is_unloaded(tmp_path: Path) -> None:
    """When a file's tests have run, its on_unload functions have, and none of its modules is left in sys.modules."""
    hook = "@on_unload\ndef end():\n    (Path(__file__).parent / 'ended').touch()\n"
    method = "@method\ndef f(): return 1\n"
    cell = f"%%clarens service a\nfrom pathlib import Path\nfrom clarens_lab import method, on_unload\n{method}{hook}"
    path = write_notebook(tmp_path / "a.ipynb", cell, "%%clarens test a\nassert a.f() == 1")
    before = set(sys.modules)

    (result,) = run_tests_in(path)

    assert result.ok
    assert (tmp_path / "ended").exists()
    assert [name for name in sys.modules if name not in before and "a" in name.split(".")] == []


def test_what_does_not_load_is_a_red_result(tmp_path: Path) -> None:
    """A file that cannot be read, or whose service does not load, is a test that failed; the others are run."""
    write_notebook(tmp_path / "a.ipynb", "%%clarens service a\n@method\ndef f(): return 1")
    write_notebook(tmp_path / "pi.ipynb", CELL, "%%clarens test pi\nassert pi.digits(1) == '3.1'")
    (tmp_path / "torn.ipynb").write_text('{"cells": ["%%clarens service torn')

    told = {result.test: (result.service, result.ok, result.error) for result in run_tests_in(tmp_path)}

    assert told["pi.ipynb cell 2"] == ("pi", True, "")
    assert told["load a.ipynb"][:2] == ("a", False)
    assert "a.ipynb cell 1, line 2: NameError" in told["load a.ipynb"][2]


def test_notes_are_told_once(tmp_path: Path) -> None:
    """What a save would log of the source, such as a marker that is not on the first line, is told once a file."""
    method = "from clarens_lab import method\n@method\ndef f(): return np"
    path = write_notebook(
        tmp_path / "n.ipynb", f"%%clarens service a\n{method}", f"%%clarens service b\n{method}",
        "# why\n%%clarens test a\nassert a.f()", "%%clarens test a\nassert True",
    )  # fmt: skip
    notes: list[str] = []

    run_tests_in(path, notes.append)

    assert len([note for note in notes if note.startswith("n.ipynb cell 3")]) == 1
    assert any("a.f uses np, which nothing defines" in note for note in notes)
