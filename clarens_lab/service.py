"""What a service is written with: `@method`, `keep`, the hooks, `current_call()`; and what comes of it.

Marking changes nothing about a function: it can still be called, tested and timed as it is. The mark is read
when the service is loaded.
"""

import inspect
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, TypeVar, overload

from clarens_lab.signature import Signature, declared, signature_of, written

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

MARK = "__clarens_method__"
NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


@dataclass(frozen=True)
class Mark:
    """What `@method` says of a function."""

    name: str | None
    signatures: tuple[tuple[str, ...], ...]
    help: str | None
    timeout: float | None
    inline: bool
    home: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """The globals of the code that marked it. A decorated function may call another module its own; this tells."""


@overload
def method(function: F, /) -> F: ...
@overload
def method(
    *,
    name: str | None = None,
    signatures: str | Iterable[str | Sequence[str]] = (),
    help: str | None = None,
    timeout: float | None = None,
    inline: bool = False,
) -> Callable[[F], F]: ...


def method(
    function: F | None = None,
    /,
    *,
    name: str | None = None,
    signatures: str | Iterable[str | Sequence[str]] = (),
    help: str | None = None,
    timeout: float | None = None,
    inline: bool = False,
) -> F | Callable[[F], F]:
    """Marks a function as a method of the service it is written in, and returns it unchanged.

        @method
        def digits(n: int) -> str: ...

        @method(name="pi.digits", timeout=30)
        def digits(n: int) -> str: ...

    `name` replaces the function's name on the wire. `signatures` (`"string,int"`, the return type first)
    replaces what the hints say; `help` the docstring. `timeout` is the call's time limit in seconds.
    `inline` runs a plain function on the server's event loop: quicker for one that answers at once,
    while a slow one would hold up every other call.

    Raises TypeError if the object takes no mark, ValueError for a name that cannot be called.
    """
    if name is not None and not NAME.fullmatch(name):
        raise ValueError(f"@method(name={name!r}): a method's name is made of Python names and dots")
    if timeout is not None and timeout <= 0:
        raise ValueError(f"@method(timeout={timeout!r}): seconds, more than 0")
    listed = [signatures] if isinstance(signatures, str) else signatures
    mark = Mark(name, declared(listed), help, timeout, inline, sys._getframe(1).f_globals)

    def put(function: F) -> F:
        if not callable(function):
            named = f"; a name is given as @method(name={function!r})" if isinstance(function, str) else ""
            raise TypeError(f"@method marks functions; {function!r} cannot be called{named}")
        try:
            setattr(function, MARK, mark)
        except (AttributeError, TypeError):  # TypeError: a class that is built in
            raise TypeError(
                f"@method cannot mark {function!r}: write a function of your own that calls it, and mark that"
            ) from None
        return function

    return put if function is None else put(function)


@dataclass(frozen=True, eq=False)
class Method:
    """One callable of a service, as it is called: the function, its signature, its help."""

    service: str
    name: str
    function: Callable[..., Any]
    signature: Signature
    signatures: tuple[tuple[str, ...], ...]
    help: str
    timeout: float | None = None
    inline: bool = False

    @property
    def path(self) -> str:
        """The name on the wire: `picalc.digits`."""
        return f"{self.service}.{self.name}"

    @property
    def is_async(self) -> bool:
        """Whether calling it gives a coroutine, which runs on the event loop."""
        function = self.function
        return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004  # an object's own __call__ may be the coroutine
        )


def marked(function: Callable[..., Any], service: str, key: str) -> Method:
    """The Method of a marked function that the service knows as `key`; raises Unpublishable."""
    mark: Mark = getattr(function, MARK)
    name = mark.name or key
    signature = signature_of(function, name)
    text = mark.help if mark.help is not None else inspect.getdoc(written(function)) or ""
    signatures = mark.signatures or signature.alternatives
    return Method(service, name, function, signature, signatures, text, mark.timeout, mark.inline)


def marked_in(namespace: Mapping[str, Any], owns: Callable[[object], bool]) -> dict[str, Callable[..., Any]]:
    """The functions that a namespace publishes, by the name on the wire.

    One that is bound under several names is published under the one it was defined as.
    """
    found: dict[str, Callable[..., Any]] = {}
    for key, value in list(namespace.items()):
        if issubclass(type(value), ModuleType):  # a lazy one would be loaded by the question
            continue
        if is_marked(value) and owns(value):
            defined_as = getattr(value, "__name__", key)
            if defined_as == key or namespace.get(defined_as) is not value:
                found[getattr(value, MARK).name or key] = value
    return found


def is_marked(value: object) -> bool:
    """Whether `@method` marked this object."""
    try:
        return isinstance(getattr(value, MARK, None), Mark)
    except Exception:  # noqa: BLE001  # a lazy proxy in the namespace may raise anything when it is touched
        return False


