"""Saved notebooks as services: which cells count, what they see, where failures are, and what no notebook may break."""

import gc
import inspect
import json
import logging
import os
import pickle
import re
import subprocess
import sys
import time
import typing
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import pytest
from serving import notebook, save_as_jupyter, until, write_notebook

from clarens_lab import loaders, output
from clarens_lab.events import Ring
from clarens_lab.loaders import LiveCell, Load, build, discover, identifier, read, with_cell, with_test
from clarens_lab.output import Output
from clarens_lab.registry import Generation, Registry
from clarens_lab.reload import Reloader
from clarens_lab.service import Kept
from clarens_lab.settings import Settings
from clarens_lab.source import LoadError, Source, Unsettled

METHOD = "from clarens_lab import method\n@method\ndef f(): return 1\n"
SERVICE = f"%%clarens service s\n{METHOD}"


def source_of(path: Path) -> Source:
    """The only service of a file."""
    (source,) = read(path)
    return source


def built(path: Path, kept: Kept | None = None) -> Generation:
    return build(source_of(path), kept or Kept())


def whole(folder: Path, *cells: str | dict[str, Any], name: str = "nb.ipynb") -> Generation:
    """A notebook without marks, served whole; its first cell imports `method`."""
    return built(write_notebook(folder / name, "from clarens_lab import method", *cells))


def failure(folder: Path, *cells: str | dict[str, Any]) -> str:
    """Why a notebook that is served whole does not load."""
    with pytest.raises(LoadError) as failed:
        whole(folder, *cells)
    return str(failed.value)


def call(generation: Generation, name: str = "f", *arguments: object) -> Any:
    return generation.methods[name].function(*arguments)


# --- which cells -------------------------------------------------------------------------------


def test_marked_cells_are_the_service(tmp_path: Path) -> None:
    """Cells that begin with `%%clarens service` are the service; what else the notebook holds does not run."""
    path = write_notebook(
        tmp_path / "nb.ipynb",
        "1/0",
        SERVICE,
        {"cell_type": "markdown", "source": "%%clarens service s\n1/0"},
        {"cell_type": "raw", "source": "1/0"},
        "\n\n%%clarens service s\n@method\ndef g(): return 2\n",
        "raise SystemExit",
    )
    generation = built(path)

    assert (generation.service, sorted(generation.methods)) == ("s", ["f", "g"])
    assert generation.notes == ()


def test_a_notebook_can_hold_several_services(tmp_path: Path) -> None:
    """Each name makes a service of its own; without a name a cell belongs to the file's."""
    path = write_notebook(
        tmp_path / "01-my nb.ipynb",
        f"%%clarens service a\n{METHOD}",
        f"%%clarens service\n{METHOD}",
        "%%clarens service a\nx = 1",
    )
    sources = {source.service: source for source in read(path)}

    assert {name: len(source.units) for name, source in sources.items()} == {"a": 2, "_01_my_nb": 1}
    assert sources["_01_my_nb"].notes == ("01-my nb.ipynb is served as '_01_my_nb': a service's name is a Python name",)
    assert sources["a"].notes == ()


def test_5_2_18_a_notebook_without_marks_is_served_whole(tmp_path: Path) -> None:
    """Without a marked cell every code cell counts, but those tagged `skip`; scratch cells there do not run."""
    generation = whole(
        tmp_path,
        "x = 1",
        {"source": "import time; time.sleep(60); 1/0", "metadata": {"tags": ["skip", "other"]}},
        {"source": "y = x + 1", "metadata": {"tags": ["parameters"]}},
        "@method\ndef f(): return y",
        "   \n\n",
        "# only a comment",
        "x;",
    )

    assert call(generation) == 2
    assert generation.notes == ()


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("picalc", "picalc"), ("01-my nb", "_01_my_nb"), ("my.service", "my_service"), ("class", "class_"),
        ("match", "match"), ("Übung 3", "Übung_3"), ("cafe\u0301", "café"), ("数据", "数据"), ("x²", "x2"),
        ("१", "_१"), ("½", "_1_2"), ("-", "_"), ("a\U0001f600b", "a_b"), ("_", "_"), ("", "_"),
    ],
)  # fmt: skip
def test_5_2_22_a_files_name_makes_the_services_name(stem: str, name: str) -> None:
    """Spaces, dashes, digits in front, keywords and other scripts give a Python name, always the same."""
    assert identifier(stem) == name
    assert name.isidentifier()


@pytest.mark.parametrize("stem", ["01-my nb", "Übung 3", "数据", "a.b"])
def test_5_2_22_a_notebook_of_any_name_loads(tmp_path: Path, stem: str) -> None:
    """A notebook with spaces, dots or letters of any script in its name is served."""
    generation = whole(tmp_path, METHOD, name=f"{stem}.ipynb")

    assert generation.service == identifier(stem)
    assert call(generation) == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("%%clarens", "write '%%clarens service NAME' or '%%clarens test NAME'"),
        ("%%clarens serve x", "write '%%clarens service NAME'"),
        ("%%clarens service 1x", "'1x' cannot name a service; '_1x' can"),
        ("%%clarens service a.b", "'a.b' cannot name a service; 'a_b' can"),
        ("%%clarens service class", "'class' cannot name a service; 'class_' can"),
        ("%%clarens service a b", "one name of a service, not 'a' and 'b'"),
        ("%%clarens service a --live", "no option '--live'; there are --here and --use NAMES"),
        ("%%clarens service 'a", "No closing quotation"),
    ],
)
def test_a_mark_that_says_nothing_known_is_refused_with_its_line(tmp_path: Path, line: str, said: str) -> None:
    """A `%%clarens` line that cannot be read is a failure that names cell and line, and what can be written."""
    path = write_notebook(tmp_path / "nb.ipynb", "x = 1", f"{line}\n{METHOD}")
    with pytest.raises(LoadError) as failed:
        read(path)

    assert str(failed.value).startswith("nb.ipynb cell 2, line 1: ")
    assert said in str(failed.value)


def test_a_comment_above_the_mark_is_warned_about(tmp_path: Path) -> None:
    """`%%clarens` below a comment is no mark, in Jupyter as here, and the cell is named."""
    path = write_notebook(tmp_path / "nb.ipynb", SERVICE, "# picalc\n\n# more\n%%clarens service s\nx = 1")

    assert source_of(path).notes == (
        "nb.ipynb cell 2, line 4: '%%clarens' counts only as the first line of a cell; move the comment below it",
    )


def test_a_notebook_that_publishes_nothing_says_how(tmp_path: Path) -> None:
    """An empty notebook, one of markdown only, and one without @method say what to write."""
    for name, cells in (
        ("empty", ()), ("markdown", ({"cell_type": "markdown", "source": "# x"},)), ("plain", ("x = 1",)),
    ):  # fmt: skip
        path = write_notebook(tmp_path / f"{name}.ipynb", *cells)
        with pytest.raises(LoadError, match=rf"^{name}\.ipynb publishes no method: write '@method' above"):
            built(path)


# --- folders -----------------------------------------------------------------------------------


