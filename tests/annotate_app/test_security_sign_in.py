"""Passwords, sessions that end, the token of our own pages, and locks: what stands between a stranger and an account."""

import time

import pytest
from argon2 import PasswordHasher, Type, extract_parameters
from fastapi.testclient import TestClient

from annotate_app.auth import issue_signin_link
from annotate_app.passwords import is_password, problem_with, set_password
from annotate_app.rate_limits import Attempts, Rate

GOOD = "correct horse battery"
OURS = {"X-Nashloop": "1"}


@pytest.fixture
def ada(context):
    return context.store.get_user("ada")


@pytest.fixture
def with_password(context, ada):
    set_password(context.store, ada, GOOD, actor="ada")
    return ada


def browser_of(app):
    return TestClient(app, follow_redirects=False, raise_server_exceptions=False)


def sign_in(browser, name="Ada", password=GOOD):
    return browser.post("/sign-in", data={"name": name, "password": password})


def test_an_invitation_sets_the_password_that_signs_in_again(visitor, app, context, ada):
    link = issue_signin_link(context.store, ada)
    assert 'type="password"' in visitor.get(link).text
    assert visitor.post(link, data={"password": GOOD, "again": GOOD}).status_code == 303
    other = browser_of(app)
    assert sign_in(other, "ada ").headers["location"] == "/"  # names are not case-sensitive
    assert other.get("/api/v1/me").json()["name"] == "Ada"


def test_a_refused_password_leaves_the_invitation_as_it_was(visitor, context, ada):
    link = issue_signin_link(context.store, ada)
    for password, again, said in [
        ("short", "short", "too short"), ("x" * 201, "x" * 201, "longer than 200"), ("aaaaaaaaaaaa", "aaaaaaaaaaaa", "guessed"),
        ("my name is Ada!", "my name is Ada!", "guessed"), (GOOD, GOOD + "s", "not the same"),
    ]:  # fmt: skip
        answer = visitor.post(link, data={"password": password, "again": again})
        assert answer.status_code == 422 and said in answer.text
    assert visitor.post(link).status_code == 303


def test_passwords_are_kept_as_argon2id_with_the_published_parameters(context, with_password):
    [kept] = [c for c in context.store.list_credentials() if c.user_id == "ada"]
    used = extract_parameters(kept.secret)
    # OWASP's password storage cheat sheet, first configuration: argon2id, 46 MiB, one iteration, one degree of parallelism.
    assert (used.type, used.memory_cost, used.time_cost, used.parallelism) == (Type.ID, 46 * 1024, 1, 1)
    assert PasswordHasher().verify(kept.secret, GOOD)  # by the library, not by us
    events = str([event.data for event in context.store.list_events()])
    assert GOOD not in events and kept.secret not in events


def test_the_same_password_typed_on_another_keyboard_counts(context, ada):
    set_password(context.store, ada, "cafe\u0301 au lait", actor="ada")  # e and a combining accent
    assert is_password(context.store, ada, "caf\u00e9 au lait")
    assert not is_password(context.store, ada, "cafe au lait")
    assert problem_with("caf\u00e9 au lait", "Ada") is None


def test_a_wrong_name_and_a_wrong_password_look_and_last_the_same(visitor, with_password):
    answers, seconds = {}, {}
    for name in ("Ada", "Nobody"):
        start = time.perf_counter()
        answers[name] = sign_in(visitor, name, "not the password")
        seconds[name] = time.perf_counter() - start
    assert {answer.status_code for answer in answers.values()} == {401}
    assert answers["Ada"].text.replace("Ada", "Nobody") == answers["Nobody"].text
    assert seconds["Nobody"] > seconds["Ada"] / 4  # both hash; without it the unknown name would answer at once


def test_five_wrong_passwords_lock_the_name_and_say_for_how_long(visitor, app, context, with_password):
    for _ in range(5):
        assert sign_in(visitor, "Ada", "not the password").status_code == 401
    locked = sign_in(visitor)  # even the right one
    assert locked.status_code == 429
    assert "too many wrong attempts. Try again in 15 minutes" in locked.text
    assert 890 <= int(locked.headers["retry-after"]) <= 900
    assert [e.subject for e in context.store.list_events(kind_prefix="user.locked")] == ["ada"]
    assert browser_of(app).post(issue_signin_link(context.store, with_password)).status_code == 303  # a link still works


def test_strangers_guessing_many_names_are_locked_out_by_address(visitor):
    seen = [sign_in(visitor, f"person {k}", "guessed it once").status_code for k in range(21)]
    assert seen == [401] * 20 + [429]


def test_locks_open_again_and_failures_far_apart_do_not_add_up():
    now = [0.0]
    attempts = Attempts(limit=3, window_s=60, clock=lambda: now[0])
    assert [attempts.fail("k") for _ in range(3)] == [False, False, True]
    assert attempts.locked_s("k") == 60
    assert attempts.locked_s("other") == 0
    now[0] = 59.0
    assert attempts.locked_s("k") == 1
    now[0] = 60.0
    assert attempts.locked_s("k") == 0
    assert attempts.fail("k") is False  # counting begins anew
    now[0] = 121.0
    attempts.fail("k"), attempts.fail("k")
    assert attempts.locked_s("k") == 0


