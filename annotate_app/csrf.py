"""What shows that our own page, not another site, made a request that the session cookie signs.

Beside the session's cookie, which a browser also sends when a link from elsewhere is followed, there is a second one that it
sends from our pages only (SameSite=Strict). It holds a token made from the session's secret: one of another session, or set
by another host of the domain, does not count. Gradio's own events need nothing for it.
"""

import hashlib
import hmac

from starlette.requests import Request
from starlette.responses import Response

from annotate_app.auth import SESSION, hash_secret


def cookie_name(key: str) -> str:
    """Of the session; cookies do not know ports: two Nashloops on one host must not sign each other's users out."""
    return f"nashloop_{hash_secret(key)[:8]}"


def token_cookie(key: str) -> str:
    return cookie_name(key) + "_page"


def token_for(session_secret: str, key: str) -> str:
    return hmac.new(key.encode(), session_secret.encode(), hashlib.sha256).hexdigest()


def carries_token(request: Request, key: str) -> bool:
    """Whether the request brings the token of its own session."""
    sent = request.cookies.get(token_cookie(key), "")
    return hmac.compare_digest(sent.encode(), token_for(str(request.session.get(SESSION, "")), key).encode())


def set_token(response: Response, session_secret: str, key: str, *, days: float) -> None:
    value = token_for(session_secret, key)
    response.set_cookie(token_cookie(key), value, max_age=int(days * 86_400), httponly=True, samesite="strict")
