"""`clarens-lab`, typed in a terminal: every verb on real servers, what it answers, and what it says when it fails."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import PATIENCE, save_as_jupyter, until, write_notebook
from terminal import Terminal

from clarens_lab import Client, Server, __version__, runfiles
from clarens_lab.settings import TABLE, Settings

HELLO = """%%clarens service hello
from clarens_lab import Fault, method

@method
def greet(name: str, times: int = 1) -> str:
    \"\"\"A greeting.

    As often as you like.
    \"\"\"
    print("greeting", name)
    return " ".join([f"Hello, {name}!"] * times)

@method
def refuse():
    raise Fault(2001, "not today")

@method
def fail():
    raise ValueError("first line\\nsecond line")

@method
def give(*things) -> list:
    return list(things)

@method
def bytes_and_date() -> dict:
    import datetime
    return {"bytes": b"\\x00\\xff", "date": datetime.datetime(2026, 1, 2, 3, 4, 5), "text": "ü"}
"""
TEST = "%%clarens test hello\nassert hello.greet('Ada') == 'Hello, Ada!'\n"
RED = "%%clarens test hello\nassert hello.greet('Ada') == 'Goodbye'\n"
BROKEN = "%%clarens service broken\nfrom clarens_lab import method\n\n@method\ndef f(:\n"


def project(folder: Path) -> Path:
    """A project with one notebook, which has a test."""
    folder.mkdir(exist_ok=True)
    (folder / "clarens.toml").touch()
    write_notebook(folder / "hello.ipynb", HELLO, TEST)
    return folder


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """A terminal in a project that is served, for tests that leave the server as it is."""
    top = tmp_path_factory.mktemp("shared")
    terminal = Terminal(project(top / "project"), top / "runtime")
    terminal.serve("hello.ipynb")
    yield terminal
    terminal.end()


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    """A terminal in a project that is not served yet."""
    one = Terminal(project(tmp_path / "project"), tmp_path / "runtime")
    yield one
    one.end()


# --- serve: what it says, and its run file -----------------------------------------------------


def test_serve_says_what_is_served_where_and_what_to_type_next(terminal: Terminal) -> None:
    """The log begins with the reports of the loads, the address, the services and the next commands."""
    server = terminal.serve("hello.ipynb")

    lines = [line.split(" ", 2)[2] for line in server.err.splitlines()]
    assert re.fullmatch(r"reload: hello generation 1 serves \(added greet, .*; \d+ ms\)", lines[0])
    assert lines[1:] == [
        f"server: serving {server.url}",
        "serve: services: hello (reloaded when saved)",
        "serve: next: 'clarens-lab methods' in another terminal; Ctrl-C here, or 'clarens-lab stop', ends it",
    ]


def test_the_run_file_has_url_token_pid_and_paths_and_is_its_users_alone(terminal: Terminal) -> None:
    """--run-file writes exactly url, token, pid and paths, mode 0600; the url is the XML-RPC address."""
    server = terminal.serve("hello.ipynb", ".")

    told = json.loads(server.run_file.read_text())
    assert list(told) == ["url", "token", "pid", "paths"]
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/clarens/", told["url"])
    assert told["pid"] == server.process.pid
    assert told["paths"] == [str(terminal.folder / "hello.ipynb"), str(terminal.folder)]
    assert stat.S_IMODE(server.run_file.stat().st_mode) == 0o600


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_clean_stop_ends_with_0_and_removes_the_run_file(terminal: Terminal, number: int) -> None:
    """SIGTERM and Ctrl-C end the server with status 0; its run files are gone then."""
    server = terminal.serve("hello.ipynb")

    assert server.end(number) == 0
    assert not server.run_file.exists()
    assert list((terminal.runtime / "clarens-lab").iterdir()) == []
    assert "Traceback" not in server.err


def test_the_run_file_comes_after_every_first_load_well_or_badly(terminal: Terminal) -> None:
    """Who waits for the run file can call at once: slow loads have ended, and broken ones are told."""
    slow = "import time\nfrom clarens_lab import method\n\ntime.sleep(0.7)\n\n@method\ndef f():\n    return 1\n"
    write_notebook(terminal.folder / "slow.ipynb", slow)
    write_notebook(terminal.folder / "broken.ipynb", BROKEN)

    server = terminal.serve(".")

    with Client(server.url) as client:
        assert client.slow.f() == 1
        assert client.hello.greet("Ada") == "Hello, Ada!"
    assert "broken.ipynb cell 1, line 5: SyntaxError: invalid syntax" in server.err
    assert "serve: services: hello, slow (reloaded when saved)\n" in server.err
    assert "serve: not loaded: broken (the reason is above; save a mended version)\n" in server.err


def test_without_a_path_this_folder_is_served(terminal: Terminal) -> None:
    """`clarens-lab serve` alone serves the services in the working folder."""
    server = terminal.serve()

    with Client(server.url) as client:
        assert client.hello.greet("Ada") == "Hello, Ada!"


def test_a_folder_without_a_service_is_served_and_says_how_to_make_one(terminal: Terminal) -> None:
    """A folder with no service has the bundled ones; the log says how to begin, and what is saved there is served."""
    folder = terminal.folder / "empty"
    folder.mkdir()
    server = terminal.serve("empty")

    assert f"no service in {folder} yet: begin a notebook cell with '%%clarens service NAME'" in server.err
    with Client(server.url) as client:
        assert client.echo.echo(1) == [1]
        write_notebook(folder / "hello.ipynb", HELLO)
        until(lambda: "hello.greet" in client.system.listMethods())


def test_files_that_are_no_services_are_listed_as_skipped(terminal: Terminal) -> None:
    """In a folder, files that do not show a service are skipped, and one line of the log names them."""
    (terminal.folder / "plain.py").write_text("x = 1\n")
    server = terminal.serve(".")

    assert len(re.findall(r"skipped plain\.py ", server.err)) == 1


def test_with_a_log_file_stderr_has_the_first_words_only(terminal: Terminal) -> None:
    """A log that goes to a file leaves stderr to the address, where the log is, and what to type next."""
    server = terminal.serve("hello.ipynb", "--log-file", "server.log")
    with Client(server.url) as client:
        client.hello.greet("Ada")

    assert server.err.splitlines() == [
        f"serving {server.url}; the log is server.log",
        "services: hello (reloaded when saved)",
        "next: 'clarens-lab methods' in another terminal; Ctrl-C here, or 'clarens-lab stop', ends it",
    ]
    log = (terminal.folder / "server.log").read_text()
    assert f"server: serving {server.url}\n" in log
    assert re.search(r"access: hello\.greet 127\.0\.0\.1 hello=1 \d+\.\d ms ok\n", log)


def test_a_json_log_is_json_from_the_first_line_to_the_last(terminal: Terminal) -> None:
    """With --log-format json every line of stderr is one JSON object: calls, faults with tracebacks, failed loads."""
    server = terminal.serve("hello.ipynb", "--log-format", "json")
    with Client(server.url) as client:
        client.hello.greet("Ada")
        client.multicall([("hello.fail",)])
    save_as_jupyter(terminal.folder / "hello.ipynb", HELLO.replace("times: int = 1)", "times: int = 1"))
    until(lambda: "still serving generation 1" in server.err)
    assert server.end() == 0

    lines = [json.loads(line) for line in server.err.splitlines()]
    calls = {line["method"]: line for line in lines if line["name"] == "access"}
    assert calls["hello.greet"]["outcome"] == "ok"
    assert calls["hello.greet"]["generation"] == "hello=1"
    assert calls["hello.greet"]["caller"] == "127.0.0.1"
    assert calls["hello.greet"]["ms"] > 0
    assert calls["hello.fail"]["outcome"] == "fault 1 (-32500)"
    assert any("ValueError: first line\nsecond line" in line["text"] for line in lines if line["level"] == "error")


def test_a_server_that_is_open_to_other_machines_says_so(terminal: Terminal) -> None:
    """With --host 0.0.0.0 the first words say who can call, and the run file's address still works here."""
    server = terminal.serve("hello.ipynb", "--host", "0.0.0.0")

    assert "other machines can call every method but those of lab.*" in server.err
    assert server.url.startswith("http://127.0.0.1:")
    assert terminal.run("call", "hello.fail").err.startswith("clarens-lab: hello.fail failed; the server's log has")


