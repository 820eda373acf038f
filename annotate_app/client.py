"""The command line's way to the app: always the HTTP API, whether an app is running on the data directory or not."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from annotate_app.server import check_data, find_running, serve_in_background
from storage.errors import UserError


class ApiClient:
    """Calls under /api/v1; refusals come back as UserError with the server's own sentence."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http

    def get(self, path: str, **query: Any) -> Any:
        """The JSON answer to GET."""
        return self._call("GET", path, params=query)

    def post(self, path: str, body: Any = None, *, content: bytes | None = None, **query: Any) -> Any:
        """The JSON answer to POST with a JSON body, or raw bytes as ``content``."""
        sent = {"content": content} if content is not None else {"json": {} if body is None else body}
        return self._call("POST", path, params=query, **sent)

    def put(self, path: str, body: Any) -> Any:
        """The JSON answer to PUT."""
        return self._call("PUT", path, json=body)

    def delete(self, path: str) -> Any:
        """The JSON answer to DELETE."""
        return self._call("DELETE", path)

    def download(self, path: str, target: Path, **query: Any) -> None:
        """Stream GET's answer into ``target``; whoever calls moves it into place."""
        with self.http.stream("GET", path, params=query) as response:
            if response.is_error:
                response.read()
                raise UserError(_sentence(response))
            with target.open("wb") as file:
                for chunk in response.iter_bytes():
                    file.write(chunk)

    def _call(self, method: str, path: str, **kwargs: Any) -> Any:
        try:
            response = self.http.request(method, path, **kwargs)
        except httpx.HTTPError as error:
            raise UserError(f"The app at {self.http.base_url} stopped answering ({error}). Start it again.") from error
        if response.is_error:
            raise UserError(_sentence(response))
        return response.json() if response.content else None


def _sentence(response: httpx.Response) -> str:
    try:
        error = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        return f"The app answered {response.status_code} to {response.request.method} {response.request.url.path}. See its log."
    field, message = error.get("field"), error["message"]
    return message if field is None or message.startswith(field) else f"{field}: {message}"


@contextmanager
def http_client(url: str, token: str) -> Iterator[ApiClient]:
    """A client of the app at ``url``; imports and long exports may take a while, connecting may not."""
    with httpx.Client(
        base_url=url + "/api/v1",
        headers={"Authorization": f"Bearer {token}"},
        timeout=httpx.Timeout(600.0, connect=10.0),
        trust_env=False,  # the app is on this machine: no proxy between
    ) as http:
        yield ApiClient(http)


@contextmanager
def connect(data_dir: Path, *, create: bool = False, jobs: bool = False) -> Iterator[ApiClient]:
    """The API of the app that serves ``data_dir``, or, if none runs, of one served by this process meanwhile.

    ``create``: begin an empty data directory if there is none; otherwise that is a UserError. ``jobs``: take up what an
    app that stopped left running or unregistered; for commands that start, follow or stop jobs.
    """
    if not create:
        check_data(data_dir)
    running = find_running(data_dir)
    if running is not None:
        with http_client(running.url, running.token) as client:
            yield client
        return
    from annotate_app.commands.compose import admin_token, build_api, open_context, take_up_jobs

    with open_context(data_dir, create=create) as context:
        if jobs:
            take_up_jobs(context)
        with (
            admin_token(context.store) as token,
            serve_in_background(build_api(context)) as url,
            http_client(url, token) as client,
        ):
            yield client
