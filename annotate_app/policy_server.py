"""Speaking to a policy server: vLLM, or where that is not installed ``python -m online_learner serve``, with the same routes."""

import contextlib
import importlib.util
import json
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from annotate_app.rounds import learner_environment, own_environment
from annotate_app.server import listen

logger = logging.getLogger(__name__)

BASE_NAME = "policy-0"
VLLM_PYTHON = "NASHLOOP_VLLM_PYTHON"  # the interpreter of vLLM's own environment, where it has one
CALL_S = 60  # loading an adapter, and scoring responses; vLLM's first one takes 15 s
FIRST_TOKEN_S = 15  # slower than that is as good as not there: people go on with the queue
START_S = 180


class PolicyServerDown(Exception):
    """The policy server does not answer; the message says how it looks from here."""


class Refused(Exception):
    """The policy server answers that it will not; the message is its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What was added to response ``index``; the last piece of a response has a finish reason."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    logp: float  # nats, summed over the tokens, at temperature 1
    finish_reason: str | None


Messages = Sequence[Mapping[str, str]]


class PolicyServer:
    """A running server at a URL. Methods raise PolicyServerDown or Refused."""

    def __init__(self, url: str, key: str | None = None) -> None:
        self.url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._verify = self.url.startswith("https:")  # reading the certificates takes longer than a first token

    def models(self) -> dict[str, str | None]:
        """Names loaded, with the name of the base they are adapters of; None for the base itself."""
        return {entry["id"]: entry.get("parent") for entry in self._call("GET", "/v1/models").json()["data"]}

    def load(self, name: str, directory: Path) -> None:
        self._call("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(directory)})

    def unload(self, name: str) -> None:
        self._call("POST", "/v1/unload_lora_adapter", {"lora_name": name})

    def warm_up(self, name: str) -> None:
        """Have it answer something: the first answer of a server may take many times as long as the second."""
        body = {"model": name, "messages": [{"role": "user", "content": "Hello"}], "n": 2, "max_tokens": 2, "seed": 0}
        self._call("POST", "/v1/chat/completions", body)

    def response_logp(self, name: str, messages: Messages, token_ids: Sequence[int]) -> float:
        """Summed log-probability of a response's tokens after a prompt, nats."""
        prompt = self._call("POST", "/tokenize", {"model": name, "messages": list(messages)}).json()["tokens"]
        body = {"model": name, "prompt": [*prompt, *token_ids], "max_tokens": 0, "echo": True, "logprobs": 0}
        logps = self._call("POST", "/v1/completions", body).json()["choices"][0]["logprobs"]["token_logprobs"]
        return float(sum(logps[len(prompt) : len(prompt) + len(token_ids)]))

    async def stream(
        self, name: str, messages: Messages, *, n: int, seed: int, temperature: float, top_p: float, max_tokens: int
    ) -> AsyncIterator[Piece]:
        """Pieces of ``n`` responses as they come, mixed; closing the iterator early ends them at the server."""
        body = {
            "model": name, "messages": list(messages), "n": n, "seed": seed, "temperature": temperature, "top_p": top_p,
            "max_tokens": max_tokens, "stream": True, "logprobs": True, "return_token_ids": True,
        }  # fmt: skip
        timeout = httpx.Timeout(FIRST_TOKEN_S, connect=5)
        try:
            async with (
                httpx.AsyncClient(headers=self._headers, timeout=timeout, verify=self._verify, trust_env=False) as http,
                http.stream("POST", self.url + "/v1/chat/completions", json=body) as answer,
            ):
                if answer.is_error:
                    await answer.aread()
                    raise _problem(answer)
                async for line in answer.aiter_lines():
                    if line.startswith("data: ") and line != "data: [DONE]":
                        for piece in _pieces(json.loads(line.removeprefix("data: "))):
                            yield piece
        except httpx.TimeoutException as error:
            raise PolicyServerDown(f"the policy server was silent for {FIRST_TOKEN_S} seconds") from error
        except httpx.HTTPError as error:
            raise PolicyServerDown(f"the policy server does not answer ({type(error).__name__})") from error

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> httpx.Response:
        try:
            answer = httpx.request(
                method, self.url + path, json=body, headers=self._headers, timeout=CALL_S, verify=self._verify, trust_env=False
            )
        except httpx.HTTPError as error:
            raise PolicyServerDown(f"the policy server at {self.url} does not answer ({type(error).__name__})") from error
        if answer.is_error:
            raise _problem(answer)
        return answer


def _problem(answer: httpx.Response) -> Exception:
    try:
        told = answer.json()
        message = str((told.get("error") or told).get("message", told))
    except (ValueError, AttributeError):
        message = answer.text[:200]
    return PolicyServerDown(message) if answer.status_code >= 500 else Refused(message)


