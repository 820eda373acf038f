"""Signing in through a provider, against a real one on this machine that checks client, redirect, nonce and code."""

import warnings
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from annotate_app.auth import issue_signin_link
from annotate_app.oidc import Unknown, person_of
from annotate_app.security_settings import OidcSettings, SecuritySettings
from annotate_app.server import serve_in_background
from annotate_app.web import build_app
from storage.errors import UserError
from storage.records import User
from tests.storage.builders import START

warnings.filterwarnings("ignore", message="authlib.jose")
oidc_provider_mock = pytest.importorskip("oidc_provider_mock", reason="oidc-provider-mock is not installed: scripts/setup --test")

PEOPLE = {
    "sub-ada": {"preferred_username": "ada99", "email": "ada@uni.example", "email_verified": True},
    "sub-eve": {"preferred_username": "Root", "email": "root@evil.example", "email_verified": False},
    "sub-new": {"preferred_username": "grace", "email": "grace@uni.example", "email_verified": True},
}


@pytest.fixture
def provider():
    """Address of the provider."""
    people = [oidc_provider_mock.User(sub=sub, claims=claims) for sub, claims in PEOPLE.items()]
    run = oidc_provider_mock.run_server_in_thread
    with run(require_client_registration=True, require_nonce=True, user_claims=people) as server:
        yield f"http://localhost:{server.server_port}"


@pytest.fixture
def serve(provider, context, monkeypatch):
    """Serves the app with this provider and gives its address; keyword arguments are settings of the provider."""
    from contextlib import ExitStack

    with ExitStack() as stack:

        def go(secret=None, **settings):
            registered = httpx.post(
                f"{provider}/oauth2/clients",
                json={
                    "redirect_uris": ["http://127.0.0.1/sign-in/oidc/callback"],
                    "token_endpoint_auth_method": "client_secret_basic",
                },
            )
            assert registered.status_code == 201, registered.text
            client = registered.json()
            monkeypatch.setenv("NASHLOOP_OIDC_SECRET", secret or client["client_secret"])
            oidc = OidcSettings(issuer=provider, client_id=client["client_id"], label="the university", **settings)
            security = SecuritySettings(oidc=oidc, public_url="http://127.0.0.1")
            app = build_app(replace(context, security=security), pages=False)
            return stack.enter_context(serve_in_background(app))

        yield go


def browser(url):
    return httpx.Client(base_url=url, follow_redirects=False, trust_env=False)


def come_back(browser, sub, start="/sign-in/oidc"):
    """Through the provider's own page as this person, and back; the answer of the way back."""
    away = browser.get(start)
    assert away.status_code == 302, away.text
    asked = parse_qs(urlsplit(away.headers["location"]).query)
    assert asked["code_challenge_method"] == ["S256"] and asked["nonce"] and asked["state"]
    agreed = httpx.post(away.headers["location"], data={"sub": sub})
    assert agreed.status_code == 302, agreed.text
    back = urlsplit(agreed.headers["location"])
    return browser.get(f"{back.path}?{back.query}")


def test_somebody_added_under_their_address_signs_in_and_stays_linked(serve, context):
    context.store.add_user(User(id="u9", name="ada@uni.example", role="annotator", annotator_id="ann2", created_at=START))
    url = serve()
    with browser(url) as ada:
        assert "Sign in with the university" in ada.get("/sign-in").text
        answer = come_back(ada, "sub-ada")
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        assert ada.get("/api/v1/me").json()["annotator_id"] == "ann2"
    [kept] = context.store.list_credentials()
    assert (kept.user_id, kept.kind, kept.secret.split()[1]) == ("u9", "oidc", "sub-ada")
    with browser(url) as again:
        assert come_back(again, "sub-ada").status_code == 303
    context.store.append_event(actor="root", kind="user.disabled", subject="u9")
    with browser(url) as shut_out:
        assert come_back(shut_out, "sub-ada").status_code == 403


