"""Which role reaches which route, asked of the running app: every route it has, Gradio's own included.

A route that no line of ALLOWED names must be closed to annotators: who adds one for them says so here.
"""

import re
from contextlib import contextmanager

import httpx
import pytest
from fastapi.routing import iter_route_contexts
from starlette.routing import Mount

from annotate_app.auth import issue_signin_link
from annotate_app.server import serve_in_background
from annotate_app.web import build_app

ROLES = ("anonymous", "annotator", "researcher", "admin")
USERS = {"annotator": "ada", "researcher": "rosa", "admin": "root"}
# Smallest role that passes, first line that fits. Methods are regular expressions too.
ALLOWED = [
    ("anonymous", "GET|POST", r"/sign-(in|out)(/.*)?"),
    ("anonymous", "GET", r"/(healthz|readyz|metrics|manifest\.json|favicon\.ico|robots\.txt)"),
    ("anonymous", "GET", r"/ui/.*"),
    ("anonymous", "GET|POST", r"/join/.*"),  # by the secret of a study's link
    ("admin", ".*", r"/api/v1/(users|tokens|audit)(/.*)?|/console/audit"),
    ("annotator", "POST", r"/api/v1/(leases|leases/renew|judgments|judgments/x/(correct|withdraw)|flags|notes)"),
    ("annotator", "GET|POST", r"/api/v1/live(/turns)?"),
    ("annotator", "GET", r"/api/v1/(guidelines|campaign|me(/progress|/judgments|/stats)?)"),
    ("researcher", ".*", r"/api/v1/.*"),
    ("annotator", ".*", r"/api/.*"),  # there is nothing: 404
    # Gradio's own that nothing here needs: refused to everybody, and no file is offered.
    ("nobody", ".*", r"(/console)?/(monitoring.*|log(in|out)/?)"),
    ("nobody", ".*", r"(/console)?/gradio_api/(vibe-|dev/|proxy=|deep_link|process_recording|component_server|runs|file[=/]).*"),
    ("researcher", ".*", r"/console.*"),
    ("nobody", "POST", r"/gradio_api/.*"),  # the labelling page has no events, uploads or queue
    ("annotator", "GET|POST", r"/account(/.*)?"),
    ("annotator", "GET|HEAD", r"/.*"),  # the labelling page, and what belongs to it
]
FILES = ["nashloop.duckdb", "session.key", "server.json", "artifacts/0001-round/adapter/adapter_model.safetensors"]


def test_every_route_is_open_to_exactly_the_roles_of_the_table(context):
    table = reach_table(context)
    wrong = [
        f"{method} {path}: {role} {'passes' if role in reached else 'is refused'}"
        for (method, path), reached in table.items()
        for role in ROLES
        if (role in reached) != (rank(role) >= rank(smallest_role(method, path)))
    ]
    assert not wrong, "\n".join(wrong)
    assert len(table) > 150  # Gradio's two mounts have some fifty routes each
    assert {path for _, path in table} >= {"/api/v1/users", "/gradio_api/file=x", "/console/gradio_api/queue/join", "/ui/x"}


@pytest.mark.parametrize("role", ["anonymous", "annotator", "researcher", "admin"])
def test_no_file_of_the_data_directory_or_the_machine_is_served_to_anyone(context, role):
    for name in FILES:
        path = context.data_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("only for the machine")
    with serve_in_background(build_app(context)) as url, browser(context, url, role) as client:
        for file in [*(context.data_dir / name for name in FILES), "/etc/passwd", "/proc/self/environ"]:
            for form in (
                "/gradio_api/file={}", "/gradio_api/file/{}", "/file={}", "/ui/{}", "/ui/..{}", "/ui/%2e%2e{}", "/assets/..{}",
                "/static/..{}", "/gradio_api/proxy=file://{}", "/theme.css/..{}", "/gradio_api/stream/x/y/z/../../..{}",
            ):  # fmt: skip
                for prefix in ("", "/console"):
                    answer = client.get(prefix + form.format(file))
                    assert "only for the machine" not in answer.text and "root:" not in answer.text
                    assert answer.status_code in (303, 307, 400, 401, 403, 404, 405), (role, prefix + form.format(file))


def reach_table(context):
    """{(method, path): roles that are not refused} of every route of the running app; parameters are called x or 1."""
    app = build_app(context)
    table = {route: set() for route in sorted(set(walk(app.routes)))}
    with serve_in_background(app) as url:
        for role in ROLES:
            with browser(context, url, role) as client:
                for method, path in table:
                    if not is_refused(client, method, path):
                        table[method, path].add(role)
    return table


def is_refused(client, method, path):
    """Whether the wall answers. Of endless streams only the beginning is read; what says nothing at all has passed."""
    if (method, path) == ("POST", "/sign-out"):
        return False  # whoever asks is signed out
    body = {"content": b"[]", "headers": {"content-type": "application/json"}}
    try:
        with client.stream(method, path, **body, timeout=2) as answer:
            return answer.status_code in (401, 403) or answer.headers.get("location") == "/sign-in"
    except httpx.TimeoutException:
        return False


def walk(routes, prefix=""):
    for route in iter_route_contexts(routes):
        if isinstance(route.route, Mount):
            inner = prefix + route.route.path
            yield from walk(route.route.routes, inner) if route.route.routes else [("GET", inner + "/x")]
            continue
        path = re.sub(r"\{(\w*)(:\w+)?\}", lambda m: "1" if m[1] in ("number", "size") else "x", prefix + route.path)
        for method in route.methods or ():
            yield method, path


@contextmanager
def browser(context, url, role):
    """A client with our page's headers, signed in with this role."""
    with httpx.Client(base_url=url, headers={"X-Nashloop": "1"}, trust_env=False) as client:
        if role != "anonymous":
            link = issue_signin_link(context.store, context.store.get_user(USERS[role]))
            assert client.post(link).status_code == 303
        yield client


def smallest_role(method, path):
    return next((role for role, verbs, form in ALLOWED if re.fullmatch(verbs, method) and re.fullmatch(form, path)), "nobody")


def rank(role):
    return (*ROLES, "nobody").index(role)
