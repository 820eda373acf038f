"""What goes wrong, as JSON: ``{"error": {"message", "field"?}}`` with a 4xx status, never a traceback."""

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from storage.errors import Unavailable, UserError

logger = logging.getLogger(__name__)


def add_error_handlers(app: FastAPI) -> None:
    """Teach the app the one shape of errors."""
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(UserError, _user_error)
    app.add_exception_handler(Exception, _unexpected)


def error_response(status: int, message: str, field: str | None = None, **headers: str) -> JSONResponse:
    error = {"message": message} | ({} if field is None else {"field": field})
    return JSONResponse({"error": error}, status, headers or None)


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 401:
        headers.setdefault("WWW-Authenticate", "Bearer")
    return error_response(error.status_code, str(error.detail), **headers)


async def _malformed(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path"))
    return error_response(422, _sentence(field, first), field or None)


def _sentence(field: str, problem: dict[str, Any]) -> str:
    if problem["type"] in ("json_invalid", "model_attributes_type", "dict_type") and not field:
        return "The body is not a JSON object. Send one, with content-type application/json."
    if problem["type"] == "missing":
        return f"{field} is missing. Add it." if field else "The body is missing. Send one JSON object."
    if problem["type"] == "value_error" and not field:  # a rule between fields: the sentence is our own
        return f"{problem['ctx']['error']}."
    if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{field} is not a known field. Leave it out; /docs lists the fields."
    return f"{field or 'The body'}: {problem['msg']}, but {_shown(problem.get('input'))} was sent."


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


async def _user_error(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, Unavailable):  # pages keep what they could not send and try again
        return error_response(503, str(error), **{"Retry-After": "10"})
    return error_response(422, str(error))


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return error_response(500, "Something went wrong on the server; its log says what. Nothing was half-written.")
