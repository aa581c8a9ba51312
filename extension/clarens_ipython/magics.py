"""`%clarens` and `%%clarens`: reading the line, running the verb, failing the cell in one short rendering."""

import argparse
import builtins
import io
import os
import re
import shlex
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from IPython.core.magic import Magics, line_cell_magic, magics_class, no_var_expand
from IPython.display import display

from clarens_ipython import commands, completers
from clarens_ipython.link import Link
from clarens_ipython.views import Failed, NoMethod, Shown, View, WrongCall, refused, registered, results
from clarens_lab import output, proxy
from clarens_lab.source import LoadError
from clarens_lab.verbs import NOTEBOOK, NotACall, Parser, call_of, known_at, tree

if TYPE_CHECKING:
    from clarens_lab.loaders import Header

MARKED = re.compile(r"^\s*@(\w+\.)?method\b", re.MULTILINE)
HINT = (
    "nothing is served by this cell: '%%clarens service NAME' as its first line serves it from here, "
    "'clarens-lab serve' in a terminal serves the notebook once it is saved"
)
CELL_VERBS = "'%%clarens service [NAME]' or '%%clarens test [NAME]'"


class _HelpShown(Exception):
    """Help that was asked for, and has been printed."""


class Proxy(proxy.Proxy):
    """A service as an object; what is wrong with a call is told in one line."""

    _wrong = WrongCall
    _missing = NoMethod


