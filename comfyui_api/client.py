"""A ComfyUI server as a client sees it, wherever it runs: workflows queued and waited for, files fetched.

Contract: everything goes through HTTP and the websocket of one address; nothing of ComfyUI is imported. What is wrong
with the server is a ServerError that names the address, what is wrong with the workflow a WorkflowError. No call waits
for a silent server longer than `timeout_s`; a workflow may run for as long as the server answers, or for `limit_s`.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable

import aiohttp
from comfy_cli.workflow_to_api import is_api_format

from .graphs import WorkflowError, to_api

TIMEOUT_S = 60.0
LOOK_S = 20.0  # without news, the server is asked whether it still has the workflow

Progress = Callable[[str, int, int], None]  # (node id, steps done, steps in all)


class ServerError(RuntimeError):
    """The server did not start, refuses, stopped answering, or loaded this pack with errors."""


class NotServed(ServerError):
    """The server answered a request with an HTTP status that is an error; `body` is what it sent along."""

    def __init__(self, message: str, body: bytes = b""):
        super().__init__(message, body)
        self.body = body

    def __str__(self) -> str:
        return self.args[0]


class WorkflowInterrupted(WorkflowError):
    """The running workflow was interrupted."""


class Client:
    """Talks to the server at `url`, such as http://127.0.0.1:8188. Raises ServerError if that is no address."""

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S):
        parts = urllib.parse.urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ServerError(f"expected a server's address like http://127.0.0.1:8188, got {url}")
        self.url, self.timeout_s = parts.geturl().rstrip("/"), timeout_s
        self._running: str | None = None

    def object_info(self) -> dict:
        """The server's description of every node: {node id: schema}."""
        return self.get("/object_info")

    def get(self, path: str):
        """What the server answers to a path, read as JSON. Raises ServerError, for HTTP errors NotServed."""
        return self._json(path)

    def post(self, path: str, body: dict):
        """What the server answers to a request, read as JSON; None for an empty answer. Raises as `get` does."""
        content = self._request(path, body)
        return json.loads(content) if content else None

    def fetch(self, output: dict) -> bytes:
        """The content of a file listed in a run's outputs as {"filename", "subfolder", "type"}."""
        query = {key: output.get(key, "") for key in ("filename", "subfolder", "type")}
        return self._request(f"/view?{urllib.parse.urlencode(query)}")

    def interrupt(self) -> None:
        """Stop whatever workflow is running; `run`, waiting for it, raises WorkflowInterrupted."""
        self._request("/interrupt", {})

    def cancel(self) -> None:
        """Take back the workflow that `run` waits for, in the queue or running, and no other."""
        if prompt_id := self._running:
            self._request("/queue", {"delete": [prompt_id]})
            self._request("/interrupt", {"prompt_id": prompt_id})

    def run(self, workflow: dict, progress: Progress | None = None, limit_s: float | None = None) -> dict:
        """Execute a workflow of either format and return {node id: outputs}, `saved_files` of which `fetch` takes.

        Raises WorkflowError with the server's own message if it refuses the workflow or a node fails,
        WorkflowInterrupted after `interrupt`, ServerError if the server goes away or the run takes longer than
        `limit_s` seconds, its time in the queue included.
        """
        api = workflow if is_api_format(workflow) else to_api(workflow, self.object_info())
        try:
            return _outcome(asyncio.run(self._run(api, progress, limit_s)))
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            raise self._failure(f"does not answer ({error or type(error).__name__})") from None
        finally:
            self._running = None

    async def _run(self, api: dict, progress: Progress | None, limit_s: float | None) -> dict:
        """The history entry of a run that has ended."""
        client, timeout = uuid.uuid4().hex, aiohttp.ClientTimeout(total=None, sock_connect=self.timeout_s)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            connecting = session.ws_connect(f"{self.url}/ws?clientId={client}", max_msg_size=0)
            async with await asyncio.wait_for(connecting, self.timeout_s) as socket:
                self._running = await asyncio.to_thread(self._queue, api, client)
                try:
                    return await asyncio.wait_for(self._entry(socket, self._running, progress), limit_s)
                except asyncio.TimeoutError:
                    self.cancel()
                    raise self._failure(f"did not finish a workflow within {limit_s:g} s") from None
                except asyncio.CancelledError:  # Ctrl+C
                    self.cancel()
                    raise

    async def _entry(self, socket, prompt_id: str, progress: Progress | None) -> dict:
        """Follow the websocket until the prompt has left the queue, reporting progress; return its history entry."""
        asked = time.monotonic()
        while True:
            try:
                message = await socket.receive(timeout=LOOK_S)
            except asyncio.TimeoutError:
                message = None
            if message is not None and message.type in (
                aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR
            ):  # fmt: skip
                raise self._failure("closed the connection while it ran a workflow")
            if message is not None and message.type == aiohttp.WSMsgType.TEXT:
                event = json.loads(message.data)
                kind, data = event["type"], event["data"]
                if data.get("prompt_id") == prompt_id:
                    if kind == "progress" and progress is not None:
                        progress(data["node"], data["value"], data["max"])
                    if kind == "executing" and data["node"] is None:
                        return (await asyncio.to_thread(self.get, f"/history/{prompt_id}"))[prompt_id]
            if time.monotonic() - asked > LOOK_S:
                asked = time.monotonic()
                if (entry := await asyncio.to_thread(self._look, prompt_id)) is not None:
                    return entry

    def _look(self, prompt_id: str) -> dict | None:
        """The history entry of a prompt, None while it waits or runs. Raises ServerError if the server lost it."""
        queue = self.get("/queue")
        waiting = {item[1] for item in queue["queue_running"] + queue["queue_pending"]}
        entry = self.get(f"/history/{prompt_id}").get(prompt_id)
        if entry is None and prompt_id not in waiting:
            raise self._failure("has lost the workflow; it was started anew, or someone cleared its queue")
        return entry

    def _queue(self, api: dict, client: str) -> str:
        """Queue an API workflow and return its prompt id. Raises WorkflowError with each node's complaint."""
        try:
            answer = self._json("/prompt", {"prompt": api, "client_id": client})
        except NotServed as error:
            try:
                refusal = _refusal(json.loads(error.body))
            except (ValueError, LookupError, TypeError):
                raise error from None
            raise WorkflowError(refusal) from None
        if answer["node_errors"]:  # other outputs of the workflow are fine, and run
            logging.warning("%s", _refusal({"error": {"message": "some outputs were left out"}, **answer}))
        return answer["prompt_id"]

    def _json(self, path: str, body: dict | None = None):
        content = self._request(path, body)
        try:
            return json.loads(content)
        except ValueError:
            raise self._failure(f"answers {path} with something that is not JSON; is it ComfyUI?") from None

    def _request(self, path: str, body: dict | None = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=self.timeout_s) as response:
                return response.read()
        except urllib.error.HTTPError as error:
            message = f"the server at {self.url} refuses {path.split('?')[0]}: {error.code} {error.reason}"
            raise NotServed(message, error.read()) from None
        except (OSError, http.client.HTTPException) as error:
            raise self._failure(f"does not answer ({error or type(error).__name__})") from None

    def _failure(self, what: str) -> ServerError:
        return ServerError(f"the server at {self.url} {what}")


def _outcome(entry: dict) -> dict:
    """The outputs in a history entry. Raises WorkflowError if it tells of a failure."""
    for event, data in entry.get("status", {}).get("messages", []):
        if event == "execution_interrupted":
            raise WorkflowInterrupted(f"interrupted at {data['node_type']} (node {data['node_id']})")
        if event == "execution_error":
            text = data["exception_message"].strip()
            raise WorkflowError(f"{data['node_type']} (node {data['node_id']}) failed: {text}")
    return entry["outputs"]


def _refusal(answer: dict) -> str:
    """The server's answer to a workflow it refused, as one message."""
    error = answer["error"]
    lines = [": ".join(part for part in (error["message"], error.get("details")) if part)]
    for node_id, node in (answer.get("node_errors") or {}).items():
        for problem in node["errors"]:
            lines.append(f"{node['class_type']} (node {node_id}): {problem['message']}: {problem['details']}")
    return "\n".join(lines)
