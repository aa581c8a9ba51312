"""Save a notebook, and the functions in it are a live network service.

The names below are all that services and scripts need. Each is imported when it is first used, so that
`import clarens_lab` stays cheap.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clarens_lab.client import AsyncClient, Client
    from clarens_lab.faults import Fault
    from clarens_lab.proxy import Proxy
    from clarens_lab.server import Server
    from clarens_lab.service import current_call, keep, method, on_startup, on_unload
    from clarens_lab.testing import load

__version__ = "0.1.0"

HOMES = {
    "AsyncClient": "client",
    "Client": "client",
    "Fault": "faults",
    "Server": "server",
    "current_call": "service",
    "keep": "service",
    "load": "testing",
    "method": "service",
    "on_startup": "service",
    "on_unload": "service",
}

__all__ = [
    "AsyncClient", "Client", "Fault", "Server", "current_call", "keep", "load", "method", "on_startup", "on_unload",
    "services",
]  # fmt: skip

services: dict[str, "Proxy"] = {}
"""In a notebook: its services by name, as proxies, for those whose names are taken by something else."""


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'clarens_lab' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(importlib.import_module(f"clarens_lab.{HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


def load_ipython_extension(shell: Any) -> None:
    """`%load_ext clarens_lab`: the magics of a notebook."""
    importlib.import_module("clarens_ipython").load_ipython_extension(shell)


def unload_ipython_extension(shell: Any) -> None:
    """`%unload_ext clarens_lab`: takes them away, and all that they started."""
    importlib.import_module("clarens_ipython").unload_ipython_extension(shell)