def test_in_a_folder_only_what_shows_it_is_a_service(tmp_path: Path) -> None:
    """A marked cell, @method or methods_list in the text makes a file of a folder a service; the rest is skipped."""
    write_notebook(tmp_path / "marked.ipynb", SERVICE)
    write_notebook(tmp_path / "plain.ipynb", METHOD)
    write_notebook(tmp_path / "scratch.ipynb", "x = 1", {"cell_type": "markdown", "source": "@method"})
    write_notebook(tmp_path / "r.ipynb", METHOD, kernelspec={"name": "ir", "language": "R"})
    (tmp_path / "mod.py").write_text("import clarens_lab\n@clarens_lab.method\ndef f(): ...\n")
    (tmp_path / "classic.py").write_text("methods_list = {}\n")
    (tmp_path / "helper.py").write_text("def method(): ...\n# @methodical\n")
    (tmp_path / "half.ipynb").write_text('{"cells": [')
    (tmp_path / "notes.txt").write_text(METHOD)
    (tmp_path / ".hidden.py").write_text(METHOD)
    (tmp_path / "gone.ipynb").symlink_to(tmp_path / "nowhere.ipynb")
    (tmp_path / "folder.ipynb").mkdir()
    found = discover(tmp_path)

    # What is half written may be one: that is seen when it is loaded.
    assert [path.name for path in found.services] == [
        "classic.py", "half.ipynb", "marked.ipynb", "mod.py", "plain.ipynb",
    ]  # fmt: skip
    assert [path.name for path in found.skipped] == ["helper.py", "r.ipynb", "scratch.ipynb"]


def test_folders_below_are_searched_but_for_hidden_ones_and_environments(tmp_path: Path) -> None:
    """Checkpoints, caches, hidden folders and virtual environments are not looked into; packages are one service."""
    for folder in ("a/b", ".ipynb_checkpoints", "__pycache__", ".git", "node_modules", "env", "pkg/sub", "nbpkg", "no"):
        (tmp_path / folder).mkdir(parents=True)
        write_notebook(tmp_path / folder / "x.ipynb", SERVICE)
    (tmp_path / "env" / "pyvenv.cfg").write_text("")
    (tmp_path / "pkg" / "__init__.py").write_text("")
    (tmp_path / "pkg" / "sub" / "deep.py").write_text(METHOD)
    (tmp_path / "no" / "docs").mkdir()
    write_notebook(tmp_path / "no" / "docs" / "example.ipynb", SERVICE)
    write_notebook(tmp_path / "nbpkg" / "__init__.ipynb", METHOD)
    (tmp_path / "no" / "__init__.py").write_text("")
    (tmp_path / "no" / "x.ipynb").unlink()
    (tmp_path / "no" / ".ipynb_checkpoints").mkdir()
    write_notebook(tmp_path / "no" / ".ipynb_checkpoints" / "x.ipynb", SERVICE)
    (tmp_path / "loop").symlink_to(tmp_path)
    found = discover(tmp_path)

    assert [str(path.relative_to(tmp_path)) for path in found.services] == ["a/b/x.ipynb", "nbpkg", "pkg"]
    assert [str(path.relative_to(tmp_path)) for path in found.skipped] == ["no"]


def test_a_folder_without_services_is_no_failure(tmp_path: Path) -> None:
    """An empty folder holds nothing; nor does one that is gone."""
    assert discover(tmp_path) == discover(tmp_path / "gone")


# --- reading -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["", " ", "{", '{"cells": [', "\x00\x00", "# Not JSON", "\ufeff", '{"cells": []}garbage']
)
def test_what_is_not_json_yet_is_being_written(tmp_path: Path, text: str) -> None:
    """An empty or half-written file is Unsettled: worth another look."""
    path = tmp_path / "nb.ipynb"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(Unsettled, match=r"nb\.ipynb is not JSON"):
        read(path)


@pytest.mark.parametrize("text", ["[]", "{}", "5", "null", '{"cells": {}}', '{"nbformat": 4}', '"cells"'])
def test_json_that_is_no_notebook_is_refused(tmp_path: Path, text: str) -> None:
    """JSON without a list of cells is refused at once."""
    path = tmp_path / "nb.ipynb"
    path.write_text(text)
    with pytest.raises(LoadError, match="no notebook: it has no list of cells") as failed:
        read(path)
    assert not isinstance(failed.value, Unsettled)


def test_json_nested_without_end_is_refused(tmp_path: Path) -> None:
    """A hundred thousand brackets are no notebook."""
    path = tmp_path / "nb.ipynb"
    path.write_text("[" * 100_000)
    with pytest.raises(LoadError, match="nested too deep"):
        read(path)


def test_5_2_13_metadata_may_be_missing_or_odd(tmp_path: Path) -> None:
    """A notebook without kernelspec, without language, without metadata, or with odd ones, loads."""
    path = tmp_path / "nb.ipynb"
    named = {"kernelspec": {"name": "my-env", "language": "Python"}}, {"language_info": {"name": "ipython"}}
    for metadata in ({}, None, [], {"kernelspec": {}}, {"kernelspec": None, "language_info": 5}, *named):
        path.write_text(json.dumps({"cells": [{"cell_type": "code", "source": METHOD}], "metadata": metadata}))
        assert call(built(path)) == 1
    path.write_text(json.dumps({"cells": [{"cell_type": "code", "source": METHOD}]}))
    assert call(built(path)) == 1


@pytest.mark.parametrize(
    "metadata",
    [
        {"kernelspec": {"name": "ir", "language": "R"}},
        {"kernelspec": {"name": "julia-1.9", "language": "julia"}},
        {"kernelspec": {}, "language_info": {"name": "julia"}},
    ],
)
def test_5_2_14_another_languages_kernel_is_refused_by_name(tmp_path: Path, metadata: dict[str, Any]) -> None:
    """An R or Julia notebook is refused with its language."""
    path = write_notebook(tmp_path / "nb.ipynb", METHOD, **metadata)
    with pytest.raises(LoadError, match=r"nb\.ipynb is written in (R|julia); only Python notebooks are served"):
        read(path)


def test_5_2_14_odd_cells_are_read(tmp_path: Path) -> None:
    """Source as list or text, cells that are no cells, without type, id, metadata, or with odd tags: the rest loads."""
    path = tmp_path / "nb.ipynb"
    cells: list[Any] = [
        {"cell_type": "code", "source": METHOD.splitlines(keepends=True)},
        5, None, {}, {"cell_type": "code"}, {"source": "1/0"}, {"cell_type": "code", "source": None, "id": 7},
        {"cell_type": "code", "source": "x = 1", "metadata": {"tags": "skip"}, "id": ""},
        {"cell_type": "code", "source": "y = x", "metadata": {"tags": [5, None]}, "id": "b"},
        {"cell_type": "code", "source": ["@method\n", "def g(): return y"], "metadata": [], "id": "b"},
    ]  # fmt: skip
    path.write_text(json.dumps({"cells": cells}))
    source = source_of(path)

    assert [unit.key for unit in source.units] == ["cell 1", "cell 8", "b", "cell 10"]
    assert source.units[3].filename == f"{path}#cell=10"
    assert source.units[2].filename == f"{path}#cell-id=b"
    assert call(build(source, Kept()), "g") == 1


