"""What calls print: kept apart, bounded, and out of each other's way."""

import asyncio
import contextlib
import io
import logging
import sys
import threading
from collections.abc import Iterator

import pytest

from clarens_lab.output import CallStream, Output, captured, install, uninstall


@contextlib.contextmanager
def console() -> Iterator[io.StringIO]:
    """What goes to the process's own stdout and stderr while the streams are in place.

    No fixture: pytest puts its own streams in place between a fixture and its test.
    """
    stream = io.StringIO()
    with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
        install()
        yield stream
        uninstall()
        assert sys.stdout is stream
        assert sys.stderr is stream


def test_what_a_call_prints_is_kept_and_nothing_else() -> None:
    """
    Inside a call stdout and stderr go to its output, in order; outside they go where they always went.
    """
    with console() as stream:
        output = Output(100)
        print("before")
        with captured(output):
            print("one", end=";")
            print("two", file=sys.stderr, flush=True)
            sys.stdout.writelines(["three", "\n"])
        print("after")
        assert output.text() == "one;two\nthree\n"
        assert stream.getvalue() == "before\nafter\n"


def test_output_beyond_the_limit_is_counted_not_kept() -> None:
    """
    An output holds its limit of characters, and its last line says how many were dropped.
    """
    output = Output(10)
    for _ in range(3):
        output.write("abcd")
    output.write("x" * 1_000_000)
    assert output.text() == "abcdabcdab\n... 1000002 more characters were dropped"
    exact = Output(4)
    exact.write("abcd")
    assert exact.text() == "abcd"


def test_threads_and_tasks_do_not_mix() -> None:
    """
    Calls that print at the same time, on threads or on one event loop, each keep their own lines.
    """
    with console() as stream:
        outputs = {name: Output(10_000) for name in ("a", "b", "c", "d")}
        ready = threading.Barrier(2)

        def work(name: str) -> None:
            with captured(outputs[name]):
                ready.wait()
                for _ in range(100):
                    print(name, end="")

        async def coroutine(name: str) -> None:
            with captured(outputs[name]):
                for _ in range(100):
                    print(name, end="")
                    await asyncio.sleep(0)

        async def both() -> None:
            await asyncio.gather(coroutine("c"), coroutine("d"))

        threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
        for thread in threads:
            thread.start()
        asyncio.run(both())
        for thread in threads:
            thread.join()
        assert {name: output.text() for name, output in outputs.items()} == {name: name * 100 for name in outputs}
        assert stream.getvalue() == ""


def test_a_log_handler_made_anywhere_writes_into_the_call_that_logs() -> None:
    """
    A handler that holds sys.stderr, as logging's do, still writes to whose code is running.
    """
    with console() as stream:
        handler = logging.StreamHandler()
        logger = logging.Logger("service")
        logger.addHandler(handler)
        output = Output(100)
        with captured(output):
            logger.warning("in the call")
        logger.warning("outside")
        assert output.text() == "in the call\n"
        assert stream.getvalue() == "outside\n"


def test_redirection_inside_a_call_takes_precedence() -> None:
    """
    `contextlib.redirect_stdout` in service code works as ever, and leaves the streams as they were.
    """
    with console():
        output, own = Output(100), io.StringIO()
        with captured(output):
            with contextlib.redirect_stdout(own):
                print("own")
            print("kept")
        assert (own.getvalue(), output.text()) == ("own\n", "kept\n")


def test_the_stream_behaves_as_a_text_stream() -> None:
    """
    Bytes are refused as by any text stream, closing it harms nothing, and the rest is that of the real stream.
    """
    with console() as stream:
        output = Output(100)
        with captured(output):
            assert sys.stdout.write("four") == 4
            with pytest.raises(TypeError, match="must be str, not bytes"):
                sys.stdout.write(b"bytes")  # type: ignore[arg-type]  # that is the point
            assert not sys.stdout.isatty()
            sys.stdout.close()
            print("!")
        assert output.text() == "four!\n"
        assert sys.stdout.writable()
        assert not sys.stdout.closed
        assert isinstance(sys.stdout, io.TextIOBase)
        assert (sys.stdout.encoding, sys.stdout.errors) == (stream.encoding, stream.errors)


def test_real_streams_give_their_encoding_errors_and_descriptor() -> None:
    """
    A stand-in for a real stream has that one's encoding, error handling and file descriptor.
    """
    with open("/dev/null", "w", encoding="latin-1", errors="replace") as beneath:  # noqa: PTH123  # a device
        stream = CallStream(beneath)
        assert (stream.encoding, stream.errors, stream.fileno()) == ("latin-1", "replace", beneath.fileno())
        assert stream.buffer is beneath.buffer


def test_two_servers_in_a_process_share_the_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The streams stay in place until the last of their users is done; installing twice wraps once.
    """
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    install()
    wrapped = sys.stdout
    install()
    assert sys.stdout is wrapped
    uninstall()
    output = Output(100)
    with captured(output):
        print("kept")
    assert output.text() == "kept\n"
    uninstall()
    assert sys.stdout is stream


def test_a_stream_that_somebody_else_put_in_place_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Uninstalling does not undo another program's replacement of sys.stdout; a process without one is no error.
    """
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(sys, "stderr", None)
    install()
    sys.stdout = other = io.StringIO()
    uninstall()
    assert sys.stdout is other
    assert sys.stderr is None


def test_a_capture_puts_the_streams_in_place_again() -> None:
    """
    Code that replaces sys.stdout during one call takes the capture away from no later one.
    """
    with console():
        ours = sys.stdout
        sys.stdout = other = io.StringIO()
        output = Output(100)
        with captured(output):
            print("kept")
        print("outside")
        assert (output.text(), other.getvalue()) == ("kept\n", "outside\n")
        sys.stdout = ours
