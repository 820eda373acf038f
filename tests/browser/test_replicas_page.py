"""Both pages through a balancer that sends each request to the next of two apps on one PostgreSQL database."""

from contextlib import ExitStack, contextmanager
from itertools import cycle

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from annotate_app.context import AppContext
from annotate_app.rounds import RoundService
from annotate_app.server import serve_in_background
from annotate_app.web import build_app
from storage.postgres_store import open_postgres
from storage.records import User
from tests.browser.conftest import _Visits
from tests.storage.builders import START, fill
from tests.storage.postgres_server import running_server

pytestmark = pytest.mark.browser
NOT_PASSED_ON = ("content-encoding", "content-length", "transfer-encoding", "connection")


def balancer(urls, asked):
    """A proxy without memory."""
    targets, client = cycle(urls), httpx.AsyncClient(timeout=60, trust_env=False)

    async def forward(request):
        base = next(targets)
        asked.append((base, request.method, request.url.path))
        address = base + request.url.path + (f"?{request.url.query}" if request.url.query else "")
        answer = await client.request(request.method, address, headers=request.headers.raw, content=await request.body())
        passed = Response(answer.content, answer.status_code)
        passed.raw_headers += [(k, v) for k, v in answer.headers.raw if k.decode().lower() not in NOT_PASSED_ON]
        return passed

    return Starlette(routes=[Route("/{path:path}", forward, methods=["GET", "POST", "PUT", "DELETE", "HEAD"])])


@contextmanager
def one_app(url, tmp_path):
    store = open_postgres(url, folder=tmp_path / "reading")
    rounds = RoundService(store, tmp_path, model="someone/small-model", lock=store.lock("rounds"))
    secret = store.shared_value("session.key", "the first one's secret counts")
    context = AppContext(store=store, rounds=rounds, data_dir=tmp_path, session_secret=secret)
    try:
        with serve_in_background(build_app(context)) as address:
            yield context, address
    finally:
        rounds.close()
        store.close()


@pytest.fixture
def replicas(chromium, tmp_path):
    """Opens pages through the balancer; with it, the requests that were passed on."""
    asked = []
    with ExitStack() as stack:
        url = stack.enter_context(running_server()).new_database()
        apps = [stack.enter_context(one_app(url, tmp_path)) for _ in range(2)]
        (context, _), _ = apps
        fill(context.store, num_tasks=8)
        context.store.add_user(User(id="rosa", name="Rosa", role="admin", annotator_id="ann1", created_at=START))
        address = stack.enter_context(serve_in_background(balancer([one for _, one in apps], asked)))
        yield stack.enter_context(_Visits(chromium, address, context).watched()), context.store, asked


def test_labelling_and_the_console_need_no_app_in_particular(replicas):
    open_page, store, asked = replicas
    page = open_page("rosa")
    for k in range(4):
        page.get_by_text("Question").first.wait_for()
        with page.expect_response(lambda r: r.url.endswith("/judgments") and r.request.method == "POST") as sent:
            page.keyboard.press("ab"[k % 2])
            page.keyboard.press("Enter")
        assert sent.value.status == 201
    assert store.count_judgments() == 4
    page.goto(open_page.url + "/console/")
    page.get_by_role("tab", name="People").click()
    page.get_by_text("Rosa").first.wait_for()
    with page.expect_response("**/console/gradio_api/run/**"):  # the timer of the round tab goes on
        pass
    posts = [(base, path) for base, method, path in asked if method == "POST" and path.startswith("/console/gradio_api/")]
    assert len({base for base, _ in posts}) == 2
    assert not [path for _, path in posts if "queue" in path]
