"""The file system, turned into batches of changed paths.

Single folders are watched, each without those below it: so hidden folders, caches and installed environments
cost nothing. Whenever a watch has been made, everything is looked at once: a file may be older than the watch.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from watchfiles import Change
from watchfiles._rust_notify import RustNotify, WatchfilesRustInternalError  # documented for direct use

from clarens_lab.source import is_folder

# watchfiles.watch() does not say when its watch has been made, and so from when on nothing is missed.

log = logging.getLogger(__name__)

STEP = 20
DEBOUNCE = 60
"""Milliseconds without a change that end a look, and the longest look: a save in two parts was seen whole after 16 ms,
the next file of a `git switch` on a busy machine within 20; the library's defaults take 50 and 1600."""
QUIET = 50
"""Milliseconds without a change that end a burst of several files, so that a `git switch` is one batch."""
LONGEST_BURST = 2.0
LOOK_AGAIN = 2.0
"""Seconds after which known files are looked at whatever was seen: an event may have been lost."""
POLL = 0.2
SPARE = {"events": 50, "polling": 10}
"""A look at everything comes no sooner than this many times what the last one took of the processor: polling is all
that tells of a save, so it may take more."""
SUFFIXES = (".ipynb", ".py")


class Stamp(NamedTuple):
    """What tells that a file was written, without reading it."""

    written: int
    changed: int
    size: int
    inode: int


def stamp(path: Path) -> Stamp | None:
    """The file's stamp; None if it is not there."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return Stamp(stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino)


def _may_read(folder: Path) -> bool:
    return os.access(folder, os.R_OK, effective_ids=os.access in os.supports_effective_ids)


@dataclass(frozen=True)
class Batch:
    """Paths that changed together; `rescan` if others may have changed unseen."""

    paths: frozenset[Path]
    rescan: bool = False


class Watch:
    """Watches the folders that `folders` names, until it is stopped."""

    def __init__(self, folders: Callable[[], Iterable[Path]], *, poll: bool = False) -> None:
        self._folders = folders
        self._stop = threading.Event()
        self._again = threading.Event()
        self._watched: frozenset[Path] = frozenset()
        self.polling = poll
        self.cost = 0.0
        """Seconds that the last look at everything took of the processor, as told by who looks."""

    def stop(self) -> None:
        """Ends `batches`, from any thread."""
        self._stop.set()
        self._again.set()

    def renew(self) -> None:
        """Makes the watch anew if there are other folders to watch than there were."""
        if not self.polling and self._there() != self._watched:
            self._again.set()

    def batches(self) -> Iterator[Batch]:
        """Each batch of changes; blocks in between. The first one is a rescan."""
        while True:
            self._again.clear()
            if self._stop.is_set():
                return
            try:
                self._watched = self._there()
                yield from self._polled() if self.polling else self._seen()
            except FileNotFoundError:  # a folder went away: it is left out next time
                self._again.wait(POLL)
            except (OSError, WatchfilesRustInternalError) as error:
                self.polling = True
                log.warning("saves are noticed by polling from now on (every %g s): %s", POLL, error)

    def _there(self) -> frozenset[Path]:
        """The folders that can be watched. One that cannot be read would end the watch of all."""
        return frozenset(folder for folder in self._folders() if is_folder(folder) and _may_read(folder))

    def _polled(self) -> Iterator[Batch]:
        yield Batch(frozenset(), rescan=True)
        while not self._again.wait(max(POLL, self.cost * SPARE["polling"])):
            yield Batch(frozenset(), rescan=True)

    def _seen(self) -> Iterator[Batch]:
        if not self._watched:
            self._again.wait()
            return
        with RustNotify([str(folder) for folder in self._watched], False, False, 0, False, False) as notify:
            yield Batch(frozenset(), rescan=True)
            looked = time.monotonic()
            while not self._again.is_set():
                paths = self._burst(notify, looked + max(LOOK_AGAIN, self.cost * SPARE["events"]))
                now = time.monotonic()
                rescan = now >= looked + max(LOOK_AGAIN, self.cost * SPARE["events"])
                if rescan:
                    looked = now
                if paths or rescan:
                    yield Batch(paths, rescan)

    def _burst(self, notify: RustNotify, due: float) -> frozenset[Path]:
        """Files that changed together, within `due`; one file comes at once, several once no more follow."""
        paths = self._changed(notify, due - time.monotonic())
        end = time.monotonic() + LONGEST_BURST
        quiet = time.monotonic() + QUIET / 1000
        while len(paths) > 1 and (now := time.monotonic()) < min(quiet, end) and not self._again.is_set():
            more = self._changed(notify, quiet - now)
            if more:
                paths |= more
                quiet = time.monotonic() + QUIET / 1000
        return paths

    def _changed(self, notify: RustNotify, seconds: float) -> frozenset[Path]:
        changes = notify.watch(DEBOUNCE, STEP, max(1, round(seconds * 1000)), self._again)
        if isinstance(changes, str):
            return frozenset()
        wanted = {path for change, path in changes if self._is_wanted(Change(change), path)}
        files = frozenset(Path(path) for path in wanted if path.endswith(SUFFIXES))
        if len(files) < len(wanted):
            self._again.set()  # a folder came or went
        return files

    def _is_wanted(self, change: Change, path: str) -> bool:
        name = path.rpartition("/")[2]
        if name.startswith(".") or name == "__pycache__":
            return False
        if path.endswith(SUFFIXES):
            return True
        if change is Change.deleted:
            return Path(path) in self._watched
        return change is Change.added and is_folder(Path(path))
