"""The verbs, with their arguments: one tree for two doors, `clarens-lab` in a terminal and `%clarens` in a notebook."""

import argparse
import ast
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clarens_lab import __version__
from clarens_lab.faults import nearest
from clarens_lab.settings import TABLE

TERMINAL, NOTEBOOK = "clarens-lab", "%clarens"


class NotACall(ValueError):
    """Words that do not say which method is called with what."""


@dataclass(frozen=True)
class Verb:
    """A verb: what it does in a few words, its arguments, and at which doors it is known."""

    text: str
    add: Callable[[argparse.ArgumentParser, str], None]
    doors: tuple[str, ...] = (TERMINAL, NOTEBOOK)


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, and what may have been meant."""

    known: tuple[str, ...] = ()
    given: Sequence[str] = ()
    """The words that are being parsed."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self.given = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> Any:
        if self.known and self.given and self.given[0].startswith("-"):  # of the root, which takes none but its own
            option = self.given[0]
            self.refuse(f"{self.prog}: options go after the verb: {self.prog} VERB {option}; VERB --help lists them")
        words = message.split("'")
        hint = ""
        if message.startswith("argument VERB: invalid choice"):
            near = nearest(words[1], self.known)
            message = f"no verb {words[1]!r}"
            hint = f"; did you mean {near!r}?" if near else f"; there are {', '.join(self.known)}"
        self.refuse(f"{self.prog}: {message}{hint}")

    def refuse(self, text: str) -> Any:
        """Ends the parsing with one line."""
        self.exit(2, f"{text}\n")


def known_at(door: str) -> "dict[str, Verb]":
    """The verbs of a door, by name, in the order in which help lists them."""
    return {name: verb for name, verb in VERBS.items() if door in verb.doors}


def tree(door: str, parser_class: type[Parser] = Parser) -> Parser:
    """The tree of the verbs that are known at a door; what it parses has the verb as `verb`."""
    known = known_at(door)
    root = parser_class(prog=door, description="Serve notebooks as network services, and talk to servers that run.")
    if door == TERMINAL:
        root.add_argument("--version", action="version", version=f"clarens-lab {__version__}")
    verbs = root.add_subparsers(metavar="VERB", title="verbs", dest="verb", parser_class=parser_class)
    root.known = tuple(known)
    for name, verb in known.items():
        added = verbs.add_parser(name, help=verb.text, description=f"{verb.text[0].upper()}{verb.text[1:]}.")
        verb.add(added, door)
    return root


def _json_option(verb: argparse.ArgumentParser, door: str) -> None:
    verb.add_argument("--json", action="store_true", help="answer as JSON")


def _server_options(verb: argparse.ArgumentParser, door: str) -> None:
    _json_option(verb, door)
    if door == NOTEBOOK:  # there the kernel's own server is meant
        return
    verb.add_argument("--url", help="the server's address; without it, this project's running server")
    verb.add_argument("--token", help="its lab token; without it, from its run file or CLARENS_TOKEN")


def _add_serve(verb: argparse.ArgumentParser, door: str) -> None:
    nothing = "this folder" if door == TERMINAL else "the cells of this notebook only"
    verb.add_argument("path", nargs="*", type=Path, help=f"notebook, .py file, package or folder (default: {nothing})")
    verb.add_argument("--port", type=int, help=f"port to listen on (default {TABLE['port'].default}; 0: any free one)")
    verb.add_argument("--host", help=f"address to listen on (default {TABLE['host'].default})")
    if door == NOTEBOOK:
        verb.add_argument("--detach", action="store_true", help="in a process of its own, which outlives the kernel")
        return
    verb.add_argument("--empty", action="store_true", help="without a path: serve no file at first")
    verb.add_argument("--debug", action=argparse.BooleanOptionalAction, help="tell callers the traceback of a fault")
    verb.add_argument("--reload", action=argparse.BooleanOptionalAction, help="reload files when they are saved")
    verb.add_argument("--run-file", type=Path, help="write url, token, pid and paths to this file once it serves")
    verb.add_argument("--log-file", help="write the log to this file, rotated, instead of stderr")
    verb.add_argument("--log-format", choices=("text", "json"), help="write log lines as text or as JSON")


