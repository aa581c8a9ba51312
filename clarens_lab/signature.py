"""From a function's hints to what the wire says of it, and to arguments that fit it.

The table of hints is the one in docs/notebooks.md: a hint gives a wire type, shown by
`system.methodSignature`, and a check. A hint that is not in the table documents and never refuses.
"""

import collections.abc
import dataclasses
import datetime
import enum
import inspect
import reprlib
import sys
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from clarens_lab.faults import BadArguments

Accept = Callable[[Any], Any]
"""Takes an argument as decoded, gives it as the function wants it; raises Refused."""

EMPTY = inspect.Parameter.empty


class Refused(ValueError):
    """An argument that does not fit its hint; the text says what is wrong with it."""


class Unpublishable(TypeError):
    """A function that cannot be a method; the text says why and what to change."""


@dataclass(frozen=True)
class Parameter:
    """One positional parameter: `wire` is its XML-RPC type, `accept` its check."""

    name: str
    wire: str
    hint: str
    accept: Accept
    required: bool


@dataclass(frozen=True)
class Signature:
    """What a method takes and returns. `text` reads like the function: `digits(n: int) -> str`."""

    text: str
    parameters: tuple[Parameter, ...]
    rest: Parameter | None
    returns: str
    alternatives: tuple[tuple[str, ...], ...]
    fixed: tuple[str, ...] = ()
    """Keyword-only parameters, which keep their defaults over the wire."""

    def bind(self, arguments: Sequence[object], method: str) -> list[object]:
        """The arguments as the function wants them; BadArguments names the method's signature."""
        given = len(arguments)
        bound: list[object] = []
        for parameter, argument in zip(self.parameters, arguments, strict=False):
            bound.append(self._accept(parameter, argument, method))
        if given > len(self.parameters):
            if self.rest is None:
                raise BadArguments(f"{self._shown(method)} takes {self._count()}, {given} given.")
            bound += [self._accept(self.rest, argument, method) for argument in arguments[len(self.parameters) :]]
        elif given < len(self.parameters) and self.parameters[given].required:
            raise BadArguments(f"{self._shown(method)} takes {self._count()}, {given} given.")
        return bound

    def _accept(self, parameter: Parameter, argument: object, method: str) -> object:
        try:
            return parameter.accept(argument)
        except Refused as refused:
            raise BadArguments(f"{self._shown(method)}: {parameter.name} {refused}.") from None

    def _shown(self, method: str) -> str:
        return method.rpartition(".")[0] + "." + self.text if "." in method else self.text

    def _count(self) -> str:
        most, least = len(self.parameters), sum(parameter.required for parameter in self.parameters)
        if self.rest is not None:
            return f"at least {_arguments(least)}"
        return _arguments(most) if least == most else f"{least} to {_arguments(most)}"


def _arguments(count: int) -> str:
    return "no arguments" if count == 0 else "1 argument" if count == 1 else f"{count} arguments"


def signature_of(function: Callable[..., Any], name: str) -> Signature:
    """The signature of a function that is published as `name`.

    Raises Unpublishable for a keyword-only parameter without a default: XML-RPC has positions only.
    """
    try:
        shape = inspect.signature(function)
    except (ValueError, TypeError):  # some builtins tell nothing: then anything goes
        shape = inspect.Signature([inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL)])
    hints = _hints(function, shape)
    parameters: list[Parameter] = []
    rest: Parameter | None = None
    fixed: list[str] = []
    for parameter in shape.parameters.values():
        made = _parameter(parameter, hints.get(parameter.name, EMPTY))
        if parameter.kind is parameter.VAR_POSITIONAL:
            rest = made
        elif parameter.kind is parameter.KEYWORD_ONLY:
            if parameter.default is EMPTY:
                raise Unpublishable(
                    f"{name}: the keyword-only parameter {parameter.name!r} needs a default, "
                    "because XML-RPC passes arguments by position only"
                )
            fixed.append(parameter.name)
        elif parameter.kind is not parameter.VAR_KEYWORD:
            parameters.append(made)
    returns, _ = wire_of(hints.get("return", EMPTY))
    text = _text(name, shape, hints)
    return Signature(
        text, tuple(parameters), rest, returns, _alternatives(parameters, rest, returns), fixed=tuple(fixed)
    )


