"""Services in files and packages, and the modules beside a service: read when it is, and new in each generation."""

import importlib.util
import inspect
import pickle
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import write_notebook

from clarens_lab import Fault, load
from clarens_lab.loaders import build, read
from clarens_lab.registry import Generation
from clarens_lab.service import Kept
from clarens_lab.source import LoadError, Source, Unsettled

METHOD = "from clarens_lab import method\n@method\ndef f(): return 1\n"
SERVICE = "%%clarens service s\nfrom clarens_lab import method\n"


@pytest.fixture(autouse=True)
def _no_traces() -> Iterator[None]:
    """Modules of other tests' folders are forgotten, so that each test imports its own."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if not name.startswith(("numpy", "clarens_lab", "_clarens")):
            del sys.modules[name]


def source_of(path: Path) -> Source:
    (source,) = read(path)
    return source


def built(path: Path) -> Generation:
    return build(source_of(path), Kept())


def with_cell(folder: Path, cell: str, name: str = "nb.ipynb") -> Generation:
    """A service of one cell, in a folder with modules."""
    return built(write_notebook(folder / name, f"{SERVICE}{cell}"))


def call(generation: Generation, name: str = "f", *arguments: object) -> Any:
    return generation.methods[name].function(*arguments)


def failure(path: Path) -> str:
    with pytest.raises(LoadError) as failed:
        built(path)
    return str(failed.value)


# --- a service in a file -----------------------------------------------------------------------


def test_a_file_is_a_service_of_its_name(tmp_path: Path) -> None:
    """A .py file with @method is served under its name, made a Python name, which is said."""
    path = tmp_path / "my-tools.py"
    path.write_text(
        "import sys\n" + METHOD + "@method\ndef g(): return [__name__, __file__, __package__, sys.path[0]]\n"
    )
    generation = built(path)

    assert (generation.service, call(generation)) == ("my_tools", 1)
    assert call(generation, "g") == ["my_tools", str(path), "", str(tmp_path)]
    assert generation.notes == ("my-tools.py is served as 'my_tools'",)


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbf# BOM\n", b"# -*- coding: latin-1 -*-\nname = '\xe9'\n", "name = 'é'\n".encode(),
        b"x = 1\r\ny = 2\r\n", b"x = 1\ry = 2\r", b"if True:\n\tx = 1\n", b"\x0c\nx = 1\n", b"#!/usr/bin/python3\n",
    ],
    ids=["BOM", "latin-1", "utf-8", "CRLF", "CR", "tabs", "form feed", "shebang"],
)  # fmt: skip
def test_5_1_12_files_of_any_encoding_and_line_ends_are_read(tmp_path: Path, data: bytes) -> None:
    """A BOM, a coding cookie, CRLF, CR, tabs and form feeds are read as Python reads them."""
    path = tmp_path / "mod.py"
    path.write_bytes(data + METHOD.encode())
    generation = built(path)

    assert call(generation) == 1
    assert generation.namespace.get("name", "é") == "é"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\nx = '\x00'\n", "mod.py, line 2: SyntaxError: source code"),
        (b"x = '\xe9'\n", "mod.py: its text cannot be decoded"),
        (b"# coding: no-such-code\n", "unknown encoding: no-such-code"),
        (b"if 1:\n\tx = 1\n        y = 2\n", "mod.py, line 3: TabError"),
        (b"def f(:\n", "mod.py, line 1: SyntaxError"),
        (b"print 'python 2'\n", "mod.py, line 1: SyntaxError"),
        (b"x = 1\n", "mod.py publishes no method"),
        (b"import sys\nsys.exit()\n", "mod.py, line 2: SystemExit"),
    ],
)
def test_5_1_12_a_file_that_cannot_be_loaded_says_where(tmp_path: Path, data: bytes, said: str) -> None:
    """What no file of Python may hold, and what no service may do, is told with file and line."""
    path = tmp_path / "mod.py"
    path.write_bytes(data)
    assert said in failure(path)


def test_an_empty_file_may_be_being_written(tmp_path: Path) -> None:
    """An empty file is Unsettled: editors truncate before they write."""
    for name in ("mod.py", "pkg/__init__.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(" \n")
        with pytest.raises(Unsettled, match="is empty"):
            read(path)
    with pytest.raises(Unsettled, match="not there any more"):
        read(tmp_path / "gone.py")
    (tmp_path / "data.csv").write_text("")
    with pytest.raises(LoadError, match=r"data\.csv is no service: serve a notebook"):
        read(tmp_path / "data.csv")


# --- a service in a package --------------------------------------------------------------------


def test_a_package_is_one_service(tmp_path: Path) -> None:
    """A folder with __init__.py is a service; what its modules mark and it imports is published, relative or not."""
    folder = tmp_path / "tools"
    (folder / "sub").mkdir(parents=True)
    (folder / "__init__.py").write_text(
        "from clarens_lab import method\n"
        "from . import consts\nfrom .sub import deep\nfrom .sub.deep import marked\nimport tools.consts as again\n"
        "from tools import sub as sub2\n"
        "@method\ndef f(): return [__name__, __package__, consts.X, deep.up(), again is consts, sub2.deep is deep]\n"
    )
    (folder / "consts.py").write_text("X = 5\n")
    (folder / "sub" / "__init__.py").write_text("")
    (folder / "sub" / "deep.py").write_text(
        "from clarens_lab import method\nfrom .. import consts\nfrom ..consts import X\n"
        "def up(): return [__name__, __package__, X, consts.X]\n"
        "@method\ndef marked(): return 1\n@method\ndef unmarked_above(): ...\n"
    )
    for path in (folder, folder / "__init__.py"):
        generation = built(path)
        assert generation.service == "tools"
        assert sorted(generation.methods) == ["f", "marked"]
        assert call(generation) == ["tools", "tools", 5, ["tools.sub.deep", "tools.sub", 5, 5], True, True]
    assert "tools" not in sys.modules
    assert source_of(folder).files == {
        folder / "__init__.py", folder / "consts.py", folder / "sub" / "__init__.py", folder / "sub" / "deep.py",
    }  # fmt: skip


def test_5_2_22_a_package_may_be_a_notebook(tmp_path: Path) -> None:
    """A folder with __init__.ipynb is a package too; its magics, skipped and test cells do not count."""
    folder = tmp_path / "nbpkg"
    folder.mkdir()
    (folder / "helper.py").write_text("Y = 6\n")
    path = write_notebook(
        folder / "__init__.ipynb",
        "%matplotlib inline\nfrom .helper import Y\n" + METHOD,
        "%%bash\nls &&",
        {"source": "1/0", "metadata": {"tags": ["skip"]}},
        "%%clarens test\n1/0",
        "@method\ndef g(): return Y",
    )
    for named in (folder, path):
        generation = built(named)
        assert (generation.service, call(generation, "g")) == ("nbpkg", 6)


def test_what_is_no_package_is_refused(tmp_path: Path) -> None:
    """A folder that is named as a service but has no __init__.py, or no Python name, says so."""
    (tmp_path / "plain").mkdir()
    (tmp_path / "my-pkg").mkdir()
    (tmp_path / "my-pkg" / "__init__.py").write_text(METHOD)
    with pytest.raises(LoadError, match=r"plain/ is no package: it has no __init__\.py"):
        read(tmp_path / "plain")
    with pytest.raises(LoadError, match=r"my-pkg/ cannot be a package: .* 'my_pkg' is"):
        read(tmp_path / "my-pkg")


def test_5_2_22_a_notebook_beside_a_module_of_its_name(tmp_path: Path) -> None:
    """a.ipynb beside a.py: each is read as what it is, and the notebook's import of `a` is the module."""
    (tmp_path / "a.py").write_text("X = 7\n" + METHOD)
    generation = with_cell(tmp_path, "import a\n@method\ndef f(): return [a.X, a.__file__]", name="a.ipynb")

    assert call(generation) == [7, str(tmp_path / "a.py")]
    assert call(built(tmp_path / "a.py")) == 1


