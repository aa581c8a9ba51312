"""What a browser is shown at the server's address: a plain page, and the answer to a page that wants to call."""

from http.client import responses
from typing import Any

from tornado import web

from clarens_lab.dispatch import LAB
from clarens_lab.registry import Registry

CALL_PATHS = ("/clarens/", "/clarens", "/RPC2", "/")


class Page(web.RequestHandler):
    """What is no call: a plain page for who looks with a browser, and the answer to a page's preflight."""

    def initialize(self, registry: Registry) -> None:
        """Takes what is served."""
        self.registry = registry

    def set_default_headers(self) -> None:
        """Names the server, as on calls."""
        self.set_header("Server", "clarens-lab")
        self.set_header("X-Content-Type-Options", "nosniff")  # docstrings are shown as the text they are

    def get(self) -> None:
        """The published methods and how to call one, as text."""
        if self.request.path not in CALL_PATHS:
            self.set_status(404)
            self._say(f"Nothing is at {self.request.path!r}; calls go to /clarens/ (POST, text/xml).")
            return
        catalogue = self.registry.current
        url = f"{self.request.protocol}://{self.request.host}/clarens/"
        lines = [f"clarens-lab: XML-RPC at {url}", ""]
        for path in sorted(catalogue.methods):
            if not path.startswith(f"{LAB}."):
                generation, method = catalogue.methods[path]
                lines.append(f"{generation.service}.{method.signature.text}")
        stale = [service for service in catalogue.troubles if catalogue.is_stale(service)]
        if stale:
            lines += ["", f"stale (the newest version could not be loaded): {', '.join(sorted(stale))}"]
        lines += ["", "From Python:", f"    xmlrpc.client.ServerProxy({url!r}).echo.echo('hello')"]
        self._say("\n".join(lines))

    head = get

    def options(self) -> None:
        """Lets a page of an allowed origin send a call."""
        self.set_status(204)
        self.set_header("Allow", "GET, HEAD, OPTIONS, POST")
        origin = self.request.headers.get("Origin")
        if origin is not None:
            for name, value in allowing(origin).items():
                self.set_header(name, value)

    def write_error(self, status_code: int, **_: Any) -> None:
        """One sentence."""
        if status_code == 405:
            self.set_header("Allow", "GET, HEAD, OPTIONS, POST")
        self._say(f"{status_code} {responses.get(status_code, '')}: a call is a POST of text/xml to /clarens/.")

    def _say(self, text: str) -> None:
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(f"{text}\n")


def allowing(origin: str) -> dict[str, str]:
    """The headers that let pages of an origin read an answer."""
    return {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Allow-Methods": "POST",
        "Access-Control-Allow-Headers": "Content-Type, Authorization",
        "Access-Control-Expose-Headers": "X-Clarens-Generation, X-Clarens-Stale, X-Clarens-Fault",
        "Vary": "Origin",
    }