def declared(signatures: Iterable[str | Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    """Signatures as written by hand: `"string,int"` or `("string", "int")`, the return type first."""
    split = (signature.split(",") if isinstance(signature, str) else signature for signature in signatures)
    return tuple(tuple(part.strip() for part in parts) for parts in split)


def _alternatives(parameters: list[Parameter], rest: Parameter | None, returns: str) -> tuple[tuple[str, ...], ...]:
    """One signature for each allowed number of arguments; of a `*rest`, none and one."""
    least = sum(parameter.required for parameter in parameters)
    types = [parameter.wire for parameter in parameters]
    listed = [(returns, *types[:count]) for count in range(least, len(types) + 1)]
    if rest is not None:
        listed.append((returns, *types, rest.wire))
    return tuple(listed)


def _parameter(parameter: inspect.Parameter, hint: object) -> Parameter:
    wire, accept = wire_of(hint)
    required = parameter.default is EMPTY
    if not required and parameter.default is None:
        accept = _or_none(accept)
    return Parameter(parameter.name, wire, _hint_text(hint), accept, required)


def _hints(function: Callable[..., Any], shape: inspect.Signature) -> dict[str, Any]:
    """Hints by name, evaluated; one that names nothing stays the text it is."""
    try:
        return typing.get_type_hints(function, include_extras=False)
    except Exception:  # noqa: BLE001  # a hint is documentation: whatever it raises, the method is served
        raw = {name: parameter.annotation for name, parameter in shape.parameters.items()}
        raw["return"] = shape.return_annotation
        names = getattr(function, "__globals__", {})
        return {name: _evaluated(hint, names) for name, hint in raw.items() if hint is not EMPTY}


def _evaluated(hint: object, names: dict[str, Any]) -> object:
    if not isinstance(hint, str):
        return hint
    try:
        return eval(hint, names)  # noqa: S307  # the service's own source, as `typing.get_type_hints` does
    except Exception:  # noqa: BLE001  # as above
        return hint


def _text(name: str, shape: inspect.Signature, hints: dict[str, Any]) -> str:
    def shown(parameter: inspect.Parameter) -> inspect.Parameter:
        hint = hints.get(parameter.name, EMPTY)
        default = parameter.default
        return parameter.replace(
            annotation=EMPTY if hint is EMPTY else _Raw(_hint_text(hint)),
            default=default if default is EMPTY else _Raw(_default_text(default)),
        )

    returns = hints.get("return", EMPTY)
    shown_shape = shape.replace(
        parameters=[shown(parameter) for parameter in shape.parameters.values()],
        return_annotation=EMPTY if returns is EMPTY else _Raw(_hint_text(returns)),
    )
    return f"{name}{shown_shape}"


def _default_text(default: object) -> str:
    """Short and the same at every load: an object's own repr may hold its address."""
    if isinstance(default, enum.Enum):
        return f"{type(default).__name__}.{default.name}"
    if default is None or isinstance(default, int | float | str | bytes | list | tuple | dict | set):
        return reprlib.repr(default)
    return "..."


class _Raw:
    """Text that `inspect` prints as it is."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _hint_text(hint: object) -> str:
    if hint is EMPTY:
        return ""
    if hint is None or hint is type(None):
        return "None"
    if isinstance(hint, str):
        return hint
    text = inspect.formatannotation(hint)
    for prefix in ("typing.", "collections.abc.", "datetime.", "numpy."):
        text = text.replace(prefix, "")
    # A class of the service itself is known by its own name.
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else text


# --- the table: a hint gives a wire type and a check -------------------------------------------


def describe(value: object) -> str:
    """What was given, in the wire's words and short: `the string 'x'`."""
    if value is None:
        return "nil"
    wire = PLAIN[type(value)][0] if type(value) in PLAIN else type(value).__name__
    return f"the {wire} {reprlib.repr(value)}"


def _exactly(kind: type, word: str) -> Accept:
    def accept(value: object) -> object:
        if type(value) is not kind:
            raise Refused(f"takes {word}, not {describe(value)}")
        return value

    return accept


def _anything(value: object) -> object:
    return value


def _number(value: object) -> object:
    if type(value) is int:
        return float(value)
    if type(value) is not float:
        raise Refused(f"takes a double, not {describe(value)}")
    return value


def _moment(value: object) -> object:
    if not isinstance(value, datetime.datetime):
        raise Refused(f"takes a dateTime.iso8601, not {describe(value)}")
    return value


def _collected(make: Callable[[list[Any]], Any]) -> Accept:
    def accept(value: object) -> object:
        if type(value) is not list:
            raise Refused(f"takes an array, not {describe(value)}")
        try:
            return make(value)
        except (TypeError, ValueError) as error:  # a list inside a set, a ragged array
            raise Refused(f"cannot take {describe(value)}: {error}") from None

    return accept


def _ndarray(value: list[Any]) -> object:
    return sys.modules["numpy"].asarray(value)


def _or_none(accept: Accept) -> Accept:
    return lambda value: None if value is None else accept(value)


_array = _exactly(list, "an array")
_struct = _exactly(dict, "a struct")

PLAIN: dict[object, tuple[str, Accept]] = {
    int: ("int", _exactly(int, "an int")),
    float: ("double", _number),
    str: ("string", _exactly(str, "a string")),
    bool: ("boolean", _exactly(bool, "a boolean")),
    bytes: ("base64", _exactly(bytes, "a base64")),
    datetime.datetime: ("dateTime.iso8601", _moment),
    list: ("array", _array),
    tuple: ("array", _collected(tuple)),
    set: ("array", _collected(set)),
    frozenset: ("array", _collected(frozenset)),
    collections.abc.Sequence: ("array", _array),
    collections.abc.Iterable: ("array", _array),
    collections.abc.Collection: ("array", _array),
    dict: ("struct", _struct),
    collections.abc.Mapping: ("struct", _struct),
    None: ("nil", _exactly(type(None), "nil")),
    type(None): ("nil", _exactly(type(None), "nil")),
}


def wire_of(hint: Any) -> tuple[str, Accept]:
    """The XML-RPC type that a hint is listed as, and the check of an argument."""
    try:
        if hint in PLAIN:
            return PLAIN[hint]
    except TypeError:  # an unhashable hint documents only
        return "undef", _anything
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _union(typing.get_args(hint))
    if origin is typing.Literal:
        return _one_of(list(typing.get_args(hint)), lambda value: value)
    if hasattr(hint, "__supertype__"):
        return wire_of(hint.__supertype__)
    if hasattr(hint, "__value__"):
        return wire_of(hint.__value__)
    plain = origin if isinstance(origin, type) else hint
    if plain in PLAIN:
        return PLAIN[plain]
    return _class(plain) if isinstance(plain, type) else ("undef", _anything)


def _class(kind: type) -> tuple[str, Accept]:
    if issubclass(kind, enum.Enum):
        return _one_of([member.value for member in kind], kind)
    if dataclasses.is_dataclass(kind):
        return "struct", _built(kind)
    if typing.is_typeddict(kind):
        return "struct", _struct
    if kind.__name__ == "ndarray" and kind.__module__.partition(".")[0] == "numpy":
        return "array", _collected(_ndarray)
    return "undef", _anything


def _union(members: tuple[Any, ...]) -> tuple[str, Accept]:
    others = [member for member in members if member is not type(None)]
    if len(others) != 1:
        return "undef", _anything
    wire, accept = wire_of(others[0])
    return wire, _or_none(accept)


def _one_of(values: list[Any], make: Callable[[Any], Any]) -> tuple[str, Accept]:
    wires = {wire_of(type(value))[0] for value in values}

    def accept(value: object) -> object:
        for known in values:
            if type(known) is type(value) and known == value:
                return make(known)
        raise Refused(f"takes one of {', '.join(map(repr, values))}, not {describe(value)}")

    return (wires.pop() if len(wires) == 1 else "undef"), accept


def _built(kind: Any) -> Accept:
    """Builds a dataclass from a struct, each field by its own hint."""
    fields = {spec.name: spec for spec in dataclasses.fields(kind) if spec.init}
    needed = [
        name
        for name, spec in fields.items()
        if spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING
    ]
    checks: dict[str, Accept] = {}  # made at the first call: by then a class may name itself in its own hints

    def accept(value: object) -> object:
        if type(value) is not dict:
            raise Refused(f"takes a struct for {kind.__name__}, not {describe(value)}")
        if strangers := sorted(set(value) - set(fields)):
            raise Refused(f"is a {kind.__name__}, which has no member {strangers[0]!r}; it has {', '.join(fields)}")
        if missing := [name for name in needed if name not in value]:
            raise Refused(f"is a {kind.__name__}, whose member {missing[0]!r} is missing")
        if not checks:
            hints = _hints(kind, inspect.Signature())
            checks.update({name: wire_of(hints.get(name, EMPTY))[1] for name in fields})
        return kind(**{name: _member(checks[name], name, member) for name, member in value.items()})

    return accept


def _member(accept: Accept, name: str, value: object) -> object:
    try:
        return accept(value)
    except Refused as refused:
        raise Refused(f"has a member {name!r} that {refused}") from None