class MagicParser(Parser):
    """Parses without ending the process: what is wrong becomes one line under the cell."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.exit_on_error = False

    def refuse(self, text: str) -> Any:
        """One line under the cell."""
        raise Failed(text)

    def exit(self, status: int = 0, message: str | None = None) -> Any:
        """After `--help`."""
        raise _HelpShown(message)


PARSER = tree(NOTEBOOK, MagicParser)


@magics_class
class ClarensMagics(Magics):
    """The magics of one shell, and its link to a server."""

    shell: Any  # IPython's own types say that there may be none

    def __init__(self, shell: Any) -> None:
        super().__init__(shell)
        self.link = Link()
        self.raw_cell = ""
        self.cell_id = ""
        self.hints = True
        """Whether a plain cell with `@method` is still to be told, once, that nothing is served by it."""

    def before_cell(self, info: Any) -> None:
        """Remembers the cell as its author sees it: IPython strips its leading blank lines before magics run."""
        self.raw_cell = info.raw_cell or ""
        self.cell_id = getattr(info, "cell_id", None) or ""
        self.link.notebook = self._notebook()
        output.renew()  # a cell before may have left its own stdout in place

    def after_cell(self, result: Any) -> None:
        """Tells, once, who marks a method in a plain cell how it is served."""
        if self.hints and MARKED.search(result.info.raw_cell or "") and "%%" not in result.info.raw_cell:
            self.hints = False
            display(View([("quiet", HINT)]))  # type: ignore[no-untyped-call]  # IPython leaves it without types

    @no_var_expand
    @line_cell_magic
    def clarens(self, line: str, cell: str | None = None) -> Any:
        """Replaced by the help of the tree."""
        try:
            if cell is not None:
                return self._cell(line, cell)
            return self._line(line)
        except _HelpShown:
            return None
        except commands.EXPECTED as error:
            raise Failed(str(error)) from None

    # --- %clarens -------------------------------------------------------------------------------

    def _line(self, line: str) -> Any:
        if not line.strip() or line.lstrip().startswith("#"):
            return commands.state(self.link)
        verb, _, rest = line.strip().partition(" ")
        if verb == "call":
            return self._call(rest.strip())
        if verb == "service":
            raise Failed(f"'service' begins a cell: write '%%clarens {line.strip()}' as its first line, with two %")
        arguments = parsed(line)
        answer = commands.ANSWERS[arguments.verb](self.link, arguments)
        if arguments.verb in ("serve", "connect", "reload", "remove"):
            self._refresh_proxies(bind=arguments.verb != "connect")
        return answer

    def _call(self, text: str) -> Any:
        if text.split(None, 1)[:1] == ["--json"]:  # what it answers is data already
            text = text.partition("--json")[2].strip()
        if text in ("-h", "--help"):
            parsed(f"call {text}")
        if not text:
            raise Failed("say what to call: %clarens call picalc.digits(50)")
        try:
            if commands.CALL.match(text):
                path, given, keywords = commands.call_in(text, self.shell.user_ns)
            else:
                path, given = call_of(shlex.split(text, comments=True))
                keywords = {}
        except (NotACall, ValueError) as error:
            raise Failed(str(error)) from None
        return self.link.call(path, self._positions(path, given, keywords))

    def _positions(self, path: str, given: list[Any], keywords: dict[str, Any]) -> list[Any]:
        if not keywords:
            return given
        service, _, name = path.partition(".")
        told = {one["service"]: one["methods"] for one in self.link.services()}
        signatures = {text.partition("(")[0]: proxy.parsed(text) for text in told.get(service, ())}
        if name not in signatures:  # the server says what is wrong with it
            return given
        try:
            return proxy.positions(path, signatures[name], given, keywords)
        except TypeError as error:
            raise WrongCall(str(error)) from None

    # --- %%clarens ------------------------------------------------------------------------------

    def _cell(self, line: str, cell: str) -> Any:
        from clarens_lab.loaders import header_of  # slow to import: not before there is a cell for it

        text = self._as_typed(line, cell)
        try:
            header = header_of(text, "this cell")
        except LoadError as error:
            raise Failed(str(error)) from None
        if header is None:
            raise Failed(f"%%clarens: write {CELL_VERBS}")
        service = header.service or self._own_name(header.verb)
        if not _has_code(cell):
            what = "the methods" if header.verb == "service" else "a test"
            raise Failed(f"the cell is empty: write {what} of {service!r} below its first line")
        return self._service(service, header, text, cell) if header.verb == "service" else self._test(service, text)

    def _as_typed(self, line: str, cell: str) -> str:
        """The cell's text with its lines where its author sees them, even below another cell magic."""
        header = f"%%clarens {line}".strip()
        lines = self.raw_cell.split("\n")
        above = next((index for index, one in enumerate(lines) if one.strip() == header), 0)
        return "\n" * above + f"{header}\n{cell}"

    def _own_name(self, verb: str) -> str:
        from clarens_lab.loaders import identifier  # as above

        if self.link.notebook is None:
            raise Failed(f"this notebook's file name is not known here: write '%%clarens {verb} NAME'")
        return identifier(self.link.notebook.stem)

    def _notebook(self) -> Path | None:
        """The notebook's file, where the front end tells it."""
        told = self.shell.user_ns.get("__vsc_ipynb_file__") or os.environ.get("JPY_SESSION_NAME", "")
        path = Path(told)
        return path.absolute() if path.suffix == ".ipynb" else None

    def _options(self, kind: str, header: "Header | None") -> dict[str, Any]:
        told: dict[str, Any] = {"kind": kind, "execution_count": self._number()}
        if self.cell_id:
            told["id"] = self.cell_id
        if self.link.notebook is not None:
            told["notebook"] = str(self.link.notebook)
        if header is not None and header.lent:
            told["lent"] = list(header.lent)
        return told

    def _number(self) -> int:
        """The n of the cell's `In[n]`; the shell's own count is of the next cell, or of this one, by its version."""
        frame = sys._getframe()
        while frame.f_back is not None:
            frame = frame.f_back
            told = self.shell.compile.format_code_name(frame.f_code.co_filename)
            if told is not None:
                return int(told[1].strip("In[]"))
        return int(self.shell.execution_count)

    def _service(self, service: str, header: "Header", text: str, cell: str) -> View | None:
        started = self.link.ensure()
        self._lend(service, header)
        try:
            report = self.link.ask("lab.register", service, text, self._options("service", header))
        except KeyboardInterrupt:
            self.link.ask("lab.interrupt", service)
            raise Failed(f"interrupted; {service} is as it was before this cell") from None
        if report.get("output"):
            print(report["output"], end="" if report["output"].endswith("\n") else "\n")
        if not report["ok"]:
            raise Failed(refused(report))
        self.link.refresh()
        view = registered(report, self._bind(service, report["methods"]), self.shell.user_ns)
        if started:
            view.lines.insert(0, ("quiet", "a server now runs inside this kernel ('%clarens' shows where)"))
        if header.lent:
            names = ", ".join(header.lent)
            view.lines.append(
                ("warn", f"{names}: lent by this notebook; a saved copy needs them made in a service cell")
            )
        if header.here:
            self._run_here(cell)
        display(view)  # type: ignore[no-untyped-call]  # IPython leaves it without types
        return None

    def _lend(self, service: str, header: "Header") -> None:
        if not header.lent:
            return
        missing = [name for name in header.lent if name not in self.shell.user_ns]
        if missing:
            raise Failed(f"--use {missing[0]}: this notebook has no {missing[0]!r}; run the cell that makes it first")
        self.link.lend(service, {name: self.shell.user_ns[name] for name in header.lent})

    def _run_here(self, cell: str) -> None:
        """Runs the cell in the notebook as well; what it raises has been shown when this fails the cell."""
        self.hints = False  # who writes --here knows
        if not self.shell.run_cell(cell, store_history=False).success:
            raise _AlreadyShown

    def _renew(self) -> None:
        """Brings the proxies and the completion up to what the server publishes now."""
        if self.link.url:
            self.link.refresh()
            self._refresh_proxies(bind=False)

    def _proxy(self, service: str, signatures: list[str]) -> proxy.Proxy:
        made = services().setdefault(service, Proxy(service, self.link.call, self.link.function, self._renew))
        made._update(signatures)
        return made

    def _bind(self, service: str, signatures: list[str]) -> str:
        """Binds the service's name to its proxy where it is free; says how to call the service."""
        made = self._proxy(service, signatures)
        first = signatures[0].partition("(")[0] if signatures else "METHOD"
        there = self.shell.user_ns.get(service, vars(builtins).get(service, made))
        if there is made or (isinstance(there, proxy.Proxy) and there._service == service):
            self.shell.user_ns[service] = made
            return f"call it as {service}.{first}(...)"
        return f"{service} is a name of yours, so call it as clarens_lab.services[{service!r}].{first}(...)"

    def _refresh_proxies(self, *, bind: bool) -> None:
        if not self.link.url:
            return
        told = {one["service"]: one for one in self.link.services()}
        for name, made in services().items():
            made._update(told[name]["methods"] if name in told else [])
        for name, one in told.items():
            if not one["bundled"] and name not in services():
                (self._bind if bind else self._proxy)(name, one["methods"])

    def _test(self, service: str, text: str) -> View:
        kept = self.link.ask("lab.register", service, text, self._options("test", None))
        told = [one for one in self.link.ask("lab.test", service) if one["test"] == kept["test"]]
        view = results(told)
        if not all(one["ok"] for one in told):
            raise Failed(repr(view))
        return view