def test_no_reload_and_no_debug(terminal: Terminal) -> None:
    """--no-reload leaves saves alone and says so; --no-debug tells callers no traceback, while the log has it."""
    server = terminal.serve("hello.ipynb", "--no-reload", "--no-debug")

    assert "services: hello (not reloaded when saved)" in server.err
    assert terminal.run("services", "--json").json[0]["generation"] == 1
    failed = terminal.run("call", "hello.fail")
    assert failed.err == "clarens-lab: hello.fail failed; the server's log has the details. [fault 1] (-32500)\n"
    assert re.search(r"hello\.ipynb cell 1, line \d+ \(fail\)", server.err)


def test_settings_come_from_clarens_toml_the_environment_and_the_command_line(terminal: Terminal) -> None:
    """serve takes its settings from the project's clarens.toml, the environment over it, its options over both."""
    (terminal.folder / "clarens.toml").write_text('log_format = "json"\nreload = false\nport = 1\n')
    terminal.environment["CLARENS_RELOAD"] = "true"
    server = terminal.serve("hello.ipynb")

    texts = [json.loads(line)["text"] for line in server.err.splitlines()]
    assert "services: hello (reloaded when saved)" in texts


# --- serve: what it refuses --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nope.ipynb"], "'nope.ipynb' does not exist; serve takes notebooks, .py files, packages and folders"),
        (["clarens.toml"], "'clarens.toml' cannot be served; serve takes notebooks, .py files, packages and folders"),
        (["--run-file", "no/run.json"], "--run-file 'no/run.json': the folder does not exist"),
        (["--port", "0", "--log-file", "no/server.log"], "{folder}/no/server.log: No such file or directory"),
        (["--port", "70000"], "port = 70000: it takes a number from 0 to 65535."),
        (["--port", "0", "--host", "no.such.host.invalid"], "cannot listen on no.such.host.invalid:0: "),
    ],
)
def test_serve_says_in_a_sentence_why_it_does_not_start(terminal: Terminal, words: list[str], sentence: str) -> None:
    """What serve cannot do is one sentence and status 1."""
    ended = terminal.run("serve", *words)

    assert ended.status == 1
    assert ended.err.startswith(f"clarens-lab: {sentence.format(folder=terminal.folder)}")
    assert ended.err.count("\n") == 1


