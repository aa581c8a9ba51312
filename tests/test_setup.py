"""Two commands set everything up: what they install is pinned, and what is installed is the whole package."""

import itertools
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PINS = (ROOT / "constraints.txt").read_text().splitlines()

made_by_set_up = pytest.mark.skipif(
    not any(Path(sys.prefix).glob(".setup-*")), reason="this Python is not in a venv that set-up made"
)


def canonical(name: str) -> str:
    """A distribution's name as every index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def named(requirement: str) -> str:
    match = re.match(r"[\w.-]+", requirement)
    assert match, requirement
    return canonical(match[0])


def pinned() -> set[str]:
    return {named(line) for line in PINS}


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def run(*command: str | Path, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program as from a fresh shell: the make that may be running these tests passes nothing on."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        command, cwd=cwd, env=inherited | environment, capture_output=True, text=True, check=False, timeout=120
    )


def test_constraints_are_pins_and_nothing_else() -> None:
    """Every line of constraints.txt is `name==version`: no address, no index, no range; each name once, in order."""
    assert [line for line in PINS if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []
    assert len(pinned()) == len(PINS)
    assert sorted(PINS, key=str.lower) == PINS


def asked_for() -> list[str]:
    """Every requirement written down by hand: the project's, its build's, and the tools that set-up installs."""
    table = project()
    lists = [table["build-system"]["requires"], table["project"]["dependencies"]]
    lists += table["project"].get("optional-dependencies", {}).values()
    lists += map(
        str.split, re.findall(r"^(?:notebooks|tests|linters)=\((.*)\)$", (ROOT / ".ci/setup").read_text(), re.M)
    )
    return list(itertools.chain(*lists))


def test_everything_asked_for_is_pinned() -> None:
    """Each dependency in pyproject.toml, of the build too, and each tool that set-up installs has its pin."""
    assert {"setuptools", "tornado", "mpmath", "pytest", "ruff"} <= set(map(named, asked_for()))
    assert set(map(named, asked_for())) <= pinned()


def test_what_the_pins_bring_along_is_pinned() -> None:
    """What the dependencies depend on, all the way down, has its pin too: two machines install the same."""
    found: set[str] = set()
    waiting = set(map(named, asked_for()))
    while waiting:
        name = waiting.pop()
        found.add(name)
        needs = map(Requirement, metadata.requires(name) or [])
        waiting |= {canonical(need.name) for need in needs if not need.marker or need.marker.evaluate({"extra": ""})}
        waiting -= found

    assert found - pinned() == set()


def test_bare_make_lists_the_targets() -> None:
    """`make` alone does nothing but list every target with its purpose."""
    answer = run("make", "--silent")
    targets = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M)[0].split()

    assert answer.returncode == 0, answer.stderr
    assert [line.split()[1] for line in answer.stdout.splitlines()] == targets
    assert all(len(line.split()) > 3 for line in answer.stdout.splitlines())


def test_set_up_says_when_the_chosen_python_is_no_python(tmp_path: Path) -> None:
    """A PYTHON that does not exist is named in one sentence, and nothing is made."""
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)

    answer = run("bash", ".ci/setup", "demo", cwd=tmp_path, PYTHON="/nowhere/python3")

    assert answer.returncode == 1
    assert answer.stderr == "set-up: PYTHON=/nowhere/python3 is not a program.\n"
    assert not (tmp_path / ".venv").exists()


def test_nothing_in_set_up_names_an_index() -> None:
    """Where packages come from is the machine's own business: no file of set-up holds an address."""
    for path in [ROOT / "Makefile", ROOT / "constraints.txt", ROOT / "pyproject.toml", *(ROOT / ".ci").iterdir()]:
        assert re.findall(r"https?://\S+|--(?:extra-)?index-url|--find-links", path.read_text()) == [], path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built from a copy so that no build folder is left in it."""
    source = tmp_path_factory.mktemp("source")
    for name in ("clarens_lab", "extension"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    built = tmp_path_factory.mktemp("wheel")
    answer = run(
        *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"),
        *("--wheel-dir", built, source),
    )
    assert answer.returncode == 0, answer.stderr
    return next(built.glob("*.whl"))


def test_the_wheel_holds_the_whole_package(wheel: Path) -> None:
    """Every module of clarens_lab is in the wheel, with py.typed and the licence; no test is."""
    held = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "clarens_lab").rglob("*.py")}

    assert modules | {"clarens_lab/py.typed"} <= held
    assert any(name.endswith("/LICENSE") for name in held)
    assert not [name for name in held if name.startswith(("tests/", "bench/", "notebooks/"))]


def test_an_ordinary_install_gives_the_program(wheel: Path, tmp_path: Path) -> None:
    """`pip install` puts a working `clarens-lab` beside the Python it was installed for."""
    venv.create(tmp_path, with_pip=False)
    python = tmp_path / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index")
    installed = run(*pip, wheel)
    assert installed.returncode == 0, installed.stderr

    # The dependencies are lent by the Python that runs the tests: fetching them again would need the network.
    lent = next(path for path in sys.path if path.endswith("site-packages"))
    answer = run(tmp_path / "bin" / "clarens-lab", "--help", cwd=tmp_path, PYTHONPATH=lent)

    assert answer.returncode == 0, answer.stderr
    assert "serve" in answer.stdout


@made_by_set_up
def test_the_venv_of_set_up_has_the_program_from_this_folder() -> None:
    """The editable install that `make` makes gives `clarens-lab` as well, running the code of this checkout."""
    bin_folder = Path(sys.prefix) / "bin"
    answer = run(bin_folder / "clarens-lab", "--help")
    found = run(bin_folder / "python", "-c", "import clarens_lab; print(clarens_lab.__file__)", cwd=Path("/"))

    assert answer.returncode == 0, answer.stderr
    assert Path(found.stdout.strip()) == ROOT / "clarens_lab" / "__init__.py"
