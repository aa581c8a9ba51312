"""Tracebacks as a service's author reads them: by cell, line and column, none of the server's own frames."""

import re
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
from serving import write_notebook

from clarens_lab import frames
from clarens_lab.loaders import build, read
from clarens_lab.registry import Generation
from clarens_lab.service import Building, Kept, building
from clarens_lab.source import LoadError, Unit

HEADER = "%%clarens service s\nfrom clarens_lab import method\n"


def built(folder: Path, *cells: str) -> Generation:
    path = write_notebook(folder / "s.ipynb", HEADER, *(f"%%clarens service s\n{cell}" for cell in cells))
    (source,) = read(path)
    return build(source, Kept())


def raised(generation: Generation, name: str = "f", *arguments: object) -> BaseException:
    """What a method raises."""
    try:
        generation.methods[name].function(*arguments)
    except BaseException as error:  # noqa: BLE001  # whatever it is
        return error
    raise AssertionError("it raised nothing")


def units(generation: Generation) -> frames.Units:
    assert generation.source is not None
    return generation.source.by_filename


def rendered(generation: Generation, name: str = "f", *arguments: object) -> str:
    return frames.render(raised(generation, name, *arguments), units(generation))


def test_5_2_25_a_frame_tells_cell_line_function_and_column(tmp_path: Path) -> None:
    """A frame is where it is as the author counts, the text of the line, and carets under what was evaluated."""
    generation = built(
        tmp_path, "def helper(x):\n    return 1 + (x / 0) + 2\n@method\ndef f(x):\n    return helper(x)\n"
    )

    assert (
        rendered(generation, "f", 4).split("\n")[-9:]
        == [
            "Traceback (most recent call last):",
            f"  {__file__}, line {raised.__code__.co_firstlineno + 3} (raised)",
            "    generation.methods[name].function(*arguments)",
            "  s.ipynb cell 2, line 6 (f)",
            "    return helper(x)",
            "           ^^^^^^^^^",
            "  s.ipynb cell 2, line 3 (helper)",
            "    return 1 + (x / 0) + 2",
            "                ^^^^^",
            "ZeroDivisionError: division by zero",
        ][-9:]
    )
    assert frames.place_of(raised(generation, "f", 4), units(generation)) == "s.ipynb cell 2, line 3 (helper)"


def test_columns_are_those_of_characters(tmp_path: Path) -> None:
    """Carets stand under characters, though Python counts bytes."""
    generation = built(tmp_path, "@method\ndef f():\n    é = 'żółw'; return é / 0\n")
    frame = frames.frames_of(raised(generation), units(generation))[-1]

    assert frame.columns is not None
    assert frame.line[slice(*frame.columns)] == "é / 0"


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("return (lambda: 1 / 0)()", 4),
        ("return [1 / n for n in (1, 0)]", 4),
        ("return list(1 / n for n in (1, 0))", 4),
        ("return list(gen())\ndef gen():\n    yield 1\n    yield 1 / 0", 7),
        ("return hidden()\ndef d(g):\n    def inner(): return g()\n    return inner\n@d\ndef hidden():\n    1 / 0", 10),
        ("return C().x\nclass C:\n    @property\n    def x(self): return 1 / 0", 7),
        ("return (\n        1 /\n        0\n    )", 5),
    ],
    ids=["lambda", "comprehension", "genexpr", "generator", "decorator", "property", "many lines"],
)  # fmt: skip
def test_5_2_25_every_kind_of_frame_points_at_its_line(tmp_path: Path, body: str, line: int) -> None:
    """Lambdas, comprehensions, generators, decorated functions and properties point at their own line."""
    generation = built(tmp_path, f"@method\ndef f():\n    {body}\n")

    place = frames.place_of(raised(generation), units(generation))
    assert re.match(rf"s\.ipynb cell 2, line {line}\b", place), place


def test_5_2_25_chained_exceptions_come_causes_first(tmp_path: Path) -> None:
    """Causes and contexts are told, oldest first, each with its own frames; `from None` leaves them out."""
    generation = built(
        tmp_path,
        """
@method
def f():
    try:
        try:
            {}["a"]
        except KeyError as error:
            raise ValueError("second") from error
    except ValueError:
        raise TypeError("third")
@method
def g():
    try:
        {}["a"]
    except KeyError:
        raise ValueError("alone") from None
""",
    )
    text = rendered(generation)

    order = ["KeyError: 'a'", "which was the cause of:", "ValueError: second", "and while that was handled:", "third"]
    assert [text.index(part) for part in order] == sorted(text.index(part) for part in order)
    assert "line 7 (f)" in text
    assert "KeyError" not in rendered(generation, "g")


