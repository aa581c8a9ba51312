"""Building within a time limit, on a thread of its own that is given up when the time is over."""

import ctypes
import sys
import threading
from collections.abc import Mapping

from clarens_lab.loaders.build import LoadTimeout, build
from clarens_lab.output import Output, captured
from clarens_lab.registry import Generation
from clarens_lab.service import Kept
from clarens_lab.source import LoadError, Source


def build_within(
    limit: float, source: Source, kept: Kept, lent: Mapping[str, object] | None, output: Output
) -> Generation:
    """As `build`, but raises LoadError naming where the code was when `limit` seconds were over."""
    ended: list[Generation | BaseException] = []
    given_up = False
    deciding = threading.Lock()

    def run() -> None:
        result: Generation | BaseException
        try:
            with captured(output):
                result = build(source, kept, lent)
        except BaseException as error:  # noqa: BLE001  # handed to the thread that waits
            result = error
        with deciding:
            ended.append(result)
        if given_up and isinstance(result, Generation):
            result.unload()

    thread = threading.Thread(target=run, name=f"load {source.service}", daemon=True)
    thread.start()
    thread.join(limit)
    with deciding:
        given_up = not ended
    if given_up:
        place = _running_at(thread, source)
        _interrupt(thread)
        raise LoadError(
            f"{place}: still running after {limit:g} s, the load limit: do the work in a method or with keep(...), "
            "or raise the setting load_limit"
        )
    thread.join()
    result = ended[0]
    if isinstance(result, Generation):
        return result
    raise result


def _running_at(thread: threading.Thread, source: Source) -> str:
    """Where in the service a thread is now."""
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None:
        unit = source.by_filename.get(frame.f_code.co_filename)
        if unit is not None:
            return unit.at(frame.f_lineno, frame.f_code.co_name)
        frame = frame.f_back
    return source.service


def _interrupt(thread: threading.Thread) -> None:
    """Ends a thread at its next Python instruction; one that waits in C goes on until that returns."""
    ident = ctypes.c_ulong(thread.ident or 0)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(LoadTimeout))
