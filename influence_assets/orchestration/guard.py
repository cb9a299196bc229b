"""A guard before Dagster's web server, which by itself obeys whatever page a browser on this machine has open.

Dagster takes mutations by GET, and from any host name. Another site's page could launch or delete runs by an image's
address, and a name that is rebound to this machine could read everything. The guard lets pass what a page of our own,
or a program that is no browser, can ask for.
"""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

LOCAL = ("localhost", "127.0.0.1", "[::1]")
_READS = ("GET", "HEAD")
_REFUSED_SOCKET = 1008
"""The code by which a WebSocket is closed because of a policy (RFC 6455)."""


class Guard:
    """An ASGI application that answers for another one, or refuses.

    Args:
        application: the guarded application.
        hosts: the names under which it may be addressed, without ports.
    """

    def __init__(self, application: Application, hosts: Iterable[str]) -> None:
        self._application = application
        self._hosts = frozenset(name.lower() for name in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with the reason why it is refused."""
        reason = self.refusal(scope) if scope["type"] in ("http", "websocket") else None
        if reason is None:
            await self._application(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": _REFUSED_SOCKET, "reason": reason})
        else:
            headers = [(b"content-type", b"text/plain; charset=utf-8")]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": reason.encode()})

    def refusal(self, scope: Scope) -> str | None:
        """Return why a request is refused, or None if it is not."""
        host = _header(scope, b"host")
        if host is None or _name(host) not in self._hosts:
            return "This host name is not served. Start `influence ui` with --allow-host NAME to serve it."
        if scope["type"] == "http" and scope["method"] in _READS:
            carries_query = "query" in parse_qs(
                scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True
            )
            if scope["path"].rstrip("/").endswith("/graphql") and carries_query:
                return "GraphQL is answered by POST only."
            return None
        if scope["type"] == "http" and scope["method"] != "POST":
            return "Only GET, HEAD and POST are answered."
        origin, site = _header(scope, b"origin"), _header(scope, b"sec-fetch-site")
        if site is not None and site not in ("same-origin", "none"):
            return "Requests of other sites are not answered."
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return "Requests of other sites are not answered."
        return None


def _header(scope: Scope, name: bytes) -> str | None:
    """Return a header's value; None if there is none, empty if there are several."""
    values = [value for key, value in scope["headers"] if key.lower() == name]
    if not values:
        return None
    return values[0].decode("latin-1") if len(values) == 1 else ""


def _name(host: str) -> str:
    """Return a Host header's name without its port."""
    name, mark, port = host.rpartition(":")
    return (name if mark and port.isdigit() else host).lower()
