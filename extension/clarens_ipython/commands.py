"""What each `%clarens` verb does in a notebook: asks the kernel's server, and gives something to look at."""

import argparse
import ast
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from clarens_ipython.link import HOW, Link
from clarens_ipython.views import Failed, Line, View, results, table
from clarens_lab import runfiles
from clarens_lab.faults import nearest
from clarens_lab.settings import TABLE, SettingsError, project_of, read, value_of
from clarens_lab.source import LoadError

LOG_LINES = 50
Answer = Callable[[Link, argparse.Namespace], Any]


def state(link: Link) -> View:
    """The state of everything in a few lines."""
    if not link.url:
        return View([("quiet", f"no server yet: {HOW}")])
    status = link.ask("lab.status")
    where = "inside this kernel" if link.embedded else f"a process of its own, pid {status['pid']}"
    lines: list[Line] = [("plain", f"{link.url} ({where})")]
    lines += [("plain", f"serves {path}") for path in status["paths"]]
    lines += [("warn", f"not served: {why}") for why in status["refused"].values()]
    return View(lines + _service_lines(link))


def services(link: Link, arguments: argparse.Namespace) -> Any:
    """The services, those in the box last."""
    return link.services() if arguments.json else View(_service_lines(link))


def _service_lines(link: Link) -> list[Line]:
    told = link.services()
    lines = [_service_line(one) for one in told if not one["bundled"]] or [("quiet", "no service of yours yet")]
    return [*lines, ("quiet", f"in the box: {', '.join(one['service'] for one in told if one['bundled'])}")]


def _service_line(one: Mapping[str, Any]) -> Line:
    name = one["service"]
    if not one["generation"]:
        return "bad", f"{name}  not loaded: {one['trouble']}"
    if one["stale"]:
        return "bad", f"{name}  STALE, generation {one['generation']} serves: {one['trouble']}"
    file = Path(one["path"]).name
    cells = "live cells" if not file else f"{file}, with live cells on top" if one["live"] else file
    return "plain", f"{name}  {cells}"


def methods(link: Link, arguments: argparse.Namespace) -> Any:
    """Methods with their signatures, the user's own first."""
    told = {one["service"]: one for one in sorted(link.services(), key=lambda one: bool(one["bundled"]))}
    if arguments.service is not None:
        told = {arguments.service: _known(told, arguments.service)}
    flat = [f"{service}.{signature}" for service, one in told.items() for signature in one["methods"]]
    return flat if arguments.json else table([[one] for one in flat], f"{arguments.service} has no method yet")


def _known(told: Mapping[str, Any], name: str) -> Any:
    """What is told of a service; Failed with the nearest name if there is none of that name."""
    if name in told:
        return told[name]
    near = nearest(name, told)
    raise Failed(f"no service {name!r}; " + (f"did you mean {near!r}?" if near else f"there are {', '.join(told)}"))


def help_(link: Link, arguments: argparse.Namespace) -> Any:
    """A method's signature and documentation."""
    told = link.ask("system.methodHelp", arguments.method)
    return told if arguments.json else View([("plain", told)])


def serve(link: Link, arguments: argparse.Namespace) -> View:
    """Serves files beside the notebook's cells, here or in a process of its own."""
    if arguments.detach:
        link.detach(arguments.path, arguments.port, arguments.host)
        return state(link)
    link.serve(arguments.path, arguments.port, arguments.host)
    view = state(link)
    usual = read(project_of(Path.cwd())).port
    if arguments.port is None and link.embedded is not None and usual not in (0, link.embedded.port):
        view.lines.insert(1, ("quiet", f"port {usual}, the usual one, is taken by another program"))
    return view


def connect(link: Link, arguments: argparse.Namespace) -> View:
    """Uses a server that runs in a process of its own."""
    link.connect(arguments.url)
    return state(link)


def stop(link: Link, arguments: argparse.Namespace) -> Any:
    """Ends what this kernel started, else disconnects."""
    url, told = link.url, link.stop()
    return {"url": url, "text": told} if arguments.json else View([("plain", told)])


def servers(link: Link, arguments: argparse.Namespace) -> Any:
    """The user's running servers."""
    running = link.running()
    if arguments.json:
        shown = ("url", "pid", "paths", "project", "embedded")  # never the token
        return [{name: _listed(getattr(one, name)) for name in shown} for one in running]
    rows = [[one.url, _whose(link, one), ", ".join(one.paths) or "-"] for one in running]
    return table(rows, "no server of yours runs")


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _whose(link: Link, server: runfiles.Running) -> str:
    if server.url == link.url:
        return "this kernel's" if link.embedded else "this kernel is connected to it"
    if server.pid == os.getpid():
        return "in this process"
    return f"inside pid {server.pid}" if server.embedded else f"pid {server.pid}"


def remove(link: Link, arguments: argparse.Namespace) -> Any:
    """Withdraws a service and frees its name."""
    _known({one["service"]: one for one in link.services()}, arguments.service)
    report = link.ask("lab.remove", arguments.service)
    link.refresh()
    return report if arguments.json else View([("plain", report["text"])])


