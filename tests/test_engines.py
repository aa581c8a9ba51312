"""Where method bodies run: worker threads that stay bounded and isolated, the loop for coroutines, time limits."""

import asyncio
import contextlib
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from math import inf
from typing import Any

import pytest
from serving import PATIENCE, Logged, until

from clarens_lab.engines import Engines, Workers, threads
from clarens_lab.faults import Overloaded, TimedOut
from clarens_lab.output import Output
from clarens_lab.service import Call, Caller, marked, method


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 20))


def workers_named(start: str = "clarens worker") -> int:
    return sum(thread.name.startswith(start) for thread in threading.enumerate())


async def in_engines(
    engines: Engines, function: Callable[..., Any], *arguments: object, finish: Callable[[Any], Any] = lambda it: it
) -> Any:
    made = marked(function, "t", function.__name__)
    return await engines.run(made, arguments, Call(1, made.path, Caller()), Output(1000), finish)


def test_a_body_runs_on_a_thread_and_its_value_comes_back() -> None:
    """A plain function runs off the event loop's thread."""

    async def main() -> tuple[int, Any]:
        workers = Workers(2, 10)
        try:
            return threading.get_ident(), await workers.run(threading.get_ident)
        finally:
            workers.stop()

    here, there = run(main())
    assert here != there


@pytest.mark.parametrize("kind", [ValueError, StopIteration, StopAsyncIteration, SystemExit, KeyboardInterrupt])
def test_whatever_a_body_raises_arrives(kind: type[BaseException]) -> None:
    """Exceptions that a future cannot carry arrive too; a worker survives them all."""

    def body() -> None:
        raise kind("no")

    async def main() -> Any:
        workers = Workers(1, 10)
        try:
            # A coroutine cannot raise StopIteration: Python makes a RuntimeError of it, caused by the real one.
            with pytest.raises((kind, RuntimeError)) as caught:
                await workers.run(body)
            assert kind in (type(caught.value), type(caught.value.__cause__))
            return await workers.run(lambda: "alive")
        finally:
            workers.stop()

    assert run(main()) == "alive"


def test_threads_are_started_as_they_are_needed_and_no_more() -> None:
    """Calls one after the other share one thread; many at once get up to the limit."""

    async def main() -> None:
        workers = Workers(3, 100)
        for _ in range(20):
            await workers.run(int)
        assert workers_named() == 1
        gate = threading.Event()
        waiting = [asyncio.ensure_future(workers.run(gate.wait)) for _ in range(10)]
        await asyncio.sleep(0)
        assert workers_named() == 3
        gate.set()
        assert await asyncio.gather(*waiting) == [True] * 10
        workers.stop()

    until(lambda: workers_named() == 0)  # those of the test before may be just ending
    run(main())
    until(lambda: workers_named() == 0)


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_the_queue_is_bounded(limit: int) -> None:
    """Once every thread is busy, as many calls wait as the limit says; the next is refused at once."""

    async def main() -> None:
        workers = Workers(2, limit)
        gate = threading.Event()
        taken = [asyncio.ensure_future(workers.run(gate.wait)) for _ in range(2 + limit)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match=f"{limit} calls already wait for one of 2 worker threads"):
            await workers.run(int)
        gate.set()
        await asyncio.gather(*taken)
        assert await workers.run(lambda: 7) == 7
        workers.stop()

    run(main())


def test_a_job_that_nobody_waits_for_is_not_begun() -> None:
    """A call whose time was over before a thread was free is never run."""
    ran: list[int] = []

    async def main() -> None:
        workers = Workers(1, 10)
        gate = threading.Event()
        first = asyncio.ensure_future(workers.run(gate.wait))
        await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(workers.run(lambda: ran.append(1)), 0.01)
        gate.set()
        await first
        await workers.run(int)
        workers.stop()

    run(main())
    assert ran == []


def test_calls_do_not_see_each_others_context() -> None:
    """What a body leaves in a ContextVar is gone with the call, and the caller's context reaches the body."""
    left: ContextVar[str] = ContextVar("left", default="clean")
    given: ContextVar[str] = ContextVar("given", default="")

    def body() -> tuple[str, str]:
        before = left.get()
        left.set("dirty")
        return before, given.get()

    async def main() -> list[Any]:
        workers = Workers(1, 10)
        given.set("hello")
        try:
            return [await workers.run(body), await workers.run(body)]
        finally:
            workers.stop()

    assert run(main()) == [("clean", "hello")] * 2