def test_a_port_in_use_is_a_sentence(terminal: Terminal) -> None:
    """A port that another program listens on is refused with the way out."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ended = terminal.run("serve", "--port", str(port))

    assert ended.status == 1
    assert ended.err == (
        f"clarens-lab: port {port} on 127.0.0.1 is in use by another program; "
        "stop that, or take another port with --port (0 takes any free one)\n"
    )


def test_a_port_that_an_own_server_has_is_told_and_its_run_file_stays(terminal: Terminal) -> None:
    """Serving twice on one port names the user's own server, and leaves its run file alone."""
    server = terminal.serve("hello.ipynb")
    port = server.url.split(":")[2].partition("/")[0]
    ended = terminal.run("serve", "--port", port, "--run-file", str(server.run_file))

    assert ended.status == 1
    assert f"It is your own: {server.url}  pid {server.process.pid}" in ended.err
    assert f"'clarens-lab stop --url {server.url}' stops it" in ended.err
    assert json.loads(server.run_file.read_text())["pid"] == server.process.pid


# --- finding a server --------------------------------------------------------------------------

ASKING = [
    ["stop"],
    ["services"],
    ["methods"],
    ["help", "hello.greet"],
    ["call", "hello.greet", "Ada"],
    ["test", "hello"],
    ["remove", "hello"],
    ["reload", "hello"],
    ["log"],
]
every_asking_verb = pytest.mark.parametrize("words", [pytest.param(words, id=words[0]) for words in ASKING])


@every_asking_verb
def test_without_a_server_every_verb_says_how_to_start_one(terminal: Terminal, words: list[str]) -> None:
    """A verb that needs a server says that none runs for the project, and how to start one."""
    ended = terminal.run(*words)

    assert (ended.status, ended.out) == (1, "")
    assert ended.err == (
        f"clarens-lab: no server runs for {terminal.folder}; start one with 'clarens-lab serve PATH'\n"
    )


@every_asking_verb
def test_a_server_that_is_not_there_is_a_sentence(terminal: Terminal, words: list[str]) -> None:
    """A verb whose --url nobody listens at says so."""
    ended = terminal.run(*words, "--url", "http://127.0.0.1:1/clarens/", "--token", "x")

    assert (ended.status, ended.out) == (1, "")
    assert ended.err.startswith("clarens-lab: ")
    assert "127.0.0.1:1" in ended.err
    assert ended.err.count("\n") == 1


def test_of_several_servers_one_is_chosen_by_url(terminal: Terminal) -> None:
    """With several servers in the project a verb lists them, and --url chooses, however it is written."""
    one, other = terminal.serve("hello.ipynb"), terminal.serve("hello.ipynb")

    ended = terminal.run("services")
    assert ended.status == 1
    assert ended.err.startswith("clarens-lab: several servers of this project run; choose one with --url:\n")
    assert {line.split()[0] for line in ended.err.splitlines()[1:]} == {one.url, other.url}
    short = other.url.removeprefix("http://").partition("/")[0].replace("127.0.0.1", "localhost")
    assert terminal.run("stop", "--url", short).out == f"stopped {other.url}\n"
    assert terminal.run("services").status == 0


def test_servers_of_other_projects_are_named(terminal: Terminal, tmp_path: Path) -> None:
    """Where only another project has a server, a verb names it, and does not take it for its own."""
    server = terminal.serve("hello.ipynb")
    elsewhere = Terminal(project(tmp_path / "other"), terminal.runtime)

    ended = elsewhere.run("services")

    assert ended.status == 1
    assert f"no server runs for {tmp_path / 'other'}" in ended.err
    assert f"--url chooses one of another project:\n  {server.url}" in ended.err
    assert elsewhere.run("services", "--url", server.url).status == 0


def test_a_server_is_found_from_below_and_from_above(terminal: Terminal, tmp_path: Path) -> None:
    """A server is found from a folder inside its project, and from one that holds what it serves."""
    (terminal.folder / "deep").mkdir()
    terminal.serve("hello.ipynb")

    for folder in (terminal.folder / "deep", tmp_path):
        assert Terminal(folder, terminal.runtime).run("call", "hello.greet", "Ada").out == "Hello, Ada!\n"