def test_a_rate_lets_a_burst_through_and_then_so_many_a_second():
    now = [0.0]
    rate = Rate(per_s=2, burst=3, clock=lambda: now[0])
    assert [rate.take("k") for _ in range(4)] == [True, True, True, False]
    now[0] = 0.5  # one more has come
    assert [rate.take("k"), rate.take("k")] == [True, False]
    assert rate.take("other")


def test_a_browser_that_asks_without_end_is_told_to_wait(visitor, context, with_password):
    sign_in(visitor)
    seen = [visitor.get("/api/v1/nothing").status_code for _ in range(500)]
    assert seen[:300] == [404] * 300
    assert 429 in seen[300:]


def test_a_copied_cookie_is_worthless_after_signing_out(visitor, app, context, with_password):
    sign_in(visitor)
    copy = browser_of(app)
    copy.cookies.update(visitor.cookies)
    assert copy.get("/api/v1/me").status_code == 200
    visitor.post("/sign-out")
    assert copy.get("/api/v1/me").status_code == 401


def test_sessions_end_on_their_day(context, app, store, with_password):
    browser = browser_of(app)
    sign_in(browser)
    [session] = [token for token in store.list_tokens() if token.kind == "session"]
    days = (session.expires_at - session.created_at).total_seconds() / 86_400
    assert days == pytest.approx(30, abs=0.01)
    assert browser.get("/api/v1/me").status_code == 200
    store._state.clock = lambda: session.expires_at  # the store's own clock, moved a month on
    assert browser.get("/api/v1/me").status_code == 401


def test_a_new_password_signs_every_other_browser_out(visitor, app, context, with_password):
    other = browser_of(app)
    sign_in(visitor)
    sign_in(other)
    assert "2 browsers" in visitor.get("/account").text
    form = {"current": "not the password", "password": "another good one", "again": "another good one"}
    assert visitor.post("/account/password", data=form).status_code == 422
    assert other.get("/api/v1/me").status_code == 200
    assert visitor.post("/account/password", data=form | {"current": GOOD}).status_code == 200
    assert (visitor.get("/api/v1/me").status_code, other.get("/api/v1/me").status_code) == (200, 401)
    assert sign_in(other).status_code == 401
    assert sign_in(other, password="another good one").status_code == 303


def test_the_others_can_be_signed_out_alone(visitor, app, with_password):
    other = browser_of(app)
    sign_in(visitor)
    sign_in(other)
    assert visitor.post("/account/sign-out-elsewhere").status_code == 200
    assert (visitor.get("/api/v1/me").status_code, other.get("/api/v1/me").status_code) == (200, 401)


def test_a_session_without_the_token_of_our_pages_changes_nothing(visitor, app, context, with_password):
    sign_in(visitor)
    [page_cookie] = [name for name in visitor.cookies if name.endswith("_page")]
    token = visitor.cookies[page_cookie]
    stranger = browser_of(app)  # Ada's browser on another site: it sends the Lax cookie and not the Strict one
    stranger.cookies.update({name: value for name, value in visitor.cookies.items() if name != page_cookie})
    for path in ("/api/v1/leases", "/sign-out", "/account/sign-out-elsewhere", "/console/gradio_api/queue/join"):
        assert stranger.post(path, headers=OURS).status_code == 403
    assert stranger.get("/api/v1/me").status_code == 200
    rosa = browser_of(app)
    rosa.post(issue_signin_link(context.store, context.store.get_user("rosa")))
    mixed = {**dict(rosa.cookies), page_cookie: token}  # somebody else's token
    rosa.cookies.clear()
    rosa.cookies.update(mixed)
    assert rosa.post("/api/v1/leases", headers=OURS).status_code == 403
    assert visitor.post("/api/v1/leases", headers=OURS).status_code == 200


def test_cookies_are_out_of_reach_of_scripts_other_sites_and_plain_http(app, context, with_password):
    over_tls = TestClient(app, base_url="https://label.example", follow_redirects=False)
    cookies = sign_in(over_tls).headers.get_list("set-cookie")
    assert len(cookies) == 2
    for cookie in cookies:
        flags = {part.strip().lower() for part in cookie.split(";")}
        assert {"httponly", "secure", "path=/"} <= flags
    assert sorted(part.strip().lower() for c in cookies for part in c.split(";") if "same" in part.lower()) == [
        "samesite=lax",
        "samesite=strict",
    ]
    assert over_tls.get("/sign-in").headers["strict-transport-security"] == "max-age=31536000"
    over_http = browser_of(app)
    assert "secure" not in sign_in(over_http).headers["set-cookie"].lower()


def test_a_hostile_name_is_shown_harmlessly(visitor):
    shown = sign_in(visitor, '"><script>alert(1)</script>', "x" * 12).text
    assert "<script" not in shown and "&lt;script" in shown
