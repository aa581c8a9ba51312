"""What a service is written with: marks that change nothing, what is kept, hooks, and the call that is running."""

import asyncio
import functools
import threading
from pathlib import Path
from typing import Any

import pytest
from serving import write_notebook

from clarens_lab import current_call, keep, method, on_startup, on_unload
from clarens_lab.loaders import build, read
from clarens_lab.registry import Generation
from clarens_lab.service import Building, Call, Caller, Kept, building, completed, marked, running
from clarens_lab.source import LoadError

HEADER = "%%clarens service s\nfrom clarens_lab import method, keep, on_startup, on_unload, current_call\n"


def built(folder: Path, *cells: str, kept: Kept | None = None) -> Generation:
    path = write_notebook(folder / "s.ipynb", HEADER, *(f"%%clarens service s\n{cell}" for cell in cells))
    (source,) = read(path)
    return build(source, kept or Kept())


# --- marking -----------------------------------------------------------------------------------


def test_a_marked_function_is_the_function_itself() -> None:
    """@method returns the very function, bare or with options."""

    def plain(n: int) -> int:
        return n + 1

    assert method(plain) is plain
    assert method(name="p.q", timeout=2)(plain) is plain
    assert plain(1) == 2


def test_a_mark_tells_name_help_and_signatures() -> None:
    """Name, help and signatures in the mark go before those of the function; a lone signature may be a text."""

    def plain(n: int) -> int:
        """Of the function."""
        return n

    assert marked(method(plain), "s", "plain").help == "Of the function."
    made = marked(method(name="a.b", help="Of the mark.", signatures="string, int")(plain), "s", "plain")

    assert (made.path, made.help, made.signatures) == ("s.a.b", "Of the mark.", (("string", "int"),))
    both = marked(method(signatures=["int", ("int", "string")])(plain), "s", "plain")
    assert both.signatures == (("int",), ("int", "string"))


@pytest.mark.parametrize("name", ["", "a b", "1a", "a..b", ".a", "a.", "a-b"])
def test_a_name_that_cannot_be_called_is_refused(name: str) -> None:
    """@method(name=...) takes Python names and dots only."""
    with pytest.raises(ValueError, match="made of Python names and dots"):
        method(name=name)


def test_a_time_limit_is_more_than_nothing() -> None:
    """@method(timeout=0) is refused."""
    with pytest.raises(ValueError, match="more than 0"):
        method(timeout=0)


@pytest.mark.parametrize("thing", [len, int, [].append], ids=repr)
def test_what_takes_no_mark_is_refused_with_the_way_out(thing: Any) -> None:
    """Built-in functions and classes cannot be marked; the refusal says to write a function that calls them."""
    with pytest.raises(TypeError, match="write a function of your own that calls it"):
        method(thing)


def test_a_name_given_by_position_is_told_how() -> None:
    """@method("digits") is told to write name=."""
    with pytest.raises(TypeError, match=r"@method\(name='digits'\)"):
        method("digits")  # type: ignore[call-overload]  # the mistake


def test_what_can_be_called_is_a_method(tmp_path: Path) -> None:
    """Functions, coroutines, callables, partials, caches, static and bound methods are published with their help."""
    generation = built(
        tmp_path,
        """
import functools

class Adder:
    "Adds."
    def __init__(self, n): self.n = n
    def __call__(self, m: int) -> int: return self.n + m
    def bound(self, m: int) -> int: return self.n - m
    bound = method(bound)
    async def later(self, m: int) -> int: return m

def power(base: int, exponent: int) -> int:
    "A power."
    return base ** exponent

three = method(Adder(3))
down = Adder(9).bound
squared = method(functools.partial(power, exponent=2))
two_to = method(functools.partial(power, 2))
half = method(lambda n: n / 2)

@method
@functools.lru_cache
def cached(n: int) -> int:
    "Once."
    return n

@functools.lru_cache
@method
def cached_mark(n: int) -> int: return n

@method
@staticmethod
def still(n: int) -> int: return n

@method
async def soon(n: int) -> int: return n
""",
    )
    methods = generation.methods

    assert sorted(methods) == [
        "cached", "cached_mark", "down", "half", "soon", "squared", "still", "three", "two_to",
    ]  # fmt: skip
    assert {name: one.help for name, one in methods.items() if one.help} == {
        "cached": "Once.", "squared": "A power.", "three": "Adds.", "two_to": "A power.",
    }  # fmt: skip
    assert [name for name, one in methods.items() if one.is_async] == ["soon"]
    assert methods["two_to"].signature.text == "two_to(exponent: int) -> int"
    assert methods["two_to"].function(*methods["two_to"].signature.bind([5], "s.two_to")) == 32
    assert methods["three"].signature.text == "three(m: int) -> int"
    assert methods["three"].function(4) == 7
    assert methods["squared"].function(7) == 49
    assert methods["squared"].signature.fixed == ("exponent",)