def test_5_2_25_an_exception_group_shows_what_is_in_it(tmp_path: Path) -> None:
    """Each exception of a group comes with its own frames, nested groups too, and notes are shown."""
    generation = built(
        tmp_path,
        """
def fail(n):
    error = ValueError(f"number {n}")
    error.add_note(f"note {n}")
    raise error
@method
def f():
    errors = []
    for n in (1, 2):
        try:
            fail(n)
        except ValueError as error:
            errors.append(error)
    raise ExceptionGroup("many", [errors[0], ExceptionGroup("inner", [errors[1]])])
""",
    )
    text = rendered(generation)

    assert "ExceptionGroup: many (2 sub-exceptions)" in text
    for n in (1, 2):
        assert f"ValueError: number {n}" in text
        assert f"note: note {n}" in text
    assert text.count("s.ipynb cell 2, line 6 (fail)") == 2


def test_endless_recursion_is_told_in_a_few_lines(tmp_path: Path) -> None:
    """A RecursionError of a thousand frames shows the first and the last, and how many are between."""
    generation = built(tmp_path, "@method\ndef f(n=0):\n    return f(n + 1)\n")
    text = rendered(generation)

    assert re.search(r"\.\.\. \d{3,} more frames \.\.\.", text)
    assert "RecursionError: maximum recursion depth exceeded" in text
    assert text.count("\n") < 100


def test_a_cycle_or_a_long_chain_of_causes_ends(tmp_path: Path) -> None:
    """Exceptions that name each other as causes are told once; of thousands the last ten."""
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    assert frames.render(one, {}).count("ValueError") == 2

    last: BaseException = ValueError("0")
    for number in range(1, 5000):
        last = _after(last, number)
    text = frames.render(last, {})
    assert "... 4990 earlier exceptions ..." in text
    assert text.endswith("ValueError: 4999")


def _after(error: BaseException, number: int) -> BaseException:
    later = ValueError(str(number))
    later.__context__ = error
    return later


def test_groups_within_groups_end() -> None:
    """A group nested ten thousand deep is told in part."""
    group: Exception = ValueError("inside")
    for _ in range(10_000):
        group = ExceptionGroup("g", [group])
    try:
        assert len(frames.render(group, {})) < 64 * 1024
    finally:
        while isinstance(group, ExceptionGroup):  # taken apart by hand: to free it in one go needs a deep stack
            group = group.exceptions[0]


def test_an_exception_that_cannot_be_shown_is_named(tmp_path: Path) -> None:
    """An exception whose __str__ raises, is no text, or is falsy, is still told by its class."""
    generation = built(
        tmp_path,
        """
class Bad(Exception):
    def __str__(self): raise RuntimeError("in str")
    def __bool__(self): raise RuntimeError("in bool")
    __notes__ = 5
class Worse(Exception):
    def __str__(self): return 5
@method
def f(): raise Bad() from Bad()
@method
def g(): raise Worse()
""",
    )

    assert rendered(generation).endswith("Bad: <its text cannot be shown: __str__ raises>")
    assert rendered(generation, "g").endswith("Worse: <its text cannot be shown: __str__ raises>")


def test_a_class_of_the_service_goes_by_its_own_name(tmp_path: Path) -> None:
    """An exception class written in the service is named as its author does, the same in each generation."""
    generation = built(tmp_path, "class Odd(Exception): ...\n@method\ndef f(): raise Odd('x')\n")

    assert frames.one_line(raised(generation)) == "Odd: x"
    assert frames.one_line(LoadError("y")) == "clarens_lab.source.LoadError: y"


def test_a_long_text_is_cut_and_a_short_one_is_one_line() -> None:
    """one_line is one line however long the message; render is bounded."""
    assert frames.one_line(ValueError("first\nsecond")) == "ValueError: first ..."
    assert frames.one_line(ValueError()) == "ValueError"
    assert len(frames.one_line(ValueError("x" * 10_000_000))) < 10_000
    assert len(frames.render(ValueError("x\n" * 10_000_000), {})) < 64 * 1024


def test_a_long_line_is_cut(tmp_path: Path) -> None:
    """A line of a megabyte in a notebook does not fill the traceback."""
    generation = built(tmp_path, f"@method\ndef f():\n    return 1 / 0; x = '{'y' * 1_000_000}'\n")

    assert len(rendered(generation)) < 2000


