"""The IPython extension: `%load_ext clarens_lab` gives `%clarens` and `%%clarens`.

The only place where IPython is imported.
"""

from typing import Any

from clarens_ipython.magics import load, unload


def load_ipython_extension(shell: Any) -> None:
    """Registers the magics; harmless when they are."""
    load(shell)


def unload_ipython_extension(shell: Any) -> None:
    """Takes away the magics, the completion, and the server that was started here."""
    unload(shell)
