"""The web app: routes, the guard around them, and both Gradio pages mounted behind it."""

from html import escape
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response, Security
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse
from fastapi.security import HTTPBearer
from fastapi.staticfiles import StaticFiles
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.sessions import SessionMiddleware

from annotate_app import csrf, metrics
from annotate_app.api import account as account_api
from annotate_app.api import browse, campaign, crowd, gates, history, labelling, live, messages, reports, research
from annotate_app.api.errors import add_error_handlers, error_response
from annotate_app.auth import PRINCIPAL
from annotate_app.context import AppContext
from annotate_app.guard import Guard, PageSecurity
from annotate_app.pages import account, sign_in

STATIC = Path(__file__).with_name("static")
MANIFEST = {
    "name": "Nashloop",
    "short_name": "Nashloop",
    "start_url": "/",
    "display": "standalone",
    "background_color": "#f6f6f4",
    "icons": [{"src": "/ui/icon.svg", "sizes": "any", "type": "image/svg+xml"}],
}


def build_app(context: AppContext, *, pages: bool = True) -> FastAPI:
    """Everything that is served. ``pages=False`` leaves both Gradio pages out: the API alone is there in a moment."""
    app = FastAPI(
        title="Nashloop",
        summary="Pairwise human preferences, and the policies aligned to them.",
        docs_url=None,
        redoc_url=None,
    )
    request_metrics = metrics.RequestMetrics()
    add_error_handlers(app)
    _add_middleware(app, context, request_metrics)
    bearer = [_documented_bearer()]
    for routes in (labelling, live, history, messages, campaign, research, reports, gates):
        app.include_router(routes.build_router(context), prefix="/api/v1", dependencies=bearer)
    app.include_router(browse.build_api(context), prefix="/api/v1", dependencies=bearer)
    app.include_router(account_api.build_router(context), prefix="/api/v1", dependencies=bearer)
    app.include_router(browse.build_pages(context))
    app.include_router(crowd.build_router(context), prefix="/api/v1", dependencies=bearer)
    app.include_router(crowd.build_pages(context))
    app.include_router(account_api.build_pages(context))
    app.add_api_route("/api/{path:path}", _no_such_route, methods=["GET", "POST", "PUT", "DELETE"], include_in_schema=False)
    app.include_router(sign_in.build_router(context))
    if context.security.oidc is not None:
        from annotate_app import oidc  # authlib is not waited for where nobody uses it

        app.include_router(oidc.build_router(context))
    app.include_router(account.build_router(context))
    _add_operations(app, context, request_metrics)
    _add_files(app)
    if pages:
        _mount_pages(app, context)
    return app


def _add_middleware(app: FastAPI, context: AppContext, request_metrics: metrics.RequestMetrics) -> None:
    """From the inside out: cross-origin answers, the guard, the session it reads, page security, timing."""
    app.add_middleware(CORSMiddleware, allow_origins=[])  # its presence keeps Gradio from reflecting foreign origins
    app.add_middleware(Guard, store=context.store, key=context.session_secret, upload_mb=context.security.upload_mb)
    app.add_middleware(
        SessionMiddleware,
        secret_key=context.session_secret,
        session_cookie=csrf.cookie_name(context.session_secret),
        max_age=int(context.security.session_days * 86_400),
        same_site="lax",
    )
    app.add_middleware(PageSecurity, https=(context.security.public_url or "").startswith("https:"))
    app.add_middleware(metrics.Measured, metrics=request_metrics)


def _documented_bearer() -> Any:
    return Security(HTTPBearer(auto_error=False, description="`nashloop tokens create NAME --scope label|research|admin`"))


def _no_such_route(path: str) -> Response:
    return error_response(404, f"There is no route /api/{path}. /docs lists them.")


def _add_operations(app: FastAPI, context: AppContext, request_metrics: metrics.RequestMetrics) -> None:
    """Health, metrics and documentation."""

    @app.get("/healthz", include_in_schema=False)
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", include_in_schema=False)
    def readyz() -> JSONResponse:
        ready = bool(context.store.health()["writer"])
        return JSONResponse({"status": "ready" if ready else "the writer has stopped"}, 200 if ready else 503)

    @app.get("/metrics", include_in_schema=False)
    def show_metrics() -> Response:
        lines = [*metrics.store_lines(context.store), *metrics.loop_lines(context), *request_metrics.lines()]
        return Response("\n".join(lines) + "\n", media_type=metrics.CONTENT_TYPE)

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        return HTMLResponse(docs_page(app.openapi()))


def docs_page(openapi: dict[str, Any]) -> str:
    """The API's routes as one page; the usual viewers would load scripts from elsewhere."""
    routes = [(verb, path, route) for path, verbs in openapi["paths"].items() for verb, route in verbs.items()]
    rows = [
        f"<tr><td><code>{verb.upper()}</code></td><td><code>{escape(path)}</code></td>"
        f"<td>{escape(route.get('description', ''))}</td></tr>"
        for verb, path, route in routes
    ]
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Nashloop API</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="stylesheet" href="/ui/pages.css"></head>
<body><main class="wide"><h1>Nashloop API</h1><p>Send <code>Authorization: Bearer TOKEN</code>;
<code>nashloop tokens create NAME --scope label|research|admin</code> prints a token. Bodies, answers and their fields are in
<a href="/openapi.json">openapi.json</a>.</p><table>{"".join(rows)}</table></main></body></html>"""


def _add_files(app: FastAPI) -> None:
    """Static files and the few that browsers ask for at the root."""

    class Revalidated(StaticFiles):
        """Browsers ask each time whether a file changed, so that an upgrade is seen at once."""

        def file_response(self, *args: Any, **kwargs: Any) -> Response:
            response = super().file_response(*args, **kwargs)
            response.headers["cache-control"] = "no-cache"
            return response

    app.mount("/ui", Revalidated(directory=STATIC), name="ui")
    app.add_api_route("/manifest.json", lambda: JSONResponse(MANIFEST), include_in_schema=False)
    app.add_api_route(
        "/favicon.ico", lambda: FileResponse(STATIC / "icon.svg", media_type="image/svg+xml"), include_in_schema=False
    )
    app.add_api_route("/robots.txt", lambda: PlainTextResponse("User-agent: *\nDisallow: /\n"), include_in_schema=False)


def _mount_pages(app: FastAPI, context: AppContext) -> None:
    """The console, then the labelling page at /, which takes every path that is left."""
    import gradio as gr  # seconds; the API alone does not need it

    from annotate_app.pages.console import build_console, console_look
    from annotate_app.pages.labelling import CSS, HEAD, build_labelling

    for prefix in ("/console", ""):  # an endless stream per open tab otherwise
        app.add_api_route(prefix + "/gradio_api/heartbeat/{session}", _no_content, include_in_schema=False)
    app.add_api_route("/console", lambda: RedirectResponse("/console/"), include_in_schema=False)
    quiet: dict[str, Any] = {"footer_links": [], "run_history": False, "ssr_mode": False, "auth_dependency": _gradio_user}
    gr.mount_gradio_app(app, build_console(context), path="/console", **console_look(), **quiet)
    gr.mount_gradio_app(app, build_labelling(context), path="/", head=HEAD, css=CSS, **quiet)


def _no_content() -> Response:
    return Response(status_code=204)


def _gradio_user(request: Request) -> str | None:
    """Second wall behind the guard, and ``gr.Request.username`` of the console's handlers: a user id or a token's name."""
    who = request.scope.get(PRINCIPAL)
    return None if who is None else who.actor
