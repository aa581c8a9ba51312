"""Whole notebooks: the tutorials, Run All, and IPython in a terminal."""

import os
import sys
from pathlib import Path

import nbformat
import pexpect
import pytest
from kernels import COLOURS, PICALC
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from serving import PATIENCE, write_notebook

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
TUTORIALS = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))


def executed(path: Path, folder: Path) -> nbformat.NotebookNode:
    """The notebook, run from top to bottom by a real kernel."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=PATIENCE, resources={"metadata": {"path": str(folder)}})
    client.execute()
    return notebook


def texts(notebook: nbformat.NotebookNode) -> list[str]:
    """What is shown under each code cell, as text."""
    shown = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            parts = [one.get("text") or one.get("data", {}).get("text/plain", "") for one in cell.outputs]
            shown.append("".join(parts).strip())
    return shown


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_tutorials_run_from_top_to_bottom(path: Path) -> None:
    """Each tutorial runs from top to bottom in a real kernel, and no cell of it fails."""
    notebook = executed(path, NOTEBOOKS)
    assert any(texts(notebook))


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_tutorials_are_kept_clean(path: Path) -> None:
    """A tutorial is kept without outputs and counts, and each of its cells has an id."""
    notebook = nbformat.read(path, as_version=4)
    assert not [cell for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")]
    assert all(cell.id for cell in notebook.cells)


def test_a_first_call_takes_three_cells() -> None:
    """In the first tutorial the third code cell gives a right answer."""
    notebook = executed(NOTEBOOKS / "01-first-call.ipynb", NOTEBOOKS)
    shown = texts(notebook)
    assert shown[2] == "4.0"
    assert "tides: height(hours: float, range_m: float = 4.0) -> float" in shown[1]


def test_run_all_stops_at_a_red_test(tmp_path: Path) -> None:
    """A notebook runner stops at a test cell that fails, and shows the values."""
    red = "%%clarens test picalc\nassert picalc.digits(2) == '3'\n"
    path = write_notebook(tmp_path / "red.ipynb", "%load_ext clarens_lab", PICALC, red, "open('ran', 'w')")
    with pytest.raises(CellExecutionError, match=r"is false: '3\.1' and '3'"):
        executed(path, tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("cell", ["%clarens nonsense", "%clarens call picalc.inverse(0)", "%%clarens service x\n1/0"])
def test_run_all_stops_at_a_failure(tmp_path: Path, cell: str) -> None:
    """A notebook runner stops at a usage error, a fault and a build that failed."""
    path = write_notebook(tmp_path / "red.ipynb", "%load_ext clarens_lab", PICALC, cell, "open('ran', 'w')")
    with pytest.raises(CellExecutionError):
        executed(path, tmp_path)
    assert not (tmp_path / "ran").exists()


def test_ipython_in_a_terminal(tmp_path: Path) -> None:
    """In a terminal the same cells work, and answers are plain text."""
    options = ["--no-banner", "--colors=nocolor", "--simple-prompt", "--HistoryManager.enabled=False"]
    ipython = pexpect.spawn(
        sys.executable,
        ["-m", "IPython", *options],
        cwd=str(tmp_path),
        env={**os.environ, "TERM": "dumb"},
        encoding="utf-8",
        timeout=PATIENCE,
        dimensions=(50, 250),
    )
    try:
        ipython.expect(r"In \[1\]: ")
        ipython.sendline("%load_ext clarens_lab")
        ipython.expect(r"In \[2\]: ")
        (tmp_path / "cell.py").write_text(PICALC)
        ipython.sendline("_ = get_ipython().run_cell(open('cell.py').read())")
        ipython.expect(r"picalc: digits\(n: int = 5\) -> str")
        ipython.expect(r"In \[3\]: ")
        ipython.sendline("picalc.digits(3)")
        ipython.expect("3.14")
        ipython.expect(r"In \[4\]: ")
        ipython.sendline("picalc.inverse(0)")
        ipython.expect("ZeroDivisionError: float division by zero")
        ipython.expect(r"In \[5\]: ")
        assert "<style>" not in COLOURS.sub("", ipython.before)
        ipython.sendline("%clarens")
        ipython.expect("inside this kernel")
        ipython.expect(r"In \[6\]: ")
        ipython.sendline("exit")
        ipython.expect(pexpect.EOF)
    finally:
        ipython.close(force=True)
    assert ipython.exitstatus == 0