@pytest.mark.parametrize("minor", range(6))
def test_5_2_14_every_format_4_is_read(tmp_path: Path, minor: int) -> None:
    """nbformat 4.0 to 4.5 load alike, with or without cell ids."""
    cell = {"cell_type": "code", "source": METHOD, "metadata": {}, "outputs": [], "execution_count": None}
    extra = {"id": "one"} if minor == 5 else {}
    made = {"cells": [{**cell, **extra}], "metadata": {}, "nbformat": 4, "nbformat_minor": minor}
    nbformat.validate(made)
    path = tmp_path / "nb.ipynb"
    path.write_text(json.dumps(made))

    assert call(built(path)) == 1


def test_5_2_14_format_3_is_upgraded(tmp_path: Path) -> None:
    """A notebook of format 3 is served, its cells by number; one that cannot be upgraded is refused."""
    path = tmp_path / "old.ipynb"
    cells = [
        {"cell_type": "heading", "level": 1, "source": "x", "metadata": {}},
        {"cell_type": "code", "input": METHOD, "language": "python", "outputs": [], "metadata": {}, "collapsed": False},
    ]
    old = {
        "nbformat": 3,
        "nbformat_minor": 0,
        "metadata": {"name": ""},
        "worksheets": [{"cells": cells, "metadata": {}}],
    }
    path.write_text(json.dumps(old))
    source = source_of(path)

    assert source.units[0].filename == f"{path}#cell=2"
    assert source.digest == source_of(path).digest
    assert call(build(source, Kept())) == 1
    path.write_text(json.dumps({**old, "worksheets": 5}))
    with pytest.raises(LoadError, match="of format 3 that cannot be upgraded"):
        read(path)


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_5_1_12_line_ends_and_byte_order_marks_are_no_matter(tmp_path: Path, newline: str) -> None:
    """A notebook with a BOM, saved with any line ends in file and cells, loads; positions stay."""
    path = tmp_path / "nb.ipynb"
    text = json.dumps({"cells": [{"cell_type": "code", "source": f"{METHOD}x = 1\n".replace("\n", newline)}]}, indent=1)
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", newline).encode())

    source = source_of(path)
    assert source.units[0].text == f"{METHOD}x = 1\n"
    assert call(build(source, Kept())) == 1


@pytest.mark.parametrize(
    ("cell", "said"),
    [("x = '\x00'", "line 1: SyntaxError: source code "), ("x = 1\ny = '\ud800'", "line 2: SyntaxError: 'utf-8' codec"),
     ("if 1:\n\tx = 1\n        y = 2", "TabError")],
)  # fmt: skip
def test_5_1_12_characters_that_python_refuses_name_the_cell(tmp_path: Path, cell: str, said: str) -> None:
    """A NUL byte, a lone surrogate, or tabs mixed with spaces in a cell is a failure of that cell."""
    text = failure(tmp_path, cell)

    assert text.startswith("nb.ipynb cell 2")
    assert said in text


def test_5_1_12_tabs_and_form_feeds_are_fine(tmp_path: Path) -> None:
    """A cell indented by tabs, with form feeds or odd line separators in its texts, runs, and its lines are right."""
    generation = whole(tmp_path, "@method\ndef f():\n\treturn '\x0c\u2028\x85'\n\x0c\n@method\ndef g(): 1/0\n")

    assert call(generation) == "\x0c\u2028\x85"
    assert generation.source is not None
    assert generation.source.units[1].text.split("\n")[5] == "def g(): 1/0"


def test_5_1_12_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    """A folder called x.ipynb, a dangling link, a loop of links, a file without permission: each is told."""
    (tmp_path / "folder.ipynb").mkdir()
    (tmp_path / "dangling.ipynb").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop.ipynb").symlink_to(tmp_path / "loop.ipynb")
    for name, kind, said in (
        ("folder", LoadError, "folder.ipynb/ cannot be a package"),
        ("dangling", Unsettled, "dangling.ipynb is not there any more"),
        ("loop", LoadError, "loop.ipynb"),
    ):
        with pytest.raises(kind, match=said):
            read(tmp_path / f"{name}.ipynb")


@pytest.mark.parametrize("closed", ["file", "folder"])
def test_5_1_12_a_file_without_permission_is_told_as_such(tmp_path: Path, closed: str) -> None:
    """Where the system refuses to open a notebook or its folder, the failure says so, and the others are found."""
    (tmp_path / "inner").mkdir()
    path = write_notebook(tmp_path / "inner" / "nb.ipynb", METHOD)
    write_notebook(tmp_path / "open.ipynb", METHOD)
    (path if closed == "file" else path.parent).chmod(0)

    def look() -> bool:
        with pytest.raises(LoadError) as failed:
            read(path)
        found = [one.name for one in discover(tmp_path).services]
        return (str(failed.value), found) == ("nb.ipynb cannot be read: Permission denied", ["open.ipynb"])

    try:
        assert holds_as_nobody(tmp_path, look)
    finally:
        path.parent.chmod(0o700)


def holds_as_nobody(folder: Path, check: Callable[[], bool]) -> bool:
    """Whether a check holds in a process that is not root, to whom no file is closed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the child starts no thread
        pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    status = 1
    try:
        if os.geteuid() == 0:
            for each in (folder, *folder.parents[:-2]):
                each.chmod(each.stat().st_mode | 0o055)
            os.setgroups([])
            os.setuid(65534)
        status = 0 if check() else 2
    finally:
        os._exit(status)


def test_5_1_12_ten_megabytes_of_outputs_cost_little(tmp_path: Path) -> None:
    """A notebook with 10 MB of outputs loads, and its outputs are no part of what it is."""
    outputs = [{"output_type": "stream", "name": "stdout", "text": ["x" * 1000 + "\n"] * 10_000}]
    path = write_notebook(tmp_path / "nb.ipynb", {"source": METHOD, "outputs": outputs})
    started = time.perf_counter()
    source = source_of(path)
    assert time.perf_counter() - started < 2

    assert path.stat().st_size > 10_000_000
    write_notebook(path, METHOD)
    assert source_of(path).digest == source.digest


def test_only_code_makes_a_different_source(tmp_path: Path) -> None:
    """Outputs, counts, metadata and cells that do not run leave the digest; an edit or a new order changes it."""
    path = tmp_path / "nb.ipynb"

    def digest(*cells: str | dict[str, Any], **metadata: Any) -> str:
        save_as_jupyter(path, *cells, **metadata)
        return source_of(path).digest

    first: dict[str, Any] = {"id": "a", "source": SERVICE}
    second: dict[str, Any] = {"id": "b", "source": "%%clarens service s\nx = 1"}
    before = digest(first, second)

    assert digest({**first, "execution_count": 5, "outputs": [{}], "metadata": {"x": 1}}, second, title="new") == before
    assert digest({"id": "m", "cell_type": "markdown"}, first, {"id": "c", "source": "scratch"}, second) == before
    assert digest(first, {**second, "source": "%%clarens service s\nx = 2"}) != before
    assert digest(second, first) != before
    assert digest(first) != before


# --- what a unit sees --------------------------------------------------------------------------


def test_5_2_24_names_and_files_are_those_of_the_service(tmp_path: Path) -> None:
    """__name__ is the service, never __main__; __file__ the notebook; its folder is first on sys.path."""
    generation = whole(
        tmp_path,
        "import sys, logging\nfrom pathlib import Path\nlog = logging.getLogger(__name__)\nfirst = sys.path[0]",
        "if __name__ == '__main__':\n    1/0",
        "@method\ndef f(): return [__name__, __file__, first, log.name, Path(__file__).parent.name]",
        "@method\ndef g(): return inspect_me.__qualname__\ndef inspect_me(): ...",
    )

    assert call(generation) == ["nb", str(tmp_path / "nb.ipynb"), str(tmp_path), "nb", tmp_path.name]
    generation.unload()
    assert str(tmp_path) not in sys.path


def test_5_2_24_source_pickle_and_hints_work(tmp_path: Path) -> None:
    """inspect.getsource, pickle of instances, functions and named tuples, and get_type_hints work in a service."""
    generation = whole(
        tmp_path,
        "from __future__ import annotations",
        "import dataclasses, enum, typing, collections, abc, functools",
        """