def test_without_the_token_a_server_is_asked_as_a_stranger(shared: Terminal, tmp_path: Path) -> None:
    """Without the token methods, help and call still work; what needs it says so; --token or CLARENS_TOKEN gives it."""
    server = shared.servers[0]
    stranger = Terminal(tmp_path, tmp_path / "runtime")
    at = ["--url", server.url]

    assert stranger.run("call", "hello.greet", "Ada", *at).out == "Hello, Ada!\n"
    refused = stranger.run("call", "hello.refuse", *at)
    assert (refused.status, refused.err) == (1, "clarens-lab: not today (2001)\n")
    assert "hello.greet(name: str, times: int = 1) -> str\n" in stranger.run("methods", *at).out
    assert "lab." not in stranger.run("methods", *at).out
    assert stranger.run("help", "hello.greet", *at).out.startswith("hello.greet(name: str")
    ended = stranger.run("services", *at)
    assert ended.status == 1
    assert f"the token of {server.url} is not known: no run file of yours tells it." in ended.err
    assert "so try again then; of another's, give --token or CLARENS_TOKEN\n" in ended.err
    assert stranger.run("services", *at, "--token", server.token).status == 0
    assert stranger.run("services", *at, "--token", "wrong").status == 1
    stranger.environment["CLARENS_TOKEN"] = server.token
    assert stranger.run("services", *at).status == 0
    ended = stranger.run("stop", *at)
    assert ended.status == 1
    assert "is not a server of yours on this machine; stop it where it was started" in ended.err


def test_a_server_that_still_loads_is_waited_for(terminal: Terminal) -> None:
    """A verb that needs the token of a server which is still loading waits for its run file, and does its work."""
    (terminal.folder / "slow.py").write_text(
        "import time\nfrom pathlib import Path\nfrom clarens_lab import method\n"
        "while not Path('go').exists(): time.sleep(0.01)\n@method\ndef f(): pass\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    server = terminal.start("serve", "slow.py", "--port", str(port), **quiet)
    try:
        until(runfiles.Running(f"http://127.0.0.1:{port}/clarens/", "", 0, ()).listens_here)
        asking = terminal.start("services", "--url", f"localhost:{port}", **quiet)
        (terminal.folder / "go").touch()
        assert asking.communicate(timeout=PATIENCE)[0].startswith("slow  generation 1")
    finally:
        server.terminate()
        server.communicate(timeout=PATIENCE)


# --- servers, services, methods, help ----------------------------------------------------------


def test_servers_lists_them_without_their_tokens(shared: Terminal, tmp_path: Path) -> None:
    """`servers` lists the user's servers with address, process and paths, and never the token."""
    server = shared.servers[0]
    path = str(shared.folder / "hello.ipynb")

    assert shared.run("servers").out == f"{server.url}  pid {server.process.pid}  {path}\n"
    assert shared.run("servers", "--json").json == [
        {
            "url": server.url,
            "pid": server.process.pid,
            "paths": [path],
            "project": str(shared.folder),
            "embedded": False,
        }
    ]
    nobody = Terminal(tmp_path, tmp_path / "runtime")
    assert nobody.run("servers").out == "no server of yours runs\n"
    assert nobody.run("servers", "--json").json == []


def test_services_shows_generation_origin_and_what_is_wrong(terminal: Terminal) -> None:
    """`services` lists each service with generation and file; a stale or unloaded one with the reason."""
    write_notebook(terminal.folder / "broken.ipynb", BROKEN)
    server = terminal.serve(".")
    save_as_jupyter(terminal.folder / "hello.ipynb", HELLO.replace("times: int = 1)", "times: int = 1"))
    until(lambda: "still serving generation 1" in server.err)

    lines = terminal.run("services").out.splitlines()
    assert lines[0] == "broken  not loaded: broken.ipynb cell 1, line 5: SyntaxError: invalid syntax"
    assert "echo  generation 1  bundled" in lines
    stale = lines.index(f"hello  generation 1  {terminal.folder}/hello.ipynb")
    assert lines[stale + 1].startswith("  stale: hello.ipynb cell 1, line 5: SyntaxError")
    told = {one["service"]: one for one in terminal.run("services", "--json").json}
    assert (told["hello"]["stale"], told["broken"]["generation"]) == (True, 0)
    ended = terminal.run("methods", "broken")
    assert ended.err == "clarens-lab: broken is not loaded: broken.ipynb cell 1, line 5: SyntaxError: invalid syntax\n"


def test_methods_lists_signatures_ones_own_first(shared: Terminal) -> None:
    """`methods` lists signatures, the user's services before the bundled ones; with a name, that service's."""
    lines = shared.run("methods").out.splitlines()
    assert lines[0] == "hello.greet(name: str, times: int = 1) -> str"
    assert lines[5].startswith("echo.echo(")

    assert shared.run("methods", "echo").out.splitlines() == [
        "echo.echo(*args: Any) -> list[Any]",
        "echo.hostname() -> list[str]",
    ]
    assert shared.run("methods", "hello", "--json").json[0] == {
        "method": "hello.greet",
        "signature": "hello.greet(name: str, times: int = 1) -> str",
    }
    assert shared.run("methods", "helo").err == "clarens-lab: no service 'helo'; did you mean 'hello'?\n"
    assert shared.run("methods", "zzz").err == "clarens-lab: no service 'zzz'; there are echo, hello, lab, system\n"


def test_methods_and_help_take_a_service_or_a_method(shared: Terminal) -> None:
    """`methods` with a method's name shows that one; `help` with a service's name lists its methods."""
    assert shared.run("methods", "hello.greet").out == "hello.greet(name: str, times: int = 1) -> str\n"
    assert shared.run("methods", "hello.gret").err == (
        "clarens-lab: no method 'hello.gret'; did you mean 'hello.greet'?\n"
    )
    assert shared.run("help", "hello").out == shared.run("methods", "hello").out
    assert shared.run("help", "helo").err == "clarens-lab: no service 'helo'; did you mean 'hello'?\n"


def test_help_shows_signature_and_documentation(shared: Terminal) -> None:
    """`help` shows a method's signature and docstring."""
    text = "hello.greet(name: str, times: int = 1) -> str\n\nA greeting.\n\nAs often as you like."

    assert shared.run("help", "hello.greet").out == f"{text}\n"
    assert shared.run("help", "hello.greet", "--json").json == text
    ended = shared.run("help", "hello.gret")
    assert ended.status == 1
    assert "No method 'hello.gret' is published here. Did you mean 'hello.greet'?" in ended.err


# --- call --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["hello.greet", "Ada"], "Hello, Ada!"),
        (["hello.greet", '"Ada"', "2"], "Hello, Ada! Hello, Ada!"),
        (["hello.greet('Ada', 2)"], "Hello, Ada! Hello, Ada!"),
        (["hello.greet(", "'Ada'", ",", "2)"], "Hello, Ada! Hello, Ada!"),
        (["hello.greet('Ada');"], "Hello, Ada!"),
        (
            ["hello.give", "1", "-2.5", "true", "null", '{"a": [1]}', "x y", "01"],
            "[1, -2.5, True, None, {'a': [1]}, 'x y', '01']",
        ),
        (["hello.give(1, b'x', {'a': (1, 2)}, None)"], "[1, b'x', {'a': [1, 2]}, None]"),
        (["hello.give"], "[]"),
    ],
)
def test_call_takes_words_or_a_call_as_python_writes_it(shared: Terminal, words: list[str], answer: str) -> None:
    """`call` takes the method and JSON or plain words, or one call with literal values."""
    ended = shared.run("call", *words)

    assert (ended.status, ended.out) == (0, f"{answer}\n")


