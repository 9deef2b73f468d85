"""Protection of the page and the service: headers of answers, and the hosts that may ask.

A page of another host could send requests through the browser of a visitor: directly (it sends its
`Origin`), or after its own name has been given the address of this computer (DNS rebinding: the
request names it as `Host`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "::1", "localhost")  # names of this computer
# The page loads nothing from other hosts.
POLICY = "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'"
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class SecurityHeaders:
    """Middleware that adds HEADERS to every response."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def with_headers(message: Message) -> None:
            """Add the headers to the beginning of the response."""
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self.app(scope, receive, with_headers if scope["type"] == "http" else send)


class SameOrigin:
    """Middleware that refuses requests of pages of other hosts; for a service without keys.

    Args:
        app: application that gets the other requests.
        local: accept the names of this computer only.
    """

    def __init__(self, app: ASGIApp, local: bool) -> None:
        self.app, self.local = app, local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request or open one stream."""
        problem = None
        if scope["type"] in ("http", "websocket"):
            headers = Headers(scope=scope)
            problem = refusal(headers.get("host", ""), headers.get("origin"), self.local)
        if problem is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await JSONResponse({"detail": problem}, 403)(scope, receive, send)
        else:
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": problem[:120]})


def refusal(host: str, origin: str | None, local: bool) -> str | None:
    """Return the reason to refuse a request, or None.

    Args:
        host: its header `Host`.
        origin: its header `Origin`, which browsers send; None without one.
        local: accept the names of this computer only.

    Example:
        >>> refusal("localhost:7860", "http://localhost:7860", local=True) is None
        True
        >>> print(refusal("evil.example:7860", None, local=True))
        evil.example:7860: is no name of this computer; use 127.0.0.1 or localhost, or give --host
    """
    try:
        name = urlsplit(f"//{host}").hostname
        own = origin is None or urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:  # brackets without an address
        name, own = None, False
    if local and name not in LOOPBACK:
        return (
            f"{host[:80]}: is no name of this computer; use 127.0.0.1 or localhost, or give --host"
        )
    if not own:
        return f"{(origin or host)[:80]}: is another host; open the page of {host[:80]} itself"
    return None
