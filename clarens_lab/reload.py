"""From a batch of changed files, or a cell, to a swap: build aside, check, publish; and a report either way.

What fails to load changes nothing: the service is marked stale and its old generation serves on.
"""

import gc
import logging
import os
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from clarens_lab import loaders
from clarens_lab.events import Ring
from clarens_lab.faults import nearest
from clarens_lab.loaders import LiveCell
from clarens_lab.output import Output
from clarens_lab.registry import Generation, Registry
from clarens_lab.report import Report, failed, loaded, unchanged
from clarens_lab.service import Kept
from clarens_lab.settings import Settings
from clarens_lab.source import LoadError, Source, Unit, Unsettled, is_file, is_folder, is_there
from clarens_lab.watch import QUIET, Batch, Stamp, Watch, stamp

log = logging.getLogger(__name__)

RESERVED = ("system", "lab")
RETRY = 0.02
"""Seconds between two looks at a file that is being written."""

IDLE = 1.0
"""Seconds without a reload after which what earlier ones left is freed."""


@dataclass
class _File:
    """A notebook, file or package that is served, as it was last read."""

    path: Path
    services: frozenset[str] = frozenset()
    files: frozenset[Path] = frozenset()
    targets: frozenset[Path] = frozenset()
    """What those of them that are links lead to: a save may be told of these."""
    stamps: Mapping[Path, Stamp | None] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    """The digest of what failed to load of these very files, by service: one save may be told more than once."""


@dataclass
class _Look:
    """What one look at some files found, and will publish at once."""

    builds: list[tuple[Path, Source]] = field(default_factory=list)
    built: list[tuple[Generation, Output, float]] = field(default_factory=list)
    troubles: dict[str, str | None] = field(default_factory=dict)
    withdrawn: list[str] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)


