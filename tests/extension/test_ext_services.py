"""Service cells: what a cell becomes on the server, and what is said under it."""

import os
from pathlib import Path
from typing import Any

import pytest
from kernels import PICALC, Shell
from serving import Logged, until, write_notebook

BROKEN = "%%clarens service picalc\nfrom clarens_lab import method\n\nboom = 1 / 0\n"


def test_a_cell_is_a_method_as_soon_as_it_runs(shell: Shell) -> None:
    """From `%load_ext` to a right answer it takes a service cell and a call."""
    assert shell.run(PICALC).ok
    assert shell.run("picalc.digits(3)").value == "3.14"


def test_the_answer_says_what_to_type_next(shell: Shell) -> None:
    """Under the first service cell stand that a server runs, the signatures, and how the service is called."""
    assert shell.run(PICALC).lines == [
        "a server now runs inside this kernel ('%clarens' shows where)",
        "picalc: digits(n: int = 5) -> str, inverse(n: float) -> float · call it as picalc.digits(...)",
    ]


def test_the_answer_to_the_same_source_is_the_same(shell: Shell) -> None:
    """A cell that runs again says the same, byte for byte: no generation, time, port or token."""
    shell.run(PICALC)
    first, second = shell.run(PICALC), shell.run(PICALC)

    assert first.outputs == second.outputs
    link = shell.magics().link
    for secret in (str(link.embedded.port), link.embedded.token, "generation"):
        assert secret not in f"{first.text}{first.html}"


def test_it_does_not_run_in_the_notebook(shell: Shell) -> None:
    """Names of a service cell are the service's own."""
    shell.run(PICALC)
    assert "PI" not in shell.shell.user_ns
    assert "method" not in shell.shell.user_ns


def test_here_runs_it_in_the_notebook_as_well(shell: Shell) -> None:
    """With `--here` the notebook has the cell's names too, and the method is the service's all the same."""
    ran = shell.run(PICALC.replace("service picalc", "service picalc --here"))

    assert ran.ok, ran.text
    assert shell.run("PI[:3]").value == "3.1"
    assert shell.run("digits(2)").value == "3.1"
    assert shell.run("picalc.digits(2)").value == "3.1"


def test_here_fails_the_cell_where_the_notebook_fails(shell: Shell) -> None:
    """A `--here` cell that fails in the notebook fails, and its error is shown once."""
    cell = "%%clarens service picalc --here\nif __name__ == '__main__':\n    raise ValueError('only here')\n"
    ran = shell.run(cell)
    assert not ran.ok
    assert ran.text.count("only here") <= 2  # the line and the message


def test_use_lends_objects_of_the_notebook(shell: Shell) -> None:
    """`--use` gives the service objects of the notebook; the answer says that a saved copy will need them."""
    shell.run("scale, unit = 10, 'm'")
    ran = shell.run(
        "%%clarens service length --use scale,unit\n"
        "from clarens_lab import method\n@method\ndef scaled(n: int) -> str:\n    return f'{n * scale} {unit}'\n"
    )

    assert ran.ok, ran.text
    assert shell.run("length.scaled(4)").value == "40 m"
    assert ran.lines[-1] == "scale, unit: lent by this notebook; a saved copy needs them made in a service cell"


def test_use_of_a_name_that_is_not_there(shell: Shell) -> None:
    """`--use` of a name that the notebook does not have fails the cell and says so."""
    ran = shell.run("%%clarens service length --use scale\nx = 1\n")
    assert not ran.ok
    assert "this notebook has no 'scale'" in ran.text


def test_missing_names_are_told_at_once(shell: Shell, logged: Any) -> None:
    """A name that the service reads and nobody defines is warned about under the cell, with the way out."""
    ran = shell.run(
        "%%clarens service stats\nfrom clarens_lab import method\n\n@method\ndef mean(xs: list) -> float:\n"
        "    return np.mean(xs)\n"
    )
    logged.claim("np")

    assert ran.ok
    assert "stats.mean uses np" in ran.text
    assert "import numpy as np" in ran.text
    assert 'class="warn"' in ran.html