def _pieces(event: dict[str, Any]) -> list[Piece]:
    if "error" in event:
        raise PolicyServerDown(str(event["error"].get("message", event["error"])))
    found = []
    for choice in event.get("choices", []):
        logprobs = (choice.get("logprobs") or {}).get("content") or []
        found.append(
            Piece(
                index=choice["index"],
                text=choice["delta"].get("content") or "",
                token_ids=tuple(choice.get("token_ids") or ()),
                logp=sum(token["logprob"] for token in logprobs),
                finish_reason=choice.get("finish_reason"),
            )
        )
    return found


# Processes of our own


class LocalServer:
    """A policy server that lives and dies with this process."""

    def __init__(self, model: str, *, log: Path, device: str = "auto", python: str = sys.executable) -> None:
        self._model, self._log, self._device, self._python = model, log, device, python
        self._process: subprocess.Popen | None = None
        self._server: PolicyServer | None = None

    def ensure(self) -> PolicyServer:
        """The server, started if it is not running; blocks until it answers. PolicyServerDown where it does not come up."""
        if self._process is not None and self._process.poll() is None and self._server is not None:
            return self._server
        self.close()
        self._log.parent.mkdir(parents=True, exist_ok=True)
        key = secrets.token_urlsafe(24)
        with self._log.open("ab") as log:
            url = self._start(key, log)
        assert self._process is not None
        server = PolicyServer(url, key)
        self._wait_until_it_answers(self._process, server)
        self._server = server
        return server

    def close(self) -> None:
        """End the process, if there is one."""
        process, self._process, self._server = self._process, None, None
        if process is None:
            return
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(8)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.stdin:
            process.stdin.close()

    def _start(self, key: str, log: Any) -> str:
        vllm = vllm_python()
        if vllm is not None:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            self._spawn(vllm_command(vllm, self._model, port, on_cpu=not has_gpu(self._device)), log, vllm_environment(key))
            return f"http://127.0.0.1:{port}"
        with listen("127.0.0.1", 0) as listener:
            command = [
                self._python, "-m", "online_learner", "serve", "--model", self._model, "--served-model-name", BASE_NAME,
                "--device", self._device, "--listen", str(listener.fileno()), "--end-with-stdin",
            ]  # fmt: skip
            self._spawn(command, log, learner_environment() | {"NASHLOOP_POLICY_KEY": key}, pass_fds=[listener.fileno()])
            return f"http://127.0.0.1:{listener.getsockname()[1]}"

    def _spawn(self, command: list[str], log: Any, environment: dict[str, str], pass_fds: Sequence[int] = ()) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, pass_fds=pass_fds, start_new_session=True
        )  # fmt: skip

    def _wait_until_it_answers(self, process: subprocess.Popen, server: PolicyServer) -> None:
        give_up = time.monotonic() + START_S
        while time.monotonic() < give_up:
            if process.poll() is not None:
                raise PolicyServerDown(f"the policy server ended while it started; its log is {self._log}")
            with contextlib.suppress(PolicyServerDown):
                server.models()
                return
            time.sleep(0.2)
        raise PolicyServerDown(f"the policy server did not answer within {START_S} seconds; its log is {self._log}")


class RemoteServer:
    """A policy server that somebody else keeps; it must see the artifacts directory under the same path."""

    def __init__(self, url: str) -> None:
        self._server = PolicyServer(url, os.environ.get("NASHLOOP_POLICY_KEY"))

    def ensure(self) -> PolicyServer:
        return self._server

    def close(self) -> None:
        """Nothing of ours runs there."""


def vllm_python() -> str | None:
    """The interpreter that has vLLM: its own environment's if one is named, this one if it is installed here."""
    return os.environ.get(VLLM_PYTHON) or (sys.executable if importlib.util.find_spec("vllm") else None)


def has_gpu(device: str) -> bool:
    """Whether the learner computes on CUDA here; told without torch, which this process never imports."""
    return device != "cpu" and Path("/dev/nvidiactl").exists()


def vllm_command(python: str, model: str, port: int, *, on_cpu: bool) -> list[str]:
    """vLLM with adapters that come and go. Two at a time: the one that serves, and the one that it takes over from."""
    slow_to_compile = ["--dtype", "float32", "--enforce-eager"]  # float32 as the learner computes on a CPU
    return [
        python, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--served-model-name", BASE_NAME,
        "--host", "127.0.0.1", "--port", str(port), "--enable-lora", "--max-loras", "2", "--max-cpu-loras", "8",
        "--max-lora-rank", "64", *(slow_to_compile if on_cpu else []),
    ]  # fmt: skip


def vllm_environment(key: str) -> dict[str, str]:
    defaults = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    return {**defaults, **own_environment(), "VLLM_API_KEY": key, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
