"""The wall in front of every route, Gradio's own included: who may come in, and what a page may do once it is in a browser.

Two pure ASGI middlewares, both inside SessionMiddleware. Gradio leaves some routes open, reflects foreign origins and has no
CSRF token; nothing it serves is reached without passing here.
"""

import gzip
import re
import secrets
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from annotate_app.api.errors import error_response
from annotate_app.audit import is_privileged, recording
from annotate_app.auth import PRINCIPAL, Principal, authenticate
from annotate_app.csrf import carries_token
from annotate_app.pages.small import forbidden_page
from annotate_app.rate_limits import Rate
from annotate_app.security_settings import is_loopback
from annotate_app.uploads import announced_too_much, body_limit, limited, too_much
from storage.store import Store

PUBLIC = ("/sign-in", "/sign-out", "/healthz", "/readyz", "/manifest.json", "/favicon.ico", "/robots.txt")
METRICS = "/metrics"  # numbers of a campaign: for programs on this machine, and tokens of scope research
PUBLIC_PREFIXES = ("/ui/", "/join/", "/sign-in/oidc")
RESEARCH_PREFIX = "/console"
API_PREFIX = "/api/"
# What Gradio serves and nothing here needs: editing itself, recordings, proxying, server functions, a second sign-in.
CLOSED = re.compile(
    r"(/console)?/(monitoring|login|logout|gradio_api/(vibe-|dev/|proxy=|deep_link|process_recording|component_server|runs))"
)
CSRF_HEADER = "x-nashloop"
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")

CSP = (
    "default-src 'none'; script-src 'self' 'nonce-{nonce}'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "font-src 'self' data:; connect-src 'self'; manifest-src 'self'; base-uri 'self'; form-action 'self'; "
    "frame-ancestors 'none'; object-src 'none'"
)
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",  # "no-referrer" would make our own forms send Origin: null
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), payment=()",
}
OPENING_TAG = re.compile(rb"<(script|style)(?=[\s>])", re.IGNORECASE)


class Guard:
    """Authenticates every HTTP request and refuses those that may not pass."""

    def __init__(self, app: ASGIApp, *, store: Store, key: str, upload_mb: float) -> None:
        self.app, self.store, self.key, self.upload_mb = app, store, key, upload_mb
        self.rate = Rate(per_s=50, burst=300)  # of one person's browsers: a page asks a few times a second at most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":  # nothing here speaks WebSocket
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] == "http":
            request = Request(scope)
            who = authenticate(self.store, request.headers.get("authorization"), request.session)
            scope[PRINCIPAL] = who
            refused = refusal(request, who, self.key) or self._too_many(who)
            if refused is not None:
                await refused(scope, receive, send)
                return
            limit = body_limit(request, known=who is not None, upload_mb=self.upload_mb)
            if announced_too_much(request, limit):
                await error_response(413, too_much(limit))(scope, receive, send)
                return
            receive = limited(receive, limit)
            if who is not None and is_privileged(request):
                send = recording(send, self.store, who, request)
        await self.app(scope, receive, send)

    def _too_many(self, who: Principal | None) -> Response | None:
        if who is None or not who.by_session or self.rate.take(who.actor):
            return None
        return error_response(429, "These are too many requests in a row. Wait a few seconds.", **{"Retry-After": "5"})