# --- modules beside a service ------------------------------------------------------------------


def test_5_2_23_every_way_to_import_a_local_module(tmp_path: Path) -> None:
    """Plain, dotted, renamed, starred, inside of functions and conditional imports reach the modules of the folder."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "__init__.py").write_text("here = 'a'\n__all__ = ['here', 'lazy']\n")
    (tmp_path / "a" / "lazy.py").write_text("name = __name__\n")
    (tmp_path / "a" / "b" / "__init__.py").write_text("")
    (tmp_path / "a" / "b" / "c.py").write_text("name = __name__\n_private = 1\n")
    (tmp_path / "helper.py").write_text("value = 5\ndef twice(x): return 2 * x\n_hidden = 1\n")
    (tmp_path / "late.py").write_text("value = 'late'\n")
    (tmp_path / "bare" / "inner").mkdir(parents=True)
    (tmp_path / "bare" / "mod.py").write_text("value = 'bare'\n")
    (tmp_path / "bare" / "inner" / "mod.py").write_text("value = 'inner'\n")
    generation = with_cell(
        tmp_path,
        """
import a.b.c
import a.b.c as abc_
import a.b as ab, helper as h
from a import *
from a.b import c
from helper import *
import bare.mod
from bare.inner import mod as inner
try:
    import no_such_helper
