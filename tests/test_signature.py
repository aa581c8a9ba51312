"""The table of hints: what the wire says of a parameter, and which arguments fit it."""

from __future__ import annotations

import collections
import collections.abc
import dataclasses
import datetime
import enum
import functools
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, NamedTuple, NewType, Optional, TypedDict, TypeVar

import numpy as np
import numpy.typing as npt
import pytest

from clarens_lab import Fault
from clarens_lab.signature import Unpublishable, signature_of, wire_of

# ruff: noqa: UP045, UP007  # the old spelling of hints is what many notebooks hold

if TYPE_CHECKING:
    from somewhere import Nothing  # type: ignore[import-not-found]  # there is no such module

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5)
T = TypeVar("T")
Run = NewType("Run", int)
Deep = NewType("Deep", Run)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Options(TypedDict, total=False):
    depth: int


class Pair(NamedTuple):
    a: int
    b: int


@dataclass
class Point:
    x: float
    y: float = 0.0
    label: Optional[str] = None


@dataclass
class Node:
    name: str
    at: Point
    parent: Node | None = None
    tags: list[str] = field(default_factory=list)
    made: int = field(default=0, init=False)


@dataclass
class Box(Generic[T]):
    inside: T


@dataclass
class Positive:
    n: int
    scale: InitVar[int] = 1

    def __post_init__(self, scale: int) -> None:
        if self.n <= 0:
            raise ValueError("n is to be positive")
        self.n *= scale


@dataclass
class Partly:
    known: Point
    unknown: Nothing = None


def bind(hint: Any, value: object) -> Any:
    """What a function with one parameter of that hint gets."""

    def f(a):  # type: ignore[no-untyped-def]  # the hint comes below
        return a

    f.__annotations__ = {"a": hint}
    (bound,) = signature_of(f, "f").bind([value], "s.f")
    return bound


def refusal(hint: Any, value: object) -> str:
    with pytest.raises(Fault) as refused:
        bind(hint, value)
    assert refused.value.code == -32602
    return refused.value.text


# --- the table ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hint", "wire"),
    [
        (int, "int"), (float, "double"), (str, "string"), (bool, "boolean"), (bytes, "base64"),
        (datetime.datetime, "dateTime.iso8601"),
        (list, "array"), (list[int], "array"), (typing.List[int], "array"), (typing.List, "array"),  # noqa: UP006
        (tuple, "array"), (tuple[int, str], "array"), (set[int], "array"), (frozenset[str], "array"),
        (Sequence[int], "array"), (Iterable[int], "array"), (np.ndarray, "array"), (npt.NDArray[np.float64], "array"),
        (dict, "struct"), (dict[str, int], "struct"), (Mapping[str, int], "struct"), (Options, "struct"),
        (Point, "struct"), (Box[int], "struct"),
        (Optional[int], "int"), (int | None, "int"), (None | list[str], "array"), (Optional[Point], "struct"),
        (Literal["a", "b"], "string"), (Literal[1, 2], "int"), (Literal[1, "a"], "undef"), (Literal[True], "boolean"),
        (Literal[Colour.RED], "string"), (Colour, "string"), (Level, "int"), (Optional[Colour], "string"),
        (Run, "int"), (Deep, "int"), (Annotated[int, "of something"], "int"), (Optional[Annotated[str, 1]], "string"),
        (None, "nil"), (type(None), "nil"),
        (Any, "undef"), (int | str, "undef"), (int | str | None, "undef"), (object, "undef"), (T, "undef"),
        (Callable[[int], int], "undef"), (type[int], "undef"), (datetime.date, "undef"), (complex, "undef"),
        (Pair, "undef"), (collections.OrderedDict, "undef"), ("Nothing", "undef"), (np.array([1, 2]), "undef"),
        ([int], "undef"), (5, "undef"),
    ],
    ids=str,
)  # fmt: skip
def test_a_hint_is_listed_as_its_wire_type(hint: Any, wire: str) -> None:
    """Each hint of the table is listed as the wire type that stands beside it; any other as undef."""
    assert wire_of(hint)[0] == wire