def reload(link: Link, arguments: argparse.Namespace) -> Any:
    """Loads a service again; fails the cell if it does not load."""
    report = link.ask("lab.reload", arguments.service, arguments.fresh)
    link.refresh()
    if not report["ok"]:
        raise Failed(report["text"])
    if arguments.json:
        return report
    return View([("plain", f"{arguments.service} is loaded again"), *(("warn", note) for note in report["notes"])])


def log(link: Link, arguments: argparse.Namespace) -> Any:
    """The newest log lines."""
    from clarens_lab import logs  # only this verb shows log lines

    told = link.ask("lab.log", 0, 0.0)
    if arguments.json:
        return told["items"]
    kinds = {"warning": "warn", "error": "bad", "critical": "bad"}
    lines = [(kinds.get(one["level"], "plain"), logs.as_text(one)) for one in told["items"][-LOG_LINES:]]
    older = len(told["items"]) - len(lines) + told["lost"]
    if older:
        lines.insert(0, ("quiet", f"({older} older lines; '--json' gives all that are kept)"))
    return View(lines or [("quiet", "the log is empty")])


def test(link: Link, arguments: argparse.Namespace) -> Any:
    """Runs test cells: of a file, with no server; of a service, or of all. Fails the cell if one is red."""
    wanted = arguments.path
    if wanted is not None and Path(wanted).exists():
        from clarens_lab.testing import run_tests_in  # slow to import, and only needed with no server

        told = [dict(one.as_struct()) for one in run_tests_in(Path(wanted))]
    elif wanted is not None and not wanted.isidentifier():
        raise Failed(f"{wanted!r} does not exist, and is no service's name")
    else:
        if wanted is not None:
            _known({one["service"]: one for one in link.services()}, wanted)
        told = link.ask("lab.test", wanted or "")
    if not all(one["ok"] for one in told):
        raise Failed(repr(results(told)))
    return told if arguments.json else results(told)


def config(link: Link, arguments: argparse.Namespace) -> Any:
    """Lists, reads or sets the project's settings."""
    project = project_of(Path.cwd())
    if arguments.value is not None:
        from clarens_lab.cli import set_setting  # the same as in a terminal; only this verb needs it

        value, told = set_setting(project, arguments.key, arguments.value)
        return {arguments.key: value} if arguments.json else View([("plain", told)])
    settings = asdict(read(project))
    if arguments.key is not None:
        if arguments.key not in settings:
            value_of(arguments.key, "", where="config")  # raises, with the nearest name
        return settings[arguments.key]
    rows = [[name, json.dumps(settings[name]), TABLE[name].metadata["help"]] for name in TABLE]
    return settings if arguments.json else table(rows, "")


ANSWERS: dict[str, Answer] = {
    "serve": serve,
    "connect": connect,
    "stop": stop,
    "servers": servers,
    "services": services,
    "methods": methods,
    "help": help_,
    "test": test,
    "remove": remove,
    "reload": reload,
    "log": log,
    "config": config,
}
EXPECTED = (SettingsError, LoadError)
"""What a verb may raise that one sentence says."""


CALL = re.compile(r"\s*[^\W\d][\w.]*\s*\(")
"""How `picalc.digits(50)` begins, and `picalc.digits 50` does not."""


def call_in(text: str, names: dict[str, Any]) -> tuple[str, list[Any], dict[str, Any]]:
    """The method, positions and keywords of `picalc.digits(n + 1)`, its expressions evaluated in the user's names.

    A `;` and a comment behind it are allowed. Raises Failed for what is no call, or does not evaluate.
    """
    try:
        body = ast.parse(text.strip(), "%clarens call").body
    except SyntaxError as error:
        raise Failed(f"{text.strip()!r} does not parse: {error.msg}; write picalc.digits(50)") from None
    except ValueError as error:  # a NUL byte
        raise Failed(f"{text.strip()!r} does not parse: {error}") from None
    tree = body[0].value if len(body) == 1 and isinstance(body[0], ast.Expr) else None
    if not isinstance(tree, ast.Call):
        raise Failed(f"{text.strip()!r} is not one call; write picalc.digits(50) or picalc.digits 50")
    if any(isinstance(one, ast.Starred) for one in tree.args) or any(one.arg is None for one in tree.keywords):
        raise Failed(f"{text.strip()!r}: * and ** are not taken here; write the arguments out")
    given = [_evaluated(one, names) for one in tree.args]
    keywords = {str(one.arg): _evaluated(one.value, names) for one in tree.keywords}
    return ast.unparse(tree.func), given, keywords


def _evaluated(node: ast.expr, names: dict[str, Any]) -> Any:
    try:
        return eval(compile(ast.Expression(node), "%clarens call", "eval"), names)  # noqa: S307  # the user's own line
    except Exception as error:  # noqa: BLE001  # whatever the user's expression raises
        told = f"{type(error).__name__}: {error}"
        raise Failed(told if isinstance(node, ast.Name) else f"{ast.unparse(node)}: {told}") from None