def test_blank_lines_above_the_cell_count(shell: Shell, logged: Any) -> None:
    """Lines are counted as the cell's author sees them, blank lines above `%%clarens` included."""
    shell.run("\n\n" + PICALC)
    ran = shell.run("picalc.inverse(0)")
    logged.claim("ZeroDivisionError")
    assert "line 15 (inverse)" in ran.text


def test_a_magic_above_the_cell_counts(shell: Shell, logged: Any) -> None:
    """Below another cell magic the lines are still those of the whole cell."""
    assert shell.run("%%capture\n" + PICALC).ok
    ran = shell.run("picalc.inverse(0)")
    logged.claim("ZeroDivisionError")
    assert "line 13 (inverse)" in ran.text


def test_a_cell_that_raises_fails_and_changes_nothing(shell: Shell, logged: Any) -> None:
    """A cell that raises half-way ends with an error, and what was served is served on."""
    shell.run(PICALC)

    ran = shell.run(BROKEN)
    logged.expect("ZeroDivisionError")

    assert not ran.ok
    assert ran.lines == [
        "picalc In[3], line 4: ZeroDivisionError: division by zero; still serving generation 1",
        "    boom = 1 / 0",
        "           ^^^^^",
    ]
    assert shell.run("picalc.digits(1)").value == "3."


def test_an_error_that_went_through_several_lines_shows_them(shell: Shell, logged: Any) -> None:
    """The way of an error through the service's functions is shown, and no frame of the server."""
    ran = shell.run("%%clarens service picalc\ndef f():\n    return jsn\n\nf()\n")
    logged.expect("jsn")

    assert not ran.ok
    assert ran.lines[0].startswith("picalc In[2], line 3 (f): NameError: name 'jsn' is not defined")
    assert "  picalc In[2], line 5" in ran.text
    assert "clarens_lab/" not in ran.text


def test_a_syntax_error_shows_its_caret(shell: Shell, logged: Any) -> None:
    """A cell that does not parse shows the line with the caret below the place."""
    ran = shell.run("%%clarens service picalc\nx = (1 +\n")
    logged.expect("SyntaxError")
    assert not ran.ok
    assert ran.lines[0].startswith("picalc In[2], line 2: SyntaxError: '(' was never closed")
    assert ran.lines[1:] == ["    x = (1 +", "        ^"]


@pytest.mark.parametrize("body", ["\n\n", "# nothing yet\n", "   \n# nothing\n\n"])
def test_a_cell_without_code(shell: Shell, body: str) -> None:
    """A cell that is empty or only comments fails in one line, and starts no server."""
    ran = shell.run(f"%%clarens service picalc\n{body}")
    assert not ran.ok
    assert ran.text.strip() in (
        "the cell is empty: write the methods of 'picalc' below its first line",
        "UsageError: %%clarens is a cell magic, but the cell body is empty. "
        "Did you mean the line magic %clarens (single %)?",  # IPython's own, where there is no line below
    )
    assert not shell.magics().link.url


def test_a_service_of_several_cells(shell: Shell) -> None:
    """Cells of one service share its names; each run keeps the others."""
    shell.run(PICALC)
    ran = shell.run("%%clarens service picalc\n@method\ndef twice(n: int) -> str:\n    return digits(n) * 2\n")
    assert ran.ok, ran.text
    assert shell.run("picalc.twice(1)").value == "3.3."
    assert shell.run("picalc.digits(1)").value == "3."


def test_a_cell_without_an_id_is_known_by_its_text(shell: Shell) -> None:
    """Where the front end tells no ids, an equal cell is the same cell: running it again makes no new generation."""
    for _ in range(3):
        shell.run(PICALC)
    told = {one["service"]: one["generation"] for one in shell.magics().link.services()}
    assert told["picalc"] == 1


def test_a_cell_is_known_by_its_id(shell: Shell) -> None:
    """A cell that a front end names by its id replaces itself, whatever is in it now."""
    shell.run(PICALC, cell_id="a")
    shell.run("%%clarens service picalc\nfrom clarens_lab import method\n@method\ndef other(): return 1\n", cell_id="a")
    assert sorted(dir(shell.run("picalc").value)) == ["other"]