@dataclasses.dataclass(slots=True, order=True)
class Point:
    x: float
    other: Point | None = None
    kind: typing.ClassVar[int] = 0

class Colour(enum.Enum):
    RED = 1
Flat = enum.Enum("Flat", "A B")
class Typed(typing.NamedTuple):
    x: int = 1
Named = collections.namedtuple("Named", "a b")
class Keys(typing.TypedDict):
    a: int
class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self): ...
class HasArea(typing.Protocol):
    def area(self) -> int: ...
class Meta(type):
    def __new__(mcs, name, bases, namespace, **keywords):
        made = super().__new__(mcs, name, bases, namespace)
        made.seen = namespace["__module__"]
        return made
class WithMeta(metaclass=Meta, extra=1):
    class Inner: ...
class Error(Exception): ...
def free(x: Point) -> Colour: ...
@functools.singledispatch
def dispatched(x): return "any"
@dispatched.register
def _(x: int): return "int"
""",
        "@method\ndef f(p: Point) -> Colour:\n    return p\n",
    )
    names: Any = generation.namespace
    things = [
        names["Point"](1.0, names["Point"](2.0)), names["Colour"].RED, names["Flat"].A, names["Typed"](2),
        names["Named"](1, 2), names["WithMeta"].Inner, names["free"], names["f"], names["Keys"],
    ]  # fmt: skip

    for thing in things:
        assert pickle.loads(pickle.dumps(thing)) == thing
    assert type(pickle.loads(pickle.dumps(names["Error"]("x")))) is names["Error"]
    assert inspect.getsource(names["f"]) == "@method\ndef f(p: Point) -> Colour:\n    return p\n"
    assert typing.get_type_hints(names["Point"])["other"] == names["Point"] | None
    assert typing.get_type_hints(names["free"])["return"] is names["Colour"]
    assert [names["dispatched"](x) for x in (1, "x")] == ["int", "any"]
    assert generation.methods["f"].signature.text == "f(p: Point) -> Colour"
    assert generation.methods["f"].signature.bind([{"x": 1}], "nb.f") == [names["Point"](1.0)]


def test_each_generation_has_modules_of_its_own(tmp_path: Path) -> None:
    """Two generations side by side do not share classes; a generation that ended leaves sys.modules."""
    path = write_notebook(
        tmp_path / "nb.ipynb", METHOD, "class C: ...\nfrom typing import Optional\n@method\ndef g(c: Optional[C]): ..."
    )
    before = set(sys.modules)
    one, two = built(path), built(path)
    assert pickle.loads(pickle.dumps(one.namespace["C"])) is one.namespace["C"]
    assert one.namespace["C"] is not two.namespace["C"]
    assert "nb" not in sys.modules

    one.unload()
    two.unload()
    assert {name for name in set(sys.modules) - before if name.startswith("_clarens")} == set()


def test_a_generation_that_ended_is_freed(tmp_path: Path) -> None:
    """Nothing keeps a generation once it is unloaded: not hints, not caches, not the lines kept for tracebacks."""
    path = write_notebook(
        tmp_path / "nb.ipynb",
        "from clarens_lab import method\nimport typing, dataclasses, functools, statistics",
        "class C: ...\n@dataclasses.dataclass\nclass D:\n    c: 'typing.Optional[C]' = None\n"
        "@method\ndef g(c: typing.Optional[C], d: D, e: typing.List[C] = ()) -> typing.Dict[str, C]: ...\n"
        "@functools.lru_cache\ndef cached(): return C\ncached()\nmean = method(statistics.mean)",
    )
    generation = built(path)
    generation.methods["g"].signature.bind([None, {"c": None}], "nb.g")
    freed = weakref.ref(generation.namespace["C"])
    generation.unload()
    del generation
    method_mark = vars(sys.modules["statistics"])["mean"]
    del method_mark.__clarens_method__  # the library's own function outlives every generation that marks it
    gc.collect()

    assert freed() is None


def test_a_failed_load_leaves_nothing(tmp_path: Path) -> None:
    """After a failed load sys.modules, sys.path and the text that inspect shows of what serves are as before."""
    path = write_notebook(tmp_path / "nb.ipynb", METHOD)
    generation = built(path)
    modules, entries = set(sys.modules), list(sys.path)
    write_notebook(path, f"# changed\n{METHOD}", "1/0")
    with pytest.raises(LoadError):
        built(path)

    assert set(sys.modules) == modules
    assert sys.path == entries
    assert inspect.getsource(call.__globals__["Generation"])  # the cache as such still works
    assert inspect.getsource(typing.cast(Any, generation.namespace["f"])) == "@method\ndef f(): return 1\n"


def test_5_2_16_display_goes_to_the_output_and_the_terminal_is_refused(tmp_path: Path) -> None:
    """display prints; input, breakpoint and get_ipython are refused when called, and guards for plain Python work."""
    generation = whole(
        tmp_path,
        """
try:
    get_ipython().run_line_magic("matplotlib", "inline")
except NameError:
    in_notebook = False