def test_call_prints_the_answer_to_stdout_and_what_the_method_printed_to_stderr(shared: Terminal) -> None:
    """The answer alone goes to stdout; with --json as JSON, bytes as base64 and dates as ISO."""
    ended = shared.run("call", "hello.greet", "Ada", "--json")
    assert (ended.out, ended.err) == ('"Hello, Ada!"\n', "greeting Ada\n")

    told = shared.run("call", "hello.bytes_and_date", "--json").json
    assert told == {"bytes": {"base64": "AP8="}, "date": "2026-01-02T03:04:05", "text": "ü"}


def test_a_fault_is_told_with_its_number_and_status_1(shared: Terminal) -> None:
    """A fault goes to stderr with its number; --json also gives it to stdout."""
    ended = shared.run("call", "hello.refuse", "--json")

    assert (ended.status, ended.err) == (1, "clarens-lab: not today (2001)\n")
    assert (ended.json["fault"]["code"], ended.json["fault"]["text"]) == (2001, "not today")
    failed = shared.run("call", "hello.fail")
    assert failed.status == 1
    assert re.search(r"hello\.ipynb cell 1, line \d+ \(fail\)\n.*\nValueError: first line", failed.err)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["hello.greet(name='Ada')"], "XML-RPC passes arguments by position only"),
        (["hello.greet(Ada)"], "Ada is no literal (text goes in quotes)"),
        (["hello.greet('Ada'"], "'(' was never closed"),
        (["hello.greet('Ada') + 1"], "that is no call"),
    ],
)
def test_what_cannot_be_called_is_refused_with_how_to_write_it(shared: Terminal, words: list[str], reason: str) -> None:
    """Words that are no call are refused before anything is sent, with the reason and the way to write it."""
    ended = shared.run("call", *words)

    assert ended.status == 1
    assert reason in ended.err
    assert ended.err.endswith("write service.method(1, 'x') with literal values\n")


def test_a_call_that_stale_code_answers_says_so_on_stderr(terminal: Terminal) -> None:
    """The answer of a stale service comes with one line on stderr: which generation answers, and why."""
    terminal.serve("hello.ipynb")
    save_as_jupyter(terminal.folder / "hello.ipynb", HELLO.replace("def refuse():", "def refuse(:"))
    until(lambda: "stale" in terminal.run("services").out)

    ended = terminal.run("call", "hello.give", "1", "--json")

    assert (ended.status, ended.json) == (0, [1])
    assert ended.err.startswith("clarens-lab: hello is stale, generation 1 answers: hello.ipynb cell 1, line ")
    assert ended.err.count("\n") == 1


def test_a_call_that_is_interrupted_ends_quietly(terminal: Terminal) -> None:
    """Ctrl-C during a long call ends the command with status 130 and no traceback; the server serves on."""
    slow = "%%clarens service slow\nimport time\nfrom clarens_lab import method\n@method\ndef f():\n    time.sleep(3)"
    write_notebook(terminal.folder / "slow.ipynb", slow)
    server = terminal.serve(".", "--log-file", "server.log")
    process = terminal.start("call", "slow.f", stderr=subprocess.PIPE)
    with Client(server.url, token=server.token) as client:
        until(lambda: client.lab.status()["in_flight"].get("slow=1"))
        process.send_signal(signal.SIGINT)

        assert process.communicate(timeout=PATIENCE)[1] == ""
        assert process.returncode == 130
        assert client.echo.echo(1) == [1]


