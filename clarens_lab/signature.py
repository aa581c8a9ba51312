"""From a function's hints to what the wire says of it, and to arguments that fit it.

The table of hints is the one in docs/notebooks.md: a hint gives a wire type, shown by
`system.methodSignature`, and a check. A hint that is not in the table documents and never refuses.
"""

import collections.abc
import dataclasses
import datetime
import enum
import functools
import inspect
import reprlib
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clarens_lab.faults import BadArguments

Accept = Callable[[Any], Any]
"""Takes an argument as decoded, gives it as the function wants it; raises Refused."""

EMPTY = inspect.Parameter.empty
UNIONS = (typing.Union, types.UnionType)
MOST_VALUES = 10
"""How many values of a Literal or Enum a refusal lists."""


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
    shape = _shape(function)
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


def written(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function that a `functools.partial` is made of; any other as it is."""
    while isinstance(function, functools.partial):
        function = function.func
    return function


def _shape(function: Callable[..., Any]) -> inspect.Signature:
    try:
        if sys.version_info >= (3, 14):  # hints are evaluated when they are asked for: one that names nothing raises
            import annotationlib

            return inspect.signature(function, annotation_format=annotationlib.Format.FORWARDREF)
        return inspect.signature(function)
    except Exception:  # noqa: BLE001  # some builtins tell nothing, a __signature__ may raise: then anything goes
        return inspect.Signature([inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL)])


def _hints(function: Callable[..., Any], shape: inspect.Signature) -> dict[str, Any]:
    """Hints by name, evaluated; one that names nothing stays the text it is."""
    inner = inspect.unwrap(written(function))
    if not hasattr(inner, "__globals__") and not isinstance(inner, type):
        inner = getattr(type(inner), "__call__", inner)  # noqa: B004  # an object that can be called
    try:
        return typing.get_type_hints(inner)
    except Exception:  # noqa: BLE001  # a hint is documentation: whatever it raises, the method is served
        raw = {name: parameter.annotation for name, parameter in shape.parameters.items()}
        raw["return"] = shape.return_annotation
        names = getattr(inner, "__globals__", {})
        return {name: _evaluated(hint, names) for name, hint in raw.items() if hint is not EMPTY}


def _member_hints(kind: type) -> dict[str, Any]:
    """The hints of a class's members, as `_hints` has them."""
    try:
        return typing.get_type_hints(kind)
    except Exception:  # noqa: BLE001  # as above: one hint that names nothing must not lose the others
        found: dict[str, Any] = {}
        for base in reversed(kind.__mro__):
            names = vars(sys.modules.get(base.__module__, typing))
            found |= {name: _evaluated(hint, names) for name, hint in vars(base).get("__annotations__", {}).items()}
        return found


def _evaluated(hint: object, names: Mapping[str, Any]) -> object:
    text = hint.__forward_arg__ if isinstance(hint, typing.ForwardRef) else hint
    if not isinstance(text, str):
        return hint
    try:
        return eval(text, dict(names))  # noqa: S307  # the service's own source, as `typing.get_type_hints` does
    except Exception:  # noqa: BLE001  # as above
        return text


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
    return _defaults.repr(default)


class _Defaults(reprlib.Repr):
    def repr_instance(self, x: Any, level: int) -> str:
        """Of what is no list, text or the like: only plain values are shown."""
        if isinstance(x, enum.Enum):
            return f"{type(x).__name__}.{x.name}"
        return super().repr_instance(x, level) if type(x) in (bool, float, bytes, complex, type(None)) else "..."


_defaults = _Defaults()


class _Raw:
    """Text that `inspect` prints as it is."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _hint_text(hint: object) -> str:
    """The hint as one would write it, each class by its own name: where it lives differs from load to load."""
    if hint is EMPTY:
        return ""
    if hint is None or hint is type(None):
        return "None"
    if hint is ...:
        return "..."
    if isinstance(hint, str | typing.ForwardRef):
        return hint if isinstance(hint, str) else hint.__forward_arg__
    if isinstance(hint, list):  # the arguments of a Callable
        return f"[{', '.join(map(_hint_text, hint))}]"
    origin, members = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _hint_text(members[0])
    if origin in UNIONS:
        return " | ".join(map(_hint_text, members))
    if origin is typing.Literal:
        return f"Literal[{', '.join(map(_default_text, members))}]"
    if members:
        return f"{_hint_text(origin)}[{', '.join(map(_hint_text, members))}]"
    name = getattr(hint, "__name__", None)
    return name if isinstance(name, str) else _default_text(hint)


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
            raise Refused(f"cannot take {describe(value)}: {str(error).rstrip('.')}") from None

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
        return _wire_of(hint)
    except Exception:  # noqa: BLE001  # one that cannot be hashed, compared or evaluated documents only
        return "undef", _anything


def _wire_of(hint: Any) -> tuple[str, Accept]:
    if hint in PLAIN:
        return PLAIN[hint]
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        return _wire_of(hint.__origin__)
    if origin in UNIONS:
        return _union(typing.get_args(hint))
    if origin is typing.Literal:
        members = typing.get_args(hint)
        return _one_of([(one, one.value if isinstance(one, enum.Enum) else one) for one in members])
    if hasattr(hint, "__supertype__"):
        return _wire_of(hint.__supertype__)
    if hasattr(hint, "__value__"):
        return _wire_of(hint.__value__)
    plain = origin if isinstance(origin, type) else hint
    if plain in PLAIN:
        return PLAIN[plain]
    return _class(plain) if isinstance(plain, type) else ("undef", _anything)


def _class(kind: type) -> tuple[str, Accept]:
    if issubclass(kind, enum.Enum):
        return _one_of([(member, member.value) for member in kind])
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


def _one_of(known: list[tuple[Any, Any]]) -> tuple[str, Accept]:
    """Of (what the function gets, what stands for it on the wire)."""
    wires = {wire_of(type(value))[0] for _, value in known}

    def accept(given: object) -> object:
        for member, value in known:
            if type(value) is type(given) and value == given:
                return member
        values = ", ".join(repr(value) for _, value in known[:MOST_VALUES])
        more = ", ..." if len(known) > MOST_VALUES else ""
        raise Refused(f"takes one of {values}{more}, not {describe(given)}")

    return (wires.pop() if len(wires) == 1 else "undef"), accept


def _built(kind: Any) -> Accept:
    """Builds a dataclass from a struct, each member by its own hint."""
    members = _shape(kind).parameters
    needed = [name for name, member in members.items() if member.default is EMPTY]
    checks: dict[str, Accept] = {}  # made at the first call: by then a class may name itself in its own hints

    def accept(value: object) -> object:
        if type(value) is not dict:
            raise Refused(f"takes a struct for {kind.__name__}, not {describe(value)}")
        if strangers := sorted(set(value) - set(members)):
            raise Refused(f"is a {kind.__name__}, which has no member {strangers[0]!r}; it has {', '.join(members)}")
        if missing := [name for name in needed if name not in value]:
            raise Refused(f"is a {kind.__name__}, whose member {missing[0]!r} is missing")
        if not checks:
            hints = _member_hints(kind)
            checks.update({name: wire_of(_initial(hints.get(name, EMPTY)))[1] for name in members})
        given = {name: _member(checks[name], name, member) for name, member in value.items()}
        try:
            return kind(**given)
        except (TypeError, ValueError) as error:  # what its __post_init__ refuses
            raise Refused(f"cannot be a {kind.__name__}: {str(error).rstrip('.')}") from None

    return accept


def _initial(hint: object) -> object:
    return hint.type if isinstance(hint, dataclasses.InitVar) else hint


def _member(accept: Accept, name: str, value: object) -> object:
    try:
        return accept(value)
    except Refused as refused:
        raise Refused(f"has a member {name!r} that {refused}") from None
