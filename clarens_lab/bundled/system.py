"""`system`: what is served here, and several calls in one. Each method under its usual and its Clarens name."""

import asyncio
from math import inf
from typing import Any

from clarens_lab.dispatch import LAB, Dispatcher
from clarens_lab.faults import BadArguments, Fault, NotXmlRpc
from clarens_lab.registry import Catalogue
from clarens_lab.service import Method, current_call, method

CAPABILITIES = {
    "xmlrpc": ("http://www.xmlrpc.com/spec", 1),
    "introspect": ("http://phpxmlrpc.sourceforge.net/doc-2/ch10.html", 2),
    "system.multicall": ("http://www.xmlrpc.com/discuss/msgReader$1208", 1),
    "faults_interop": ("http://xmlrpc-epi.sourceforge.net/specs/rfc.fault_codes.php", 20010516),
    "nil": ("http://ontosys.com/xml-rpc/extensions.php", 1),
}


class System:
    """The methods of the service `system`."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    @method(inline=True)
    def listMethods(self) -> list[str]:
        """The names of all methods that the caller can call, sorted."""
        call = current_call()
        catalogue: Catalogue = call.catalogue
        return sorted(path for path in catalogue.methods if call.caller.lab or not path.startswith(f"{LAB}."))

    @method(inline=True)
    def methodSignature(self, name: str) -> list[list[str]]:
        """The method's signatures: for each number of arguments that it takes, the return type and the arguments'."""
        return [list(signature) for signature in self._find(name).signatures]

    @method(inline=True)
    def methodHelp(self, name: str) -> str:
        """What the method does: its docstring, after a line that shows how it is called."""
        found = self._find(name)
        return f"{found.service}.{found.signature.text}\n\n{found.help}".rstrip()

    @method(timeout=inf)  # each of its calls has its own limit
    async def multicall(self, calls: list[Any]) -> list[Any]:
        """Runs several calls, one after the other, all on what was served when the first began.

        Each item is a struct with `methodName` and `params`; each answer an array with the one value, or a
        struct with `faultCode` and `faultString`.
        """
        answers: list[Any] = []
        for entry in calls:
            answers.append(await self._one_of_many(entry))
            await asyncio.sleep(0)  # methods that run on the loop must not hold up everybody else's calls
        return answers

    @method(inline=True)
    def getCapabilities(self) -> dict[str, Any]:
        """The specifications that the server keeps to: for each its name, `specUrl` and `specVersion`."""
        return {name: {"specUrl": url, "specVersion": version} for name, (url, version) in CAPABILITIES.items()}

    @method(inline=True)
    def list_methods(self) -> list[str]:
        """As `system.listMethods`."""
        return self.listMethods()

    @method(inline=True)
    def method_signature(self, name: str) -> list[list[str]]:
        """As `system.methodSignature`."""
        return self.methodSignature(name)

    @method(inline=True)
    def method_help(self, name: str) -> str:
        """As `system.methodHelp`."""
        return self.methodHelp(name)

    def _find(self, name: str) -> Method:
        catalogue: Catalogue = current_call().catalogue
        return catalogue.find(name)[1]

    async def _one_of_many(self, entry: object) -> Any:
        try:
            name, arguments = _entry(entry)
        except Fault as fault:
            return {"faultCode": fault.code, "faultString": fault.text}
        call = current_call()
        outcome = await self._dispatcher.call(name, arguments, call.caller, call.catalogue)
        if outcome.fault is not None:
            return {"faultCode": outcome.fault.code, "faultString": outcome.text}
        return [outcome.value]


def _entry(entry: object) -> tuple[str, list[object]]:
    if not isinstance(entry, dict) or not isinstance(entry.get("methodName"), str):
        raise BadArguments("Each call of a multicall is a struct with 'methodName' (string) and 'params' (array).")
    arguments = entry.get("params", [])
    if not isinstance(arguments, list):
        raise BadArguments(f"The params of {entry['methodName']} are no array.")
    if entry["methodName"] == "system.multicall":
        raise NotXmlRpc("A multicall inside a multicall is not run: put all calls into one array.")
    return entry["methodName"], arguments
