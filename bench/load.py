"""A lean client: one thread, plain sockets, requests encoded beforehand; as little of the machine as can be.

`python -m bench.load PORT METHOD CONNECTIONS WARM_UP SECONDS` keeps that many calls under way and prints
`CALLS SECONDS ALL`: the calls after the warm-up, in how many seconds, and the calls with those of the warm-up.
A connection is kept where the server keeps it, and made anew where it does not. Connecting never blocks: a server
with a short queue makes one caller wait, not all.
"""

import selectors
import socket
import sys
import time
import xmlrpc.client

TEXT = "some text"


class Connection:
    """One caller: sends a call, reads the answer, sends the next."""

    def __init__(self, selector: selectors.BaseSelector, port: int, request: bytes) -> None:
        self.selector = selector
        self.port = port
        self.request = request
        self.calls = 0
        self.connect()

    def connect(self) -> None:
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.connect_ex(("127.0.0.1", self.port))
        self.received = b""
        self.selector.register(self.socket, selectors.EVENT_WRITE, self)

    def ready(self, events: int) -> None:
        """Goes on, now that its socket can."""
        if events & selectors.EVENT_WRITE:  # it is connected
            self.selector.modify(self.socket, selectors.EVENT_READ, self)
            self.socket.sendall(self.request)
        else:
            self.read()

    def read(self) -> None:
        piece = self.socket.recv(65536)
        self.received += piece
        head, blank, body = self.received.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or 0) if blank else 0
        if not blank or len(body) < length:
            if not piece:
                raise SystemExit(f"bench.load: the server closed amid an answer: {self.received!r}")
            return
        if not head.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200")) or TEXT.encode() not in body:
            raise SystemExit(f"bench.load: not the answer that was expected: {self.received!r}")
        self.calls += 1
        self.received = b""
        if head.startswith(b"HTTP/1.1"):
            self.socket.sendall(self.request)
        else:
            self.close()
            self.connect()

    def close(self) -> None:
        self.selector.unregister(self.socket)
        self.socket.close()


def request(port: int, method: str) -> bytes:
    """The bytes that the standard library's client would send."""
    body = xmlrpc.client.dumps((TEXT,), method).encode()
    head = (
        f"POST /RPC2 HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept-Encoding: gzip\r\nContent-Type: text/xml\r\n"
        f"User-Agent: Python-xmlrpc/3\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def load(port: int, method: str, connections: int, warm_up: float, seconds: float) -> tuple[int, float, int]:
    """The calls that were answered after the warm-up, in how many seconds, and all that were answered."""
    selector = selectors.DefaultSelector()
    wire = request(port, method)
    callers = [Connection(selector, port, wire) for _ in range(connections)]

    def go_on(duration: float) -> tuple[int, float]:
        began = now = time.perf_counter()
        while now < began + duration:
            for key, events in selector.select(began + duration - now):
                key.data.ready(events)
            now = time.perf_counter()
        return sum(caller.calls for caller in callers), now - began

    before, _ = go_on(warm_up)
    everything, took = go_on(seconds)
    for caller in callers:
        caller.close()
    return everything - before, took, everything


if __name__ == "__main__":
    _, port, method, connections, warm_up, seconds = sys.argv
    print(*load(int(port), method, int(connections), float(warm_up), float(seconds)))
