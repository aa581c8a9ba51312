"""`clarens-lab`: the server, and the verbs for servers that run."""

import argparse
import base64
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from clarens_lab import runfiles
from clarens_lab.faults import Fault, nearest
from clarens_lab.settings import FILE, TABLE, SettingsError, project_of, read, value_of
from clarens_lab.source import LoadError
from clarens_lab.verbs import TERMINAL, NotACall, call_of, known_at, tree

VERBS = known_at(TERMINAL)

STOP_SECONDS = 30.0


class Failed(Exception):
    """A verb that could not do its work; the text is all that is shown."""


def main(words: Sequence[str] | None = None) -> int:
    """Runs one command line; returns the exit status: 0, 1 (it failed) or 2 (it was not understood)."""
    parser = tree(TERMINAL)
    arguments = parser.parse_args(words)
    if arguments.verb is None:
        parser.print_help()
        return 2
    try:
        return int(RUN[arguments.verb](arguments) or 0)
    except (NotACall, Failed, SettingsError, LoadError) as error:
        print(f"clarens-lab: {error}", file=sys.stderr)
    except Fault as fault:
        print(f"clarens-lab: {fault.text}", file=sys.stderr)
    except BrokenPipeError:  # `clarens-lab log | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return 130
    return 1


# --- serve --------------------------------------------------------------------------------------


def _serve(arguments: argparse.Namespace) -> None:
    from clarens_lab import logs  # these are slow to import, and no other verb needs them
    from clarens_lab.server import Server  # as above

    paths = arguments.path or [Path()]
    for path in paths:
        if not path.exists():
            raise Failed(f"{str(path)!r} does not exist; serve takes notebooks, .py files, packages and folders")
    given = {name: getattr(arguments, name) for name in ("port", "host", "reload", "log_file", "log_format")}
    if arguments.debug is not None:
        given["debug"] = "on" if arguments.debug else "off"
    settings = read(project_of(paths[0]), given=given)
    logs.set_up(settings)
    server = Server(paths, settings)
    try:
        server.listen()
        server.run(ready=lambda: _ready(server.running, arguments.run_file))
    except OSError as error:
        raise Failed(error.strerror or str(error)) from None
    finally:
        if arguments.run_file is not None:
            arguments.run_file.unlink(missing_ok=True)


def _ready(server: runfiles.Running, run_file: Path | None) -> None:
    if run_file is not None:
        content = asdict(server)
        runfiles.write_to(run_file.absolute(), {key: content[key] for key in ("url", "token", "pid", "paths")})


# --- finding a server ---------------------------------------------------------------------------


def _find(arguments: argparse.Namespace) -> runfiles.Running:
    servers = list(runfiles.running())
    if arguments.url:
        known = next((one for one in servers if one.url.rstrip("/") == arguments.url.rstrip("/")), None)
        token = arguments.token or os.environ.get("CLARENS_TOKEN") or (known.token if known else "")
        return runfiles.Running(arguments.url, token, known.pid if known else 0, known.paths if known else ())
    project = str(project_of(Path.cwd()))
    mine = [one for one in servers if one.project == project]
    if len(mine) == 1:
        return mine[0]
    if mine:
        shown = "\n".join(f"  {_shown(one)}" for one in mine)
        raise Failed(f"several servers of this project run; choose one with --url:\n{shown}")
    others = "".join(f"\n  {_shown(one)}" for one in servers)
    elsewhere = f"; others, to be chosen with --url:{others}" if servers else ""
    raise Failed(f"no server of {project} runs; start one with 'clarens-lab serve PATH'{elsewhere}")


def _shown(server: runfiles.Running) -> str:
    return f"{server.url}  pid {server.pid}  {', '.join(server.paths) or '-'}"


def _client(arguments: argparse.Namespace) -> Any:
    from clarens_lab.client import Client  # not needed by `serve` and `--help`

    server = _find(arguments)
    return Client(server.url, token=server.token or None)