# --- test, remove, reload ----------------------------------------------------------------------


def test_test_runs_the_tests_of_a_server(shared: Terminal) -> None:
    """`test` runs the test cells of all services of a server, or of one."""
    for words in ([], ["hello"]):
        ended = shared.run("test", *words)
        assert ended.status == 0
        assert re.fullmatch(r"ok   hello: hello\.ipynb cell 2 \(\d+ ms\)\n1 passed, 0 failed\n", ended.out)
    ended = shared.run("test", "helo")
    assert ended.status == 1
    assert "no service 'helo' is served here; did you mean 'hello'?" in ended.err
    assert shared.run("test", "no/such.ipynb").err == (
        "clarens-lab: 'no/such.ipynb' does not exist, and is no service's name\n"
    )


def test_test_runs_a_file_without_a_server_and_ends_with_1_on_red(terminal: Terminal) -> None:
    """`test PATH` needs no server; a red test shows its cell and line, and the status is 1."""
    notebook = terminal.folder / "hello.ipynb"
    assert terminal.run("test", str(notebook)).status == 0

    write_notebook(notebook, HELLO, TEST, RED)
    ended = terminal.run("test", "hello.ipynb")

    assert ended.status == 1
    assert "FAIL hello: hello.ipynb cell 3" in ended.out
    assert "hello.ipynb cell 3, line 2" in ended.out
    assert ended.out.endswith("     printed: greeting Ada\n1 passed, 1 failed\n")
    told = terminal.run("test", "hello.ipynb", "--json").json
    assert [(one["ok"], one["output"]) for one in told] == [(True, "greeting Ada\n"), (False, "greeting Ada\n")]


def test_test_goes_on_after_a_file_that_cannot_be_loaded(terminal: Terminal) -> None:
    """In a folder, a file that cannot be loaded counts as a test that failed; the others are tested."""
    write_notebook(terminal.folder / "broken.ipynb", BROKEN)

    ended = terminal.run("test", ".")

    assert ended.status == 1
    assert "FAIL broken: load broken.ipynb" in ended.out
    assert "     broken.ipynb cell 1, line 5: SyntaxError: invalid syntax\n" in ended.out
    assert ended.out.endswith("1 passed, 1 failed\n")


def test_test_fails_where_there_is_no_test_and_says_what_one_is(terminal: Terminal) -> None:
    """Where no test cell was found, `test` names where it looked and how one begins; the status is 1."""
    write_notebook(terminal.folder / "hello.ipynb", HELLO)

    ended = terminal.run("test", "hello.ipynb")

    assert (ended.status, ended.out) == (1, "")
    assert ended.err == ("clarens-lab: no test cell was found in hello.ipynb: one begins with '%%clarens test NAME'\n")
    terminal.serve("hello.ipynb")
    assert terminal.run("test", "hello").err == ended.err.replace("hello.ipynb", "hello")
    assert "no test cell was found of any service" in terminal.run("test").err


def test_test_tells_what_is_odd_about_the_source(terminal: Terminal) -> None:
    """Notes on the source, such as a test that a comment above its first line hides, go to stderr."""
    write_notebook(terminal.folder / "hello.ipynb", HELLO, TEST, f"# more\n{TEST}")

    ended = terminal.run("test", "hello.ipynb", "--json")

    assert (ended.status, len(ended.json)) == (0, 1)
    assert ended.err.startswith("clarens-lab: note: hello.ipynb cell 3")
    assert ended.err.count("\n") == 1


def test_remove_and_reload(terminal: Terminal) -> None:
    """`remove` withdraws a service, `reload` brings it back or loads it again; both answer with the report."""
    terminal.serve("hello.ipynb")

    removed = terminal.run("remove", "hello")
    assert (removed.status, removed.err) == (0, "")
    assert removed.out.startswith("hello is withdrawn: it was removed; 'reload hello' brings ")
    assert terminal.run("call", "hello.greet", "Ada").status == 1
    reloaded = terminal.run("reload", "hello", "--json").json
    assert (reloaded["outcome"], reloaded["generation"]) == ("loaded", 2)
    assert re.fullmatch(
        r"hello generation 3 serves \(no method changed; \d+ ms\)\n", terminal.run("reload", "hello", "--fresh").out
    )
    for verb in ("remove", "reload"):
        ended = terminal.run(verb, "system")
        assert ended.status == 1
        assert "'system' came neither from a file nor from a cell" in ended.err
        assert "did you mean 'hello'?" in terminal.run(verb, "helo").err