def methods_of(service: str, thing: object) -> dict[str, Method]:
    """The methods of an object whose marked methods are a service, as the bundled ones are."""
    functions = (getattr(thing, key) for key in dir(thing) if not key.startswith("_"))
    made = (marked(each, service, each.__name__) for each in functions if is_marked(each))
    return {one.name: one for one in made}


# --- what outlives a generation, and what happens when one starts and ends ---------------------


class Kept:
    """A service's objects that survive every reload, until it is loaded fresh."""

    def __init__(self) -> None:
        self._things: dict[str, Any] = {}
        self._locks: dict[str, threading.RLock] = {}
        """One for each name: what is slow to make holds up those who want it, and nobody else."""

    def keep(self, name: str, make: Callable[[], T]) -> T:
        """The object kept as `name`, made by `make` the first time."""
        with self._locks.setdefault(name, threading.RLock()):
            if name not in self._things:
                self._things[name] = make()
            kept: T = self._things[name]
            return kept


@dataclass
class Building:
    """A generation being built: where `keep` and the hooks leave what they are given."""

    kept: Kept
    startup: list[Callable[[], Any]] = field(default_factory=list)
    unload: list[Callable[[], Any]] = field(default_factory=list)


_building: ContextVar[Building | None] = ContextVar("building", default=None)


@contextmanager
def building(one: Building) -> Iterator[None]:
    """While the block runs, `keep`, `on_startup` and `on_unload` mean this generation."""
    token = _building.set(one)
    try:
        yield
    finally:
        _building.reset(token)


def keep(name: str, make: Callable[[], T]) -> T:
    """The object called `name`, which survives every reload of the service; made by `make` once.

        model = keep("model", load_model)

    In a method it is the same object as at load. Outside of a service it is made anew at each call.
    """
    one = _building.get()
    if one is not None:
        return one.kept.keep(name, make)
    call = _current.get()
    return make() if call is None or call.kept is None else call.kept.keep(name, make)


def on_startup(function: F) -> F:
    """Runs the function each time a generation has been loaded, before it serves its first call.

    If it raises, the load has failed and the old generation serves on.
    """
    if (one := _building.get()) is not None:
        one.startup.append(function)
    return function


def on_unload(function: F) -> F:
    """Runs the function once when a generation is gone: replaced, and its last call has ended.

    The place to stop timers and threads, and to close what was opened. What it raises is logged.
    """
    if (one := _building.get()) is not None:
        one.unload.append(function)
    return function


def completed(value: Any) -> Any:
    """The result of a coroutine that runs to its end here and now: at load, or in a test; any other value as it is."""
    if not inspect.isawaitable(value):
        return value
    import asyncio  # not needed by those who only mark methods

    async def wait() -> Any:
        return await value

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(wait())
    ended: list[Any] = []  # a notebook's own loop runs in this thread: another one takes it

    def run() -> None:
        try:
            ended.extend((asyncio.run(wait()), None))
        except BaseException as error:  # noqa: BLE001  # raised again where it is waited for
            ended.extend((None, error))

    thread = threading.Thread(target=copy_context().run, args=(run,), daemon=True)
    thread.start()
    thread.join()
    if ended[1] is not None:
        raise ended[1]
    return ended[0]


# --- the call that is running ------------------------------------------------------------------


@dataclass(frozen=True)
class Caller:
    """Who is calling: distinguished name, address, session; `lab` if the lab token was shown."""

    dn: str = ""
    address: str = ""
    session: str = ""
    lab: bool = False


@dataclass(frozen=True, eq=False)
class Call:
    """One invocation, as `current_call()` gives it to the code that it runs."""

    id: int
    method: str
    caller: Caller
    kept: Kept | None = field(default=None, repr=False)
    catalogue: Any = field(default=None, repr=False)
    """What is served while the call lasts: a registry.Catalogue."""

    @property
    def dn(self) -> str:
        """The caller's distinguished name, `/O=.../CN=...`."""
        return self.caller.dn

    @property
    def address(self) -> str:
        """The caller's network address."""
        return self.caller.address

    @property
    def session(self) -> str:
        """The caller's session; empty while there is no login."""
        return self.caller.session


_current: ContextVar[Call | None] = ContextVar("call", default=None)


def current_call() -> Call:
    """The call that runs this code: `.id`, `.method`, and the caller's `.dn`, `.address`, `.session`.

    Raises RuntimeError where none does: at load, or in a thread that the service started itself.
    """
    call = _current.get()
    if call is None:
        raise RuntimeError("current_call(): no call runs this code; it is known only while a client's call lasts")
    return call


@contextmanager
def running(call: Call) -> Iterator[None]:
    """While the block runs, `current_call()` is this call."""
    token = _current.set(call)
    try:
        yield
    finally:
        _current.reset(token)
