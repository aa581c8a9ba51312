"""Reports: what changed from one generation to the next, in a line and over the wire."""

from dataclasses import replace
from pathlib import Path

import pytest
from serving import write_notebook

from clarens_lab.codec import decode_response, encode_response
from clarens_lab.loaders import build, read
from clarens_lab.registry import Generation
from clarens_lab.report import Report, loaded, unchanged
from clarens_lab.service import Kept

HEAD = "%%clarens service picalc\nfrom clarens_lab import method\n"


def generation(path: Path, code: str, number: int) -> Generation:
    """A generation of the service picalc whose cell has this code."""
    (source,) = read(write_notebook(path / "picalc.ipynb", HEAD + code))
    return replace(build(source, Kept()), number=number)


BASE = "@method\ndef a(n: int) -> int:\n    'Help.'\n    return n + 1\n"


@pytest.mark.parametrize(
    ("after", "text"),
    [
        ("@method\ndef b(): return 1\n", "added b; removed a"),
        (BASE + "@method\ndef b(): return 1\n", "added b"),
        (BASE.replace("+ 1", "+ 2"), "changed a"),
        (BASE.replace("n: int", "n: float"), "changed a"),
        (BASE.replace("n: int", "n: int = 3"), "changed a"),
        (BASE.replace("Help.", "More help."), "changed a"),
        (BASE.replace("def a", "async def a"), "changed a"),
        (BASE.replace("n + 1", "(lambda: n + 2)()"), "changed a"),
        (BASE.replace("+ 1", "+ 1.0"), "changed a"),
        (BASE.replace("+ 1", "+ True"), "changed a"),
        ("# a comment\n\n\n" + BASE, "no method changed"),
        (BASE + "def helper(): return 2\n", "no method changed"),
    ],
)
def test_a_report_says_which_methods_changed(tmp_path: Path, after: str, text: str) -> None:
    """
    Methods are added, removed or changed: in signature, help or what they do, but not by where they stand.
    """
    report = loaded(generation(tmp_path, after, 8), generation(tmp_path, BASE, 7), "", 12.4)
    assert report.text() == f"picalc generation 8 serves ({text}; 12 ms)"


def test_a_first_load_adds_everything(tmp_path: Path) -> None:
    """
    The first generation of a service, or one that replaces a bundled service, adds all its methods.
    """
    new = generation(tmp_path, BASE, 1)
    bundled = Generation("picalc", {"a": new.methods["a"]})
    for old in (None, bundled):
        report = loaded(new, old, "printed\n", 0.0)
        assert (report.added, report.changed, report.removed) == (("a",), (), ())
        assert report.methods == ("a(n: int) -> int",)
        assert report.run == ("picalc.ipynb cell 1",)
        assert report.output == "printed\n"
        assert report.path == str(tmp_path / "picalc.ipynb")
        assert report.ok


@pytest.mark.parametrize(
    ("report", "text", "ok"),
    [
        (Report("p", "failed", error="p.ipynb cell 1: E", generation=6),
         "p.ipynb cell 1: E; still serving generation 6", False),
        (Report("p", "failed", error="p.ipynb cell 1: E"), "p.ipynb cell 1: E", False),
        (Report("p", "refused", error="the name is taken"), "the name is taken", False),
        (Report("p", "withdrawn", error="p.ipynb is not there any more"),
         "p is withdrawn: p.ipynb is not there any more", False),
        (Report("p", "unchanged", generation=3), "p is unchanged; still serving generation 3", True),
        (Report("p", "mended", generation=3), "p is mended; still serving generation 3", True),
    ],
)  # fmt: skip
def test_a_report_is_one_line(report: Report, text: str, ok: bool) -> None:
    """
    Each outcome reads as one sentence, which says what still serves.
    """
    assert (report.text(), report.ok) == (text, ok)


def test_a_report_goes_over_the_wire_as_it_is(tmp_path: Path) -> None:
    """
    Its struct holds plain values only, with `ok` and `text` beside the fields.
    """
    for report in (
        loaded(generation(tmp_path, BASE, 1), None, "", 1.5),
        unchanged(generation(tmp_path, BASE, 2), mended=True),
        Report("p", "failed", error="why", traceback="Traceback ..."),
    ):
        struct = report.as_struct()
        assert decode_response(encode_response(struct)) == struct
        assert struct["ok"] is report.ok
        assert struct["text"] == report.text()
