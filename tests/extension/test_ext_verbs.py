"""The other verbs, completion, and what is shown."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from clarens_ipython.views import View, table
from kernels import PICALC, Shell
from serving import save_as_jupyter, until, write_notebook

from clarens_lab import __version__

TEST = "%%clarens test picalc\nassert picalc.digits(3) == '3.14'\n"
RED = "%%clarens test picalc\nn = 3\nassert picalc.digits(n) == '3.15'\n"


@pytest.fixture
def pi(shell: Shell) -> Shell:
    """A shell with the service `picalc`."""
    assert shell.run(PICALC).ok
    return shell


# --- test cells ---------------------------------------------------------------------------------


def test_a_test_cell_passes(pi: Shell) -> None:
    """A test cell runs against what is served, with the service's names and the service itself."""
    ran = pi.run("%%clarens test picalc\nassert PI.startswith(picalc.digits(3))\nassert digits(1) == '3.'\n")
    assert ran.ok, ran.text
    assert ran.lines[-1] == "passed  picalc In[3]"


def test_a_red_test_fails_the_cell_with_its_values(pi: Shell) -> None:
    """A failed test fails its cell, and shows the two values that were not equal."""
    ran = pi.run(RED)
    assert not ran.ok
    assert ran.lines == [
        "FAILED  picalc In[3]",
        "Traceback (most recent call last):",
        "  picalc In[3], line 3",
        "    assert picalc.digits(n) == '3.15'",
        "AssertionError: picalc.digits(n) == '3.15' is false: '3.14' and '3.15'",
    ]


def test_tests_are_kept_with_the_service(pi: Shell) -> None:
    """`%clarens test` runs the tests again, those of one service or of all, and fails while one is red."""
    pi.run(TEST)
    pi.run(RED)
    for line in ("%clarens test picalc", "%clarens test"):
        ran = pi.run(line)
        assert not ran.ok
        assert "passed  picalc In[3]" in ran.text
        assert "FAILED  picalc In[4]" in ran.text


def test_a_test_runs_on_what_is_served_now(pi: Shell, logged: Any) -> None:
    """A test that failed passes once the method is mended."""
    logged.expect("takes over")
    pi.run(RED)
    pi.run(PICALC.replace("3.14159265358979", "3.159"))
    assert pi.run("%clarens test picalc").ok


def test_tests_of_a_file_need_no_server(shell: Shell, tmp_path: Path) -> None:
    """`%clarens test PATH` runs a notebook's tests with no server."""
    write_notebook(tmp_path / "picalc.ipynb", PICALC, TEST)
    ran = shell.run("%clarens test picalc.ipynb")
    assert ran.ok, ran.text
    assert ran.lines[-1] == "passed  picalc.ipynb cell 2"
    assert shell.run("%clarens test picalc.ipynb --json").value[0]["ok"] is True
    write_notebook(tmp_path / "picalc.ipynb", PICALC, RED)
    assert not shell.run("%clarens test picalc.ipynb").ok


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("%%clarens test picalk\nassert True\n", "picalk"),
        ("%%clarens test picalc\n# nothing\n", "the cell is empty: write a test of 'picalc' below its first line"),
        ("%clarens test picalk", "no service 'picalk'; did you mean 'picalc'?"),
        ("%clarens test no/such.ipynb", "'no/such.ipynb' does not exist, and is no service's name"),
    ],
)
def test_a_test_of_nothing(pi: Shell, line: str, said: str) -> None:
    """A test of what is not there fails and says so."""
    ran = pi.run(line)
    assert not ran.ok
    assert said in ran.text
    assert len(ran.lines) == 1


# --- the other verbs ----------------------------------------------------------------------------


def test_without_a_server_the_state_says_how_to_get_one(shell: Shell) -> None:
    """`%clarens` without a server is no failure, and names the ways to one."""
    ran = shell.run("%clarens")
    assert ran.ok
    assert ran.lines[-1].startswith(
        "no server yet: a '%%clarens service NAME' cell or '%clarens serve' starts one here"
    )


