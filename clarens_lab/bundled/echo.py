"""`echo`: for testing a connection, and what Clarens clients call first."""

import socket
from typing import Any

from clarens_lab.service import method


class Echo:
    """The methods of the service `echo`."""

    @method(inline=True)
    def echo(self, *args: Any) -> list[Any]:
        """The array of the arguments: `echo.echo("x")` answers `["x"]`, as Clarens clients expect."""
        return list(args)

    @method
    def hostname(self) -> list[str]:
        """The name of the machine that the server runs on, and its address: `[name, address]`."""
        name = socket.gethostname()
        try:
            return [name, socket.gethostbyname(name)]
        except OSError:  # a machine whose own name nobody resolves
            return [name, "127.0.0.1"]
