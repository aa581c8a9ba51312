"""One call: a name, arguments and a caller in; a value or a fault out, with what there is to say about it.

Knows nothing of HTTP. A call lives in the catalogue that it began with.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from clarens_lab import frames
from clarens_lab.codec import encode_response, legible
from clarens_lab.engines import Engines
from clarens_lab.events import Ring
from clarens_lab.faults import Fault, NotLoggedIn, ServerFault, ServiceRaised
from clarens_lab.loaders import relative_path_hint
from clarens_lab.output import Output
from clarens_lab.registry import Catalogue, Generation, Registry
from clarens_lab.service import Call, Caller

access_log = logging.getLogger("clarens_lab.access")
lab_access_log = logging.getLogger("clarens_lab.access.lab")
log = logging.getLogger(__name__)

LAB = "lab"
EVENT_OUTPUT = 2000


@dataclass
class Outcome:
    """How a call ended. `answer` is the encoded value; `fault` is None unless it failed."""

    call: int
    method: str
    value: Any = field(default=None, repr=False)
    answer: bytes = field(default=b"", repr=False)
    fault: Fault | None = None
    fault_id: int | None = None
    service: str = ""
    generation: int | None = None
    stale: bool = False
    output: str = ""
    ms: float = 0.0

    @property
    def text(self) -> str:
        """What the caller is told of a fault; the server's own sentences end with the fault's number."""
        if self.fault is None:
            return ""
        numbered = f"{self.fault.text} [fault {self.fault_id}]"
        return legible(numbered if isinstance(self.fault, ServerFault) else self.fault.text)


class Dispatcher:
    """Finds methods, binds arguments, runs bodies and words failures, for one server."""

    def __init__(
        self,
        registry: Registry,
        engines: Engines,
        events: Ring,
        *,
        tells_tracebacks: bool = False,
        output_limit: int = 256 * 1024,
    ) -> None:
        self.registry = registry
        self.ending = False
        """Whether the server stops and gives up the calls that still run: only then is a call cancelled by us."""
        self._engines = engines
        self._events = events
        self._tells_tracebacks = tells_tracebacks
        self._output_limit = output_limit
        self._calls = itertools.count(1)
        self._faults = itertools.count(1)

    async def call(
        self, name: str, arguments: Sequence[object], caller: Caller, catalogue: Catalogue | None = None
    ) -> Outcome:
        """Runs a call to its end. Never raises but for cancellation: failures are in the outcome.

        `catalogue` is what a multicall that this call is part of began with.
        """
        service = name.partition(".")[0]
        started = time.perf_counter()
        if catalogue is not None:
            outcome = await self._call(name, arguments, caller, catalogue)
        else:
            with self.registry.hold(_services_of(name, arguments)) as held:
                outcome = await self._call(name, arguments, caller, held)
        outcome.ms = (time.perf_counter() - started) * 1000
        self._tell(outcome, caller, service)
        return outcome

    async def _call(self, name: str, arguments: Sequence[object], caller: Caller, catalogue: Catalogue) -> Outcome:
        number = next(self._calls)
        output = Output(self._output_limit)
        generation: Generation | None = None
        told: dict[str, Any] = {"call": number, "method": name}
        try:
            if name.partition(".")[0] == LAB and not caller.lab:
                raise NotLoggedIn(f"{name} needs the lab token: it stands in the server's run file.")
            generation, method = catalogue.find(name)
            told |= {
                "service": generation.service,
                "generation": generation.number,
                "stale": catalogue.is_stale(generation.service),
            }
            bound = method.signature.bind(arguments, name)
            # A task that a service starts keeps the call, as part of its context, for as long as it runs: with the
            # catalogue it would keep every generation of that moment.
            call = Call(number, name, caller, generation.kept, catalogue if generation.bundled else None)
            own, pin = generation.service == LAB, partial(self.registry.pin, generation)
            value, answer = await self._engines.run(method, bound, call, output, _encoded, own=own, pin=pin)
            await self._stay()
        except asyncio.CancelledError:
            if self.ending:
                raise
            await self._stay()
            return self._failed(told, output, ServiceRaised(f"{name} was cancelled by its own code."))
        except BaseException as error:  # noqa: BLE001  # whatever a service raises, SystemExit too, is a fault
            fault_id = next(self._faults)
            fault = self._worded(error, fault_id, name, generation, caller)
            return Outcome(**told, fault=fault, fault_id=fault_id, output=output.text())
        return Outcome(**told, value=value, answer=answer, output=output.text())

    async def _stay(self) -> None:
        """Takes back what a service has done if it cancelled the task that its call runs in."""
        task = asyncio.current_task()
        while task is not None and task.cancelling() and not self.ending:
            task.uncancel()
            try:
                await asyncio.sleep(0)  # where it would be cancelled
            except asyncio.CancelledError:
                if self.ending:
                    raise

    def _failed(self, told: Mapping[str, Any], output: Output, fault: ServerFault) -> Outcome:
        fault_id = next(self._faults)
        return Outcome(**told, fault=fault, fault_id=fault_id, output=output.text())

    def refused(self, fault: ServerFault, caller: Caller) -> Outcome:
        """The outcome of what came as a call, but was none."""
        outcome = self._failed({"call": next(self._calls), "method": "-"}, Output(0), fault)
        self._tell(outcome, caller, "")
        return outcome

    # --- wording failures -----------------------------------------------------------------------

    def _worded(
        self, error: BaseException, fault_id: int, name: str, generation: Generation | None, caller: Caller
    ) -> Fault:
        own = own_fault(error)
        if own is not None:
            return own
        source = generation.source if generation is not None else None
        units = source.by_filename if source is not None else {}
        try:
            trace = frames.render(error, units) + relative_path_hint(error, source) + _sqlite_hint(error)
        except Exception:  # noqa: BLE001  # an exception's own attributes may fail when they are read
            trace = f"{type(error).__name__}, which cannot be described: its own code fails"
        log.error("fault %d in %s, called by %s from %s\n%s", fault_id, name, caller.dn, caller.address, trace)
        if not self._tells_tracebacks:
            return ServiceRaised(f"{name} failed; the server's log has the details.")
        return ServiceRaised(f"{trace}\nin {name}, called by {caller.dn} from {caller.address}")

    def _tell(self, outcome: Outcome, caller: Caller, service: str) -> None:
        served = f"{outcome.service}={outcome.generation}" if outcome.generation is not None else "-"
        ended = "ok" if outcome.fault is None else f"fault {outcome.fault_id} ({outcome.fault.code})"
        lines = lab_access_log if service == LAB else access_log
        who = f"{caller.address or '-'}{' (lab)' if caller.lab else ''}"
        lines.info("%s %s %s %.1f ms %s", outcome.method, who, served, outcome.ms, ended)
        if service == LAB:
            return  # who follows the events by lab.events would else see nothing but its own questions
        event: dict[str, Any] = {
            "event": "call",
            "time": time.time(),
            "call": outcome.call,
            "method": outcome.method,
            "caller": caller.dn,
            "address": caller.address,
            "generation": outcome.generation or 0,
            "ms": round(outcome.ms, 3),
            "ok": outcome.fault is None,
            "output": outcome.output[:EVENT_OUTPUT],
        }
        if outcome.fault is not None:
            event |= {"fault": outcome.fault_id, "code": outcome.fault.code, "text": outcome.text[:EVENT_OUTPUT]}
        self._events.add(event)


def _services_of(name: str, arguments: Sequence[object]) -> set[str]:
    """The services that a call may run on; a multicall names them in its argument."""
    services = {name.partition(".")[0]}
    if name == "system.multicall" and len(arguments) == 1 and isinstance(arguments[0], list):
        names = (entry.get("methodName") for entry in arguments[0] if isinstance(entry, dict))
        services.update(path.partition(".")[0] for path in names if isinstance(path, str))
    return services


def _encoded(value: Any) -> tuple[Any, bytes]:
    return value, encode_response(value)


def own_fault(error: BaseException) -> Fault | None:
    """The fault that an exception is by itself, with a number and a text of its own; else None.

    A `Fault`; `RuntimeError(number, text)`, as Clarens services raise it; and the standard library's
    `xmlrpc.client.Fault`, which a service gets from a server that it calls itself.
    """
    if isinstance(error, ServerFault):
        return error
    try:
        code, text = _number_and_text(error)
        return Fault(max(-(2**31), min(2**31 - 1, code)), str(text))  # hardly any client reads a longer faultCode
    except Exception:  # noqa: BLE001  # not one, or its attributes fail when they are read
        return None


def _number_and_text(error: BaseException) -> tuple[Any, Any]:
    if isinstance(error, Fault):
        return error.code, error.text
    if type(error) is RuntimeError and len(error.args) == 2 and type(error.args[0]) is int:
        return error.args
    if type(error).__name__ == "Fault":
        return error.faultCode, error.faultString  # type: ignore[attr-defined]  # one without is none, see above
    raise TypeError


def _sqlite_hint(error: BaseException) -> str:
    if type(error).__module__ == "sqlite3" and "same thread" in str(error):
        return "; plain methods run on any of several threads: open it with check_same_thread=False, or once a call"
    return ""