def test_5_2_25_a_syntax_error_points_at_line_and_column(tmp_path: Path) -> None:
    """A syntax error of a saved cell shows the cell's own line with carets under the column."""
    with pytest.raises(LoadError) as failed:
        built(tmp_path, "x = 1\nif x = 2:\n    pass\n")
    cause = failed.value.__cause__
    (source,) = read(tmp_path / "s.ipynb")

    assert str(failed.value).startswith("s.ipynb cell 2, line 3: SyntaxError: ")
    assert isinstance(cause, SyntaxError)
    lines = frames.render(cause, source.by_filename).split("\n")
    assert lines[0:2] == ["  s.ipynb cell 2, line 3", "    if x = 2:"]
    assert lines[2] == "       ^^^^^"


def test_a_syntax_error_without_a_place_is_told() -> None:
    """A SyntaxError that a service raises itself, with or without a text, is no trouble."""
    assert frames.one_line(SyntaxError()) == "SyntaxError"
    assert frames.render(SyntaxError("odd"), {}) == "SyntaxError: odd"


def test_5_2_25_the_text_is_that_of_the_generation_that_ran(tmp_path: Path) -> None:
    """After an edit the old generation's traceback shows the old text, and the cell's place of today."""
    old = built(tmp_path, "@method\ndef f():\n    return 1 / 0  # old\n")
    path = tmp_path / "s.ipynb"
    moved = ["# one\n", HEADER, "# two\n", {"id": "cell-2", "source": "%%clarens service s\n@method\ndef f(): ...\n"}]
    write_notebook(path, {"id": "a", "source": moved[0]}, {"id": "cell-1", "source": HEADER}, moved[3])
    (new,) = read(path)
    build(new, Kept())
    text = rendered(old)

    assert "return 1 / 0  # old" in text
    assert "s.ipynb cell 3, line 4 (f)" in text


def test_what_is_kept_shows_the_text_that_it_was_loaded_from(tmp_path: Path) -> None:
    """An object that outlives its generation by `keep` is shown with the text of the generation that made it."""
    kept = Kept()
    for text in ("# old\n\n", ""):
        path = write_notebook(
            tmp_path / "s.ipynb",
            f"{HEADER}from clarens_lab import keep\n{text}class C:\n    def fail(self): 1 / 0\n"
            "@method\ndef f(): keep('c', C).fail()\nkeep('c', C)\n",
        )
        (source,) = read(path)
        generation = build(source, kept)
    with building(Building(kept)):
        text = rendered(generation)

    assert "s.ipynb cell 1, line 7 (fail)\n    def fail(self): 1 / 0\n" in text
    assert "s.ipynb cell 1, line 7 (f)\n    def f(): keep('c', C).fail()\n" in text


def test_an_instruction_without_a_line_is_no_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame whose line Python does not know is shown without one."""
    try:
        exec(compile("1/0", "<unit>", "exec"), {})
    except ZeroDivisionError as error:
        trace = error.__traceback__
    assert trace is not None
    assert trace.tb_next is not None
    nowhere = TracebackType(None, trace.tb_next.tb_frame, -1, -1)
    error = ValueError("x").with_traceback(nowhere)
    unit = Unit("u", "s In[1]", "<unit>", "1/0", "1/0", live=True)

    assert frames.place_of(error, {"<unit>": unit}) in ("s In[1]", "s In[1], line 1")


def test_frames_of_libraries_are_shown_and_ours_are_not(tmp_path: Path) -> None:
    """Frames of other libraries are part of the story; those of the server and of the import system are not."""
    generation = built(
        tmp_path, "import json\n@method\ndef f(): return json.loads('{')\n@method\ndef g():\n    import no_such\n"
    )
    text = rendered(generation)

    assert "json/decoder.py, line" in text
    assert "clarens_lab/" not in rendered(generation, "g").replace(str(tmp_path), "").replace(__file__, "")
    assert "importlib" not in rendered(generation, "g")


def test_a_local_module_is_named_by_its_file(tmp_path: Path) -> None:
    """A frame of a module beside the notebook is named by the file, relative to the notebook's folder."""
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__init__.py").write_text("")
    (tmp_path / "pkg" / "deep.py").write_text("def fail():\n    1 / 0\n")
    generation = built(tmp_path, "from pkg.deep import fail\n@method\ndef f(): fail()\n")

    assert frames.place_of(raised(generation), units(generation)) == "pkg/deep.py, line 2 (fail)"
    assert "    1 / 0\n" in rendered(generation)


def test_a_name_that_nobody_knows_gives_no_place() -> None:
    """An exception that never was in the service has no place there."""
    error: Any = ValueError("x")
    assert frames.place_of(error, {}) == ""