@pytest.mark.parametrize(
    ("hint", "given", "got"),
    [
        (int, 2**63, 2**63), (float, 1, 1.0), (float, 0.5, 0.5), (str, "é", "é"), (bool, False, False),
        (bytes, b"x", b"x"), (datetime.datetime, NOW, NOW),
        (list[int], ["not", "checked"], ["not", "checked"]), (tuple[int, int], [1, 2], (1, 2)),
        (set[int], [1, 1], {1}), (frozenset, [1], frozenset([1])), (Sequence[int], [1], [1]),
        (dict[str, int], {"a": "b"}, {"a": "b"}), (Options, {"other": 1}, {"other": 1}),
        (Optional[int], None, None), (int | None, 5, 5), (Optional[Colour], None, None), (None, None, None),
        (Literal["a", 1], 1, 1), (Literal["a", None], None, None), (Literal[Colour.RED], "red", Colour.RED),
        (Colour, "blue", Colour.BLUE), (Level, 2, Level.HIGH), (Deep, 4, 4), (Annotated[float, "m"], 1, 1.0),
        (Any, None, None), (int | str, 0.5, 0.5), (datetime.date, "x", "x"), (Pair, [1, 2], [1, 2]),
        (Point, {"x": 1}, Point(1.0)), (Point, {"x": 1, "label": None}, Point(1.0)),
        (Node, {"name": "n", "at": {"x": 1, "y": 2}}, Node("n", Point(1.0, 2.0))),
        (Node, {"name": "n", "at": {"x": 1}, "parent": {"name": "m", "at": {"x": 2}}},
         Node("n", Point(1.0), Node("m", Point(2.0)))),
        (Box[int], {"inside": "anything"}, Box("anything")), (Positive, {"n": 2, "scale": 3}, Positive(2, 3)),
        (Partly, {"known": {"x": 1}, "unknown": 5}, Partly(Point(1.0), 5)),
    ],
    ids=str,
)  # fmt: skip
def test_an_argument_that_fits_comes_as_the_function_wants_it(hint: Any, given: object, got: object) -> None:
    """An int passes for a double, arrays become tuples and sets, structs dataclasses, values Enum members."""
    bound = bind(hint, given)

    assert bound == got
    assert type(bound) is type(got)


@pytest.mark.parametrize(
    ("hint", "given", "said"),
    [
        (int, True, "a takes an int, not the boolean True"), (int, 1.0, "a takes an int, not the double 1.0"),
        (int, "1", "a takes an int, not the string '1'"), (int, None, "a takes an int, not nil"),
        (float, True, "a takes a double, not the boolean True"), (bool, 1, "a takes a boolean, not the int 1"),
        (str, b"x", "a takes a string, not the base64 b'x'"), (bytes, "x", "a takes a base64, not the string 'x'"),
        (datetime.datetime, "now", "a takes a dateTime.iso8601, not the string 'now'"),
        (list, {}, "a takes an array, not the struct {}"), (dict, [], "a takes a struct, not the array []"),
        (tuple, "ab", "a takes an array, not the string 'ab'"),
        (set[int], [[1]], "a cannot take the array [[1]]: unhashable type: 'list'"),
        (Optional[int], "x", "a takes an int, not the string 'x'"), (None, 0, "a takes nil, not the int 0"),
        (Literal["a", "b"], "c", "a takes one of 'a', 'b', not the string 'c'"),
        (Literal[1], True, "a takes one of 1, not the boolean True"),
        (Colour, "green", "a takes one of 'red', 'blue', not the string 'green'"),
        (Literal[tuple(range(30))], 99, "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ..., not the int 99"),
        (Point, [1, 2], "a takes a struct for Point, not the array [1, 2]"),
        (Point, {"y": 1}, "a is a Point, whose member 'x' is missing"),
        (Point, {"x": 1, "z": 1}, "a is a Point, which has no member 'z'; it has x, y, label"),
        (Point, {"x": "1"}, "a has a member 'x' that takes a double, not the string '1'"),
        (Node, {"name": "n", "at": {"x": ""}}, "a has a member 'at' that has a member 'x' that takes a double"),
        (Node, {"name": "n", "at": {"x": 1}, "made": 3}, "no member 'made'"),
        (Positive, {"n": -1}, "a cannot be a Positive: n is to be positive"),
        (Positive, {"n": 1, "scale": "x"}, "a has a member 'scale' that takes an int"),
        (np.ndarray, [[1], [1, 2]], "a cannot take the array [[1], [1, 2]]: "),
    ],
    ids=str,
)  # fmt: skip
def test_an_argument_that_does_not_fit_is_refused_in_the_wires_words(hint: Any, given: object, said: str) -> None:
    """A refusal names the method's signature, the parameter, what it takes and what was given."""
    text = refusal(hint, given)

    assert said in text
    assert text.startswith("s.f(a")


