"""`clarens-lab`: the server, and the verbs for servers that run."""

import argparse
import base64
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from clarens_lab import logs, runfiles
from clarens_lab.faults import Fault, TimedOut, TransportFailed, nearest
from clarens_lab.settings import FILE, TABLE, Settings, SettingsError, project_of, read, value_of, variable
from clarens_lab.source import LoadError
from clarens_lab.verbs import TERMINAL, NotACall, call_of, known_at, tree

VERBS = known_at(TERMINAL)

log = logging.getLogger("clarens_lab.serve")

ASK_SECONDS = 5.0
FOLLOW_SECONDS = 30.0
STOP_SECONDS = 30.0
LOADING_SECONDS = 3.0


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
    except OSError as error:
        print(f"clarens-lab: {_os_text(error)}", file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    return 1


def _os_text(error: OSError) -> str:
    """What went wrong, with the file it went wrong with."""
    text = error.strerror or str(error)
    return f"{error.filename}: {text}" if error.filename else text


# --- serve --------------------------------------------------------------------------------------


def _serve(arguments: argparse.Namespace) -> None:
    from clarens_lab.server import PortInUse, Server  # slow to import, and no other verb needs it

    paths = arguments.path or ([] if arguments.empty else [Path()])
    for path in paths:
        _check_path(path)
    if arguments.run_file is not None and not arguments.run_file.absolute().parent.is_dir():
        raise Failed(f"--run-file {str(arguments.run_file)!r}: the folder does not exist")
    given = {name: getattr(arguments, name) for name in ("port", "host", "reload", "log_file", "log_format")}
    if arguments.debug is not None:
        given["debug"] = "on" if arguments.debug else "off"
    settings = read(project_of(paths[0] if paths else Path()), given=given)
    logs.set_up(settings)
    server = Server(paths, settings)
    try:
        server.listen()
        server.run(ready=lambda: _ready(server, arguments.run_file))
    except PortInUse as error:
        raise Failed(f"{error.strerror}{_own_server_on(settings.port)}") from None
    finally:
        if arguments.run_file is not None:
            runfiles.take_back(arguments.run_file)


def _check_path(path: Path) -> None:
    takes = "serve takes notebooks, .py files, packages and folders"
    if not path.exists():
        raise Failed(f"{str(path)!r} does not exist; {takes}")
    if path.is_file() and path.suffix not in (".ipynb", ".py"):
        raise Failed(f"{str(path)!r} cannot be served; {takes}")


def _own_server_on(port: int) -> str:
    """What to add where the program on a port is a server of the user's own."""
    own = next((one for one in runfiles.running() if one.is_at(f"127.0.0.1:{port}")), None)
    return f"\nIt is your own: {_shown(own)}; 'clarens-lab stop --url {own.url}' stops it" if own else ""


def _ready(server: Any, run_file: Path | None) -> None:
    """Tells what is served and what to type next: first thing in the log, and on stderr where the log is a file."""
    settings: Settings = server.settings
    lines = _first_words(server.registry.current, server.paths, settings)
    for line in lines:
        log.info("%s", line)
    if settings.log_file:
        print("\n".join([f"serving {server.url}; the log is {settings.log_file}", *lines]), file=sys.stderr, flush=True)
    if run_file is not None:
        content = asdict(server.running)
        runfiles.write_to(run_file.absolute(), {key: content[key] for key in ("url", "token", "pid", "paths")})
        server.run_files.append(run_file.absolute())


def _first_words(catalogue: Any, paths: Sequence[Path], settings: Settings) -> list[str]:
    lines = []
    if own := sorted(one.service for one in catalogue.services.values() if not one.bundled):
        lines.append(f"services: {', '.join(own)} ({'' if settings.reload else 'not '}reloaded when saved)")
    elif not paths:
        lines.append("no service yet: notebooks that connect send their cells")
    elif not catalogue.troubles:
        where = ", ".join(map(str, paths))
        lines.append(
            f"no service in {where} yet: begin a notebook cell with '%%clarens service NAME', "
            "write '@method' above a function in it, and save"
        )
    if not settings.loopback:
        lines.append(
            "other machines can call every method but those of lab.*, as the address of this one or as a name "
            f"in allowed_hosts ({settings.allowed_hosts or 'none yet'})"
        )
    if broken := sorted(catalogue.troubles):
        lines.append(f"not loaded: {', '.join(broken)} (the reason is above; save a mended version)")
    lines.append("next: 'clarens-lab methods' in another terminal; Ctrl-C here, or 'clarens-lab stop', ends it")
    return lines


# --- finding a server ---------------------------------------------------------------------------


def _find(arguments: argparse.Namespace) -> runfiles.Running:
    servers = list(runfiles.running())
    token = arguments.token or os.environ.get("CLARENS_TOKEN") or ""
    if arguments.url:
        url = arguments.url if "://" in arguments.url else f"http://{arguments.url}"
        known = next((one for one in servers if one.is_at(url)), runfiles.Running(url, "", 0, ()))
        return replace(known, token=token or known.token)
    folder = Path.cwd()
    here = [one for one in servers if one.serves(folder)]
    if len(here) == 1:
        return replace(here[0], token=token or here[0].token)
    if here:
        shown = "\n".join(f"  {_shown(one)}" for one in here)
        raise Failed(f"several servers of this project run; choose one with --url:\n{shown}")
    others = "".join(f"\n  {_shown(one)}" for one in servers)
    elsewhere = f"; --url chooses one of another project:{others}" if servers else ""
    raise Failed(f"no server runs for {project_of(folder)}; start one with 'clarens-lab serve PATH'{elsewhere}")


def _shown(server: runfiles.Running) -> str:
    inside = "inside " if server.embedded else ""
    return f"{server.url}  {inside}pid {server.pid}  {', '.join(server.paths) or '-'}"


def _client(arguments: argparse.Namespace) -> Any:
    """A client for `lab.*`, which takes the server's token."""
    server = _find(arguments)
    if not server.token:
        server = _once_loaded(arguments, server)
    return _connected(server)


def _once_loaded(arguments: argparse.Namespace, server: runfiles.Running) -> runfiles.Running:
    """The server with what its run file tells, which it writes when all is loaded: waits a while for that."""
    deadline = time.monotonic() + LOADING_SECONDS
    while not server.token and server.listens_here():
        if time.monotonic() > deadline:
            raise Failed(
                f"the token of {server.url} is not known: no run file of yours tells it. A server of your own writes "
                "it once all is loaded, so try again then; of another's, give --token or CLARENS_TOKEN"
            )
        time.sleep(0.05)
        server = _find(arguments)
    return server


def _connected(server: runfiles.Running) -> Any:
    from clarens_lab.client import Client  # not needed by `serve` and `--help`

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
    if not server.pid and not server.token:
        server = _once_loaded(arguments, server)
    if not server.pid:
        raise Failed(f"{server.url} is not a server of yours on this machine; stop it where it was started")
    if server.embedded:
        raise Failed(f"{server.url} runs inside another program (pid {server.pid}), such as a notebook; stop it there")
    _check_process(server)
    os.kill(server.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while runfiles.is_alive(server.pid):
        if time.monotonic() > deadline:
            raise Failed(f"{server.url} (pid {server.pid}) has not ended after {STOP_SECONDS:g} s")
        time.sleep(0.02)
    _answer(arguments, {"stopped": server.url, "pid": server.pid}, lambda told: f"stopped {told['stopped']}")


def _check_process(server: runfiles.Running) -> None:
    """Makes sure that the process is the server, and not one that has got the number of a server that crashed."""
    from clarens_lab.client import Client  # not needed by `serve` and `--help`

    try:
        with Client(server.url, token=server.token, timeout=ASK_SECONDS) as client:
            pid = client.lab.status()["pid"]
    except TimedOut:  # it listens, but is stuck: stopping it is all the more wanted
        return
    except TransportFailed as fault:
        raise Failed(f"{server.url} does not answer, so pid {server.pid} is left alone: {fault.text}") from None
    if pid != server.pid:
        raise Failed(f"{server.url} is pid {pid}, not {server.pid} as its run file says; nothing was stopped")


def _servers(arguments: argparse.Namespace) -> None:
    servers = list(runfiles.running())
    shown = ("url", "pid", "paths", "project", "embedded")  # never the token
    told = [{name: value for name, value in asdict(one).items() if name in shown} for one in servers]
    _answer(arguments, told, lambda _: "\n".join(map(_shown, servers)) or "no server of yours runs")


def _services(arguments: argparse.Namespace) -> None:
    with _client(arguments) as client:
        told = _own_first(client.lab.services())
    _answer(arguments, told, lambda services: "\n".join(map(_service_line, services)))


def _own_first(services: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(services, key=lambda one: (one["bundled"], one["service"]))


def _service_line(service: Mapping[str, Any]) -> str:
    origin = "bundled" if service["bundled"] else service["path"] or "live cells"
    if not service["generation"]:
        return f"{service['service']}  not loaded: {service['trouble']}"
    stale = f"\n  stale: {service['trouble']}" if service["stale"] else ""
    return f"{service['service']}  generation {service['generation']}  {origin}{stale}"


def _methods(arguments: argparse.Namespace) -> None:
    _list_methods(arguments, arguments.service)


def _list_methods(arguments: argparse.Namespace, wanted: str | None) -> None:
    """Lists all methods, those of a service, or one (of a dotted name also those below it)."""
    server = _find(arguments)
    service = (wanted or "").partition(".")[0]
    with _connected(server) as client:
        known = _with_token(client, service) if server.token else _without_token(client)
    shown = [(name, text) for name, text in known if wanted is None or f"{name}.".startswith(f"{wanted}.")]
    if wanted is not None and not shown:
        raise Failed(_no_such(wanted, [name for name, _ in known]))
    told = [{"method": name, "signature": text} for name, text in shown]
    _answer(arguments, told, lambda _: "\n".join(text for _, text in shown))


def _no_such(wanted: str, methods: Sequence[str]) -> str:
    services = sorted({name.partition(".")[0] for name in methods})
    is_method = wanted.partition(".")[0] in services
    near = nearest(wanted, methods if is_method else services)
    hint = f"did you mean {near!r}?" if near else f"there are {', '.join(methods if is_method else services)}"
    return f"no {'method' if is_method else 'service'} {wanted!r}; {hint}"


def _with_token(client: Any, wanted: str) -> list[tuple[str, str]]:
    """Method and signature of each; asked at once, for one line in the server's log."""
    known = []
    for service in _own_first(client.lab.services()):
        name = service["service"]
        if name == wanted and not service["generation"]:
            raise Failed(f"{name} is not loaded: {service['trouble']}")
        known += [(f"{name}.{text.partition('(')[0]}", f"{name}.{text}") for text in service["methods"]]
    return known


def _without_token(client: Any) -> list[tuple[str, str]]:
    """The same as far as a stranger is told it."""
    names = client.system.listMethods()
    helps = client.multicall([("system.methodHelp", name) for name in names])
    return [(name, str(text).partition("\n")[0]) for name, text in zip(names, helps, strict=True)]


def _help(arguments: argparse.Namespace) -> None:
    if "." not in arguments.method:  # a service
        _list_methods(arguments, arguments.method)
        return
    with _connected(_find(arguments)) as client:
        told = client.system.methodHelp(arguments.method)
    _answer(arguments, told, str)


def _call(arguments: argparse.Namespace) -> int:
    name, given = call_of(arguments.call)
    server = _find(arguments)
    with _connected(server) as client:
        told = client.lab.call(name, given) if server.token else _called_by_a_stranger(client, name, given)
        if told.get("stale"):
            _say_stale(client, name.partition(".")[0], told["generation"])
    if told["output"]:
        print(told["output"], end="" if told["output"].endswith("\n") else "\n", file=sys.stderr)
    if "fault" in told:
        if arguments.json:
            print(json.dumps(told, indent=2, ensure_ascii=False, default=_as_json))
        print(f"clarens-lab: {told['fault']['text']} ({told['fault']['code']})", file=sys.stderr)
        return 1
    _answer(arguments, told["value"], _value_text)
    return 0


def _say_stale(client: Any, service: str, generation: int) -> None:
    """Warns that older code than the newest has answered, with the reason."""
    reasons = [one["trouble"] for one in client.lab.services() if one["service"] == service and one["stale"]]
    for reason in reasons:  # none if it has been mended in this moment
        print(f"clarens-lab: {service} is stale, generation {generation} answers: {reason}", file=sys.stderr)


def _called_by_a_stranger(client: Any, name: str, given: list[Any]) -> dict[str, Any]:
    """As `lab.call` answers, as far as it is known without the token."""
    try:
        return {"value": client.call(name, *given), "output": ""}
    except (TransportFailed, TimedOut):
        raise
    except Fault as fault:
        return {"fault": {"code": fault.code, "text": fault.text}, "output": ""}


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
    if not results:
        where = f"in {arguments.path}" if arguments.path else "of any service"
        raise Failed(f"no test cell was found {where}: one begins with '%%clarens test NAME'")
    return 0 if all(result["ok"] for result in results) else 1


def _local_results(path: Path) -> list[dict[str, Any]]:
    from clarens_lab.testing import run_tests_in  # not needed by the other verbs

    return [dict(result.as_struct()) for result in run_tests_in(path, tell=_note)]


def _note(text: str) -> None:
    print(f"clarens-lab: note: {text}", file=sys.stderr)


def _results_text(results: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for result in results:
        mark = "ok  " if result["ok"] else "FAIL"
        lines.append(f"{mark} {result['service']}: {result['test']} ({result['ms']:.0f} ms)")
        lines += [f"     {line}" for line in (result["traceback"] or result["error"]).splitlines()]
        lines += [f"     printed: {line}" for line in result["output"].splitlines() if not result["ok"]]
    failed = sum(not result["ok"] for result in results)
    return "\n".join([*lines, f"{len(results) - failed} passed, {failed} failed"]) if results else ""


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
    since, wait = 0, 0.0
    shown = logs.as_json if arguments.json else logs.as_text
    with _client(arguments) as client:
        while True:
            told = client.lab.log(since, wait)
            if told["lost"]:
                print(f"({told['lost']} older lines are not kept)", file=sys.stderr)
            for line in told["items"]:
                print(shown(line))
            sys.stdout.flush()
            if not arguments.follow:
                return
            since, wait = told["next"], FOLLOW_SECONDS


def _config(arguments: argparse.Namespace) -> None:
    project = project_of(Path.cwd())
    if arguments.value is not None:
        value, told = set_setting(project, arguments.key, arguments.value)
        _answer(arguments, {arguments.key: value}, lambda _: told)
        return
    settings = asdict(read(project))
    if arguments.key is not None:
        if arguments.key not in settings:
            value_of(arguments.key, "", where="config")
        _answer(arguments, settings[arguments.key], str)
        return
    _answer(arguments, settings, lambda _: "\n".join(_setting_line(name, settings[name]) for name in TABLE))


def set_setting(project: Path, key: str, text: str) -> tuple[object, str]:
    """Sets a key of the project's clarens.toml; the value as it is written there, and what to tell of it."""
    value = value_of(key, text, where="config")
    _set(project / FILE, key, value)
    over = variable(key)
    but = f", but {over} in the environment wins over it" if over in os.environ else ""
    return value, f"{key} = {json.dumps(value)} in {project / FILE}; a server reads it when it starts{but}"


def _setting_line(name: str, value: object) -> str:
    return f"{name} = {json.dumps(value)}  # {TABLE[name].metadata['help']}"


def _set(file: Path, key: str, value: Any) -> None:
    """Sets one key, and keeps the rest of the file, comments included."""
    import tomlkit  # only this verb writes TOML
    from tomlkit.exceptions import TOMLKitError

    try:
        document = tomlkit.parse(file.read_text(encoding="utf-8")) if file.exists() else tomlkit.document()
    except (TOMLKitError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file}: not readable as TOML, so nothing is set: {error}") from None
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