def test_a_chosen_name_or_an_unverified_address_opens_nobodys_account(serve, context):
    context.store.add_user(User(id="u9", name="root@evil.example", role="admin", annotator_id=None, created_at=START))
    with browser(serve()) as eve:  # calls herself Root, as the admin is called, and claims an address
        answer = come_back(eve, "sub-eve")
        assert answer.status_code == 403
        assert "Nobody has invited Root yet" in answer.text
        assert eve.get("/api/v1/me").status_code == 401
    assert context.store.list_credentials() == []


def test_new_people_are_annotators_where_the_settings_say_so_and_their_domain_fits(serve, context):
    url = serve(new_people=True, email_domains=("uni.example",))
    with browser(url) as grace, browser(url) as eve:
        assert come_back(grace, "sub-new").status_code == 303
        assert grace.get("/api/v1/me").json()["role"] == "annotator"
        assert grace.get("/api/v1/stats").status_code == 403
        assert come_back(eve, "sub-eve").status_code == 403


def test_who_is_signed_in_links_their_account(serve, context):
    url = serve()
    with browser(url) as rosa:
        rosa.post(issue_signin_link(context.store, context.store.get_user("rosa")))
        assert come_back(rosa, "sub-ada", "/sign-in/oidc?link=true").status_code == 303
    with browser(url) as later:
        assert come_back(later, "sub-ada").status_code == 303
        assert later.get("/api/v1/me").json()["name"] == "Rosa"
    with browser(url) as ada:  # the same account cannot be linked to somebody else too
        ada.post(issue_signin_link(context.store, context.store.get_user("ada")))
        assert come_back(ada, "sub-ada", "/sign-in/oidc?link=true").status_code == 403


def test_an_answer_nobody_asked_for_signs_nobody_in(serve, context):
    url = serve(new_people=True)
    with browser(url) as mallory, browser(url) as victim:
        away = mallory.get("/sign-in/oidc")
        back = urlsplit(httpx.post(away.headers["location"], data={"sub": "sub-new"}).headers["location"])
        stolen = victim.get(f"{back.path}?{back.query}")  # a login-CSRF: Mallory's answer in the victim's browser
        assert stolen.status_code == 502
        assert victim.get("/api/v1/me").status_code == 401
        assert victim.get("/sign-in/oidc/callback?code=x&state=y").status_code == 502
        assert victim.get("/sign-in/oidc/callback?error=access_denied").status_code == 502


def test_a_wrong_client_secret_and_a_provider_that_is_away_are_told_without_traceback(serve, context, caplog):
    with browser(serve(secret="wrong")) as ada:
        answer = come_back(ada, "sub-ada")
        assert answer.status_code == 502 and "did not work" in answer.text
    away = SecuritySettings(oidc=OidcSettings(issuer="http://127.0.0.1:9", client_id="c"))  # nothing listens there
    with serve_in_background(build_app(replace(context, security=away), pages=False)) as url, browser(url) as ada:
        assert ada.get("/sign-in/oidc").status_code == 502
    assert "Traceback" not in caplog.text


def test_settings_that_cannot_work_are_refused(context, monkeypatch):
    monkeypatch.delenv("NASHLOOP_OIDC_SECRET", raising=False)
    settings = OidcSettings(issuer="https://idp.example", client_id="c")
    with pytest.raises(UserError, match="NASHLOOP_OIDC_SECRET is empty"):
        build_app(replace(context, security=SecuritySettings(oidc=settings)), pages=False)
    with pytest.raises(ValueError, match="https://"):
        OidcSettings(issuer="http://idp.example", client_id="c")


def test_a_name_that_is_taken_gets_a_number(context):
    settings = OidcSettings(issuer="https://idp.example", client_id="c", new_people=True)
    claims = {"iss": "https://idp.example", "sub": "1", "preferred_username": "Ada"}
    assert person_of(context.store, settings, claims).name == "Ada 2"
    assert person_of(context.store, settings, claims).name == "Ada 2"  # known now
    with pytest.raises(Unknown):
        person_of(context.store, OidcSettings(issuer="https://idp.example", client_id="c"), claims | {"sub": "2"})
