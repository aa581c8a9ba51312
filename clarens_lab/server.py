"""The server: sockets, the event loop, start, drain and stop; in a process of its own or on a thread of another."""

import asyncio
import contextlib
import errno
import getpass
import logging
import os
import secrets
import signal
import socket
import threading
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from clarens_lab import output, runfiles
from clarens_lab.bundled.echo import Echo
from clarens_lab.bundled.lab import Lab
from clarens_lab.bundled.system import System
from clarens_lab.dispatch import Dispatcher
from clarens_lab.engines import Engines
from clarens_lab.events import Item, Ring, RingHandler
from clarens_lab.http import HEADER_ROOM, Door
from clarens_lab.registry import Generation, Registry
from clarens_lab.reload import Reloader
from clarens_lab.service import methods_of
from clarens_lab.settings import Settings, project_of

log = logging.getLogger(__name__)

IDLE_SECONDS = 3600.0
BODY_SECONDS = 600.0


class PortInUse(OSError):
    """Another program listens on the port; the text says what to do."""


class Server:
    """A server of the services in some notebooks, files, packages and folders.

        with Server(["picalc.ipynb"], Settings(port=0)) as server:
            Client(server.url).picalc.digits(50)

    `start` runs it on a thread of its own with its own event loop; `run` in the calling thread until it is stopped.
    """

    def __init__(
        self, paths: Iterable[str | Path] = (), settings: Settings | None = None, *, token: str | None = None
    ) -> None:
        self.settings = settings or Settings()
        self.token = token or secrets.token_urlsafe(24)
        self.paths = [Path(path).absolute() for path in paths]
        self.project = project_of(self.paths[0] if self.paths else Path.cwd())
        self.registry = Registry()
        self.events = Ring(self.settings.event_ring)
        self.log = Ring(self.settings.log_lines, self.settings.log_bytes, _line_bytes)
        self.engines = Engines(self.settings.worker_threads, self.settings.queue_limit, self.settings.call_limit)
        self.dispatcher = Dispatcher(
            self.registry,
            self.engines,
            self.events,
            tells_tracebacks=self.settings.tells_tracebacks,
            output_limit=self.settings.output_limit,
        )
        self._facts: dict[str, Any] = {"project": str(self.project), "debug": self.settings.tells_tracebacks}
        bundled = {"system": System(self.dispatcher), "echo": Echo()}
        self.reloader = Reloader(
            self.registry,
            self.settings,
            self.events,
            [Generation(name, methods_of(name, thing)) for name, thing in bundled.items()],
        )
        lab = Lab(self.dispatcher, self.reloader, self.events, self.log, self._facts)
        self.registry.publish([Generation("lab", methods_of("lab", lab))])
        self._sockets: list[socket.socket] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self._signals = 0

    # --- what it is reached at ------------------------------------------------------------------

    @property
    def port(self) -> int:
        """The port it listens on; 0 before `listen`."""
        return int(self._sockets[0].getsockname()[1]) if self._sockets else 0

    @property
    def url(self) -> str:
        """Its XML-RPC address, `http://127.0.0.1:8642/clarens/`."""
        host = self.settings.host
        shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(host, host)  # noqa: S104  # not bound here
        shown = f"[{shown}]" if ":" in shown and not shown.startswith("[") else shown
        return f"http://{shown}:{self.port}/clarens/"

    def __repr__(self) -> str:
        return f"<Server {self.url}>" if self._sockets else "<Server, not listening>"

    # --- starting and stopping ------------------------------------------------------------------

    def listen(self) -> None:
        """Binds the port, in the calling thread, so that it learns at once if that fails.

        Raises PortInUse or OSError.
        """
        if self._sockets:
            return
        host, port = self.settings.host, self.settings.port
        try:
            self._sockets = bind_sockets(port, host, reuse_port=False)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortInUse(
                    errno.EADDRINUSE,
                    f"port {port} on {host} is in use by another program; "
                    "stop that, or take another port with --port (0 takes any free one)",
                ) from None
            raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}") from None
        _listening.add(self)

    def start(self) -> Self:
        """Starts it on a thread of its own; returns when it listens and every load has ended, well or badly."""
        self.listen()
        ready = threading.Event()
        failed: list[BaseException] = []

        def target() -> None:
            try:
                self.run(ready=ready.set, signals=False)
            except BaseException as error:  # noqa: BLE001  # raised again in the thread that starts it
                failed.append(error)
            finally:
                ready.set()

        self._thread = threading.Thread(target=target, name=f"clarens server {self.port}", daemon=True)
        self._thread.start()
        ready.wait()
        if failed:
            raise failed[0]
        return self

    def run(self, ready: Callable[[], object] = lambda: None, *, signals: bool = True) -> None:
        """Serves in the calling thread until `stop`, SIGTERM or SIGINT.

        `ready` is called when it listens and every load has ended.
        """
        self.listen()
        asyncio.run(self._run(ready, signals))

    def stop(self) -> None:
        """Stops it, from any thread: calls in flight may end, within the time limit; then the port is free."""
        loop, stopping = self._loop, self._stopping
        if loop is not None and stopping is not None and not loop.is_closed():
            with contextlib.suppress(RuntimeError):  # it closed in this very moment
                loop.call_soon_threadsafe(stopping.set)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(self.settings.drain_limit + 5)
        self._close_sockets()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # --- its life -------------------------------------------------------------------------------

    async def _run(self, ready: Callable[[], object], signals: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        if signals:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._loop.add_signal_handler(number, self._signalled)
        handler = RingHandler(self.log)
        logger = logging.getLogger("clarens_lab")
        logger.addHandler(handler)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.INFO)
        output.install()
        door = Door(self.dispatcher, self.engines, self.settings, self.token, _dn(self.settings))
        http = HTTPServer(
            door, max_header_size=HEADER_ROOM, idle_connection_timeout=IDLE_SECONDS, body_timeout=BODY_SECONDS
        )
        http.add_sockets(self._sockets)
        self._facts["url"] = self.url
        run_file: Path | None = None
        try:
            stopped = asyncio.ensure_future(self._stopping.wait())
            loads = asyncio.ensure_future(self.engines.workers.run(lambda: self.reloader.serve(self.paths)))
            await asyncio.wait({loads, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if loads.done():
                loads.result()
                if self.settings.reload:
                    self.reloader.watch()
                run_file = runfiles.write(self.running)
                log.info("serving %s", self.url)
                ready()
            await stopped
            await self._drain(http, door)
        finally:
            if run_file is not None:
                run_file.unlink(missing_ok=True)
            self.reloader.stop()
            self.engines.stop()
            output.uninstall()
            logger.removeHandler(handler)

    @property
    def running(self) -> runfiles.Running:
        """What its run file tells."""
        return runfiles.Running(
            self.url, self.token, os.getpid(), tuple(str(path) for path in self.paths), str(self.project)
        )

    def _signalled(self) -> None:
        self._signals += 1
        if self._signals > 1:
            os._exit(1)  # the second one ends at once, whatever still runs
        if self._stopping is not None:
            self._stopping.set()

    async def _drain(self, http: HTTPServer, door: Door) -> None:
        """Takes no new connections, lets the calls in flight end within the limit, closes the rest."""
        door.draining = True
        self._shut_down_sockets()
        http.stop()
        if door.calls:
            log.info("stopping: %d calls in flight have %g s to end", len(door.calls), self.settings.drain_limit)
            _, late = await asyncio.wait(set(door.calls), timeout=self.settings.drain_limit)
            for task in late:
                task.cancel()
            if late:
                log.warning("stopped with %d calls unfinished", len(late))
                await asyncio.wait(late, timeout=1)
        await http.close_all_connections()
        self._sockets.clear()
        _listening.discard(self)

    def _shut_down_sockets(self) -> None:
        """Ends listening even where a forked child still has the sockets open."""
        for one in self._sockets:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:  # systems on which a listening socket cannot be shut down
                continue

    def _close_sockets(self) -> None:
        if self._sockets:
            self._shut_down_sockets()
            for one in self._sockets:
                one.close()
            self._sockets.clear()
        _listening.discard(self)


_listening: "weakref.WeakSet[Server]" = weakref.WeakSet()


def _close_in_child() -> None:
    """A forked child does not serve, and must not keep the port."""
    for server in list(_listening):
        for one in server._sockets:
            one.close()


os.register_at_fork(after_in_child=_close_in_child)


def _dn(settings: Settings) -> str:
    if settings.dev_dn:
        return settings.dev_dn
    try:
        return f"/O=clarens-lab/CN={getpass.getuser()}"
    except (KeyError, OSError):  # a user id without a name, as in some containers
        return f"/O=clarens-lab/CN={os.getuid()}"


def _line_bytes(line: Item) -> int:
    return len(line["text"])