def test_an_ndarray_parameter_gets_an_array() -> None:
    """A parameter with a numpy hint gets np.asarray of the array that came."""
    bound = bind(np.ndarray, [[1, 2], [3, 4]])

    assert isinstance(bound, np.ndarray)
    assert bound.shape == (2, 2)


@pytest.mark.parametrize("hint", ["raises", "name"])
def test_a_hint_that_cannot_be_understood_never_refuses(hint: str) -> None:
    """A hint whose very comparison raises, or that names nothing, documents only."""

    class Raising:
        def __eq__(self, other: object) -> bool:
            raise RuntimeError

        def __hash__(self) -> int:
            raise RuntimeError

    assert bind(Raising() if hint == "raises" else "no.such.name", 5) == 5


# --- functions ---------------------------------------------------------------------------------


def test_one_hint_that_names_nothing_leaves_the_others_in_force() -> None:
    """A name imported under TYPE_CHECKING only stays text; the other hints are checked."""

    def f(a: Nothing, n: Annotated[int, "n"], p: Optional[Point] = None) -> Nothing: ...

    signature = signature_of(f, "f")

    assert [parameter.wire for parameter in signature.parameters] == ["undef", "int", "struct"]
    assert signature.text == "f(a: Nothing, n: int, p: Point | None = None) -> Nothing"
    with pytest.raises(Fault, match="n takes an int"):
        signature.bind([1, "x"], "s.f")


def test_trailing_defaults_may_be_left_out() -> None:
    """There is one listed signature for each allowed number of arguments."""

    def f(a: int, b: str = "x", c: float = 0.0) -> list[int]: ...

    signature = signature_of(f, "f")

    assert signature.alternatives == (
        ("array", "int"), ("array", "int", "string"), ("array", "int", "string", "double"),
    )  # fmt: skip
    assert signature.bind([1], "s.f") == [1]
    with pytest.raises(Fault, match=r"takes 1 to 3 arguments, 0 given\."):
        signature.bind([], "s.f")
    with pytest.raises(Fault, match=r"takes 1 to 3 arguments, 4 given\."):
        signature.bind([1, "", 0.0, 4], "s.f")


def test_any_number_of_arguments_is_listed_with_none_and_one() -> None:
    """A *rest parameter takes any number, each checked by its hint."""

    def f(a: int, *rest: str) -> None: ...

    signature = signature_of(f, "f")

    assert signature.alternatives == (("nil", "int"), ("nil", "int", "string"))
    assert signature.bind([1, "a", "b"], "f") == [1, "a", "b"]
    with pytest.raises(Fault, match="takes at least 1 argument, 0 given"):
        signature.bind([], "f")
    with pytest.raises(Fault, match="rest takes a string"):
        signature.bind([1, "a", 2], "f")


