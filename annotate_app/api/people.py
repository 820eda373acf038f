"""Who may sign in and which programs may call, over HTTP: users, invitations and tokens. Admin scope."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException
from pydantic import BaseModel, ConfigDict, Field

from annotate_app.auth import Principal, issue_signin_link, issue_token, principal, require
from annotate_app.context import AppContext
from storage.errors import UserError
from storage.ids import new_id
from storage.records import Annotator, Role, Scope, Token, User

Actor = Annotated[Principal, Depends(principal)]


class Body(BaseModel):
    """A JSON body that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


async def annotator_of(who: Annotated[Principal, Depends(require("label"))]) -> str:
    """Whose judgments the caller makes; 403 for a token that does not say."""
    if who.annotator_id is None:
        raise HTTPException(403, "This token does not say whose judgments it makes. Create one with --annotator NAME.")
    return who.annotator_id


AnnotatorId = Annotated[str, Depends(annotator_of)]


class UserBody(Body):
    name: str = Field(min_length=1, max_length=80)
    role: Role = "annotator"


class TokenBody(Body):
    name: str = Field(min_length=1, max_length=80)
    scope: Scope = "label"
    annotator: str | None = Field(None, description="handle of whose judgments are made with it")
    days: float | None = Field(None, gt=0, le=3650, description="how long it works; always, if not given")


def build_people_router(context: AppContext) -> APIRouter:
    """Routes of users and tokens."""
    router, store = APIRouter(), context.store

    @router.get("/users")
    def list_users() -> dict[str, Any]:
        """Everybody who may sign in."""
        return {"users": [user_json(user) for user in store.list_users()]}

    @router.post("/users", status_code=201)
    def add_user(body: UserBody, actor: Actor) -> dict[str, Any]:
        """Add a person; the judgments they make are theirs from the first."""
        if any(user.name == body.name and not user.disabled for user in store.list_users()):
            raise UserError(f"There is a user {body.name!r} already. Choose another name, or invite them again.")
        now = datetime.now(UTC)
        annotator = store.get_annotator(body.name)
        if annotator is None:
            annotator = Annotator(id=new_id(), handle=body.name, kind="human", created_at=now)
            store.add_annotator(annotator)
        user = User(id=new_id(), name=body.name, role=body.role, annotator_id=annotator.id, created_at=now)
        store.add_user(user)
        store.append_event(actor=actor.actor, kind="user.added", subject=user.id, data={"role": user.role})
        return user_json(user)

    @router.post("/users/{user_id}/invite", status_code=201)
    def invite(user_id: str, actor: Actor) -> dict[str, Any]:
        """A one-time sign-in link: a whole address where the settings say it, else a path on this host."""
        user = find_user(context, user_id)
        if user.disabled:
            raise UserError(f"{user.name} was disabled. Add a new user instead.")
        return {"link": (context.security.public_url or "") + issue_signin_link(store, user, actor=actor.actor)}

    @router.post("/users/{user_id}/disable")
    def disable(user_id: str, actor: Actor) -> dict[str, Any]:
        """Shut a person out at once; their judgments stay."""
        user = find_user(context, user_id)
        if not user.disabled:
            store.append_event(actor=actor.actor, kind="user.disabled", subject=user.id)
        return user_json(find_user(context, user_id))

    @router.get("/tokens")
    def list_tokens() -> dict[str, Any]:
        """All tokens, never their secrets."""
        return {"tokens": [token_json(token) for token in store.list_tokens()]}

    @router.post("/tokens", status_code=201)
    def add_token(body: TokenBody, actor: Actor) -> dict[str, Any]:
        """A bearer token; its secret is in this answer only."""
        expires_at = None if body.days is None else datetime.now(UTC) + timedelta(days=body.days)
        token, secret = issue_token(
            store,
            name=body.name,
            scope=body.scope,
            annotator_handle=body.annotator,
            expires_at=expires_at,
            actor=actor.actor,
        )
        return {**token_json(token), "token": secret}

    @router.delete("/tokens/{token_id}")
    def revoke(token_id: str, actor: Actor) -> dict[str, Any]:
        """Make a token worthless at once."""
        token = next((token for token in store.list_tokens() if token.id == token_id), None)
        if token is None:
            raise HTTPException(404, f"There is no token {token_id}.")
        if not token.revoked:
            store.append_event(actor=actor.actor, kind="token.revoked", subject=token.id)
        return {**token_json(token), "revoked": True}

    return router


def find_user(context: AppContext, user_id: str) -> User:
    """The user of this id; 404 if there is none."""
    user = context.store.get_user(user_id)
    if user is None:
        raise HTTPException(404, f"There is no user {user_id}.")
    return user


def user_json(user: User) -> dict[str, Any]:
    """A user as the API shows them."""
    return asdict(user)


def token_json(token: Token) -> dict[str, Any]:
    """A token as the API shows it: everything but its hash."""
    return {name: value for name, value in asdict(token).items() if name != "sha256"}
