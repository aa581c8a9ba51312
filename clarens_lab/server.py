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
import time
import weakref
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from clarens_lab import output, runfiles
from clarens_lab.bundled.echo import Echo
from clarens_lab.bundled.lab import Lab
from clarens_lab.bundled.system import System
from clarens_lab.dispatch import Dispatcher
from clarens_lab.engines import Engines
from clarens_lab.events import Item, Ring, RingHandler
from clarens_lab.http import Door, Listener
from clarens_lab.registry import Generation, Registry
from clarens_lab.reload import Reloader
from clarens_lab.service import methods_of
from clarens_lab.settings import Settings, project_of

log = logging.getLogger(__name__)

BACKLOG = 128
SWEEP_SECONDS = 60.0
GRACE_SECONDS = 2.0
"""What is left, once the calls in flight have had their time, for hooks and for tasks that do not end."""


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
        self._door = Door(self.dispatcher, self.engines, self.settings, self.token, _dn(self.settings))
        self._sockets: list[socket.socket] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._thread: threading.Thread | None = None
        self._used = False
        self._signals = 0
        self.run_files: list[Path] = []
        """What tells others where it is; removed also when it is ended by force."""

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

        Raises PortInUse or OSError; RuntimeError if it ran before.
        """
        if self._used:
            raise RuntimeError(f"{self!r} runs once: make a new Server, of the same paths and settings")
        if self._sockets:
            return
        host, port = self.settings.host, self.settings.port
        try:
            self._sockets = _bound(host, port)
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
        self._used = True
        try:
            _run_to_the_end(self._run(ready, signals), signals)
        finally:
            self._close_sockets()

    def stop(self) -> None:
        """Stops it, from any thread: calls in flight may end, within the time limit; then the port is free."""
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended
                loop.call_soon_threadsafe(self._stopping.set)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(self.settings.drain_limit + 2 * GRACE_SECONDS)
        if loop is None or self._thread is not None:  # else the thread that runs it does so
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
        self._facts["url"] = self.url
        with contextlib.ExitStack() as ending:
            if signals:
                ending.enter_context(_handled(self._signalled))
            ending.enter_context(_logged(self.log))
            output.install()
            ending.callback(output.uninstall)
            ending.callback(self.engines.stop)
            ending.callback(self.reloader.stop)
            stopped = asyncio.ensure_future(self._stopping.wait())
            loads = asyncio.ensure_future(self.engines.aside.run(lambda: self.reloader.serve(self.paths)))
            await asyncio.wait({loads, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not loads.done():
                loads.cancel()
                return
            loads.result()
            if self.settings.reload:
                self.reloader.watch()
            listener = Listener(self._door)  # who connected before has waited: nothing answers "no such method" yet
            listener.add_sockets(self._sockets)
            run_file = runfiles.write(replace(self.running, embedded=not signals))
            self.run_files.append(run_file)
            ending.callback(run_file.unlink, missing_ok=True)
            log.info("serving %s", self.url)
            ready()
            await self._until_stopped()
            stopped.cancel()  # where code of a service has not done so already
            await self._drain(listener)

    async def _until_stopped(self) -> None:
        """Waits for `stop`, and for nothing else: a service that cancels all tasks cancels this one too."""
        while not self._stopping.is_set():
            try:
                async with asyncio.timeout(SWEEP_SECONDS):
                    await self._stopping.wait()
            except TimeoutError:
                self._door.close_idle()
            except asyncio.CancelledError:
                log.error("code of a service cancelled the server's own task; the server goes on")
                task = asyncio.current_task()
                if task is not None:
                    task.uncancel()

    @property
    def running(self) -> runfiles.Running:
        """What its run file tells."""
        return runfiles.Running(
            self.url, self.token, os.getpid(), tuple(str(path) for path in self.paths), str(self.project)
        )

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        """Ends serving at the first signal, and the process at once at the second, whatever still runs.

        A handler of Python's own, which runs also while a method holds up the event loop; for that and for threads
        that do not end, the process is given so long and then ended by force.
        """
        self._signals += 1
        if self._signals > 1:
            self._take_back_run_files()
            os._exit(1)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)
        last = threading.Timer(self.settings.drain_limit + 2 * GRACE_SECONDS, self._end_by_force)
        last.daemon = True
        last.start()

    def _end_by_force(self) -> None:
        log.warning("stopped by force: code of a service did not end")
        self._take_back_run_files()
        os._exit(0)

    def _take_back_run_files(self) -> None:
        for path in self.run_files:
            runfiles.take_back(path)

    async def _drain(self, listener: Listener) -> None:
        """Takes no new connections, lets the calls in flight end within the limit, closes the rest."""
        self._door.draining = True
        self._shut_down_sockets()
        listener.stop()
        self._sockets.clear()
        _listening.discard(self)
        self.events.close()
        self.log.close()
        calls = self._door.calls
        if calls:
            log.info("stopping: %d calls in flight have %g s to end", len(calls), self.settings.drain_limit)
        await _ended(calls, self.settings.drain_limit)
        if calls:
            log.warning("stopped with %d calls unfinished", len(calls))
            self.dispatcher.ending = True
            for task in calls:
                task.cancel()
            await _ended(calls, GRACE_SECONDS / 2)
        await self._door.close_connections()
        end = time.monotonic() + GRACE_SECONDS
        for hooks in self.registry.close():
            hooks.join(max(0, end - time.monotonic()))

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


def _bound(host: str, port: int) -> list[socket.socket]:
    """Listening sockets, one for each address that the host has: `localhost` may have two, and they share the port."""
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, kind, protocol, _, address in dict.fromkeys(found):
        shared = port or (sockets[0].getsockname()[1] if sockets else 0)
        one: socket.socket | None = None
        try:
            one = socket.socket(family, kind, protocol)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.setblocking(False)
            one.bind((address[0], shared, *address[2:]))
            one.listen(BACKLOG)
        except OSError as error:
            if one is not None:
                one.close()
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                for other in sockets:
                    other.close()
                raise
            missing = error  # a kind of address that this machine has not; perhaps it has the other
        else:
            sockets.append(one)
    if missing is not None and not sockets:
        raise missing
    return sockets


async def _ended(calls: set[asyncio.Task[None]], limit: float) -> None:
    """Waits until no call is in flight, those too that come meanwhile on open connections, or the time is over."""
    end = asyncio.get_running_loop().time() + limit
    while calls and (left := end - asyncio.get_running_loop().time()) > 0:
        await asyncio.wait(set(calls), timeout=left)


def _run_to_the_end(main: Coroutine[Any, Any, None], signals: bool) -> None:
    """As `asyncio.run`, but for what code of services may do to it.

    A task of a service that raises SystemExit or stops the loop does not end it; one that refuses to be cancelled, or
    a thread of the loop's default executor that is stuck, does not keep it from ending.
    """
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        task = loop.create_task(main)
        task.add_done_callback(lambda _: loop.stop())
        while not task.done():
            try:
                loop.run_forever()
                if not task.done():
                    log.error("code of a service stopped the event loop; the server goes on")
            except (SystemExit, KeyboardInterrupt) as error:
                if not (signals or threading.current_thread() is not threading.main_thread()):
                    raise  # the user's own Ctrl-C
                log.error("a task that a service started raised %s; the server goes on", type(error).__name__)
        if task.cancelled():
            log.error("code of a service cancelled the server's own task while it was starting or stopping")
        else:
            task.result()
    finally:
        _cancel_what_is_left(loop)
        asyncio.set_event_loop(None)
        loop.close()


_unending: list[asyncio.Task[Any]] = []
"""Tasks that cannot be cancelled: kept, so that they are not torn down wherever garbage is next collected."""


def _cancel_what_is_left(loop: asyncio.AbstractEventLoop) -> None:
    left = asyncio.all_tasks(loop)
    for one in left:
        one.cancel()
    if left:
        _, unending = loop.run_until_complete(asyncio.wait(left, timeout=GRACE_SECONDS / 2))
        _unending.extend(unending)
    loop.run_until_complete(loop.shutdown_asyncgens())


@contextlib.contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """While the block runs, SIGTERM and SIGINT go to the handler."""
    before = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextlib.contextmanager
def _logged(ring: Ring) -> Iterator[None]:
    """While the block runs, the package's log lines go to the ring too."""
    handler = RingHandler(ring)
    logger = logging.getLogger("clarens_lab")
    logger.addHandler(handler)
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)


_listening: "weakref.WeakSet[Server]" = weakref.WeakSet()


def _close_in_child() -> None:
    """A forked child does not serve, and must not keep the port."""
    for server in list(_listening):
        for one in server._sockets:
            one.close()
        server._door.close_in_child()


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
