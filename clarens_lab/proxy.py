"""A service on a server as an object: called with positions or keywords, with signature, help and completion."""

import ast
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from clarens_lab.faults import UnknownMethod

Call = Callable[[str, list[Any]], Any]
"""Calls a method by its path with arguments, and gives the value."""


class Written:
    """A hint or default as the signature writes it."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def parsed(text: str) -> inspect.Signature | None:
    """A signature from its text, `digits(n: int = 5) -> str`; None if it cannot be read."""
    try:
        function = ast.parse(f"def f{text[text.index('(') :]}: ...").body[0]
    except (SyntaxError, ValueError):
        return None
    if not isinstance(function, ast.FunctionDef):
        return None
    told = function.args
    positional = [*told.posonlyargs, *told.args]
    blanks: list[ast.expr | None] = [None] * (len(positional) - len(told.defaults))
    kind = inspect.Parameter
    parameters = [
        _parameter(one, default, kind.POSITIONAL_OR_KEYWORD)
        for one, default in zip(positional, [*blanks, *told.defaults], strict=True)
    ]
    if told.vararg is not None:
        parameters.append(_parameter(told.vararg, None, kind.VAR_POSITIONAL))
    returns = kind.empty if function.returns is None else Written(ast.unparse(function.returns))
    return inspect.Signature(parameters, return_annotation=returns)


def _parameter(one: ast.arg, default: ast.expr | None, kind: Any) -> inspect.Parameter:
    empty = inspect.Parameter.empty
    hint = empty if one.annotation is None else Written(ast.unparse(one.annotation))
    return inspect.Parameter(one.arg, kind, annotation=hint, default=empty if default is None else _default(default))


def _default(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return Written(ast.unparse(node))


def positions(
    path: str, signature: inspect.Signature | None, args: Sequence[Any], keywords: Mapping[str, Any]
) -> list[Any]:
    """Arguments by position, as the wire has them; TypeError where the keywords do not fit the signature."""
    if not keywords:
        return list(args)
    if signature is None:
        raise TypeError(f"{path}: its signature is not known here, so its arguments go by position")
    try:
        bound = signature.bind_partial(*args, **keywords)
    except TypeError as error:
        raise TypeError(f"{path}{signature}: {error}") from None
    given: list[Any] = []
    wanted = [
        parameter for parameter in signature.parameters.values() if parameter.kind is not parameter.VAR_POSITIONAL
    ]
    last = max((index for index, parameter in enumerate(wanted) if parameter.name in bound.arguments), default=-1)
    for parameter in wanted[: last + 1]:
        value = bound.arguments.get(parameter.name, parameter.default)
        if value is parameter.empty or isinstance(value, Written):
            raise TypeError(f"{path}{signature}: give {parameter.name} too, since arguments travel by position")
        given.append(value)
    return given


class Proxy:
    """A service: its methods are attributes."""

    _wrong: type[TypeError] = TypeError
    """What is raised where the arguments do not fit."""
    _missing: type[AttributeError] = AttributeError
    """What is raised for a method that the service does not have."""

    def __init__(
        self,
        service: str,
        call: Call,
        function: Callable[[str], Callable[..., Any]],
        renew: Callable[[], object] = lambda: None,
    ) -> None:
        self._service = service
        self._call = call
        self._function = function
        self._renew = renew
        """Asks the server what it publishes now, and updates this: the service may have been saved meanwhile."""
        self._signatures: dict[str, str] = {}

    def _update(self, signatures: Sequence[str]) -> None:
        """Learns the methods that the service has now, by their signatures."""
        self._signatures = {text.partition("(")[0]: text for text in signatures}

    def __getattr__(self, name: str) -> "MethodProxy":
        if name.startswith("_"):
            raise AttributeError(name)
        if not self._has(name):
            self._renew()
        known = self._signatures
        if self._has(name):
            return MethodProxy(self, name)
        paths = [f"{self._service}.{other}" for other in known]
        raise self._missing(UnknownMethod(f"{self._service}.{name}", paths, because=_there_are(known)).text)

    def _has(self, name: str) -> bool:
        return any(other == name or other.startswith(f"{name}.") for other in self._signatures)

    def __dir__(self) -> list[str]:
        return sorted({name.partition(".")[0] for name in self._signatures})

    def __repr__(self) -> str:
        return f"<service {self._service}: {', '.join(self._signatures.values()) or 'no method yet'}>"


def _there_are(known: Mapping[str, str]) -> str:
    return f" The service has {', '.join(known)}." if known else " The service has no method yet."


class MethodProxy:
    """A method: call it, look at its signature and help; `.function` is the Python function where it runs here."""

    def __init__(self, service: Proxy, name: str) -> None:
        self._service = service
        self._name = name
        self.__name__ = name
        self.__qualname__ = f"{service._service}.{name}"
        signature = parsed(service._signatures.get(name, ""))
        if signature is not None:
            self.__signature__ = signature

    def __call__(self, *args, **keywords):  # type: ignore[no-untyped-def]  # help in a notebook shows hints as written
        path = self.__qualname__
        try:
            given = positions(path, self.__dict__.get("__signature__"), args, keywords)
        except TypeError:
            self._service._renew()  # the signature may be another since it was looked up
            now = parsed(self._service._signatures.get(self._name, ""))
            try:
                given = positions(path, now, args, keywords)
            except TypeError as error:
                raise self._service._wrong(str(error)) from None
        return self._service._call(path, given)

    def __getattr__(self, name: str) -> "MethodProxy":
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._service, f"{self._name}.{name}")  # type: ignore[no-any-return]  # a step on to a dotted name

    @property
    def __doc__(self) -> str:  # type: ignore[override]  # a plain attribute elsewhere
        """The method's help, asked for when it is looked at."""
        try:
            return str(self._service._call("system.methodHelp", [self.__qualname__]))
        except Exception as error:  # noqa: BLE001  # who only looks at it is told, and nothing is raised
            return str(error)

    @property
    def function(self) -> Callable[..., Any]:
        """The Python function itself, for timing, profiling and plots; needs a server inside this process."""
        return self._service._function(self.__qualname__)

    def __repr__(self) -> str:
        return f"<method {self._service._service}.{self._service._signatures.get(self._name, self._name)}>"
