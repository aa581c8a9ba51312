"""The peer: the standard library's SimpleXMLRPCServer as it comes, in a process of its own.

`python -m bench.peer FILE` writes its port to FILE once it listens. Its log goes to stderr, as it does by default.
"""

import sys
from pathlib import Path
from xmlrpc.server import SimpleXMLRPCServer


def same(text: str) -> str:
    """What the measured methods do: they return what they get."""
    return text


if __name__ == "__main__":
    server = SimpleXMLRPCServer(("127.0.0.1", 0))
    server.register_function(same, "measured.plain")  # type: ignore[arg-type]  # typeshed asks for any arguments
    written = Path(sys.argv[1])
    written.with_suffix(".part").write_text(str(server.server_address[1]))
    written.with_suffix(".part").replace(written)
    server.serve_forever()