@method
def f(): display("one", 2)
@method
def g(): return input("? ")
@method
def h(): breakpoint()
@method
def i(): return in_notebook
""",
    )
    told = Output(1000)
    output.install()
    try:
        with output.captured(told):
            call(generation)
    finally:
        output.uninstall()

    assert told.text() == "one\n2\n"
    assert call(generation, "i") is False
    for name, said in (("g", r"input\(\) is not for a service"), ("h", r"breakpoint\(\) is not for a service")):
        with pytest.raises(RuntimeError, match=said):
            call(generation, name)


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("x = 1\nimport sys\nsys.exit(3)", "cell 2, line 3: SystemExit: 3: ending the program is not for a service"),
        ("exit()", "cell 2, line 1: SystemExit: ending the program is not for a service; put it under if"),
        ("quit(1)", "nb.ipynb cell 2, line 1: SystemExit: 1: ending the program"),
        ("raise KeyboardInterrupt", "nb.ipynb cell 2, line 1: KeyboardInterrupt"),
        ("n = input('n?')", "nb.ipynb cell 2, line 1: RuntimeError: input() is not for a service: nobody sits at its"),
        ("get_ipython()", "nb.ipynb cell 2, line 1: NameError: get_ipython() is not for a service"),
        ("import asyncio\nawait asyncio.sleep(0)", "nb.ipynb cell 2, line 2: SyntaxError: 'await' outside function"),
        ("async with x: pass", "no event loop runs at load"),
        ("x = [y async for y in z]", "no event loop runs at load"),
        ("def f(:", "nb.ipynb cell 2, line 1: SyntaxError: invalid syntax"),
        ("x = 1\n  y = 2", "nb.ipynb cell 2, line 2: IndentationError: unexpected indent"),
        ("x = 'abc", "nb.ipynb cell 2, line 1: SyntaxError: unterminated string literal"),
        ("import no_such_module_x", "pip install no_such_module_x"),
        ("import os\nfrom os import no_such_name", "nb.ipynb cell 2, line 2: ImportError: cannot import name"),
        ("def g():\n    raise ValueError('odd')\ng()", "nb.ipynb cell 2, line 2 (g): ValueError: odd"),
        ("import numpy as np\nnp.no_such", "nb.ipynb cell 2, line 2: AttributeError: "),
        ("jsn.loads('')", "nb.ipynb cell 2, line 1: NameError: name 'jsn' is not defined"),
        ("np.zeros(3)", "name 'np' is not defined; add 'import numpy as np' to a service cell"),
        ("json.loads('')", "name 'json' is not defined; add 'import json' to a service cell"),
        ("from . import x", "works inside a package only"),
        ("return 5", "nb.ipynb cell 2, line 1: SyntaxError: 'return' outside function"),
        ("x = " + "(" * 500 + ")" * 500, "nb.ipynb cell 2"),
        ("x = " + "-" * 100_000 + "1", "nb.ipynb cell 2"),
        ("def g(): return g()\ng()", "nb.ipynb cell 2, line 1 (g): RecursionError"),
    ],
)  # fmt: skip
def test_a_cell_that_fails_is_named_with_line_and_reason(tmp_path: Path, cell: str, said: str) -> None:
    """Whatever a cell raises, the load fails with one sentence: notebook, cell, line, reason, and the way out."""
    text = failure(tmp_path, cell, METHOD)

    assert text.startswith("nb.ipynb cell 2"), text
    assert said in text
    assert "\n" not in text


def test_5_2_19_a_name_used_before_its_cell_names_both(tmp_path: Path) -> None:
    """Cells run out of order in the kernel, but top-down here: both cells are named."""
    text = failure(tmp_path, "y = x + 1", METHOD, "if True:\n    x = 1")

    assert text == (
        "nb.ipynb cell 2, line 1: NameError: name 'x' is not defined; nb.ipynb cell 4 defines it, and cells are "
        "loaded from top to bottom: move it up"
    )


def test_a_name_of_an_unmarked_cell_is_told(tmp_path: Path) -> None:
    """A name that only a cell outside of the service makes is named with that cell, at load and when missing later."""
    path = write_notebook(tmp_path / "nb.ipynb", "import numpy as np\ndata = [1]", f"{SERVICE}data[0]")
    with pytest.raises(LoadError, match=r"name 'data' is not defined; it is made in nb\.ipynb cell 1, which is no"):
        built(path)
    write_notebook(path, "data = [1]", f"{SERVICE}@method\ndef g(): return data")

    assert built(path).notes == (
        "s.g uses data, which nothing defines: it is made in nb.ipynb cell 1, which is no service cell: begin it "
        "with '%%clarens service', or move it",
    )


def test_missing_names_are_found_when_the_service_is_built(tmp_path: Path) -> None:
    """Every global that code reads and nothing defines is told once, with the way out; nothing else is."""
    generation = whole(
        tmp_path,
        """
from __future__ import annotations
from typing import TYPE_CHECKING
import functools
if TYPE_CHECKING:
    from pandas import DataFrame
answer = 42
xs = [answer for _ in range(2)]
ys = [g for g in (lambda: later,)]
def later(): return answr
del xs
class Helper:
    table: DataFrame = None
    size = answer
    def run(self, x: DataFrame) -> DataFrame:
        y: DataFrame = x
        __class__
        return super().__init__() or scipy_x.run(y)
@method
def f(n: int, frame: DataFrame = None):
    def inner(a: DataFrame): return np.zeros(a) + np.ones(a)
    local = 1
    try:
        return [inner(k) + local + made_later() for k in range(n)]
    except NameError as error:
        return error, __name__, __file__, print, display, __builtins__
def maker():
    global made_later
    def made_later(): return lambda: jsn
""",
        "numbers = [n for n in range(3)]\ndel numbers\nanswer",
    )

    assert sorted(generation.notes) == [
        "nb.Helper uses scipy_x, which nothing defines: define it in a service cell",
        "nb.f uses np, which nothing defines: add 'import numpy as np' to a service cell",
        "nb.later uses answr, which nothing defines: did you mean 'answer'?",
        "nb.maker uses jsn, which nothing defines: define it in a service cell",
    ]


def test_a_relative_path_beside_the_notebook_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path that fails but exists beside the notebook is answered with Path(__file__).parent."""
    (tmp_path / "data.csv").write_text("1")
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")

    pathlib = "from pathlib import Path\nPath('data.csv').read_text()"
    for opening in ("open('data.csv')", pathlib, "import os; os.stat('data.csv')"):
        text = failure(tmp_path, opening)
        assert text.endswith("; it stands beside nb.ipynb: open Path(__file__).parent / 'data.csv'")
    for other in ("open('other.csv')", f"open({str(tmp_path / 'no')!r})", "open(b'data.csv')"):
        assert "stands beside" not in failure(tmp_path, other)
    whole(tmp_path, METHOD, "from pathlib import Path\nPath(__file__).parent.joinpath('data.csv').read_text()")


def test_real_notebooks_hold_all_of_this(tmp_path: Path) -> None:
    """Globals, star imports, functions made in loops, closures, generators, async, try/except imports: all run."""
    generation = whole(
        tmp_path,
        "from math import *\nimport os.path, numpy.linalg as la, xml.etree.ElementTree as ET\nimport numpy as np",
        "try:\n    import no_such_thing\nexcept ImportError:\n    no_such_thing = None",
        "count = 0\ndef up():\n    global count\n    count += 1\n    return count",
        "made = [method(lambda n=n: n) for n in range(3)]\nfor n in range(2):\n"
        "    globals()[f'get_{n}'] = method(name=f'get{n}')(lambda n=n: n)",
        "@method\ndef f(): return [up(), floor(pi), la.norm([3, 4]), os.path.sep, ET.fromstring('<a/>').tag]",
        "exec('z = 5\\nclass FromText: pass'); assert z == 5 and FromText",
        "%matplotlib inline\nx = 5; x",
        "with open(__file__) as file: assert file.read()",
        "import warnings\nwarnings.filterwarnings('ignore')",
    )

    assert call(generation) == [1, 3, 5.0, "/", "a"]
    assert call(generation)[0] == 2
    assert sorted(generation.methods) == ["f", "get0", "get1"]
    assert call(generation, "get1") == 1


def test_a_method_of_two_cells_is_the_later_ones(tmp_path: Path) -> None:
    """5.2.20: the later cell wins, and the notes say from which it took the method; one that is lost is told too."""
    generation = whole(
        tmp_path,
        "@method\ndef f(): return 1\n@method\ndef g(): return 1\n@method\ndef h(): return 1",
        "@method\ndef f(): return 2\n@method(name='g')\ndef other(): return 2",
        "h = 5",
    )

    assert [call(generation, name) for name in ("f", "g")] == [2, 2]
    assert generation.notes == (
        "nb.ipynb cell 3 takes over the method 'f' from nb.ipynb cell 2",
        "nb.ipynb cell 3 takes over the method 'g' from nb.ipynb cell 2",
        "nb.ipynb cell 4 takes the method 'h' of nb.ipynb cell 2 away: its name is used anew",
    )


