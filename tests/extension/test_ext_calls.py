"""Calls from a notebook: `%clarens call`, and services as objects."""

from typing import Any

import pytest
from kernels import PICALC, Shell

import clarens_lab

TALKS = '''%%clarens service talks
from clarens_lab import Fault, method

@method
def say(text: str) -> str:
    """Prints and returns the text."""
    print("printed", text)
    return text

@method
def add(a: int, b: int = 2, *more: int) -> int:
    return a + b + sum(more)

@method
def refuse() -> None:
    raise Fault(2001, "no such star")

@method
def nothing(value):
    return value

@method(name="deep.er")
def deeper() -> int:
    return 7
'''


@pytest.fixture
def talks(shell: Shell) -> Shell:
    """A shell with the service `talks`."""
    assert shell.run(TALKS).ok
    return shell


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("talks.add(1)", 3),
        ("talks.add(1, 5)", 6),
        ("talks.add 1 5", 6),
        ("talks.add(b=1, a=3)", 4),
        ("talks.add(n, n + 1)", 21),
        ("talks.add(*[1])  ", None),
        ("talks.add(1);", 3),
        ("talks.add(1)  # a comment", 3),
        ("talks.add(1);  # a comment", 3),
        ("talks.add (1, 2)", 3),
        ("talks.add 1 2  # a comment", 3),
        ("talks.say('a; b # c')", "a; b # c"),
        ("talks.say('{n} $n')", "{n} $n"),
        ('talks.say "{n} $n"', "{n} $n"),
        ("talks.say(f'{n}')", "10"),
        ("talks.nothing([x * n for x in (1, 2)])", [10, 20]),
        ("talks.nothing '{\"a\":1}'", {"a": 1}),
        ("talks.deep.er()", 7),
        ("talks.deep.er", 7),
        ("--json talks.add(1)", 3),
        ("   talks.add(   1   )", 3),
    ],
)
def test_a_call_line(talks: Shell, line: str, value: object) -> None:
    """The rest of the line is a call in Python, of the user's own names, or words as in a terminal."""
    talks.run("n = 10")
    ran = talks.run(f"value = %clarens call {line}")
    if value is None:
        assert not ran.ok
        assert "* and ** are not taken here" in ran.text
    else:
        assert ran.ok, ran.text
        assert talks.shell.user_ns["value"] == value
        assert talks.run(f"%clarens call {line}").ok


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("talks.add(1", "'talks.add(1' does not parse: '(' was never closed; write picalc.digits(50)"),
        ("talks.add(m)", "NameError: name 'm' is not defined"),
        ("talks.add(m + 1)", "m + 1: NameError: name 'm' is not defined"),
        ("talks.add(1) + 1", "'talks.add(1) + 1' is not one call; write picalc.digits(50) or picalc.digits 50"),
        ("talks.add('x')", "talks.add(a: int, b: int = 2, *more: int) -> int"),
        ("talks.add()", "talks.add(a: int, b: int = 2, *more: int) -> int"),
        ("talks.add(c=1)", "got an unexpected keyword argument 'c'"),
        ("talks.add(b=1)", "give a too"),
        ("talks.ad(1)", "Did you mean 'talks.add'?"),
        ("tlks.add(1)", "Did you mean 'talks.add'?"),
        ("tlks.add(a=1)", "Did you mean 'talks.add'?"),
        ("talks.nothing(object())", "object"),
        ("talks.nothing({1, 2, 3j})", "complex"),
        ("talks.add 'x", "No closing quotation"),
        ("talks", "talks"),
    ],
)
def test_a_call_line_that_cannot_be_called(talks: Shell, logged: Any, line: str, said: str) -> None:
    """What is wrong with a call is said in a line or two, with none of our frames, and the cell fails."""
    ran = talks.run(f"%clarens call {line}")
    assert not ran.ok
    assert said in ran.text
    assert len(ran.lines) <= 2, ran.text
    assert "Traceback" not in ran.text


def test_call_alone_shows_its_help(talks: Shell) -> None:
    """`%clarens call` with nothing to call, or with --help, shows how it is written."""
    assert "usage: %clarens call" in talks.run("%clarens call --help").text
    ran = talks.run("%clarens call")
    assert not ran.ok
    assert ran.lines == ["say what to call: %clarens call picalc.digits(50)"]


def test_what_a_method_prints_stands_under_the_calling_cell(talks: Shell) -> None:
    """What a method prints is shown where it was called from, once, by either way of calling."""
    assert talks.run("talks.say('a')").text.count("printed a") == 1
    assert talks.run("%clarens call talks.say('b')").text.count("printed b") == 1
    assert "printed" not in talks.run("1 + 1").text


def test_output_finds_its_cell_after_a_cell_that_captured_its_own(shell: Shell, capsys: Any) -> None:
    """A server that was started below `%%capture` still sends each method's output to its caller."""
    assert shell.run(f"%%capture\n{TALKS}").ok
    assert shell.run("2").ok
    assert shell.run("talks.say('late')").text.count("printed late") == 1
    assert "printed" not in capsys.readouterr().out