def test_decorated_methods_are_published_with_and_without_wraps(tmp_path: Path) -> None:
    """A decorator of another module may hide a function's name and module: marked here, it is a method here."""
    (tmp_path / "helpers.py").write_text(
        "import functools\n"
        "def plain(f):\n    def wrapper(*args):\n        return f(*args)\n    return wrapper\n"
        "def kind(f):\n    @functools.wraps(f)\n    def wrapper(*args):\n        return f(*args)\n    return wrapper\n"
        "from clarens_lab import method\n"
        "@method\ndef theirs(): return 0\n"
    )
    generation = built(
        tmp_path,
        "from helpers import kind, plain, theirs\n"
        "@method\n@plain\ndef one(n: int) -> int: return n\n"
        "@method\n@plain\ndef two(n: int) -> int: return n\n"
        "@plain\n@method\ndef lost(n: int) -> int: return n\n"
        "@method\n@kind\ndef three(n: int) -> int: return n\n",
    )

    assert list(generation.methods) == ["one", "two", "three"]
    assert generation.methods["three"].signature.text == "three(n: int) -> int"
    assert generation.methods["one"].signature.text == "one(*args)"
    assert [generation.methods[name].function(4) for name in ("one", "two", "three")] == [4, 4, 4]


def test_what_is_only_imported_is_no_method(tmp_path: Path) -> None:
    """A marked function that a service imports is not its own; one that the service marks itself is."""
    (tmp_path / "other.py").write_text(
        "from clarens_lab import method\n@method\ndef theirs(): ...\ndef plain(): 'Plain.'\n"
    )
    generation = built(tmp_path, "from other import theirs, plain\nmine = method(plain)\n")

    assert list(generation.methods) == ["plain"]


def test_a_function_with_two_names_is_one_method(tmp_path: Path) -> None:
    """A method that is bound to another name as well is published once, as it was defined."""
    generation = built(tmp_path, "@method\ndef digits(): return 1\nalias = digits\n")

    assert list(generation.methods) == ["digits"]


def test_a_lazy_proxy_in_a_namespace_does_no_harm(tmp_path: Path) -> None:
    """An object that raises at whatever it is asked is no method, and no failure; a lazy module is left alone."""
    generation = built(
        tmp_path,
        "import types\n"
        "class Proxy:\n    def __getattribute__(self, name): raise RuntimeError(name)\n"
        "class Lazy(types.ModuleType):\n    def __getattr__(self, name): asked.append(name); raise AttributeError\n"
        "asked, proxy, lazy = [], Proxy(), Lazy('lazy')\n@method\ndef f(): return asked\n",
    )

    assert list(generation.methods) == ["f"]
    assert generation.methods["f"].function() == []


# --- keep --------------------------------------------------------------------------------------


def test_keep_survives_a_reload_and_fresh_forgets(tmp_path: Path) -> None:
    """keep gives the object made first, until the service starts with an empty Kept; also inside of a method."""
    kept = Kept()
    cell = "things = keep('things', list)\n@method\ndef again(): return keep('things', list)\n"
    first = built(tmp_path, cell, kept=kept).namespace["things"]
    second = built(tmp_path, cell + "\n# changed", kept=kept)
    fresh = built(tmp_path, cell)

    assert second.namespace["things"] is first
    assert fresh.namespace["things"] is not first
    with running(Call(1, "s.again", Caller(), kept)):
        assert second.methods["again"].function() is first


def test_keep_makes_once_under_many_threads() -> None:
    """However many calls ask at once, the object is made once."""
    kept, made, start = Kept(), list[int](), threading.Barrier(8)

    def ask() -> None:
        start.wait()
        kept.keep("one", lambda: made.append(1) or object())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert made == [1]