except ModuleNotFoundError as error:
    missing = error.name
@method
def f():
    import late
    from late import value as v
    return [a.b.c.name, abc_ is c, ab.c is c, here, lazy.name, twice(h.value), late.value, v, missing]
@method
def g(): return [bare.mod.value, inner.value, '_hidden' in globals(), a.__package__, c.__package__]
""",
    )

    assert call(generation) == ["a.b.c", True, True, "a", "a.lazy", 10, "late", "late", "no_such_helper"]
    assert call(generation, "g") == ["bare", "inner", False, "a", "a.b"]
    assert {"a", "helper", "late", "bare"}.isdisjoint(sys.modules)


def test_circular_imports_work_as_in_python(tmp_path: Path) -> None:
    """Modules that import each other, in a package and beside it, get each other."""
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__init__.py").write_text("from . import one\n")
    (tmp_path / "pkg" / "one.py").write_text(
        "from . import two\nimport pkg.two as again\nx = 1\ndef f(): return two.y\n"
    )
    (tmp_path / "pkg" / "two.py").write_text(
        "from . import one\nimport pkg.one as again\ny = 2\ndef f(): return one.x\n"
    )
    (tmp_path / "left.py").write_text("import right\ndef f(): return right.VALUE\nVALUE = 'left'\n")
    (tmp_path / "right.py").write_text("import left\ndef f(): return left.VALUE\nVALUE = 'right'\n")
    generation = with_cell(
        tmp_path,
        "import pkg, left, right\n@method\ndef f(): return [pkg.one.f(), pkg.two.f(), left.f(), right.f()]",
    )
    assert call(generation) == [2, 1, "right", "left"]

    (tmp_path / "left.py").write_text("from right import VALUE\nX = 1\n")
    (tmp_path / "right.py").write_text("from left import X\nVALUE = 1\n")
    text = failure(tmp_path / "nb.ipynb")
    assert text.startswith("right.py, line 1: ImportError: cannot import name 'X' from 'left'")


def test_each_generation_has_modules_of_its_own_text(tmp_path: Path) -> None:
    """A helper that is edited is new in the next generation; the old one keeps the text that it was read with."""
    helper = tmp_path / "helper.py"
    helper.write_text("VALUE = 1\ndef get(): import deep; return [VALUE, deep.VALUE]\n")
    (tmp_path / "deep.py").write_text("VALUE = 1\n")
    path = write_notebook(tmp_path / "nb.ipynb", f"{SERVICE}import helper\n@method\ndef f(): return helper.get()")
    one = built(path)
    helper.write_text(helper.read_text().replace("VALUE = 1", "VALUE = 2"))
    (tmp_path / "deep.py").write_text("VALUE = 2\n")
    two = built(path)

    assert (call(one), call(two)) == ([1, 1], [2, 2])
    assert source_of(path).digest != one.source.digest if one.source else False
    assert not (tmp_path / "__pycache__").exists()


def test_services_in_two_folders_have_helpers_of_the_same_name(tmp_path: Path) -> None:
    """`helper` is the module beside the service, whatever other services call so."""
    generations = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "helper.py").write_text(f"NAME = {name!r}\n")
        generations.append(with_cell(tmp_path / name, "import helper\n@method\ndef f(): return helper.NAME"))

    assert [call(generation) for generation in generations] == ["one", "two"]


def test_a_module_that_fails_is_named_with_its_line(tmp_path: Path) -> None:
    """An error in a local module is told by its file and line; the import can be tried again once it is mended."""
    path = write_notebook(tmp_path / "nb.ipynb", f"{SERVICE}import helper\n@method\ndef f(): ...")
    helper = tmp_path / "helper.py"
    for text, said in (
        ("x = 1\n1/0\n", "helper.py, line 2: ZeroDivisionError"),
        ("def f(:\n", "helper.py, line 1: SyntaxError"),
        ("import no_such_x\n", "helper.py, line 1: ModuleNotFoundError: No module named 'no_such_x'"),
        ("from . import x\n", "helper.py, line 1: ImportError: 'from . import ...' works inside a package only"),
        ("\nx = '\x00'\n", "helper.py, line 2: SyntaxError"),
    ):
        helper.write_text(text)
        assert said in failure(path)
    helper.write_text("x = 1\n")
    assert built(path).service == "s"


def test_a_failed_import_inside_of_a_call_can_be_tried_again(tmp_path: Path) -> None:
    """A local module that raised is run anew by the next import, as in Python."""
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__init__.py").write_text("")
    (tmp_path / "pkg" / "sometimes.py").write_text(
        "import os\nif 'CLARENS_X' not in os.environ: raise OSError\nx = 1\n"
    )
    generation = with_cell(
        tmp_path,
        "import os\n@method\ndef f():\n    from pkg import sometimes\n    return sometimes.x\n"
        "@method\ndef g():\n    os.environ['CLARENS_X'] = ''\n",
    )
    with pytest.raises(OSError):
        call(generation)
    call(generation, "g")
    try:
        assert call(generation) == 1
    finally:
        del __import__("os").environ["CLARENS_X"]


def test_threads_never_see_a_module_that_is_half_run(tmp_path: Path) -> None:
    """Calls that import a local module at the same time all get it whole, and it runs once."""
    (tmp_path / "slow.py").write_text("import time\nruns = []\nruns.append(1)\ntime.sleep(0.2)\nvalue = 5\n")
    generation = with_cell(tmp_path, "@method\ndef f():\n    import slow\n    return [slow.value, len(slow.runs)]")
    answers: list[Any] = []
    threads = [threading.Thread(target=lambda: answers.append(call(generation))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert answers == [[5, 1]] * 4


def test_a_local_module_goes_before_the_standard_library_for_the_service_only(tmp_path: Path) -> None:
    """A file called as a module of the standard library is what the service imports, and nobody else."""
    for name in ("queue", "types", "json", "random"):
        (tmp_path / f"{name}.py").write_text("mine = True\n")
    generation = with_cell(
        tmp_path,
        "import queue, types, json, random\nimport statistics, concurrent.futures\n"
        "@method\ndef f(): return [queue.mine, types.mine, json.mine, random.mine]",
    )

    assert call(generation) == [True] * 4
    assert not hasattr(sys.modules["json"], "mine")
    assert not hasattr(sys.modules["types"], "mine")


def test_a_bare_folder_does_not_hide_an_installed_package(tmp_path: Path) -> None:
    """A folder of scripts called numpy, without __init__.py, does not stand in for numpy; nor does numpy.ipynb."""
    (tmp_path / "numpy").mkdir()
    (tmp_path / "numpy" / "script.py").write_text("1/0\n")
    write_notebook(tmp_path / "json.ipynb", "1/0")
    generation = with_cell(
        tmp_path, "import numpy as np, json\n@method\ndef f(): return json.dumps(np.zeros(2).tolist())"
    )

    assert call(generation) == "[0.0, 0.0]"


def test_5_2_23_a_notebook_is_imported_as_a_module(tmp_path: Path) -> None:
    """`import other` reads other.ipynb: its service cells, else the cells that would be served; never its tests."""
    write_notebook(
        tmp_path / "plain.ipynb",
        "%matplotlib inline\nfrom __future__ import annotations\nx = 1",
        "%%time\n1/0 +",
        "!ls\ndef get(a: NoSuch): return [x, __name__, __file__]",
        {"source": "1/0", "metadata": {"tags": ["skip"]}},
        "%%clarens test\n1/0",
    )
    write_notebook(tmp_path / "marked.ipynb", "1/0", f"%%clarens service m\n{METHOD}", "%%clarens test m\n1/0")
    generation = with_cell(
        tmp_path, "import plain, marked\n@method\ndef g(): return plain.get(1)\n@method\ndef h(): return marked.f()"
    )

    assert call(generation, "g") == [1, "plain", str(tmp_path / "plain.ipynb")]
    assert call(generation, "h") == 1
    assert sorted(generation.methods) == ["g", "h"]
    write_notebook(tmp_path / "marked.ipynb", "x = 1", f"%%clarens service m\n{METHOD}\n1/0")
    assert failure(tmp_path / "nb.ipynb").startswith("marked.ipynb cell 2, line 6: ZeroDivisionError")


def test_a_compiled_module_of_a_local_package_is_loaded_once(tmp_path: Path) -> None:
    """A C extension inside of a local package is imported from there, relative or by its full name."""
    spec = importlib.util.find_spec("tornado.speedups")
    assert spec is not None
    compiled = Path(spec.origin or "")
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__init__.py").write_text("from . import speedups\nfrom pkg.speedups import websocket_mask\n")
    shutil.copy(compiled, tmp_path / "pkg")
    path = write_notebook(
        tmp_path / "nb.ipynb",
        f"{SERVICE}import pkg, pkg.speedups as s\n"
        "@method\ndef f(): return [pkg.websocket_mask(b'\\0\\0\\0\\0', b'x'), s.__file__]",
    )
    one, two = built(path), built(path)

    assert call(one) == call(two) == [b"x", str(tmp_path / "pkg" / compiled.name)]
    with pytest.raises(LoadError, match="cannot import name 'nothing' from 'pkg'"):
        built(write_notebook(tmp_path / "other.ipynb", f"{SERVICE}from pkg import nothing"))


def test_modules_know_themselves(tmp_path: Path) -> None:
    """Classes and functions of a helper can be pickled, inspected and hinted like those of the service."""
    (tmp_path / "helper.py").write_text(
        "from __future__ import annotations\nimport dataclasses, collections\n"
        "@dataclasses.dataclass\nclass Point:\n    x: float\n    next: Point | None = None\n"
        "Pair = collections.namedtuple('Pair', 'a b')\ndef helper(p: Point) -> Point:\n    return p\n"
    )
    generation = with_cell(
        tmp_path, "import helper\nfrom helper import Point\n@method\ndef f(p: Point) -> float: return p.next.x"
    )
    module: Any = generation.namespace["helper"]

    for thing in (module.Point(1.0), module.Pair(1, 2), module.helper):
        assert pickle.loads(pickle.dumps(thing)) == thing
    assert inspect.getsource(module.helper).startswith("def helper")
    method = generation.methods["f"]
    assert method.signature.text == "f(p: Point) -> float"
    assert method.function(*method.signature.bind([{"x": 1, "next": {"x": 5}}], "s.f")) == 5.0


def test_a_fault_in_a_module_points_at_its_line(tmp_path: Path) -> None:
    """What a local module raises in a call is shown by file and line, under the service's own frame."""
    (tmp_path / "helper.py").write_text("class Odd(Exception): ...\ndef fail():\n    raise Odd('x')\n")
    path = write_notebook(tmp_path / "nb.ipynb", f"{SERVICE}import helper\n@method\ndef f(): helper.fail()")
    with pytest.raises(Fault) as raised:
        load(path).f()

    assert "nb.ipynb cell 1, line 5 (f)" in raised.value.text
    assert "helper.py, line 3 (fail)" in raised.value.text
    assert raised.value.text.endswith("Odd: x")