def test_an_idle_worker_keeps_nothing_alive() -> None:
    """When a call has ended, its function, arguments and value are freed though the thread waits on."""

    class Thing:
        pass

    async def main() -> weakref.ref[Thing]:
        workers = Workers(1, 10)
        thing = Thing()
        reference = weakref.ref(thing)
        await workers.run(lambda kept=thing: [kept])
        del thing
        await asyncio.sleep(0)
        until(lambda: (gc.collect(), reference() is None)[1])
        workers.stop()
        return reference

    assert run(main())() is None


def test_a_loop_that_is_gone_does_not_break_a_worker() -> None:
    """A body that ends after its server's loop was closed ends quietly."""
    gate = threading.Event()
    ended = threading.Event()
    workers = Workers(1, 10)

    def body() -> None:
        gate.wait(20)
        ended.set()

    async def main() -> None:
        task = asyncio.ensure_future(workers.run(body))
        await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(main())
    gate.set()
    assert ended.wait(20)
    workers.stop()
    until(lambda: workers_named() == 0)


# --- engines -----------------------------------------------------------------------------------


@pytest.fixture
def engines() -> Any:
    made = Engines(threads=4, queue_limit=10, call_limit=0)
    yield made
    made.stop()


def test_each_kind_of_function_runs_in_its_place(engines: Engines) -> None:
    """Coroutines and inline functions run on the loop; plain ones, and those that return awaitables, on a thread."""

    @method
    async def coroutine() -> int:
        return threading.get_ident()

    @method(inline=True)
    def inline() -> int:
        return threading.get_ident()

    @method
    def plain() -> int:
        return threading.get_ident()

    @method
    def mixed() -> Any:
        return coroutine()

    class Called:
        async def __call__(self) -> int:
            return threading.get_ident()

    called = Called()
    called.__name__ = "called"  # type: ignore[attr-defined]
    method(called)

    async def main() -> list[bool]:
        here = threading.get_ident()
        return [await in_engines(engines, one) == here for one in (coroutine, inline, plain, mixed, called)]

    assert run(main()) == [True, True, False, True, True]


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
def test_a_call_beyond_its_limit_is_answered(kind: str) -> None:
    """A call that takes longer than the setting allows fails in time, whatever it runs on."""
    gate = threading.Event()

    @method
    def plain() -> None:
        gate.wait(20)

    @method
    async def coroutine() -> None:
        await asyncio.sleep(20)

    async def main() -> None:
        engines = Engines(4, 10, call_limit=0.05)
        began = time.monotonic()
        with pytest.raises(TimedOut, match=f"t.{kind} took longer than its limit of 0.05 s"):
            await in_engines(engines, {"plain": plain, "coroutine": coroutine}[kind])
        assert time.monotonic() - began < 10
        gate.set()
        engines.stop()

    run(main())


def test_a_methods_own_limit_wins() -> None:
    """`timeout` of a method holds instead of the setting, longer or shorter; infinity is no limit."""

    @method(timeout=0.02)
    async def short() -> None:
        await asyncio.sleep(20)

    @method(timeout=20)
    async def long() -> str:
        await asyncio.sleep(0.1)
        return "done"

    @method(timeout=inf)
    async def free() -> str:
        await asyncio.sleep(0.1)
        return "done"

    async def main() -> None:
        engines = Engines(4, 10, call_limit=0.05)
        with pytest.raises(TimedOut, match=r"limit of 0\.02 s"):
            await in_engines(engines, short)
        assert [await in_engines(engines, long), await in_engines(engines, free)] == ["done", "done"]
        engines.stop()

    run(main())


def test_a_services_own_timeout_is_not_taken_for_the_limit(engines: Engines) -> None:
    """A TimeoutError that the method raises itself is its own exception."""

    @method(timeout=20)
    async def own() -> None:
        raise TimeoutError("mine")

    async def main() -> None:
        with pytest.raises(TimeoutError, match="mine"):
            await in_engines(engines, own)

    run(main())