def test_the_state(pi: Shell, tmp_path: Path) -> None:
    """`%clarens` tells where the server is, what it serves, and which services there are; never the token."""
    write_notebook(tmp_path / "other.ipynb", PICALC.replace("picalc", "other"))
    pi.run("%clarens serve other.ipynb")
    ran = pi.run("%clarens")
    link = pi.magics().link
    assert ran.lines[-5:] == [
        f"{link.url} (inside this kernel)",
        f"serves {tmp_path / 'other.ipynb'}",
        "other  other.ipynb",
        "picalc  live cells",
        "in the box: echo, lab, system",
    ]
    assert link.embedded.token not in ran.text + ran.html


def test_the_state_says_what_is_stale(shell: Shell, tmp_path: Path, logged: Any) -> None:
    """A file that was broken by a save is shown as stale, with the reason, and which generation serves."""
    file = write_notebook(tmp_path / "picalc.ipynb", PICALC)
    assert shell.run("%clarens serve picalc.ipynb").ok
    save_as_jupyter(file, PICALC.replace("return 1 / n", "retrun 1 / n"))
    until(lambda: shell.magics().link.ask("lab.status")["stale"])
    logged.claim("SyntaxError: invalid syntax; still serving")
    logged.expect("SyntaxError")

    ran = shell.run("%clarens")
    assert "picalc  STALE, generation 1 serves: picalc.ipynb cell 1, line 13: SyntaxError" in ran.text
    assert 'class="bad"' in ran.html
    assert shell.run("picalc.digits(1)").value == "3."


def test_serve_and_what_it_takes(pi: Shell, tmp_path: Path) -> None:
    """`serve PATH` has the kernel's server serve files too; twice is harmless; what is not there is refused."""
    write_notebook(tmp_path / "other.ipynb", PICALC.replace("picalc", "other"))
    url = pi.magics().link.url
    for _ in range(2):
        assert pi.run("%clarens serve other.ipynb").ok
    assert pi.run("%clarens serve").ok
    assert pi.magics().link.url == url
    assert pi.run("other.digits(1)").value == "3."
    assert "'nope.ipynb' does not exist" in pi.run("%clarens serve nope.ipynb").text
    assert "a server runs here already" in pi.run("%clarens serve --port 1").text


def test_stop(pi: Shell) -> None:
    """`stop` ends the kernel's server; without one it says so and is no failure."""
    url = pi.magics().link.url
    assert pi.run("%clarens stop").lines[-1] == f"stopped {url}"
    ran = pi.run("%clarens stop")
    assert ran.ok
    assert ran.lines[-1] == "no server was started or connected here"


def test_servers(pi: Shell) -> None:
    """`servers` lists the user's servers, never with a token."""
    link = pi.magics().link
    ran = pi.run("%clarens servers")
    assert ran.lines[-1].split() == [link.url, "this", "kernel's", "-"]
    told = pi.run("%clarens servers --json")
    assert told.value[0]["url"] == link.url
    assert link.embedded.token not in ran.text + told.text


def test_methods_and_help(pi: Shell) -> None:
    """`methods` lists signatures, `help` shows one with its documentation."""
    assert pi.run("%clarens methods picalc").lines[-2:] == [
        "picalc.digits(n: int = 5) -> str",
        "picalc.inverse(n: float) -> float",
    ]
    assert pi.run("%clarens methods").lines[0].startswith("picalc.digits")
    assert "The first n digits of pi." in pi.run("%clarens help picalc.digits").text
    assert "no service 'pical'; did you mean 'picalc'?" in pi.run("%clarens methods pical").text
    assert "Did you mean 'picalc.digits'" in pi.run("%clarens help picalc.digit").text