def test_a_module_that_only_a_string_names_is_imported_as_usual(tmp_path: Path) -> None:
    """importlib.import_module finds modules beside the service by sys.path, as any program does."""
    (tmp_path / "named_by_text.py").write_text("value = 5\n")
    generation = with_cell(
        tmp_path, "import importlib\n@method\ndef f(): return importlib.import_module('named_by_text').value"
    )
    assert call(generation) == 5


def test_5_2_23_the_working_directory_is_left_alone(tmp_path: Path) -> None:
    """Loading changes no working directory; the service's folder leaves sys.path with its last generation."""
    where = Path.cwd()
    one, two = with_cell(tmp_path, "@method\ndef f(): ..."), with_cell(tmp_path, "@method\ndef f(): ...")
    assert (Path.cwd(), sys.path.count(str(tmp_path))) == (where, 1)
    one.unload()
    assert sys.path.count(str(tmp_path)) == 1
    two.unload()
    assert sys.path.count(str(tmp_path)) == 0


def test_the_servers_own_package_is_never_a_local_module(tmp_path: Path) -> None:
    """A folder called clarens_lab beside a service does not replace the server's."""
    (tmp_path / "clarens_lab").mkdir()
    (tmp_path / "clarens_lab" / "__init__.py").write_text("1/0\n")
    assert sorted(with_cell(tmp_path, "@method\ndef f(): ...").methods) == ["f"]