def _add_service(verb: argparse.ArgumentParser, door: str) -> None:
    verb.add_argument("service", help="the service's name")
    _server_options(verb, door)


def _add_methods(verb: argparse.ArgumentParser, door: str) -> None:
    one = " (or this method)" if door == TERMINAL else ""
    verb.add_argument("service", nargs="?", help=f"only this service's{one}")
    _server_options(verb, door)


def _add_method(verb: argparse.ArgumentParser, door: str) -> None:
    all_of_it = "; a service's name lists its methods" if door == TERMINAL else ""
    verb.add_argument("method", help=f"as service.method{all_of_it}")
    _server_options(verb, door)


def _add_call(verb: argparse.ArgumentParser, door: str) -> None:
    verb.add_argument("call", nargs="+", help="'service.method(1, \"x\")', or service.method 1 x (JSON or plain words)")
    _server_options(verb, door)


def _add_test(verb: argparse.ArgumentParser, door: str) -> None:
    verb.add_argument("path", nargs="?", help="a notebook, file or package, tested with no server; or a service's name")
    _server_options(verb, door)


def _add_reload(verb: argparse.ArgumentParser, door: str) -> None:
    _add_service(verb, door)
    verb.add_argument("--fresh", action="store_true", help="also forget what keep() made")


def _add_log(verb: argparse.ArgumentParser, door: str) -> None:
    if door == TERMINAL:
        verb.add_argument("--follow", "-f", action="store_true", help="go on with what comes, until interrupted")
    _server_options(verb, door)


def _add_config(verb: argparse.ArgumentParser, door: str) -> None:
    verb.add_argument("key", nargs="?", help="a setting")
    verb.add_argument("value", nargs="?", help="set it to this in the project's clarens.toml")
    verb.add_argument("--json", action="store_true", help="answer as JSON")


def _add_connect(verb: argparse.ArgumentParser, door: str) -> None:
    verb.add_argument("url", nargs="?", help="its address; without it, this project's running server")


VERBS: dict[str, Verb] = {
    "serve": Verb("serve notebooks, .py files, packages and folders", _add_serve),
    "connect": Verb("use a server that runs in a process of its own", _add_connect, (NOTEBOOK,)),
    "stop": Verb("stop a running server", _server_options),
    "servers": Verb("list your running servers", _json_option),
    "services": Verb("list the services of a server", _server_options),
    "methods": Verb("list methods with their signatures", _add_methods),
    "help": Verb("show a method's signature and documentation", _add_method),
    "call": Verb("call a method", _add_call),
    "test": Verb("run the test cells of a notebook, or of a server's services", _add_test),
    "remove": Verb("withdraw a service and free its name", _add_service),
    "reload": Verb("load a service again, changed or not", _add_reload),
    "log": Verb("show a server's log", _add_log),
    "config": Verb("list, read or set the project's settings", _add_config),
}


def call_of(words: Sequence[str]) -> tuple[str, list[Any]]:
    """The method and arguments of `service.method(1, "x")` or of `service.method 1 x`; NotACall if it is neither."""
    text = " ".join(words)
    if "(" not in words[0]:
        return words[0], [_literal(word) for word in words[1:]]
    try:
        tree = ast.parse(text.strip().rstrip(";"), mode="eval").body
        if not isinstance(tree, ast.Call):
            raise ValueError("that is no call")
        if tree.keywords:
            raise ValueError("XML-RPC passes arguments by position only")
        return ast.unparse(tree.func), [_value(argument) for argument in tree.args]
    except (SyntaxError, ValueError) as error:
        raise NotACall(
            f"{text!r} cannot be called: {error}; write service.method(1, 'x') with literal values"
        ) from None


def _value(argument: ast.expr) -> Any:
    try:
        return ast.literal_eval(argument)
    except ValueError:
        raise ValueError(f"{ast.unparse(argument)} is no literal (text goes in quotes)") from None


def _literal(word: str) -> Any:
    try:
        return json.loads(word)
    except ValueError:
        return word