def test_remove_and_reload(pi: Shell, logged: Any) -> None:
    """`remove` withdraws a service, `reload` loads one again, `--fresh` also what `keep` made."""
    pi.run(
        "%%clarens service counted\nfrom clarens_lab import keep, method\nmade = keep('made', list)\nmade.append(1)\n"
        "@method\ndef count() -> int:\n    return len(made)\n"
    )
    assert pi.run("%clarens reload counted").lines[-1] == "counted is loaded again"
    assert pi.run("counted.count()").value == 2
    assert pi.run("%clarens reload counted --fresh").ok
    assert pi.run("counted.count()").value == 1
    assert pi.run("%clarens remove counted").lines[-1] == "counted is withdrawn: it was removed"
    logged.claim("withdrawn")
    assert pi.run("%clarens remove counte").lines == ["no service 'counte'; there are echo, lab, picalc, system"]
    assert "'system' came neither from a file nor from a cell" in pi.run("%clarens reload system").text


def test_reload_of_a_file_that_is_broken_fails(shell: Shell, tmp_path: Path, logged: Any) -> None:
    """`reload` of what does not load fails the cell with the reason."""
    file = write_notebook(tmp_path / "picalc.ipynb", PICALC)
    shell.run("%clarens serve picalc.ipynb")
    save_as_jupyter(file, "%%clarens service picalc\n1 / 0\n")
    ran = shell.run("%clarens reload picalc")
    logged.expect("ZeroDivisionError")
    assert not ran.ok
    assert "ZeroDivisionError: division by zero; still serving generation 1" in ran.text


def test_log(pi: Shell) -> None:
    """`log` shows the newest lines as the terminal does."""
    pi.run("picalc.digits(1)")
    ran = pi.run("%clarens log")
    assert "picalc.digits" in ran.text
    assert "T" not in ran.lines[-1][:20]
    assert {"time", "level", "name", "text"} <= set(pi.run("%clarens log --json").value[0])


def test_config(shell: Shell, tmp_path: Path) -> None:
    """`config` lists, reads and sets the project's settings; a wrong name or value is told."""
    assert "worker_threads" in shell.run("%clarens config").text
    assert shell.run("%clarens config worker_threads").value == 32
    assert shell.run("%clarens config --json").value["worker_threads"] == 32
    assert "worker_threads = 4" in shell.run("%clarens config worker_threads 4").text
    assert (tmp_path / "clarens.toml").read_text() == "worker_threads = 4\n"
    assert "Did you mean 'worker_threads'?" in shell.run("%clarens config worker_thread").text
    ran = shell.run("%clarens config worker_threads many")
    assert not ran.ok
    assert "takes a whole number" in ran.text


@pytest.mark.parametrize("line", ["services", "methods", "test", "log", "servers", "config", "stop", "reload picalc"])
def test_every_answer_as_data(pi: Shell, line: str) -> None:
    """With --json every verb gives data that JSON can write."""
    ran = pi.run(f"told = %clarens {line} --json")
    assert ran.ok, ran.text
    json.dumps(pi.shell.user_ns["told"])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("%clarens servics", "%clarens: no verb 'servics'; did you mean 'services'?"),
        ("%clarens xyzzy", "%clarens: no verb 'xyzzy'; there are serve, connect, stop"),
        ("%clarens reload", "%clarens reload: the following arguments are required: service"),
        ("%clarens methods --jsn", "unrecognized arguments: --jsn"),
        ("%clarens serve --port x", "argument --port: invalid int value: 'x'"),
        ("%clarens methods 'x", "No closing quotation"),
    ],
)
def test_usage_errors(shell: Shell, line: str, said: str) -> None:
    """What was not understood is told in one line, with the verb that was meant, and fails the cell."""
    ran = shell.run(line)
    assert not ran.ok
    assert said in ran.text
    assert len(ran.lines) == 1


def test_help(shell: Shell) -> None:
    """`%clarens?`, shift-tab and `--help` show the verbs."""
    told = shell.shell.find_line_magic("clarens").__doc__
    assert "usage: %clarens" in told
    assert "'%%clarens service [NAME]'" in told
    for line in ("%clarens --help", "%clarens serve --help"):
        ran = shell.run(line)
        assert ran.ok
        assert "usage: %clarens" in ran.text