def test_large_values_are_written_down_on_a_thread(engines: Engines) -> None:
    """What a coroutine or an inline method answers is encoded on the loop if small, on a worker if large."""
    values = {"small": [1, "x", {"a": None}], "text": "x" * 10**6, "deep": [[[0] * 10**5]], "many": dict.fromkeys("ab")}
    values["many"] = {str(number): number for number in range(5000)}

    @method
    async def coroutine(name: str) -> Any:
        return values[name]

    async def main() -> dict[str, bool]:
        here = threading.get_ident()
        return {
            name: await in_engines(engines, coroutine, name, finish=lambda _: threading.get_ident()) == here
            for name in values
        }

    assert run(main()) == {"small": True, "text": False, "deep": False, "many": False}


def test_the_servers_own_work_goes_on_when_services_hold_every_thread(engines: Engines) -> None:
    """Stuck calls of services do not keep `lab.*` from running."""
    gate = threading.Event()

    async def main() -> Any:
        stuck = [asyncio.ensure_future(engines.workers.run(gate.wait)) for _ in range(14)]
        await asyncio.sleep(0)

        @method
        def own() -> str:
            return "here"

        made = marked(own, "lab", "own")
        answer = await engines.run(made, (), Call(1, "lab.own", Caller()), Output(10), str, own=True)
        gate.set()
        await asyncio.gather(*stuck)
        return answer

    assert run(main()) == "here"


# --- what threads may do and suffer ----------------------------------------------------------------


def test_a_child_that_a_body_forks_ends_where_the_body_does() -> None:
    """A forked child that returns from a body ends there, and does not go on as a copy of the server."""
    code = """
        import asyncio, os
        from clarens_lab.engines import Workers
        async def main():
            workers = Workers(1, 10)
            child = await workers.run(os.fork)
            assert child, "the child came back"
            assert os.waitpid(child, 0) == (child, 0)
            print("ended")
        asyncio.run(asyncio.wait_for(main(), 20))
    """
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            assert process.communicate(timeout=PATIENCE) == ("ended\n", None)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def test_a_thread_that_cannot_be_started_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has no thread left, the first call is refused; later ones make do with those that there are."""
    real = threading.Thread.start
    fails = True

    def start(thread: threading.Thread) -> None:
        if fails:
            raise RuntimeError("can't start new thread")
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)

    async def main() -> None:
        nonlocal fails
        workers = Workers(2, 10)
        with pytest.raises(Overloaded, match=r"no worker thread could be started .can't start new thread."):
            await workers.run(int)
        fails = False
        assert await workers.run(int) == 0
        fails = True
        gate = threading.Event()
        first, second = (asyncio.ensure_future(workers.run(gate.wait)) for _ in range(2))
        await asyncio.sleep(0)
        gate.set()
        assert await asyncio.gather(first, second) == [True, True]
        workers.stop()

    run(main())


def test_calls_that_wait_for_long_are_told_of_with_who_is_busy(logged: Logged, monkeypatch: pytest.MonkeyPatch) -> None:
    """When calls wait for a thread the log names the methods that occupy them all, once in a while."""
    monkeypatch.setattr(threads, "PATIENCE_SECONDS", 0.01)
    gate = threading.Event()

    @method
    def forever() -> None:
        gate.wait(20)

    async def main() -> None:
        engines = Engines(2, 10, call_limit=0)
        stuck = [asyncio.ensure_future(in_engines(engines, forever)) for _ in range(3)]
        while not logged.lines:
            await asyncio.sleep(0.005)
        stuck.append(asyncio.ensure_future(in_engines(engines, forever)))
        await asyncio.sleep(0.05)
        gate.set()
        await asyncio.gather(*stuck)
        assert not engines.workers._running
        engines.stop()

    run(main())
    logged.claim(r"all 2 worker threads are busy \(t\.forever 2\): 1 calls wait; a method's timeout=")


def test_short_waits_for_a_thread_are_not_worth_a_line() -> None:
    """More calls than threads, each of them quick, are logged by nobody."""

    async def main() -> None:
        workers = Workers(1, 100)
        await asyncio.gather(*[workers.run(int) for _ in range(50)])
        workers.stop()

    run(main())
