"""The registry: one catalogue at a time, swapped whole; generations live as long as their calls."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from clarens_lab import faults
from clarens_lab.faults import LoadFailed, UnknownMethod
from clarens_lab.registry import Generation, Registry
from clarens_lab.service import marked, method


def generation(service: str, *names: str, unload: Callable[[], Any] = lambda: None) -> Generation:
    methods = {name: marked(method(lambda: None), service, name) for name in names}
    return Generation(service, methods, unload=unload)


def test_generations_count_from_one_for_each_service() -> None:
    """A service's generations are numbered 1, 2, 3 whatever other services do."""
    registry = Registry()
    registry.publish([generation("pi", "digits"), generation("e", "digits")])
    fresh = registry.publish([generation("pi", "digits")])
    assert fresh["pi"].number == 2
    assert {name: one.number for name, one in registry.current.services.items()} == {"pi": 2, "e": 1}


def test_removing_and_publishing_again_goes_on_counting() -> None:
    """A generation's number is never used twice in one run of the server."""
    registry = Registry()
    registry.publish([generation("pi")])
    registry.publish(remove=["pi"])
    assert registry.publish([generation("pi")])["pi"].number == 2


def test_a_catalogue_never_changes() -> None:
    """Who holds a catalogue sees the same services in it, whatever is published meanwhile."""
    registry = Registry()
    registry.publish([generation("pi", "digits")])
    with registry.hold(["pi"]) as before:
        registry.publish([generation("pi", "number")])
        assert sorted(before.methods) == ["pi.digits"]
        assert sorted(registry.current.methods) == ["pi.number"]
    with pytest.raises(TypeError):
        before.methods["pi.more"] = before.methods["pi.digits"]  # type: ignore[index]


def test_several_services_are_swapped_at_once() -> None:
    """One publication of several services is one new catalogue: nobody sees one of them without the other."""
    registry = Registry()
    seen: set[tuple[int, int]] = set()
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            services = registry.current.services
            if services:
                seen.add((services["one"].number, services["two"].number))

    looker = threading.Thread(target=look)
    looker.start()
    for _ in range(200):
        registry.publish([generation("one"), generation("two")])
    stop.set()
    looker.join()
    assert all(one == two for one, two in seen)


def test_a_generation_ends_when_its_last_call_does() -> None:
    """What was replaced is unloaded once, after the last of the calls that run on it."""
    ended: list[str] = []
    registry = Registry()
    registry.publish([generation("pi", unload=lambda: ended.append("first"))])
    with registry.hold(["pi"]):
        with registry.hold(["pi"]):
            registry.publish([generation("pi", unload=lambda: ended.append("second"))])
            assert registry.in_flight() == {"pi=1": 2}
        assert ended == []
    assert ended == ["first"]
    registry.publish(remove=["pi"])
    assert ended == ["first", "second"]
    assert registry.in_flight() == {}


def test_a_hold_on_what_is_not_there_holds_nothing() -> None:
    """Calls of unknown services leave no trace in the registry."""
    registry = Registry()
    with registry.hold(["nothing"]) as catalogue:
        assert dict(catalogue.services) == {}
    assert registry.in_flight() == {}


def test_a_failed_load_makes_a_service_stale_until_it_is_mended() -> None:
    """A trouble leaves the old generation serving and says so; publishing or mending takes the trouble away."""
    registry = Registry()
    registry.publish([generation("pi", "digits")])
    registry.publish(troubles={"pi": "cell 2 is broken"})
    assert registry.current.is_stale("pi")
    assert registry.current.find("pi.digits")[0].number == 1
    registry.publish(troubles={"pi": None})
    assert not registry.current.is_stale("pi")
    registry.publish(troubles={"pi": "broken"})
    registry.publish([generation("pi", "digits")])
    assert not registry.current.is_stale("pi")


def test_a_service_that_never_loaded_says_why() -> None:
    """A call of a service whose every version failed is told the reason, not that the service does not exist."""
    registry = Registry()
    registry.publish(troubles={"pi": "cell 2 is broken"})
    with pytest.raises(LoadFailed, match="'pi' could not be loaded: cell 2 is broken"):
        registry.current.find("pi.digits")


def test_a_method_that_a_stale_service_lacks_is_explained() -> None:
    """An unknown method of a stale service is answered with what is wrong: it may be in the version that failed."""
    registry = Registry()
    registry.publish([generation("pi", "digits")])
    registry.publish(troubles={"pi": "cell 2 is broken"})
    with pytest.raises(UnknownMethod, match="'pi' is stale: cell 2 is broken"):
        registry.current.find("pi.number")


def test_the_nearest_name_is_offered() -> None:
    """An unknown method is answered with the name that was most likely meant."""
    registry = Registry()
    registry.publish([generation("pi", "digits")])
    with pytest.raises(UnknownMethod, match=r"No method 'pi.digit' is published here. Did you mean 'pi.digits'\?"):
        registry.current.find("pi.digit")


def test_close_ends_every_generation() -> None:
    """When the server has stopped, the hooks of what was served have run."""
    ended: list[str] = []
    registry = Registry()
    registry.publish([generation(name, unload=lambda name=name: ended.append(name)) for name in ("one", "two")])
    registry.close()
    assert sorted(ended) == ["one", "two"]
    assert dict(registry.current.services) == {}


def test_a_pinned_generation_lives_on_without_calls() -> None:
    """A replaced generation ends when both its calls and the bodies on threads have ended, once."""
    ended: list[int] = []
    registry = Registry()
    old = registry.publish([generation("pi", unload=lambda: ended.append(1))])["pi"]
    with registry.pin(old):
        with registry.hold(["pi"]):
            registry.publish([generation("pi")])
        assert (ended, registry.in_flight()) == ([], {})
    assert ended == [1]
    with registry.pin(old):
        pass
    assert ended == [1]


def test_the_nearest_name_is_of_the_same_service() -> None:
    """A name of the service that was called is meant rather than one of another that is spelled more alike."""
    registry = Registry()
    registry.publish([generation("pets", "feeding"), generation("bets", "feed")])
    with pytest.raises(UnknownMethod, match=r"Did you mean 'pets.feeding'\?"):
        registry.current.find("pets.feed")


def test_the_nearest_of_many_names_is_found_without_comparing_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside thousands of methods an unknown one costs the comparison of a few, and the right name is offered."""
    compared: list[int] = []
    real = faults.difflib.get_close_matches

    def counted(name: str, names: list[str], n: int) -> list[str]:
        compared.append(len(names))
        return real(name, names, n)

    monkeypatch.setattr(faults.difflib, "get_close_matches", counted)
    names = [f"{first}_{number}" for number in range(500) for first in ("read", "write", "count_of", "x")]
    published = [f"vals.{name}" for name in [*names, "measure"]]
    assert faults.nearest("vals.mesure", published) == "vals.measure"
    assert faults.nearest("vals.write_471x", published) == "vals.write_471"
    assert faults.nearest("x" * 100_000, published) is None
    assert max(compared) <= 50