def test_5_2_20_a_method_that_is_gone_from_the_notebook_is_gone(tmp_path: Path) -> None:
    """A deleted cell takes its methods along at the next load."""
    path = write_notebook(tmp_path / "nb.ipynb", METHOD, "@method\ndef g(): ...")
    assert sorted(built(path).methods) == ["f", "g"]
    save_as_jupyter(path, METHOD)
    assert sorted(built(path).methods) == ["f"]


def test_a_keyword_only_parameter_is_noted_or_refused_with_its_place(tmp_path: Path) -> None:
    """One with a default is noted; one without is a failure that names cell and line."""
    generation = whole(tmp_path, "@method\ndef f(a, *, b=1): ...")
    assert generation.notes == ("nb.f: b can be given by keyword only; over the wire the default holds",)

    text = failure(tmp_path, "x = 1\n@method\ndef f(a, *, b): ...")
    assert text.startswith("nb.ipynb cell 2, line 2 (f): f: the keyword-only parameter 'b' needs a default")


def test_a_syntax_warning_is_a_note_with_its_line(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """What Python warns of when it compiles is told once, with cell and line, and printed nowhere."""
    generation = whole(tmp_path, "x = 5\nx is 5\npattern = '\\d'", METHOD)

    told = [note for note in generation.notes if "line 2: SyntaxWarning" in note]
    assert len(told) == 1
    assert told[0].startswith("nb.ipynb cell 2, line 2: SyntaxWarning: ")
    assert list(recwarn) == []


# --- magics ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "notes"),
    [
        ("%matplotlib inline", ["line 1: '%matplotlib inline'"]),
        ("x = 1\n%matplotlib inline\ny = 2", ["line 2: '%matplotlib inline'"]),
        ("x = %pwd", ["line 1: 'x = %pwd'"]),
        ("!ls -l", ["line 1: '!ls -l'"]),
        ("files = !ls", ["line 1: 'files = !ls'"]),
        ("a, b = !ls", ["line 1: 'a, b = !ls'"]),
        ("obj?", ["line 1: 'obj?'"]), ("?obj", ["line 1: '?obj'"]), ("obj.attr??", ["line 1: 'obj.attr??'"]),
        ("str.*find*?", ["line 1: 'str.*find*?'"]), ("%timeit?", ["line 1: '%timeit?'"]),
        ("%no_such_magic a b", ["line 1: '%no_such_magic a b'"]),
        ("if True:\n    !ls\n    %pwd", ["line 2: '!ls'", "line 3: '%pwd'"]),
        ("!pip install \\\n    thing \\\n    other\nx = 1", ["line 1: '!pip install \\\\'"]),
        ("!echo it's (fine\nx = 1\n%pwd", ["line 1: \"!echo it's (fine\"", "line 3: '%pwd'"]),
        ("%time x = 1", ["line 1: '%time x = 1'"]),
        ("%clarens serve", ["line 1: '%clarens serve'"]),
        ("text = '''\n%not a magic\n!neither\n'''\n%pwd", ["line 5: '%pwd'"]),
        ("n = (5\n% 3)\nm = 7 \\\n% 4\n%pwd", ["line 5: '%pwd'"]),
        ("# %pwd\nx = 5 # why?\ny = 'what?'\nz = x != y", []),
        ("# a comment\n%%time\nx = 1", ["line 2: '%%time'"]),
    ],
)  # fmt: skip
def test_5_2_15_lines_that_are_no_python_are_blanked(tmp_path: Path, cell: str, notes: list[str]) -> None:
    """Magic, shell and help lines are left out and told; what only looks like one is left alone; lines stay."""
    generation = whole(tmp_path, cell, "\n@method\ndef f(): return 1 / 0\n")

    assert [note for note in generation.notes if "cell 2" in note] == [
        f"nb.ipynb cell 2, {note} is left out: it is no Python" for note in notes
    ]
    unit = typing.cast(Source, generation.source).units[1]
    assert len(unit.code.split("\n")) == len(unit.text.split("\n"))


@pytest.mark.parametrize("magic", ["%%bash", "%%time", "%%html", "%%no_such", "%%writefile x.py", "%%capture out"])
def test_5_2_15_magic_cells_are_left_out(tmp_path: Path, magic: str) -> None:
    """A cell that begins with another `%%` line is left out and told; a name that it would have made is named."""
    generation = whole(tmp_path, f"{magic}\nresult = 5 +", METHOD)
    assert generation.notes == (f"nb.ipynb cell 2 is left out: it begins with {magic.split()[0]!r}",)

    text = failure(tmp_path, f"{magic}\nresult = 5", "print(result)")
    assert text.endswith(f"it is made in nb.ipynb cell 2, which is left out: {magic.split()[0]!r} cells are no Python")


@pytest.mark.parametrize("line", ["here = %pwd", "here = !pwd", "%time here = 5", "a, here = %sx ls"])
def test_a_name_that_a_magic_would_have_made_is_named(tmp_path: Path, line: str) -> None:
    """A name that only a blanked line makes, and that is needed, is named with that line."""
    text = failure(tmp_path, line, "print(here)")
    assert text == (
        "nb.ipynb cell 3, line 1: NameError: name 'here' is not defined; it is made in nb.ipynb cell 2, whose line "
        f"{line!r} is no Python"
    )
    assert whole(tmp_path, line, "@method\ndef f(): return here").notes[-1].startswith("nb.f uses here, which")


def test_magics_in_a_marked_cell_are_blanked_too(tmp_path: Path) -> None:
    """In a service cell the positions count from the `%%` line, whatever is blanked below it."""
    path = write_notebook(tmp_path / "nb.ipynb", "\n%%clarens service s\n%matplotlib inline\n!ls\n1/0")
    with pytest.raises(LoadError, match=r"^nb\.ipynb cell 1, line 5: ZeroDivisionError"):
        built(path)


def test_5_2_17_async_comments_and_semicolons(tmp_path: Path) -> None:
    """Async methods are methods; a cell with only a comment, or that ends in a semicolon, is fine."""
    generation = whole(tmp_path, "# nothing", "x = 1;", "x;", "@method\nasync def f(): return 1")

    assert generation.methods["f"].is_async


# --- limits ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "busy", ["while True: pass", "import time; time.sleep(0.8)", "try:\n    while True: pass\nfinally:\n    x = 1"]
)
def test_a_load_beyond_its_limit_names_where_it_is(tmp_path: Path, busy: str) -> None:
    """A cell that does not end is given up at the limit, with cell and line; nothing of it is left."""
    source = source_of(write_notebook(tmp_path / "nb.ipynb", METHOD, f"\n{busy}"))
    before = set(sys.modules)
    started = time.monotonic()
    with pytest.raises(LoadError, match=r"^nb\.ipynb cell 2, line [234]: still running after 0\.2 s, the load limit"):
        Load(source, Kept(), None, Output(0)).result(0.2)
    assert time.monotonic() - started < 5

    until(lambda: set(sys.modules) == before)