def _answer(arguments: argparse.Namespace, value: Any, text: Callable[[Any], str]) -> None:
    if arguments.json:
        print(json.dumps(value, indent=2, ensure_ascii=False, default=_as_json))
    elif shown := text(value):
        print(shown)


def _as_json(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value)


# --- the verbs ----------------------------------------------------------------------------------


def _stop(arguments: argparse.Namespace) -> None:
    server = _find(arguments)
    if not server.pid:
        raise Failed(f"{server.url} is not a server of yours on this machine; stop it where it was started")
    os.kill(server.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while any(one.pid == server.pid and one.url == server.url for one in runfiles.running()):
        if time.monotonic() > deadline:
            raise Failed(f"{server.url} (pid {server.pid}) has not ended after {STOP_SECONDS:g} s")
        time.sleep(0.02)
    _answer(arguments, {"stopped": server.url, "pid": server.pid}, lambda told: f"stopped {told['stopped']}")


def _servers(arguments: argparse.Namespace) -> None:
    servers = list(runfiles.running())
    told = [{"url": one.url, "pid": one.pid, "paths": list(one.paths), "project": one.project} for one in servers]
    _answer(arguments, told, lambda _: "\n".join(map(_shown, servers)) or "no server of yours runs")


def _services(arguments: argparse.Namespace) -> None:
    with _client(arguments) as client:
        told = client.lab.services()
    _answer(arguments, told, lambda services: "\n".join(map(_service_line, services)))


def _service_line(service: Mapping[str, Any]) -> str:
    origin = "bundled" if service["bundled"] else service["path"] or "live cells"
    if not service["generation"]:
        return f"{service['service']}  not loaded: {service['trouble']}"
    stale = f"\n  stale: {service['trouble']}" if service["stale"] else ""
    return f"{service['service']}  generation {service['generation']}  {origin}{stale}"


def _methods(arguments: argparse.Namespace) -> None:
    with _client(arguments) as client:
        names = client.system.listMethods()
        wanted = [name for name in names if arguments.service in (None, name.partition(".")[0])]
        if arguments.service and not wanted:
            services = sorted({name.partition(".")[0] for name in names})
            near = nearest(arguments.service, services)
            hint = f"did you mean {near!r}?" if near else f"there are {', '.join(services)}"
            raise Failed(f"no service {arguments.service!r}; {hint}")
        helps = client.multicall([("system.methodHelp", name) for name in wanted])
    signatures = [str(text).partition("\n")[0] for text in helps]
    told = [{"method": name, "signature": text} for name, text in zip(wanted, signatures, strict=True)]
    _answer(arguments, told, lambda _: "\n".join(signatures))


def _help(arguments: argparse.Namespace) -> None:
    with _client(arguments) as client:
        told = client.system.methodHelp(arguments.method)
    _answer(arguments, told, str)


def _call(arguments: argparse.Namespace) -> int:
    name, given = call_of(arguments.call)
    server = _find(arguments)
    from clarens_lab.client import Client  # not needed by `serve` and `--help`

    with Client(server.url, token=server.token or None) as client:
        if not server.token:
            _answer(arguments, client.call(name, *given), _value_text)
            return 0
        told = client.lab.call(name, given)
    if told["output"]:
        print(told["output"], end="" if told["output"].endswith("\n") else "\n", file=sys.stderr)
    if "fault" in told:
        if arguments.json:
            print(json.dumps(told, indent=2, ensure_ascii=False, default=_as_json))
        print(f"clarens-lab: {told['fault']['text']} ({told['fault']['code']})", file=sys.stderr)
        return 1
    _answer(arguments, told["value"], _value_text)
    return 0


def _value_text(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)


def _test(arguments: argparse.Namespace) -> int:
    if arguments.path is not None and Path(arguments.path).exists():
        results = _local_results(Path(arguments.path))
    elif arguments.path is not None and not arguments.path.isidentifier():
        raise Failed(f"{arguments.path!r} does not exist, and is no service's name")
    else:
        with _client(arguments) as client:
            results = client.lab.test(arguments.path or "")
    _answer(arguments, results, _results_text)
    return 0 if all(result["ok"] for result in results) else 1


def _local_results(path: Path) -> list[dict[str, Any]]:
    from clarens_lab import loaders  # not needed by the other verbs
    from clarens_lab.service import Kept  # as above
    from clarens_lab.testing import run_tests  # as above

    is_folder = path.is_dir() and not any((path / f"__init__{suffix}").exists() for suffix in loaders.SUFFIXES)
    files = loaders.discover(path).services if is_folder else (path,)
    results: list[dict[str, Any]] = []
    for file in files:
        for source in loaders.read(file):
            generation = loaders.build(source, Kept())
            results += [dict(result.as_struct()) for result in run_tests(generation, source.tests)]
    return results


def _results_text(results: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for result in results:
        mark = "ok  " if result["ok"] else "FAIL"
        lines.append(f"{mark} {result['service']}: {result['test']} ({result['ms']:.0f} ms)")
        lines += [f"     {line}" for line in (result["traceback"] or result["error"]).splitlines()]
    failed = sum(not result["ok"] for result in results)
    if not results:
        return "no test cells: a cell that begins with '%%clarens test' is one"
    return "\n".join([*lines, f"{len(results) - failed} passed, {failed} failed"])


def _remove(arguments: argparse.Namespace) -> None:
    with _client(arguments) as client:
        told = client.lab.remove(arguments.service)
    _answer(arguments, told, lambda report: str(report["text"]))


def _reload(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        told = client.lab.reload(arguments.service, arguments.fresh)
    _answer(arguments, told, lambda report: "\n".join([report["text"], *report["notes"]]))
    return 0 if told["ok"] else 1


def _log(arguments: argparse.Namespace) -> None:
    since = 0
    with _client(arguments) as client:
        while True:
            told = client.lab.log(since, 30.0 if since else 0.0)
            if since == 0 and told["lost"]:
                print(f"({told['lost']} older lines are not kept)", file=sys.stderr)
            for line in told["items"]:
                _answer(arguments, line, lambda one: f"{one['time']} {one['level']} {one['name']}: {one['text']}")
            since = told["next"]
            sys.stdout.flush()
            if not arguments.follow:
                return


def _config(arguments: argparse.Namespace) -> None:
    project = project_of(Path.cwd())
    if arguments.value is not None:
        value = value_of(arguments.key, arguments.value, where="clarens-lab config")
        _set(project / FILE, arguments.key, value)
        _answer(arguments, {arguments.key: value}, lambda _: f"{arguments.key} = {value!r} in {project / FILE}")
        return
    settings = asdict(read(project))
    if arguments.key is not None:
        if arguments.key not in settings:
            value_of(arguments.key, "", where="clarens-lab config")
        _answer(arguments, settings[arguments.key], str)
        return
    _answer(arguments, settings, lambda _: "\n".join(_setting_line(name, settings[name]) for name in TABLE))


def _setting_line(name: str, value: object) -> str:
    return f"{name} = {json.dumps(value)}  # {TABLE[name].metadata['help']}"


def _set(file: Path, key: str, value: Any) -> None:
    """Sets one key, and keeps the rest of the file, comments included."""
    import tomlkit  # only this verb writes TOML

    document = tomlkit.parse(file.read_text(encoding="utf-8")) if file.exists() else tomlkit.document()
    document[key] = value
    file.write_text(tomlkit.dumps(document), encoding="utf-8")


RUN: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "serve": _serve,
    "stop": _stop,
    "servers": _servers,
    "services": _services,
    "methods": _methods,
    "help": _help,
    "call": _call,
    "test": _test,
    "remove": _remove,
    "reload": _reload,
    "log": _log,
    "config": _config,
}