# --- completion ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("%clarens se", ["serve", "servers", "services"]),
        ("%clarens call pi", ["picalc.digits", "picalc.inverse"]),
        ("x = %clarens call picalc.d", ["picalc.digits"]),
        ("x, y = %clarens call picalc.d", ["picalc.digits"]),
        ("%clarens help picalc.", ["picalc.digits", "picalc.inverse"]),
        ("%clarens methods pi", ["picalc"]),
        ("%clarens remove pi", ["picalc"]),
        ("%clarens reload picalc --f", ["--fresh"]),
        ("%clarens serve --d", ["--detach"]),
        ("%clarens serve not", ["notes/", "notes.ipynb"]),
        ("%clarens serve --port 5 notes/", ["notes/more.py"]),
        ("%clarens config worker", ["worker_threads"]),
        ("%%clarens ser", ["service"]),
        ("%%clarens service pi", ["picalc"]),
        ("%%clarens test pi", ["picalc"]),
        ("%%clarens service picalc --", ["--here", "--use"]),
        ("%%clarens service picalc --use mod", ["model"]),
        ("%%clarens service picalc --use x,mod", ["model"]),
        ("y = 1\n%clarens call picalc.i", ["picalc.inverse"]),
    ],
)
def test_completion(pi: Shell, tmp_path: Path, line: str, wanted: list[str]) -> None:
    """Verbs, services, methods, options, paths, settings and lent names are completed, in any form of the line."""
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "more.py").touch()
    (tmp_path / "notes.ipynb").touch()
    (tmp_path / "notes.txt").touch()
    pi.run("model = 1")
    assert sorted(pi.completed(line)) == sorted(wanted)


def test_completion_of_arguments_is_pythons(pi: Shell) -> None:
    """Within the brackets of a call the user's own names are completed."""
    pi.run("number_of_digits = 5")
    assert "number_of_digits" in pi.completed("%clarens call picalc.digits(number_of")


def test_completion_never_asks_the_server(pi: Shell, capsys: Any) -> None:
    """Completing works from what is known, even if the server does not answer; and it is quick."""

    def refuse(*_: object) -> None:
        raise AssertionError("the server was asked")

    link = pi.magics().link
    link.ask = refuse
    started = time.perf_counter()
    for _ in range(20):
        assert pi.completed("%clarens call pi") == ["picalc.digits", "picalc.inverse"]
    with capsys.disabled():
        print(f" [completion: {(time.perf_counter() - started) / 20 * 1000:.1f} ms]", end="")
    del link.ask


def test_attributes_of_a_service_are_completed(pi: Shell) -> None:
    """`picalc.<tab>` gives its methods."""
    assert [text for text in pi.completed("picalc.") if not text.lstrip(".").startswith("_")] in (
        ["digits", "inverse"],
        [".digits", ".inverse"],
    )


# --- views --------------------------------------------------------------------------------------


def test_views_escape_what_they_show() -> None:
    """Nothing that a service says becomes HTML."""
    view = View([("plain", "<script>alert(1)</script> & <b>"), ("bad", "'\"")])
    assert "<script>" not in view.html()
    assert "&lt;script&gt;" in view.html()


def test_views_follow_the_theme() -> None:
    """Colours come from the front end's own variables, so that light and dark themes both read well."""
    html = View([("plain", "x"), ("bad", "y")]).html()
    for name in ("--jp-content-font-color1", "--jp-error-color1", "--jp-warn-color0", "--jp-success-color1"):
        assert f"var({name}" in html
    assert "background:#" not in html
    assert "background:white" not in html


def test_views_have_a_plain_twin() -> None:
    """What is shown as HTML is there as plain text too."""
    bundle = table([["a", "b"], ["long", "c"]], "nothing")._repr_mimebundle_()
    assert bundle["text/plain"] == "a     b\nlong  c"
    assert set(bundle) == {"text/plain", "text/html"}
    assert repr(table([], "nothing")) == "nothing"


def test_the_version_is_the_packages(pi: Shell) -> None:
    """The server inside a kernel is of the version that is installed."""
    assert pi.magics().link.ask("lab.status")["version"] == __version__