def test_keep_that_fails_is_tried_again() -> None:
    """What could not be made is not kept; what is made may keep other things itself."""
    kept = Kept()
    with building(Building(kept)):
        with pytest.raises(ZeroDivisionError):
            keep("x", lambda: 1 // 0)
        assert keep("x", lambda: keep("y", lambda: 2) + 1) == 3
    assert keep("x", lambda: "anew") == "anew"


# --- hooks -------------------------------------------------------------------------------------


def test_hooks_run_once_each_plain_and_async(tmp_path: Path) -> None:
    """on_startup hooks have run when the generation is built, on_unload hooks when it is let go; coroutines too."""
    generation = built(
        tmp_path,
        """
import threading
told, gone = [], threading.Event()

@on_startup
def plain(): told.append("plain"); keep("k", lambda: told.append("kept"))

@on_startup
async def later(): told.append("async")

@on_unload
def end(): told.append("end")

@on_unload
async def last(): told.append("last"); gone.set()

@method
def f(): return 1
""",
    )
    told = generation.namespace["told"]
    assert told == ["plain", "kept", "async"]

    generation.unload()
    gone = generation.namespace["gone"]
    assert isinstance(gone, threading.Event)
    assert gone.wait(20)
    assert told == ["plain", "kept", "async", "end", "last"]


def test_a_start_up_hook_that_raises_fails_the_load(tmp_path: Path) -> None:
    """A hook that raises at start-up is a failed load, with its cell and line."""
    with pytest.raises(LoadError, match=r"^s\.ipynb cell 2, line 3 \(start\): ZeroDivisionError: division by zero$"):
        built(tmp_path, "@on_startup\ndef start(): 1/0\n@method\ndef f(): ...\n")


def test_an_unload_hook_that_raises_is_logged_and_the_others_run(tmp_path: Path, logged: Any) -> None:
    """What an on_unload hook raises is logged with its place; the next hook still runs."""
    generation = built(
        tmp_path,
        "import threading\ngone = threading.Event()\n"
        "@on_unload\ndef bad(): 1/0\n@on_unload\ndef good(): gone.set()\n@method\ndef f(): ...\n",
    )
    generation.unload()

    gone = generation.namespace["gone"]
    assert isinstance(gone, threading.Event)
    assert gone.wait(20)
    logged.claim(r"s: on_unload: s\.ipynb cell 2, line 5 \(bad\): ZeroDivisionError: division by zero")


def test_outside_of_a_service_hooks_and_keep_do_nothing_odd() -> None:
    """In a plain script the hooks return the function and keep makes the object."""

    def hook() -> None: ...

    assert on_startup(hook) is hook
    assert on_unload(hook) is hook
    assert keep("x", lambda: 5) == 5


# --- the call ----------------------------------------------------------------------------------


def test_current_call_is_known_only_while_it_lasts() -> None:
    """current_call() gives id, method and caller inside of a call, and a sentence outside of one."""
    call = Call(7, "s.f", Caller(dn="/CN=Ada", address="10.0.0.1", session="x"))
    with running(call):
        assert current_call() is call
        assert (call.id, call.method, call.dn, call.address, call.session) == (7, "s.f", "/CN=Ada", "10.0.0.1", "x")
    with pytest.raises(RuntimeError, match="no call runs this code"):
        current_call()


def test_a_coroutine_can_be_completed_where_a_loop_runs() -> None:
    """completed() ends a coroutine in a plain thread and in one where a notebook's loop runs; current_call() holds."""

    async def told() -> int:
        await asyncio.sleep(0)
        return current_call().id

    async def failing() -> None:
        raise KeyError("x")

    async def in_a_loop() -> tuple[object, object]:
        with pytest.raises(KeyError):
            completed(failing())
        return completed(told()), completed(5)

    with running(Call(3, "s.f", Caller())):
        assert completed(told()) == 3
        assert asyncio.run(in_a_loop()) == (3, 5)


def test_partials_of_partials_are_followed() -> None:
    """A partial of a partial has the help of the function inside."""

    def f(a: int, b: int, c: int) -> int:
        """Three."""
        return a + b + c

    made = marked(method(functools.partial(functools.partial(f, 1), 2)), "s", "g")

    assert (made.help, made.signature.text) == ("Three.", "g(c: int) -> int")


def test_keep_holds_up_those_who_want_the_same_alone() -> None:
    """While one thing is made, another can be kept by another thread; and `make` may keep others itself."""
    kept, began, end = Kept(), threading.Event(), threading.Event()

    def slow() -> str:
        began.set()
        assert end.wait(20)
        return kept.keep("inner", lambda: "inner")

    thread = threading.Thread(target=kept.keep, args=("slow", slow), daemon=True)
    thread.start()
    assert began.wait(20)
    quick: list[str] = []
    other = threading.Thread(target=lambda: quick.append(kept.keep("quick", lambda: "quick")), daemon=True)
    other.start()
    other.join(5)
    meanwhile = list(quick)
    end.set()
    thread.join(20)
    assert meanwhile == ["quick"]
    assert kept.keep("slow", lambda: "anew") == "inner"