def test_a_reload_that_fails_ends_with_1(terminal: Terminal) -> None:
    """`reload` of a notebook that does not load shows the reason and what still serves, and ends with status 1."""
    terminal.serve("hello.ipynb", "--no-reload")
    save_as_jupyter(terminal.folder / "hello.ipynb", HELLO.replace("times: int = 1)", "times: int = 1"))

    ended = terminal.run("reload", "hello")

    assert ended.status == 1
    assert re.match(r"hello\.ipynb cell 1, line 5: SyntaxError: .*; still serving generation 1\n", ended.out)


# --- log ---------------------------------------------------------------------------------------


def test_log_shows_what_the_server_logged(terminal: Terminal) -> None:
    """`log` shows the server's lines as the server writes them itself; --json one object a line."""
    server = terminal.serve("hello.ipynb")
    terminal.run("call", "hello.greet", "Ada")

    wanted = [line for line in server.err.splitlines() if "access.lab" not in line]
    assert terminal.run("log").out.splitlines() == wanted
    lines = [json.loads(line) for line in terminal.run("log", "--json").out.splitlines()]
    assert [line["text"] for line in lines] == [line.split(": ", 1)[1] for line in wanted]


def test_log_follow_goes_on_until_interrupted(terminal: Terminal) -> None:
    """`log --follow` shows lines as they come, is not woken by its own questions, and Ctrl-C ends it with 130."""
    server = terminal.serve("hello.ipynb")
    process = terminal.start("log", "--follow", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    lines: list[str] = []
    assert process.stdout is not None
    reader = threading.Thread(target=lambda: lines.extend(iter(process.stdout.readline, "")))  # type: ignore[union-attr]
    reader.start()
    until(lambda: len(lines) == 4)
    with Client(server.url) as client:
        client.hello.greet("Ada")
        until(lambda: len(lines) == 5)
        client.hello.greet("Emmy")
        until(lambda: len(lines) == 6)
    process.send_signal(signal.SIGINT)
    reader.join(PATIENCE)

    assert process.wait(PATIENCE) == 130
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stdout.close()
    process.stderr.close()
    assert all("access: hello.greet" in line for line in lines[4:])
    assert len(re.findall(r"access\.lab: lab\.log ", server.err)) <= 4


def test_log_follow_ends_when_the_server_does(terminal: Terminal) -> None:
    """A server that is stopped is not held up by who follows its log; the follower is told that it is gone."""
    server = terminal.serve("hello.ipynb")
    process = terminal.start("log", "--follow", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()

    assert server.end() == 0
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert err.startswith("clarens-lab: ")
    assert "Traceback" not in err


def test_output_into_a_closed_pipe_ends_quietly(shared: Terminal) -> None:
    """`clarens-lab methods | true` ends without a traceback."""
    reading, writing = os.pipe()
    os.close(reading)
    process = shared.start("methods", stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)

    assert process.communicate(timeout=PATIENCE)[1] == ""


# --- stop --------------------------------------------------------------------------------------


def test_stop_stops_the_server(terminal: Terminal) -> None:
    """`stop` ends the project's server and says so when it is done."""
    server = terminal.serve("hello.ipynb")
    ended = terminal.run("stop")

    assert (ended.status, ended.out) == (0, f"stopped {server.url}\n")
    assert server.process.wait(PATIENCE) == 0
    server = terminal.serve("hello.ipynb")
    assert terminal.run("stop", "--json").json == {"stopped": server.url, "pid": server.process.pid}


def test_stop_leaves_a_program_alone_that_a_server_runs_in(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server on a thread of another program, a notebook's kernel say, is not stopped by ending that program."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(terminal.runtime))
    with Server([terminal.folder / "hello.ipynb"], Settings(port=0)) as server:
        assert f"inside pid {os.getpid()}" in terminal.run("servers").out
        ended = terminal.run("stop")

        assert ended.status == 1
        assert ended.err == (
            f"clarens-lab: {server.url} runs inside another program (pid {os.getpid()}), "
            "such as a notebook; stop it there\n"
        )


def test_stop_does_not_end_a_stranger_with_a_dead_servers_number(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run file whose process number now belongs to another program ends nothing."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(terminal.runtime))
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        runfiles.write(runfiles.Running("http://127.0.0.1:1/clarens/", "x", stranger.pid, (), str(terminal.folder)))
        ended = terminal.run("stop")

        assert ended.status == 1
        assert f"does not answer, so pid {stranger.pid} is left alone" in ended.err
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


# --- config ------------------------------------------------------------------------------------


def test_config_lists_every_setting_with_its_help(terminal: Terminal) -> None:
    """`config` lists every setting with the value that holds, as clarens.toml takes it, and what it is for."""
    terminal.environment["CLARENS_PORT"] = "9000"
    lines = terminal.run("config").out.splitlines()

    assert [line.partition(" = ")[0] for line in lines] == list(TABLE)
    assert "port = 9000  # port to listen on; 0 takes any free one" in lines
    (terminal.folder / "clarens.toml").write_text("\n".join(lines))
    assert terminal.run("config").out.splitlines() == lines
    assert terminal.run("config", "--json").json["load_limit"] == 30.0


def test_config_sets_a_key_and_keeps_the_comments(terminal: Terminal) -> None:
    """Setting a key changes that key's value alone: comments, order and blank lines of clarens.toml stay."""
    file = terminal.folder / "clarens.toml"
    file.write_text("# ours\nport = 9000  # agreed with the admins\n\n# slow disks\nload_limit = 60.0\n")

    ended = terminal.run("config", "port", "9001")

    assert (ended.status, ended.out) == (0, f"port = 9001 in {file}; a server reads it when it starts\n")
    assert terminal.run("config", "reload", "off", "--json").json == {"reload": False}
    assert file.read_text() == (
        "# ours\nport = 9001  # agreed with the admins\n\n# slow disks\nload_limit = 60.0\nreload = false\n"
    )
    assert terminal.run("config", "port").out == "9001\n"
    assert terminal.run("config", "load_limit", "--json").json == 60.0
    terminal.environment["CLARENS_PORT"] = "1"
    assert terminal.run("config", "port", "2").out.endswith(", but CLARENS_PORT in the environment wins over it\n")


def test_config_makes_the_file_where_the_project_is(tmp_path: Path) -> None:
    """Without a clarens.toml, setting a key makes one in the project's folder."""
    (tmp_path / ".git").mkdir()
    (tmp_path / "deep").mkdir()

    ended = Terminal(tmp_path / "deep", tmp_path / "runtime").run("config", "worker_threads", "4")

    assert ended.status == 0
    assert (tmp_path / "clarens.toml").read_text() == "worker_threads = 4\n"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["prot"], "config: no setting 'prot'. Did you mean 'port'?"),
        (["prot", "1"], "config: no setting 'prot'. Did you mean 'port'?"),
        (["port", "abc"], "config: port = 'abc': it takes a whole number."),
        (["watch", "often"], "config: watch = 'often': it takes auto, poll."),
    ],
)
def test_config_refuses_what_is_no_setting_or_no_value(terminal: Terminal, words: list[str], sentence: str) -> None:
    """A key or value that cannot be is refused, and the file stays as it was."""
    ended = terminal.run("config", *words)

    assert (ended.status, ended.err) == (1, f"clarens-lab: {sentence}\n")
    assert (terminal.folder / "clarens.toml").read_text() == ""


def test_config_does_not_touch_a_file_that_is_no_toml(terminal: Terminal) -> None:
    """A clarens.toml that cannot be read is left as it is, and the sentence names it; a wrong value can be mended."""
    file = terminal.folder / "clarens.toml"
    file.write_text("port = \n")
    for words in (["config"], ["config", "port", "1"], ["serve"]):
        ended = terminal.run(*words)
        assert ended.status == 1
        assert ended.err.startswith(f"clarens-lab: {file}: not readable as TOML")
    assert file.read_text() == "port = \n"

    file.write_text('port = "many"\n')
    assert terminal.run("config", "port", "1").status == 0
    assert file.read_text() == "port = 1\n"


# --- the tree ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["serv"], "clarens-lab: no verb 'serv'; did you mean 'serve'?"),
        (["sevices"], "clarens-lab: no verb 'sevices'; did you mean 'services'?"),
        (["xyzzy"], "clarens-lab: no verb 'xyzzy'; there are serve, stop, servers, services, "),
        (["connect"], "clarens-lab: no verb 'connect'; "),
        (["help"], "clarens-lab help: the following arguments are required: method"),
        (["serve", "--log-format", "xml"], "clarens-lab serve: argument --log-format: invalid choice: 'xml'"),
        (["serve", "--port", "x"], "clarens-lab serve: argument --port: invalid int value: 'x'"),
        (["services", "--nope"], "clarens-lab: unrecognized arguments: --nope"),
        (["--url", "http://x", "services"], "clarens-lab: options go after the verb: clarens-lab VERB --url; "),
        (["--json", "services"], "clarens-lab: options go after the verb: clarens-lab VERB --json; "),
    ],
)
def test_a_line_that_is_not_understood_ends_with_2_and_what_was_meant(
    terminal: Terminal, words: list[str], sentence: str
) -> None:
    """A command line that is not understood is one sentence, with the nearest verb, and status 2."""
    ended = terminal.run(*words)

    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith(sentence)
    assert ended.err.count("\n") == 1


def test_help_and_version(terminal: Terminal) -> None:
    """--help lists every verb with what it does; --version says the version; without a verb the help is shown."""
    ended = terminal.run("--help")
    assert ended.status == 0
    assert "  serve     serve notebooks, .py files, packages and folders\n" in ended.out

    assert terminal.run().out == ended.out
    assert terminal.run().status == 2
    assert terminal.run("--version").out == f"clarens-lab {__version__}\n"
    assert "--run-file RUN_FILE" in terminal.run("serve", "--help").out


def test_the_token_is_never_printed(terminal: Terminal) -> None:
    """No verb, no log and no fault shows the token."""
    server = terminal.serve("hello.ipynb", "--log-file", "server.log")
    every = [*ASKING[1:], ["servers"], ["config"], ["call", "hello.fail"], ["call", "lab.status"]]
    said = ""
    for words in every:
        ended = terminal.run(*words, "--json")
        said += ended.out + ended.err
    assert terminal.run("stop").status == 0

    assert "hello" in said
    assert server.token not in said + server.err + (terminal.folder / "server.log").read_text()
