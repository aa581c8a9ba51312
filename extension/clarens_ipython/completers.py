"""Completion of `%clarens` lines: verbs, options, services, methods and paths, from what is known already.

The server is never asked: completing must not wait for it.
"""

import argparse
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from IPython.core.completer import SimpleCompletion, context_matcher

from clarens_ipython.link import Link
from clarens_lab.settings import TABLE

HEAD = re.compile(r"^[ \t]*(?:[\w.,\s\[\]'\"]+=\s*)?%{1,2}clarens[ \t]+(?P<rest>[^\n]*)$")
AUTO = re.compile(r"^clarens[ \t]+(?P<rest>[^\n]*)$")
CELL = {"service": "publish the methods of this cell", "test": "a test of a service"}
CELL_OPTIONS = {"--here": "run the cell in the notebook as well", "--use": "lend objects of the notebook to it"}
Candidates = Iterable[tuple[str, str]]


def matcher(parser: argparse.ArgumentParser, link: Link, names: Mapping[str, object]) -> Callable[..., Any]:
    """The matcher for one shell, for `Completer.custom_matchers`; `names` are those of its user."""

    @context_matcher(identifier="clarens", priority=60)  # type: ignore[untyped-decorator]  # IPython has no types
    def match(context: Any) -> dict[str, Any]:
        line = context.text_until_cursor
        found = HEAD.match(line.rpartition("\n")[2]) or AUTO.match(line)
        if found is None:
            return {"completions": [], "suppress": False}
        words = found["rest"].split(" ")
        token = words.pop()
        words = [word for word in words if word]
        if words[:1] == ["call"] and "(" in found["rest"]:  # an expression of the user's: IPython completes it
            return {"completions": [], "suppress": False}
        if words[-1:] == ["--use"] or token.startswith("--use="):
            token = token.rpartition("=")[2].rpartition(",")[2]
            offered: Candidates = [(name, "name") for name in names if not name.startswith("_")]
        else:
            offered = candidates(parser, link, words, token, is_cell="%%" in line)
        completions = [SimpleCompletion(text=text, type=kind) for text, kind in offered if text.startswith(token)]
        return {"completions": completions, "matched_fragment": token, "suppress": True, "ordered": True}

    return match  # type: ignore[no-any-return]  # as above


def candidates(
    parser: argparse.ArgumentParser, link: Link, words: list[str], token: str, *, is_cell: bool
) -> Candidates:
    """What may come after these words, as (text, kind)."""
    if is_cell:
        return _in_cell_line(link, words, token)
    verbs = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    if not words:
        return [(name, "verb") for name in verbs.choices]
    verb = verbs.choices.get(words[0])
    if verb is None:
        return []
    if token.startswith("-"):
        return [(option, "option") for option in verb._option_string_actions if option.startswith("--")]
    last = verb._option_string_actions.get(words[-1])
    if last is not None and last.choices:
        return [(str(choice), "choice") for choice in last.choices]
    places = [action for action in verb._actions if not action.option_strings]
    given = len([word for word in words[1:] if not word.startswith("-")])
    if not places or (given >= len(places) and places[-1].nargs not in ("*", "+")):
        return []
    return _for(places[min(given, len(places) - 1)].dest, link, token, first=given == 0)


def _in_cell_line(link: Link, words: list[str], token: str) -> Candidates:
    if not words:
        return [(name, "verb") for name in CELL]
    if token.startswith("-") and words[0] == "service":
        return [(name, "option") for name in CELL_OPTIONS]
    return [(name, "service") for name in _services(link)] if len(words) == 1 else []


def _for(place: str, link: Link, token: str, *, first: bool) -> Candidates:
    if place in ("method", "call"):
        return [(name, "method") for name in link.methods] if first else []
    if place == "service":
        return [(name, "service") for name in _services(link)]
    if place == "path":
        return [*_paths(token)]
    if place == "key":
        return [(name, "setting") for name in TABLE]
    return []


def _services(link: Link) -> list[str]:
    return sorted({path.partition(".")[0] for path in link.methods})


def _paths(token: str) -> Iterable[tuple[str, str]]:
    folder, slash, start = token.rpartition("/")
    base = Path(f"{folder}{slash}" or ".")
    if not base.is_dir():
        return
    for path in sorted(base.iterdir()):
        if path.name.startswith(".") and not start.startswith("."):
            continue
        if path.is_dir() or path.suffix in (".ipynb", ".py"):
            yield f"{folder}{slash}{path.name}{'/' if path.is_dir() else ''}", "path"
