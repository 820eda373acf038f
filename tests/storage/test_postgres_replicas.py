"""Two real `nashloop up` on one PostgreSQL database: no request needs the app that answered the one before."""

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle

import httpx
import pytest

from tests.annotate_app.test_cli_app import Up, free_port, nashloop, read

pytestmark = pytest.mark.slow


class Balancer(httpx.BaseTransport):
    """Each request to the next app, as a load balancer without memory does; cookies are those of one host."""

    def __init__(self, urls):
        self.urls, self.inner = cycle(urls), httpx.HTTPTransport()
        self.asked = []

    def handle_request(self, request):
        target = httpx.URL(next(self.urls))
        self.asked.append(target.port)
        headers = {**dict(request.headers), "host": f"{target.host}:{target.port}"}
        headers.pop("origin", None)
        url = request.url.copy_with(host=target.host, port=target.port)
        return self.inner.handle_request(httpx.Request(request.method, url, headers=headers, content=request.read()))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("replicas") / "data"


@pytest.fixture(scope="module")
def replicas(postgres_server, data):
    """Two apps; the first has made the tables and the first candidates."""
    apps = [Up(data, free_port(), "--database", postgres_server.empty_database())]
    try:
        deadline = time.monotonic() + 120
        while read("round", "list", "--data", str(data))["rounds"][0]["status"] == "running":
            assert time.monotonic() < deadline, "the first candidates took more than two minutes"
            time.sleep(1)
        apps.append(Up(data, free_port()))  # it finds the database by the directory
        yield apps
    finally:
        for app in apps:
            app.process.kill()
            app.process.wait()


def balanced(replicas, **more):
    return httpx.Client(base_url=replicas[0].url, transport=Balancer([app.url for app in replicas]), timeout=60, **more)


def test_a_person_signs_in_and_labels_whichever_app_answers(replicas, data):
    path = nashloop("users", "add", "Bea", "--data", str(data)).stdout.split("/sign-in?token=")[1].split()[0]
    with balanced(replicas, follow_redirects=False) as browser:
        page = browser.get(f"/sign-in?token={path}", headers={"Accept": "text/html"})
        form = dict(re.findall(r'name="([^"]+)"[^>]*value="([^"]*)"', page.text))
        assert browser.post(f"/sign-in?token={path}", data=form).status_code == 303
        proof = {"X-Nashloop": "1"}
        for k in range(6):
            given = browser.post("/api/v1/leases", json={"count": 1}, headers=proof)
            assert given.status_code == 200, given.text
            [pair] = given.json()["leases"]
            said = {"lease_id": pair["lease_id"], "verdict": "ab"[k % 2]}
            assert browser.post("/api/v1/judgments", json=said, headers=proof).status_code == 201
            assert browser.post("/api/v1/judgments", json=said, headers=proof).status_code == 200  # a retry, elsewhere
            assert browser.get("/api/v1/me/progress").json()["done_total"] == k + 1
        assert browser.post("/sign-out", headers=proof).status_code == 303
        assert browser.get("/api/v1/me/progress").status_code == 401
        assert browser.get("/api/v1/me/progress").status_code == 401  # on the other one too


def test_a_token_made_on_one_app_is_known_and_revoked_on_the_other(replicas, data):
    token = read("tokens", "create", "program", "--data", str(data))
    asks = {"headers": {"Authorization": f"Bearer {token['token']}"}}
    with balanced(replicas, **asks) as program:
        assert [program.get("/api/v1/me/progress").status_code for _ in range(2)] == [200, 200]
        assert nashloop("tokens", "revoke", "program", "--data", str(data)).returncode == 0
        assert [program.get("/api/v1/me/progress").status_code for _ in range(2)] == [401, 401]


def test_many_programs_label_through_both_and_a_job_and_an_export_hold_it_all(replicas, data, tmp_path):
    tokens = [read("tokens", "create", f"worker {k}", "--data", str(data))["token"] for k in range(4)]

    def work(token):
        made = []
        with balanced(replicas, headers={"Authorization": f"Bearer {token}"}) as program:
            for _ in range(10):
                for pair in program.post("/api/v1/leases", json={"count": 2}).json()["leases"]:
                    answer = program.post("/api/v1/judgments", json={"lease_id": pair["lease_id"], "verdict": "a"})
                    assert answer.status_code == 201, answer.text
                    made.append(pair["lease_id"])
        return made

    with ThreadPoolExecutor(4) as pool:
        made = [lease_id for some in pool.map(work, tokens) for lease_id in some]
    assert len(set(made)) == len(made) == 80
    admin = read("tokens", "create", "boss", "--scope", "admin", "--data", str(data))["token"]
    with httpx.Client(base_url=replicas[1].url, headers={"Authorization": f"Bearer {admin}"}, timeout=60) as second:
        started = second.post("/api/v1/jobs", json={"kind": "fit"})  # a process of the second app
        assert started.status_code in (200, 201, 202), started.text
        path, deadline = f"/api/v1/rounds/{started.json()['number']}", time.monotonic() + 120
        with balanced(replicas, headers=second.headers) as either:
            while "running" in (seen := [either.get(path).json()["status"] for _ in range(2)]):
                assert time.monotonic() < deadline, "the fit took more than two minutes"
                time.sleep(0.5)
        assert seen == ["done", "done"]
    out = tmp_path / "raw.jsonl"
    assert nashloop("export", "raw", "--out", str(out), "--data", str(data)).returncode == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert set(made) <= {row["judgment_id"] for row in rows}


def test_stopping_one_app_leaves_the_other(replicas, data):
    assert replicas[0].stop() == 0
    assert httpx.get(replicas[1].url + "/readyz", trust_env=False).status_code == 200
    assert read("round", "list", "--data", str(data))["rounds"]  # commands find the one that is left