class _AlreadyShown(Shown, Exception):
    """Fails a cell whose failure is on the screen already."""

    def _render_traceback_(self) -> list[str]:
        return []


def services() -> dict[str, proxy.Proxy]:
    """The proxies of this kernel by service: `clarens_lab.services`."""
    import clarens_lab

    return clarens_lab.services


def parsed(line: str) -> argparse.Namespace:
    """A line's verb and arguments; raises Failed with one line."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError as error:
        raise Failed(f"%clarens {line}: {error}") from None
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            return PARSER.parse_args(words)
    except argparse.ArgumentError as error:
        if words and words[0] in PARSER.known:  # Python 3.13 names only the root
            raise Failed(f"{PARSER.prog} {words[0]}: {error}") from None
        return PARSER.error(str(error))  # type: ignore[no-any-return]  # it raises
    except _HelpShown:
        print(printed.getvalue(), end="")
        raise


def _has_code(cell: str) -> bool:
    return any(line.strip() and not line.strip().startswith("#") for line in cell.split("\n"))


# --- coming and going ---------------------------------------------------------------------------

KEY = "_clarens_magics"


def load(shell: Any) -> None:
    """Registers the magics and the completion; harmless when they are."""
    if getattr(shell, KEY, None) is not None:
        return
    magics = ClarensMagics(shell)
    shell.register_magics(magics)
    shell.events.register("pre_run_cell", magics.before_cell)
    shell.events.register("post_run_cell", magics.after_cell)
    matcher = completers.matcher(PARSER, magics.link, shell.user_ns)
    shell.Completer.custom_matchers.append(matcher)
    setattr(shell, KEY, (magics, matcher))


def unload(shell: Any) -> None:
    """Takes away the magics and the completion, and stops or leaves the server."""
    kept: tuple[ClarensMagics, Callable[..., Any]] | None = getattr(shell, KEY, None)
    if kept is None:
        return
    magics, matcher = kept
    magics.link.close()
    shell.events.unregister("pre_run_cell", magics.before_cell)
    shell.events.unregister("post_run_cell", magics.after_cell)
    shell.Completer.custom_matchers.remove(matcher)
    for kind in ("line", "cell"):
        shell.magics_manager.magics[kind].pop("clarens", None)
    shell.magics_manager.registry.pop("ClarensMagics", None)
    for name, made in services().items():
        if shell.user_ns.get(name) is made:
            del shell.user_ns[name]
    services().clear()
    delattr(shell, KEY)


ClarensMagics.clarens.__doc__ = (
    f"{PARSER.format_help()}\nCells: {CELL_VERBS}.\nVerbs: {', '.join(known_at(NOTEBOOK))}.\n"
)