def refusal(request: Request, who: Principal | None, key: str) -> Response | None:
    """The answer to a request that may not pass, or None. ``key`` signs cookies."""
    path, mutating = request.url.path, request.method not in SAFE_METHODS
    if mutating and (who is None or who.by_session) and not from_our_page(request.headers):
        return error_response(403, "This request comes from another site. Use Nashloop's own pages, or a bearer token.")
    if mutating and who and who.by_session and path != "/sign-in" and not carries_token(request, key):
        return error_response(403, "This page belongs to another sign-in. Reload it, or sign in again.")
    if path == METRICS and (_is_on_this_machine(request) or (who is not None and who.may("research"))):
        return None
    if path in PUBLIC or path.startswith(PUBLIC_PREFIXES):
        return None
    if who is None:
        if wants_page(request) and not path.startswith(API_PREFIX):
            return RedirectResponse("/sign-in", 303)
        return error_response(
            401, "Sign in, or send `Authorization: Bearer` with a token that is valid.", **{"WWW-Authenticate": "Bearer"}
        )
    if ((path + "/").startswith(RESEARCH_PREFIX + "/") or path == METRICS) and not who.may("research"):
        if wants_page(request):
            return forbidden_page(request.headers.get("accept-language", ""))
        return error_response(403, "This is for researchers.")
    if CLOSED.match(path):
        return error_response(403, "This part of Gradio is closed.")
    if mutating and path.startswith("/gradio_api/"):  # the labelling page has no Gradio events, uploads or queue
        return error_response(403, "The labelling page talks to /api/v1 only.")
    if mutating and who.by_session and path.startswith(API_PREFIX) and CSRF_HEADER not in request.headers:
        return error_response(403, "Requests with a session cookie need the header X-Nashloop: 1.", "X-Nashloop")
    return None


def _is_on_this_machine(request: Request) -> bool:
    """Whether a program here asks directly; what a proxy passes on says so."""
    passed_on = any(name in request.headers for name in ("forwarded", "x-forwarded-for", "x-real-ip", "via"))
    return not passed_on and request.client is not None and is_loopback(request.client.host)


def from_our_page(headers: Headers) -> bool:
    """Whether a browser says our own page made the request; programs, which send neither header, pass."""
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        return site in ("same-origin", "none")
    return origin is None or urlsplit(origin).netloc == headers.get("host")


def wants_page(request: Request) -> bool:
    return request.method in ("GET", "HEAD") and "text/html" in request.headers.get("accept", "")


class PageSecurity:
    """Security headers on everything; on HTML a nonce for each script and style element, which Gradio cannot set itself."""

    def __init__(self, app: ASGIApp, *, https: bool = False) -> None:
        self.app, self.https = app, https

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        accepted, nonce = Headers(scope=scope).get("accept-encoding", ""), secrets.token_urlsafe(16)
        https = scope["scheme"] == "https" or self.https  # of a proxy on this machine uvicorn believes X-Forwarded-Proto
        if wants_page(Request(scope)):  # the page must arrive here uncompressed
            scope = {**scope, "headers": [(k, v) for k, v in scope["headers"] if k != b"accept-encoding"]}
        await self.app(scope, receive, _Sender(send, nonce=nonce, gzip_allowed="gzip" in accepted, https=https))


class _Sender:
    """Holds an HTML response back until it is whole; passes everything else on at once."""

    def __init__(self, send: Send, *, nonce: str, gzip_allowed: bool, https: bool) -> None:
        self.send, self.nonce, self.gzip_allowed, self.https = send, nonce, gzip_allowed, https
        self.held: Message | None = None
        self.body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=message.setdefault("headers", []))
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            if self.https:
                headers.setdefault("strict-transport-security", "max-age=31536000")
                message["headers"] = [(k, v + b"; secure" if k == b"set-cookie" else v) for k, v in message["headers"]]
                headers = MutableHeaders(raw=message["headers"])
            headers["content-security-policy"] = CSP.format(nonce=self.nonce)
            if headers.get("content-type", "").startswith("text/html") and "content-encoding" not in headers:
                self.held = message
                return
        elif self.held is not None:
            self.body += message.get("body", b"")
            if message.get("more_body"):
                return
            await self._send_page(self.held)
            return
        await self.send(message)

    async def _send_page(self, start: Message) -> None:
        body = OPENING_TAG.sub(rb'<\1 nonce="' + self.nonce.encode() + b'"', self.body)
        headers = MutableHeaders(raw=start["headers"])
        headers.setdefault("cache-control", "no-store")
        if self.body and self.gzip_allowed:
            body = gzip.compress(body, 5, mtime=0)
            headers["content-encoding"] = "gzip"
            headers.add_vary_header("accept-encoding")
        if self.body:  # the answer to HEAD keeps the length it announces
            headers["content-length"] = str(len(body))
        await self.send(start)
        await self.send({"type": "http.response.body", "body": body})