def test_a_load_within_its_limit_is_a_load(tmp_path: Path) -> None:
    """What a load prints is kept, and what it raises comes out as it is."""
    source = source_of(write_notebook(tmp_path / "nb.ipynb", METHOD, "print('hello')"))
    printed = Output(100)
    output.install()
    try:
        assert Load(source, Kept(), None, printed).result(20).service == "nb"
    finally:
        output.uninstall()
    assert printed.text() == "hello\n"
    with pytest.raises(LoadError, match="ZeroDivisionError"):
        Load(source_of(write_notebook(tmp_path / "b.ipynb", "1/0")), Kept(), None, Output(0)).result(20)


# --- live cells --------------------------------------------------------------------------------


def keys(source: Source) -> list[str]:
    return [unit.key for unit in source.units]


def test_one_identity_by_id_then_text_then_method(tmp_path: Path) -> None:
    """A cell that is run is the same unit as one of its id, else of its text, else of a method it publishes."""
    path = write_notebook(
        tmp_path / "nb.ipynb",
        {"id": "a", "source": SERVICE},
        {"id": "b", "source": "%%clarens service s\n@method\ndef g(): return 1"},
    )
    base = source_of(path)

    by_id = with_cell("s", base, LiveCell("%%clarens service s\nx = 1", id="a"))
    assert keys(by_id) == ["a", "b"]
    by_text = with_cell("s", base, LiveCell(SERVICE, id="new"))
    assert (keys(by_text), by_text.notes) == (["new", "b"], ())
    by_method = with_cell(
        "s", base, LiveCell("%%clarens service s\n@method\ndef g(): return 2", id="new", execution_count=7)
    )
    assert keys(by_method) == ["a", "new"]
    assert by_method.notes == ("s In[7] takes over g from nb.ipynb cell 2",)
    fresh = with_cell("s", base, LiveCell("%%clarens service s\n@method\ndef h(): return 2", id="new"))
    assert keys(fresh) == ["a", "b", "new"]


def test_a_live_cell_without_a_notebook_is_a_service_of_its_own() -> None:
    """Positions of a cell that was run are In[n], the `%%` line being line 1; no file is needed."""
    cell = LiveCell("%%clarens service s\nfrom clarens_lab import method\n@method\ndef f(): 1/0", execution_count=3)
    source = with_cell("s", None, cell)
    generation = build(source, Kept())

    assert (source.live, source.path, source.root) == (True, None, None)
    with pytest.raises(ZeroDivisionError) as raised:
        call(generation)
    assert raised.traceback[-1].path == Path("<s In[3]>") or str(raised.traceback[-1].path) == "<s In[3]>"
    with pytest.raises(LoadError, match=r"^s In\[4\], line 2: ZeroDivisionError"):
        build(with_cell("s", source, LiveCell("%%clarens service s\n1/0", id="x", execution_count=4)), Kept())


def test_lent_objects_are_bound_when_their_cell_runs() -> None:
    """`--use` names objects of the notebook; where there are none, a note says that a saved copy needs them."""
    text = "%%clarens service s --use model\nfrom clarens_lab import method\n@method\ndef f(): return model"
    source = with_cell("s", None, LiveCell(text, lent=("model",)))

    assert call(build(source, Kept(), {"model": 5})) == 5
    assert any("--use model lends an object" in note for note in build(source, Kept()).notes)


def test_live_tests_replace_the_same_test() -> None:
    """A test cell that is run again replaces itself."""
    one = with_test((), "s", LiveCell("%%clarens test s\nassert 1", id="t"))
    two = with_test(one, "s", LiveCell("%%clarens test s\nassert 2", id="t"))

    assert [unit.text for unit in two] == ["%%clarens test s\nassert 2"]


def test_5_2_21_saving_converges_with_what_was_run(tmp_path: Path, logged: Any) -> None:
    """A cell that was run serves on top of the saved notebook; the next save is what is served."""
    path = write_notebook(tmp_path / "s.ipynb", {"id": "a", "source": SERVICE})
    registry = Registry()
    reloader = Reloader(registry, Settings(), Ring(10), [])
    reloader.serve([path])

    def answer() -> object:
        return registry.current.methods["s.f"][1].function()

    edited = SERVICE.replace("return 1", "return 2")
    report = reloader.register("s", LiveCell(edited, id="a", notebook=path, execution_count=5))
    assert (report.outcome, answer()) == ("loaded", 2)
    save_as_jupyter(path, {"id": "a", "source": edited})
    assert reloader.serve([path])[-1].generation == 2
    save_as_jupyter(path, {"id": "a", "source": SERVICE})
    reloader.serve([path])
    assert answer() == 1


# --- bad notebooks, served ------------------------------------------------------------------------

BAD: dict[str, tuple[str, str]] = {
    "not JSON": ('{"cells": [', r"s\.ipynb is not JSON: .*waited 0\.05 s for it to be written\); save it again"),
    "no notebook": ("[]", r"s\.ipynb is JSON, but no notebook"),
    "another language": (notebook(METHOD, kernelspec={"name": "ir", "language": "R"}), r"written in R; only Python"),
    "syntax error": (notebook(METHOD, "x = = 1"), r"s\.ipynb cell 2, line 1: SyntaxError: invalid syntax"),
    "import error": (
        notebook(METHOD, "import no_such_x"),
        r"cell 2, line 1: ModuleNotFoundError: .*pip install no_such_x",
    ),
    "name before its cell": (
        notebook(METHOD, "x", "x = 1"),
        r"cell 2, line 1: NameError: .*cell 3 defines it.*move it up",
    ),
    "no method": (notebook("x = 1"), r"s\.ipynb publishes no method: write '@method' above"),
    "sys.exit": (
        notebook(METHOD, "import sys\nsys.exit()"),
        r"cell 2, line 2: SystemExit: ending the program is not for",
    ),
    "input": (notebook(METHOD, "input()"), r"cell 2, line 1: RuntimeError: input\(\) is not for a service: "),
    "get_ipython": (
        notebook(METHOD, "get_ipython()"),
        r"cell 2, line 1: NameError: get_ipython\(\) is not for a service",
    ),
    "await": (notebook(METHOD, "await x"), r"cell 2, line 1: SyntaxError: 'await' outside function: no event loop"),
    "too long": (notebook(METHOD, "while True: pass"), r"cell 2, line 1: still running after 0\.3 s, the load limit: "),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_notebook_is_kept_or_absent_with_one_message(tmp_path: Path, logged: Any, kind: str) -> None:
    """Whatever a save holds, the last good version serves on, marked stale; at first start the service is absent."""
    text, said = BAD[kind]
    logged.expect("warning clarens_lab.reload")
    settings = Settings(settle_limit=0.05, load_limit=0.3)
    registry = Registry()
    path = write_notebook(tmp_path / "s.ipynb", METHOD)
    reloader = Reloader(registry, settings, Ring(10), [])
    reloader.serve([path])
    path.write_text(text)
    report = reloader.reload("s")

    assert (report.outcome, report.generation) == ("failed", 1)
    assert re.search(said, report.error), report.error
    assert report.text() == f"{report.error}; still serving generation 1"
    assert "\n" not in report.error
    assert registry.current.is_stale("s")
    assert registry.current.methods["s.f"][1].function() == 1

    absent = Registry()
    (first,) = Reloader(absent, settings, Ring(10), []).serve([path])
    assert (first.outcome, first.generation, "s" in absent.current.services) == ("failed", 0, False)
    assert re.search(said, absent.current.troubles["s"])
    save_as_jupyter(path, METHOD)
    assert reloader.reload("s").ok
    assert not registry.current.is_stale("s")


# --- processes ---------------------------------------------------------------------------------


def test_a_service_can_fork_workers(tmp_path: Path) -> None:
    """A function of a notebook goes to the processes of a forking pool, by its name."""
    write_notebook(
        tmp_path / "nb.ipynb",
        METHOD,
        "import multiprocessing\ndef square(n): return n * n\n@method\ndef g():\n"
        "    with multiprocessing.get_context('fork').Pool(2) as pool: return pool.map(square, range(4))",
    )
    script = "import sys; from clarens_lab import load; print(load(sys.argv[1]).g())"
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "nb.ipynb")], capture_output=True, text=True, timeout=60
    )

    assert (done.stdout, done.returncode) == ("[0, 1, 4, 9]\n", 0), done.stderr