def test_a_cell_is_known_by_what_it_publishes(shell: Shell, logged: Any) -> None:
    """Without an id, an edited cell replaces the one whose method it publishes."""
    shell.run(PICALC)
    edited = PICALC.replace("PI[: n + 1]", '"four"')
    assert shell.run(edited).ok
    logged.claim("takes over digits, inverse")
    assert shell.run("picalc.digits(1)").value == "four"
    assert shell.magics().link.services()[-2]["methods"] == ["digits(n: int = 5) -> str", "inverse(n: float) -> float"]


def test_taking_over_a_method_is_told(shell: Shell, logged: Any) -> None:
    """A cell that takes a method over from another cell says from which."""
    logged.expect("takes over")
    shell.run(PICALC, cell_id="a")
    ran = shell.run(
        "%%clarens service picalc\nfrom clarens_lab import method\n@method\ndef digits() -> str: return ''\n",
        cell_id="b",
    )
    assert ran.ok
    assert "takes over" in ran.text
    assert "from picalc In[2]" in ran.text


def test_a_name_of_the_user_is_left_alone(shell: Shell) -> None:
    """Where the service's name is a variable of the user's, it stays, and the answer says how to call the service."""
    shell.run("picalc = None")
    ran = shell.run(PICALC)

    assert shell.run("picalc is None").value is True
    assert "picalc is a name of yours, so call it as clarens_lab.services['picalc'].digits(...)" in ran.text
    assert shell.run("import clarens_lab; clarens_lab.services['picalc'].digits(1)").value == "3."


def test_a_builtin_is_left_alone(shell: Shell) -> None:
    """A service that is called as a builtin does not hide it."""
    ran = shell.run(PICALC.replace("picalc", "sum"))
    assert "clarens_lab.services['sum']" in ran.text
    assert shell.run("sum([1, 2])").value == 3


def test_the_name_is_bound_again_after_a_change(shell: Shell) -> None:
    """A proxy that the user copied stays the service's; its own name follows each run of the cell."""
    shell.run(PICALC)
    shell.run("other = picalc")
    shell.run(PICALC.replace("service picalc", "service other"))
    assert "picalc" in shell.run("repr(other)").value
    shell.run("del picalc")
    shell.run(PICALC)
    assert shell.run("picalc.digits(1)").value == "3."


def test_what_a_cell_prints_at_load_is_shown_under_it(shell: Shell) -> None:
    """What runs at load may print, and it stands under the cell."""
    ran = shell.run("%%clarens service picalc\nprint('loading pi')\n")
    assert "loading pi" in ran.lines
    assert "picalc has no method yet: write '@method' above a function" in ran.text


def test_the_notebooks_name_is_the_services(shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a name the service has its notebook's, made a Python name."""
    monkeypatch.setenv("JPY_SESSION_NAME", str(tmp_path / "01-my pi.ipynb"))
    ran = shell.run(PICALC.replace(" picalc", ""))
    assert "_01_my_pi: digits" in ran.text


def test_a_name_is_wanted_where_the_notebook_is_not_known(shell: Shell) -> None:
    """Without a name, and without knowing the notebook, the cell fails and says what to write."""
    ran = shell.run(PICALC.replace(" picalc", ""))
    assert not ran.ok
    assert ran.lines == ["this notebook's file name is not known here: write '%%clarens service NAME'"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("service pi-calc", "'pi-calc' cannot name a service; 'pi_calc' can"),
        ("service picalc --her", "no option '--her'; there are --here and --use NAMES"),
        ("service a b", "one name of a service, not 'a' and 'b'"),
        ("servce picalc", "write '%%clarens service NAME' or '%%clarens test NAME'"),
        ("", "write '%%clarens service NAME' or '%%clarens test NAME'"),
        ("service lab", "no service can be called 'lab'"),
    ],
)
def test_a_first_line_that_says_nothing_we_know(shell: Shell, logged: Any, line: str, said: str) -> None:
    """A `%%clarens` line that cannot be read fails in one line that says what can be written."""
    logged.expect("no service can be called")
    ran = shell.run(f"%%clarens {line}\nx = 1\n")
    assert not ran.ok
    assert said in ran.text
    assert len(ran.lines) == 1