class Reloader:
    """Keeps the registry in step with files and cells. Safe from any thread."""

    def __init__(self, registry: Registry, settings: Settings, events: Ring, bundled: Iterable[Generation]) -> None:
        self.registry = registry
        self.tests: dict[str, tuple[Unit, ...]] = {}
        """The test cells of each service."""
        self.lent: dict[str, dict[str, object]] = defaultdict(dict)
        """Objects of a notebook in this process, by service and name."""
        self.left_alone: set[Path] = set()
        """Files that are not served with the folder they stand in: the notebook whose cells are run here."""
        self._settings = settings
        self._events = events
        self._bundled = {generation.service: generation for generation in bundled}
        self._named: list[Path] = []
        self._files: dict[Path, _File] = {}
        self._owners: dict[str, Path | None] = {}
        self._removed: set[tuple[Path, str]] = set()
        self._refused: dict[Path, str] = {}
        self._lost: dict[str, Path] = {}
        """The files that services came from which they hold no more, by service."""
        self._skipped: set[Path] = set()
        self._kept: dict[str, Kept] = defaultdict(Kept)
        self._waiting: dict[Path, float] = {}
        self._swapped = False
        self._held_up: set[Path] = set()
        """Files whose service has a cell that is running."""
        self._looking = threading.RLock()
        self._loads: dict[str, loaders.Load] = {}
        """The cells that are being loaded, by service."""
        self._turns: dict[str, threading.Lock] = defaultdict(threading.Lock)
        self._batches: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._watch: Watch | None = None
        registry.publish(self._bundled.values())

    # --- what is served ------------------------------------------------------------------------

    def serve(self, paths: Iterable[Path]) -> list[Report]:
        """Loads notebooks, .py files, packages, and the services in folders; returns once every load has ended."""
        found: list[Path] = []
        for path in paths:
            path = Path(os.path.abspath(path))  # noqa: PTH100  # takes out `..` too, and follows no link
            if path not in self._named:
                self._named.append(path)
            found += self._discovered(path)
        reports = self._look(found)
        while self._waiting:
            time.sleep(RETRY)
            reports += self._look(list(self._waiting))
        if self._watch is not None:
            self._watch.renew()
        return reports

    @property
    def paths(self) -> list[Path]:
        """The paths that were named."""
        return list(self._named)

    @property
    def refused(self) -> dict[Path, str]:
        """Why files are not served though they are there: somebody else has the name."""
        return dict(self._refused)

    def reload(self, service: str, *, fresh: bool = False) -> Report:
        """Loads a service again, changed or not; `fresh` also forgets what `keep` made.

        Raises LoadError for a service that came neither from a file nor from a cell.
        """
        current = self.registry.current.services.get(service)
        if fresh:
            self._kept.pop(service, None)
        if current is not None and current.source is not None and current.source.live:
            with self._turns[service]:
                return self._load_cells(current.source)
        path = self._owners.get(service) or next((path for path, name in self._removed if name == service), None)
        if path is None:
            why = "there is nothing to load again"
            if service in self._lost:
                lost = self._lost[service]
                gone = "has it no more" if is_there(lost) else "is not there any more"
                raise LoadError(f"{service!r} came from {lost.name}, which {gone}: {why}")
            raise LoadError(f"{service!r} came neither from a file nor from a cell: {why}{self._meant(service)}")
        with self._looking:
            self._removed.discard((path, service))
            reports = self._look([path], again=service)
            while path in self._waiting:
                time.sleep(RETRY)
                reports += self._look([path], again=service)
        told = [report for report in reports if report.service == service]
        if not told:
            raise LoadError(f"{path.name} holds no service {service!r} any more")
        return told[-1]

    def remove(self, service: str) -> Report:
        """Withdraws a service and frees its name; its file is left alone until it is reloaded by name.

        Raises LoadError for a service that came neither from a file nor from a cell.
        """
        with self._looking:
            look = _Look()
            with self._turns[service]:
                if service not in self._owners:
                    why = f"it is not removed{self._meant(service)}"
                    raise LoadError(f"{service!r} came neither from a file nor from a cell: {why}")
                path = self._owners[service]
                why = "it was removed"
                if path is not None and path in self._files:
                    self._removed.add((path, service))
                    why += f"; 'reload {service}' brings it back"
                self._withdraw(service, path, why, look)
                report = self._publish(look)[0]
            self._look_at_refused(look)
            return report

    def _meant(self, service: str) -> str:
        """What to add to the refusal of a name: the service that was meant."""
        near = nearest(service, self._owners)
        return f"; did you mean {near!r}?" if near and near != service else ""

    # --- watching ------------------------------------------------------------------------------

    def watch(self) -> None:
        """Reloads what is saved from now on, until `stop`."""
        self._watch = Watch(self._folders, poll=self._settings.watch == "poll")
        for target, name in ((self._pump, "clarens watch"), (self._follow, "clarens reload")):
            threading.Thread(target=target, args=(self._watch,), name=name, daemon=True).start()

    def stop(self) -> None:
        """Ends the watch; what is served stays."""
        if self._watch is not None:
            self._watch.stop()
            self._batches.put(None)

    @property
    def watching(self) -> str:
        """How saves are noticed: `events`, `polling` or `off`."""
        return "off" if self._watch is None else "polling" if self._watch.polling else "events"

    def _folders(self) -> set[Path]:
        folders: set[Path] = set()
        for path in [*self._named, *self._files]:
            folders.add(path.parent)
            if is_folder(path):
                folders.update(loaders.folders_in(path))
        files = list(self._files.values())
        folders |= {path.parent for file in files for path in file.files}
        led_to = {path.parent for file in files for path in file.targets}
        # A folder that is watched under two names is told of under one of them only.
        return folders | (led_to - {folder.resolve() for folder in folders} if led_to else set())

    def _pump(self, watch: Watch) -> None:
        for batch in watch.batches():
            self._batches.put(batch)

    def _follow(self, watch: Watch) -> None:
        while True:
            try:
                batch = self._batches.get(timeout=RETRY if self._waiting else IDLE if self._swapped else None)
            except queue.Empty:
                batch = Batch(frozenset())
                if not self._waiting:
                    self._swapped = False
                    gc.collect()  # a generation holds itself in a cycle, with all its data, until this is run
            if batch is None:
                return
            try:
                began = time.thread_time()
                self._look(self._settled(batch))
                if batch.paths or batch.rescan:
                    watch.renew()
                if batch.rescan:
                    watch.cost = time.thread_time() - began
            except Exception:
                log.exception("a reload failed in the server itself; what was served is served on")

    def _settled(self, batch: Batch) -> list[Path]:
        """The files to look at; if a rescan found them, once it finds no more: it may see the beginning of a burst."""
        touched = self._touched(batch)
        while batch.rescan and touched:
            time.sleep(QUIET / 1000)
            before, touched = touched, self._touched(batch)
            if touched == before:
                break
        return touched

    def _touched(self, batch: Batch) -> list[Path]:
        """The files to look at after a batch of changes; those that wait for another look among them."""
        touched = dict.fromkeys(self._waiting)
        known = dict(self._files)
        above = {folder for changed in batch.paths for folder in changed.parents}
        strangers = batch.paths - {each for file in known.values() for each in file.files}
        for path, file in known.items():
            inside = path in above
            missed = batch.rescan and any(stamp(each) != before for each, before in file.stamps.items())
            saved = batch.paths & (file.files | file.targets)
            if inside or missed or saved or self._finds_more(path, file, batch.rescan, strangers):
                touched[path] = None
        if batch.rescan or strangers:
            touched.update(dict.fromkeys(path for path in self._newcomers(strangers) if path not in known))
        return list(touched)

    def _finds_more(self, path: Path, file: _File, rescan: bool, strangers: frozenset[Path]) -> bool:
        """Whether a file in trouble has modules now that it had not: one that was missing may be there."""
        if not (rescan or strangers) or self.registry.current.troubles.keys().isdisjoint(file.services):
            return False
        try:
            return any(not source.files <= file.files for source in loaders.read(path))
        except LoadError:
            return bool(strangers)  # one of them may be what it could not read

    def _newcomers(self, strangers: frozenset[Path]) -> Iterable[Path]:
        for named in self._named:
            concerned = not strangers or named in strangers or any(named in path.parents for path in strangers)
            if concerned and stamp(named) is not None:
                yield from self._discovered(named)

    def _discovered(self, path: Path) -> list[Path]:
        """The services under a named path: itself, or those in a folder."""
        if not is_folder(path) or any(is_file(path / f"__init__{suffix}") for suffix in loaders.SUFFIXES):
            return [path]
        found = loaders.discover(path)
        fresh = [one.name for one in found.skipped if one not in self._skipped]
        self._skipped.update(found.skipped)
        if fresh:
            log.info("%s: skipped %s (no '%%%%clarens service' cell and no '@method' there)", path, ", ".join(fresh))
        return [one for one in found.services if one not in self.left_alone]

    # --- looking at files ----------------------------------------------------------------------

    def _look(self, paths: Iterable[Path], again: str = "") -> list[Report]:
        """Reads files, builds what changed (and `again`, changed or not), and swaps it in at once."""
        with self._looking:
            look = _Look()
            for path in dict.fromkeys(paths):
                self._read(path, look, again)
            with ExitStack() as turns:
                for path, source in look.builds:
                    if self._takes_turn(path, source.service, turns, wait=bool(again) or self._watch is None):
                        self._build(path, source, look)
                reports = self._publish(look)
            return reports + self._look_at_refused(look)

    def _look_at_refused(self, look: _Look) -> list[Report]:
        """Loads what was refused a name that may be free now."""
        return self._look(list(self._refused)) if look.withdrawn and self._refused else []

    def _read(self, path: Path, look: _Look, again: str) -> None:
        file = self._files.get(path, _File(path, files=frozenset({path})))
        before = {each: stamp(each) for each in file.files}
        try:
            sources = loaders.read(path)
        except Unsettled as error:
            self._wait(path, error, look)
            return
        except LoadError as error:
            self._fail(path, str(error), look)
            return
        if _was_emptied(file) and self._still_waits(path):
            return
        self._waiting.pop(path, None)
        self._refused.pop(path, None)
        if path not in self._named and not loaders.shows_a_service(path):
            self._forget(path, f"{path.name} has no service any more", look)
            return
        files = frozenset(each for source in sources for each in source.files)
        names = frozenset(source.service for source in sources)
        stamps = {each: before[each] if each in before else stamp(each) for each in files}
        failed = file.failed if stamps == file.stamps else {}
        self._files[path] = _File(path, names, files, _targets(files), stamps, failed)
        for service in file.services - names:
            self._lose(service, path, f"{path.name} has it no more", look)
        for source in sources:
            if (path, source.service) not in self._removed:
                self._consider(path, source, look, again)

    def _consider(self, path: Path, source: Source, look: _Look, again: str) -> None:
        """Decides whether a source is built, is what serves already, or is refused."""
        service = source.service
        refusal = self._refusal(service, path)
        if refusal:
            self._refused[path] = "; ".join(filter(None, [self._refused.get(path), refusal]))
            error = f"{path.name}: {refusal}"
            look.reports.append(Report(service, "refused", str(path), self._serving(service), error=error))
            return
        self._owners[service] = path
        self.tests[service] = source.tests
        catalogue = self.registry.current
        current = catalogue.services.get(service)
        serving = current.source if current is not None else None
        same = serving is not None and (serving.digest, serving.path) == (source.digest, source.path)
        if again == service or current is None or not same:
            if again == service or self._files[path].failed.get(service) != source.digest:
                look.builds.append((path, source))
            return
        look.troubles[service] = None
        look.reports.append(unchanged(current, mended=service in catalogue.troubles))

    def _refusal(self, service: str, path: Path | None) -> str:
        """Why a service may not be called so, or come from there; empty if it may."""
        if service in RESERVED:
            return f"no service can be called {service!r}: that is the server's own; give it another name"
        owner = self._owners.get(service)
        if owner is not None and path is not None and owner != path and is_there(owner):  # else it was renamed
            return (
                f"the service {service!r} is served from {owner} already; give one of them another name, "
                f"or free it with 'remove {service}'"
            )
        return ""

    def _wait(self, path: Path, error: Unsettled, look: _Look) -> None:
        """Leaves a file that may be in the middle of being written for later, until its deadline."""
        if self._still_waits(path):
            return
        if is_there(path):
            waited = f"waited {self._settings.settle_limit:g} s for it to be written"
            self._fail(path, f"{error} ({waited}); save it again", look)
            return
        del self._waiting[path]
        self._refused.pop(path, None)
        self._forget(path, f"{path.name} is not there any more", look)

    def _still_waits(self, path: Path) -> bool:
        """Whether a file that may be being written is given more time; the time begins with the first look at it."""
        now = time.monotonic()
        return now < self._waiting.setdefault(path, now + self._settings.settle_limit)

    def _forget(self, path: Path, why: str, look: _Look) -> None:
        file = self._files.pop(path, None)
        for service in file.services if file else ():
            self._lose(service, path, why, look)

    def _lose(self, service: str, path: Path, why: str, look: _Look) -> None:
        """Withdraws a service that its file holds no more, and remembers where it came from."""
        self._lost[service] = path
        self._withdraw(service, path, why, look)

    def _fail(self, path: Path, error: str, look: _Look) -> None:
        """Marks every service of a file that cannot be read; once, however often one save is told of."""
        self._waiting.pop(path, None)
        file = self._files.setdefault(path, _File(path, files=frozenset({path})))
        stamps = {each: stamp(each) for each in file.files}
        same, file.stamps = stamps == file.stamps, stamps
        file.targets = _targets(file.files)
        file.services = file.services or frozenset({loaders.identifier(path.stem)})
        for service in file.services:
            known = same and self.registry.current.troubles.get(service) == error
            if (path, service) in self._removed or known:
                continue
            if not self._refusal(service, path):
                self._owners[service] = path
                look.troubles[service] = error
            look.reports.append(Report(service, "failed", str(path), self._serving(service), error=error))

    def _withdraw(self, service: str, path: Path | None, why: str, look: _Look) -> None:
        """Takes a service away that came from `path`, unless another file has it by now."""
        if service in self._owners and self._owners[service] == path:
            del self._owners[service]
            self.tests.pop(service, None)
            look.withdrawn.append(service)
            look.reports.append(Report(service, "withdrawn", str(path or ""), error=why))

    def _takes_turn(self, path: Path, service: str, turns: ExitStack, *, wait: bool) -> bool:
        """Whether a service may be built now; if a cell of it runs, its file is looked at again after that."""
        self._held_up.add(path)
        turn = self._turns[service]
        if not turn.acquire(blocking=wait):
            return False
        turns.callback(turn.release)
        self._held_up.discard(path)
        return True

    def _build(self, path: Path, source: Source, look: _Look) -> None:
        service = source.service
        output = Output(self._settings.output_limit)
        started = time.perf_counter()
        try:
            lent = self.lent.get(service)
            generation = loaders.Load(source, self._kept[service], lent, output).result(self._settings.load_limit)
        except LoadError as error:
            self._files[path].failed[service] = source.digest
            look.troubles[service] = str(error)
            look.reports.append(failed(error, source, output.text(), self._serving(service)))
        else:
            if any(stamp(each) != before for each, before in self._files[path].stamps.items()):
                generation.unload()  # it was saved again meanwhile, and what was read may be half of that
                self._look_later(path)
            else:
                look.built.append((generation, output, (time.perf_counter() - started) * 1000))

    def _look_later(self, path: Path) -> None:
        self._waiting[path] = time.monotonic() + self._settings.settle_limit

    def _serving(self, service: str) -> int:
        generation = self.registry.current.services.get(service)
        return generation.number if generation is not None and not generation.bundled else 0

    # --- cells ----------------------------------------------------------------------------------

    def register(self, service: str, cell: LiveCell) -> Report:
        """Puts a cell that was run live: builds the service with it, in the calling thread, and swaps."""
        refusal = self._refusal(service, cell.notebook)
        if refusal:
            return self._told(Report(service, "refused", error=refusal, generation=self._serving(service)))
        missing = [name for name in cell.lent if name not in self.lent[service]]
        if missing:
            text = f"{service}: --use {missing[0]} works only with a server inside the notebook's own kernel"
            return self._told(Report(service, "failed", error=text, generation=self._serving(service)))
        try:
            with self._turns[service]:
                return self._register(service, cell)
        finally:
            while self._held_up:
                self._look_later(self._held_up.pop())
                self._batches.put(Batch(frozenset()))  # wakes who looks

    def _register(self, service: str, cell: LiveCell) -> Report:
        if cell.notebook is not None:
            self._removed.discard((cell.notebook, service))
        catalogue = self.registry.current
        current = catalogue.services.get(service)
        base = current.source if current is not None else None
        source = loaders.with_cell(service, base, cell)
        if base is None or current is None or base.digest != source.digest or cell.lent:
            return self._load_cells(source)
        mended = service in catalogue.troubles
        return self._publish(_Look(troubles={service: None}, reports=[unchanged(current, mended=mended)]))[0]

    def interrupt(self, service: str) -> bool:
        """Gives up the cell of a service that is being loaded, if one is; its old generation serves on."""
        load = self._loads.get(service)
        if load is not None:
            load.interrupt()
        return load is not None

    def register_test(self, service: str, cell: LiveCell) -> str:
        """Keeps a test cell that was run with its service; gives its name among the results."""
        tests = loaders.with_test(self.tests.get(service, ()), service, cell)
        self.tests[service] = tests
        return next(unit.at(None) for unit in tests if unit.text == cell.text)

    def _load_cells(self, source: Source) -> Report:
        service = source.service
        output = Output(self._settings.output_limit)
        started = time.perf_counter()
        load = self._loads[service] = loaders.Load(source, self._kept[service], self.lent.get(service), output)
        try:
            generation = load.result()
        except LoadError as error:
            stale = self._serving(service) and not isinstance(error, loaders.Interrupted)
            troubles: dict[str, str | None] = {service: str(error)} if stale else {}
            return self._publish(
                _Look(troubles=troubles, reports=[failed(error, source, output.text(), self._serving(service))])
            )[0]
        finally:
            del self._loads[service]
        self._owners.setdefault(service, source.path)
        return self._publish(_Look(built=[(generation, output, (time.perf_counter() - started) * 1000)]))[0]

    # --- publishing -----------------------------------------------------------------------------

    def _publish(self, look: _Look) -> list[Report]:
        """Swaps everything in at once, and tells the log and the events."""
        before = self.registry.current.services
        restored = [self._bundled[service] for service in look.withdrawn if service in self._bundled]
        fresh = self.registry.publish(
            [*(generation for generation, _, _ in look.built), *restored],
            troubles=look.troubles,
            remove=[service for service in look.withdrawn if service not in self._bundled],
        )
        self._swapped |= bool(look.built)
        for generation, output, ms in look.built:
            old = before.get(generation.service)
            if old is not None and old.bundled:
                log.info("%s replaces the bundled service of that name", generation.service)
            look.reports.append(loaded(fresh[generation.service], old, output.text(), ms))
        for report in look.reports:
            self._told(report)
        return look.reports

    def _told(self, report: Report) -> Report:
        if report.outcome == "unchanged":
            return report
        log.log(logging.INFO if report.ok else logging.WARNING, "%s", report.text())
        if report.traceback:
            log.warning("%s", report.traceback)
        for note in report.notes if report.outcome == "loaded" else ():
            log.warning("%s", note)
        for line in report.output.splitlines():
            log.info("%s printed at load: %s", report.service, line)
        self._events.add({"event": "reload", "time": time.time(), **report.as_struct()})
        return report


def _targets(files: Iterable[Path]) -> frozenset[Path]:
    """What those files lead to that are links."""
    return frozenset(Path(os.path.realpath(path)) for path in files if os.path.islink(path))  # noqa: PTH114  # raises nothing


def _was_emptied(file: _File) -> bool:
    """Whether one of the files held something and is empty now: it is cut short before it is written anew."""
    now = {path: stamp(path) for path, old in file.stamps.items() if old is not None and old.size}
    return any(one is not None and not one.size for one in now.values())