def test_nbformat_is_not_imported_for_ordinary_notebooks(tmp_path: Path) -> None:
    """Reading a notebook of format 4 imports neither nbformat nor jsonschema."""
    path = write_notebook(tmp_path / "nb.ipynb", METHOD)
    script = (
        "import sys; from clarens_lab import load; load(sys.argv[1]); "
        "print([name for name in ('nbformat', 'jsonschema') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, timeout=60)

    assert done.stdout == "[]\n", done.stderr


def test_a_service_named_as_a_library_gets_the_library(tmp_path: Path) -> None:
    """A notebook about statistics, called statistics.ipynb, imports the library and not itself."""
    generation = whole(
        tmp_path,
        "import statistics, numpy\nfrom statistics import NormalDist\n@method\ndef f(): return statistics.mean([1, 3])",
        name="statistics.ipynb",
    )
    write_notebook(tmp_path / "numpy.ipynb", "1/0")

    assert call(generation) == 2
    assert typing.cast(Any, generation.namespace["NormalDist"]).__module__ == "statistics"
    assert isinstance(generation.namespace["numpy"], ModuleType)
    assert sorted(generation.methods) == ["f"]


def test_loading_logs_nothing_by_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What there is to say of a load is in its generation; the log is the server's to write."""
    with caplog.at_level(logging.DEBUG, "clarens_lab"):
        whole(tmp_path, METHOD, "%pwd")
    assert caplog.records == []


def test_the_helper_writes_what_jupyter_writes(tmp_path: Path) -> None:
    """The notebooks of these tests are valid, so that they prove something."""
    nbformat.validate(json.loads(notebook(METHOD, {"id": "x", "source": "y"})))


# --- marks that do not count, and other things that are not what they seem -------------------------


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (
            "%%time\n%%clarens service s",
            "cell 2, line 2: '%%clarens' counts only as the first line of a cell; move '%%t",
        ),
        ("%%claren service s", "cell 2: did you mean '%%clarens service s'?"),
        (" %%clarens service s", "cell 2: did you mean '%%clarens service s'?"),
        ("%% clarens service s", "cell 2: did you mean '%%clarens service s'?"),
        ("%clarens service s", "cell 2: did you mean '%%clarens service s'?"),
        ("# a draft", "cell 2 has '@method' but is no service cell: begin it with '%%clarens service'"),
    ],
)
def test_a_mark_that_does_not_count_is_told(tmp_path: Path, head: str, said: str) -> None:
    """A line that looks like a mark and is none, or a method outside of the marked cells, is noted by its cell."""
    path = write_notebook(tmp_path / "nb.ipynb", SERVICE, f"{head}\n@method\ndef lost(): return 1\n")
    assert built(path).notes[0].startswith(f"nb.ipynb {said}")

    path = write_notebook(tmp_path / "nb.ipynb", "%%clarens service s\nx = 1", f"{head}\n@method\ndef lost(): pass\n")
    with pytest.raises(LoadError, match=rf"^nb\.ipynb publishes no method: nb\.ipynb {re.escape(said)}"):
        built(path)


@pytest.mark.parametrize("cell", ["%clarens test s", "text = '''\n%%clarens service s\n'''", "%%clarens test s\nf()"])
def test_what_is_no_mark_is_not_taken_for_one(tmp_path: Path, cell: str) -> None:
    """The verb `%clarens test`, a mark inside of a text, and a test cell are no mistakes."""
    assert not built(write_notebook(tmp_path / "nb.ipynb", SERVICE, cell)).notes


def test_a_path_that_is_told_in_the_text_alone_is_found_beside_the_notebook(tmp_path: Path) -> None:
    """numpy names a missing file in its text only; the hint about relative paths comes all the same."""
    (tmp_path / "data.csv").write_text("1")
    text = failure(tmp_path, "import numpy as np\nnp.loadtxt('data.csv')")
    assert text.endswith("; it stands beside nb.ipynb: open Path(__file__).parent / 'data.csv'")


def test_a_missing_module_may_be_meant_to_stand_beside_the_notebook(tmp_path: Path) -> None:
    """A module that is not found is looked for among the neighbours first, and installing it is the other way out."""
    (tmp_path / "odd_helper.py").write_text("x = 1")
    text = failure(tmp_path, "import odd_helpers")
    assert "no odd_helpers.py stands beside nb.ipynb (did you mean 'odd_helper'?), and no module of that name" in text
    assert text.endswith(f"({sys.executable} -m pip install odd_helpers)")


@pytest.mark.parametrize("name", ["nb.ipynb", "nb.py"])
def test_a_pipe_in_a_services_place_is_refused(tmp_path: Path, name: str) -> None:
    """A FIFO is not waited for: whoever reads it would wait for ever."""
    os.mkfifo(tmp_path / name)
    with pytest.raises(LoadError, match=rf"^{name} is no file that can be read to its end"):
        read(tmp_path / name)
    assert not discover(tmp_path).services


def test_folders_may_be_nested_deep(tmp_path: Path) -> None:
    """Folders a thousand deep are walked through as any others."""
    deep = tmp_path
    for _ in range(1100):
        deep /= "d"
        deep.mkdir()
    (deep / "s.py").write_text(METHOD)
    try:
        assert discover(tmp_path).services == (deep / "s.py",)
    finally:
        subprocess.run(["rm", "-r", str(tmp_path / "d")], check=True)  # deeper than pytest's own cleaning goes


def test_a_folder_of_many_files_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many files a folder holds, another look reads none that did not change, and forgets those that went."""
    for number in range(4200):
        (tmp_path / f"s{number}.py").write_text("x = 1")
    discover(tmp_path)
    reads: list[Path] = []
    plain = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (reads.append(path), plain(path))[1])
    (tmp_path / "s0.py").write_text(METHOD)
    (tmp_path / "s1.py").unlink()
    assert discover(tmp_path).services == (tmp_path / "s0.py",)
    assert reads == [tmp_path / "s0.py"]
    assert tmp_path / "s1.py" not in loaders._shown_before


def test_a_slow_load_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """After a second the log says where a load is; a quick one says nothing."""
    caplog.set_level(logging.INFO, "clarens_lab.loaders.limit")
    source = source_of(write_notebook(tmp_path / "nb.ipynb", METHOD, "import time\ntime.sleep(1.2)"))
    assert Load(source, Kept(), None, Output(100)).result(30.0).methods
    assert caplog.messages == ["loading nb: still at nb.ipynb cell 2, line 2"]
