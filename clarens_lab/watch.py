"""The file system, turned into batches of changed paths.

Single folders are watched, each without those below it: so hidden folders, caches and installed environments
cost nothing. A new folder means that the watch is made anew and everything is looked at once more, since a file
in it may be older than the watch.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import watchfiles

log = logging.getLogger(__name__)

STEP = 10
DEBOUNCE = 30
"""Milliseconds: a save in two parts was seen whole after 16 ms; the library's defaults take 100."""
LOOK_AGAIN = 2000
"""Milliseconds without an event after which known files are looked at: an event may have been lost."""
POLL = 200
SUFFIXES = (".ipynb", ".py")


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

    def stop(self) -> None:
        """Ends `batches`, from any thread."""
        self._stop.set()
        self._again.set()

    def look_again(self) -> None:
        """Makes the watch anew: there may be other folders to watch."""
        self._again.set()

    def batches(self) -> Iterator[Batch]:
        """Each batch of changes; blocks in between."""
        while not self._stop.is_set():
            self._again.clear()
            self._watched = frozenset(folder for folder in self._folders() if folder.is_dir())
            try:
                for changes in self._changes(self._watched):
                    paths = frozenset(Path(path) for _, path in changes)
                    files = frozenset(path for path in paths if path.suffix in SUFFIXES)
                    if paths - files:
                        self._again.set()  # a folder came or went
                    if files or not paths:
                        yield Batch(files, rescan=not paths)
                    if self._again.is_set():
                        break
            except OSError as error:
                self._fall_back(error)
            if not self._stop.is_set():
                yield Batch(frozenset(), rescan=True)

    def _changes(self, folders: frozenset[Path]) -> Iterator[set[tuple[watchfiles.Change, str]]]:
        if not folders:
            self._again.wait()
            return
        yield from watchfiles.watch(
            *folders,
            watch_filter=self._is_wanted,
            debounce=DEBOUNCE,
            step=STEP,
            stop_event=self._again,
            rust_timeout=LOOK_AGAIN,
            yield_on_timeout=True,
            raise_interrupt=False,
            force_polling=self.polling,
            poll_delay_ms=POLL,
            recursive=False,
        )

    def _fall_back(self, error: OSError) -> None:
        """Folders that went away are left out next time; any other failure means polling from now on."""
        if self.polling or isinstance(error, FileNotFoundError):
            self._again.wait(POLL / 1000)
            return
        self.polling = True
        log.warning("saves are noticed by polling from now on (every %d ms): %s", POLL, error)

    def _is_wanted(self, change: watchfiles.Change, path: str) -> bool:
        name = path.rpartition("/")[2]
        if name.startswith(".") or name == "__pycache__":
            return False
        if path.endswith(SUFFIXES):
            return True
        if change is watchfiles.Change.deleted:
            return Path(path) in self._watched
        return change is watchfiles.Change.added and Path(path).is_dir()