def test_a_default_of_none_takes_nil() -> None:
    """A parameter whose default is None takes nil, whatever its hint says."""

    def f(a: int = None) -> None: ...  # noqa: RUF013  # implicit Optional is what notebooks hold

    assert signature_of(f, "f").bind([None], "f") == [None]


def test_keyword_only_parameters_keep_their_default() -> None:
    """A keyword-only parameter is not on the wire; one without a default makes the function unpublishable."""

    def fine(a: int, *, scale: int = 1, **more: int) -> None: ...

    def bad(a: int, *, scale: int) -> None: ...

    assert signature_of(fine, "fine").fixed == ("scale",)
    assert len(signature_of(fine, "fine").parameters) == 1
    with pytest.raises(Unpublishable, match="keyword-only parameter 'scale' needs a default"):
        signature_of(bad, "bad")


def test_a_function_that_tells_nothing_takes_anything() -> None:
    """A callable without a readable signature, or with one that raises, takes any arguments."""

    class Odd:
        @property
        def __signature__(self) -> Any:
            raise RuntimeError

        def __call__(self, *args: object) -> None: ...

    for function in (Odd(), getattr):
        assert signature_of(function, "f").bind([1, "2"], "f") == [1, "2"]


def test_hints_are_found_inside_of_partials_wrappers_and_callables() -> None:
    """Hints written as text are evaluated where the function inside was written."""

    def f(a: Point, n: int) -> Colour: ...

    class Thing:
        def __call__(self, p: Point) -> None: ...

    @functools.wraps(f)
    def wrapper(*args: Any) -> Any: ...

    assert signature_of(functools.partial(f, n=1), "f").parameters[0].wire == "struct"
    assert signature_of(Thing(), "f").parameters[0].wire == "struct"
    assert signature_of(wrapper, "f").alternatives == (("string", "struct", "int"),)
    assert signature_of(functools.lru_cache(f), "f").alternatives == (("string", "struct", "int"),)


def test_the_text_reads_as_it_would_be_written_and_is_the_same_each_time() -> None:
    """Classes go by their own names, unions by |, and no default shows an address."""

    def f(
        a: Optional[list[Point]],
        b: typing.Union[int, str] = 1,
        c: Callable[..., Mapping[str, Run]] = len,
        d: Literal["x", None] = "x",
        e: tuple[int, ...] = (),
        g: Colour = Colour.RED,
        h: Any = [object()],  # noqa: B006, B008  # only shown
        i: datetime.datetime | None = None,
        j: npt.NDArray[np.float64] | None = None,
        k: type[T] | collections.abc.Callable[[int, T], T] | None = None,
        *rest: "Box[Point]",  # noqa: UP037  # as above
        m: str = "x" * 100,
    ) -> dict[str, Annotated[Node, 1]]: ...

    text = signature_of(f, "f").text

    assert text.startswith(
        "f(a: list[Point] | None, b: int | str = 1, c: Callable[..., Mapping[str, Run]] = ..., "
        "d: Literal['x', None] = 'x', e: tuple[int, ...] = (), g: Colour = Colour.RED, h: Any = [...], "
        "i: datetime | None = None, j: ndarray["
    )
    assert "k: type[T] | Callable[[int, T], T] | None = None, *rest: Box[Point], m: str = 'xxx" in text
    assert text.endswith("-> dict[str, Node]")
    assert " at 0x" not in text


def test_a_long_value_is_shortened_in_a_refusal() -> None:
    """A refusal does not repeat a megabyte that was given."""
    assert len(refusal(int, "x" * 1_000_000)) < 200
    assert len(refusal(int, list(range(100_000)))) < 200


def test_a_dataclass_with_fields_by_keyword_only_is_built() -> None:
    """Members come by name, so keyword-only fields, frozen and slotted classes are no matter."""

    @dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
    class Strict:
        a: int
        b: str = "b"

    assert bind(Strict, {"a": 1}) == Strict(a=1)