def test_a_fault_of_the_service(talks: Shell, logged: Any) -> None:
    """A fault that the service raises is shown with its own number, and is a `Fault` to who catches it."""
    ran = talks.run("talks.refuse()")
    assert ran.lines == ["no such star (fault 2001)"]
    caught = talks.run(
        "from clarens_lab import Fault\ntry:\n    talks.refuse()\nexcept Fault as fault:\n"
        "    told = fault.code, fault.text\ntold"
    )
    assert caught.value == (2001, "no such star")


def test_an_error_of_the_service(shell: Shell, logged: Any) -> None:
    """An error in a method shows the method's own lines, and none of ours."""
    shell.run(PICALC)
    ran = shell.run("picalc.inverse(0)")
    logged.claim("ZeroDivisionError")
    assert not ran.ok
    assert ran.lines[:5] == [
        "Traceback (most recent call last):",
        "  picalc In[2], line 13 (inverse)",
        "    return 1 / n",
        "           ^^^^^",
        "ZeroDivisionError: float division by zero",
    ]
    assert "clarens_ipython" not in ran.text


def test_an_error_in_a_long_cell_says_which_line_called(talks: Shell, logged: Any) -> None:
    """In a cell of several lines, the line that called comes first."""
    ran = talks.run("x = 1\ndef f():\n    return talks.refuse()\n\nf()\n")
    assert ran.lines == [
        "In[3], line 5: f()",
        "In[3], line 3 (f): return talks.refuse()",
        "no such star (fault 2001)",
    ]


def test_a_service_as_an_object(talks: Shell) -> None:
    """A service takes positions and keywords, knows its methods, and shows what it is."""
    assert talks.run("talks.add(1, b=4)").value == 5
    assert talks.run("talks.deep.er()").value == 7
    assert talks.run("dir(talks)").value == ["add", "deep", "nothing", "refuse", "say"]
    assert "add(a: int, b: int = 2, *more: int) -> int" in talks.run("talks").text
    assert talks.run("talks.add").text.strip().endswith("<method talks.add(a: int, b: int = 2, *more: int) -> int>")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("talks.add(1, 2, z=3)", "talks.add(a: int, b: int = 2, *more: int) -> int: got an unexpected keyword"),
        ("talks.ad", "No method 'talks.ad' is published here. The service has say, add, refuse, nothing, deep.er."),
        ("talks.add(1, 2, b=3)", "multiple values for argument 'b'"),
        ("talks.nothing(object())", "object"),
    ],
)
def test_a_wrong_call_of_an_object(talks: Shell, call: str, said: str) -> None:
    """A wrong call is told in one line, with the signature or the neighbours."""
    ran = talks.run(call)
    assert not ran.ok
    assert said in ran.text
    assert len(ran.lines) == 1


def test_wrong_calls_are_pythons_own_errors(talks: Shell) -> None:
    """Who catches a wrong call catches TypeError or AttributeError, as of any object."""
    assert talks.run("hasattr(talks, 'ad')").value is False
    assert talks.run("try:\n    talks.add(q=1)\nexcept TypeError:\n    caught = True\ncaught").value is True


def test_help_of_a_method(talks: Shell) -> None:
    """`talks.say?` shows the signature and the documentation; so do `help` and `inspect`."""
    ran = talks.run("import inspect; str(inspect.signature(talks.say))")
    assert ran.value == "(text: str) -> str"
    assert "Prints and returns the text." in talks.run("talks.say.__doc__").value
    told = talks.shell.inspector._get_info(talks.shell.user_ns["talks"].say, "talks.say")
    assert "Prints and returns the text." in str(told)


def test_help_without_a_server(talks: Shell) -> None:
    """Without a server, looking at a method says so and raises nothing."""
    talks.run("%clarens stop")
    assert "no server" in talks.run("talks.say.__doc__").value


def test_the_function_itself(talks: Shell) -> None:
    """With a server in the kernel, `.function` is the Python function, for timing and profiling."""
    assert talks.run("talks.add.function(1, 2)").value == 3
    assert talks.run("talks.add.function.__code__.co_name").value == "add"


def test_objects_follow_the_service(talks: Shell, logged: Any) -> None:
    """After the cell was changed, the same object knows the new methods and signatures."""
    logged.expect("takes over")
    talks.run("kept = talks")
    talks.run(TALKS.replace("say(text: str)", "say(text: str, loud: bool = False)"), cell_id="x")
    assert "loud: bool = False" in talks.run("str(kept.say)").value


def test_a_removed_service(talks: Shell, logged: Any) -> None:
    """A service that was removed has no methods any more, and says so."""
    assert talks.run("%clarens remove talks").ok
    logged.claim("is withdrawn")
    ran = talks.run("talks.add(1)")
    assert not ran.ok
    assert "The service has no method yet." in ran.text


def test_without_a_server(talks: Shell) -> None:
    """After `stop`, a call says how a server is had."""
    talks.run("%clarens stop")
    for line in ("talks.add(1)", "%clarens call talks.add(1)", "%clarens methods", "%clarens help talks.add"):
        ran = talks.run(line)
        assert not ran.ok
        assert ran.lines == [
            "no server: a '%%clarens service NAME' cell or '%clarens serve' starts one here, "
            "'%clarens connect' finds one that runs"
        ]


def test_the_proxies_are_in_one_place(talks: Shell) -> None:
    """`clarens_lab.services` holds the services of the notebook by name."""
    assert clarens_lab.services["talks"] is talks.shell.user_ns["talks"]