def test_a_service_on_the_line_with_one_percent_sign(shell: Shell) -> None:
    """`%clarens service` says that it takes two percent signs."""
    ran = shell.run("%clarens service picalc")
    assert ran.lines == [
        "'service' begins a cell: write '%%clarens service picalc' as its first line, with two %",
    ]


def test_a_marked_function_in_a_plain_cell(shell: Shell) -> None:
    """`@method` in a plain cell leaves the function as it is, and says once that nothing is served by it."""
    cell = "from clarens_lab import method\n@method\ndef f():\n    return 1\nf()\n"
    first, second = shell.run(cell), shell.run(cell)
    assert first.value == second.value == 1
    assert "nothing is served by this cell: '%%clarens service NAME' as its first line" in first.text
    assert "nothing is served" not in second.text
    assert not shell.magics().link.url


def test_live_cells_lie_on_top_of_a_served_file(shell: Shell, tmp_path: Path) -> None:
    """A service from a file takes a cell that is run on top of it."""
    write_notebook(tmp_path / "picalc.ipynb", PICALC)
    assert shell.run("%clarens serve picalc.ipynb").ok
    assert shell.run("%%clarens service picalc\n@method\ndef two() -> str:\n    return digits(1)\n").ok
    assert shell.run("picalc.two()").value == "3."
    assert "picalc.ipynb, with live cells on top" in shell.run("%clarens").text


def test_its_own_notebook_is_not_served(shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The kernel's server does not serve its own notebook's file, neither by name nor with the folder it is in."""
    own = write_notebook(tmp_path / "own.ipynb", PICALC.replace("picalc", "own"))
    write_notebook(tmp_path / "other.ipynb", PICALC.replace("picalc", "other"))
    monkeypatch.setenv("JPY_SESSION_NAME", str(own))

    refused = shell.run("%clarens serve own.ipynb")
    assert shell.run("%clarens serve .").ok

    assert not refused.ok
    assert "own.ipynb is this notebook" in refused.text
    services = [one["service"] for one in shell.magics().link.services()]
    assert "other" in services
    assert "own" not in services


def test_a_cell_that_is_run_too_early(shell: Shell, logged: Any) -> None:
    """A cell that is run before the one it needs is told which name is missing."""
    ran = shell.run("%%clarens service picalc\n@method\ndef f(): return 1\n")
    logged.expect("'method' is not defined")
    assert not ran.ok
    assert "add 'from clarens_lab import method' to a service cell" in ran.text
    assert os.getcwd() not in ran.text  # noqa: PTH109  # the folder as text


def test_a_name_of_the_notebook_is_not_one_of_the_service(shell: Shell, logged: Logged) -> None:
    """What a method reads and only the notebook has is told apart from what nobody has, with both ways out."""
    shell.run("prefix = 'Hello'")
    ran = shell.run(PICALC.replace("return 1 / n", "return prefix"))
    assert ran.ok
    assert "picalc.inverse uses prefix: it is in this notebook, whose names a service does not see" in ran.text
    assert "--use prefix" in ran.text
    logged.claim("picalc.inverse uses prefix, which nothing defines")


def test_a_proxy_follows_what_is_saved(shell: Shell, tmp_path: Path) -> None:
    """After a watched file is saved with another method and another parameter, the proxy calls both."""
    text = "from clarens_lab import method\n\n@method\ndef a(x: int) -> int:\n    return x\n"
    file = tmp_path / "units.py"
    file.write_text(text, encoding="utf-8")
    assert shell.run(f"%clarens serve {file}").ok
    assert shell.run("units.a(1)").value == 1
    more = text.replace("x: int)", "x: int, y: int = 0)").replace("return x", "return x + y")
    file.write_text(f"{more}\n@method\ndef b() -> int:\n    return 9\n", encoding="utf-8")
    until(lambda: "y: int" in shell.run("%clarens methods units").text)
    assert shell.run("units.a(1, y=5)").value == 6
    assert shell.run("units.b()").value == 9