def test_a_missing_module_says_how_it_is_installed(tmp_path: Path) -> None:
    """A module that is nowhere is told with the command that would install it where the server runs."""
    path = write_notebook(tmp_path / "nb.ipynb", f"{SERVICE}import no_such_x.y")
    assert f"{sys.executable} -m pip install no_such_x" in failure(path)
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__init__.py").write_text("")
    write_notebook(path, f"{SERVICE}import pkg.gone")
    text = failure(path)
    assert "No module named 'pkg.gone'" in text
    assert "pip install" not in text


def test_bytecode_files_are_neither_read_nor_written(tmp_path: Path) -> None:
    """Two saves within one second, of the same size, are two versions: no .pyc decides."""
    path = tmp_path / "mod.py"
    helper = tmp_path / "helper.py"
    for number in (1, 2):
        path.write_text(
            f"import helper\nfrom clarens_lab import method\n@method\ndef f(): return [{number}, helper.x]\n"
        )
        helper.write_text(f"x = {number}\n")
        assert call(built(path)) == [number, number]
    assert list(tmp_path.rglob("*.pyc")) == []


def test_a_service_runs_with_warnings_as_errors(tmp_path: Path) -> None:
    """Python with -W error loads a notebook whose texts hold odd escapes, and prints nothing."""
    (tmp_path / "helper.py").write_text("pattern = '\\d'\nx = 5\n")
    path = write_notebook(
        tmp_path / "nb.ipynb", f"{SERVICE}import helper\n@method\ndef f(): return '\\d' + helper.pattern"
    )
    script = "import sys; from clarens_lab import load; print(load(sys.argv[1]).f())"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, str(path)], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("\\d\\d\n", "")
