"""A real ComfyUI server with this node pack, started, driven and stopped from outside.

Contract: `with ComfyUIServer(comfyui_path, base_directory) as server:` boots ComfyUI headless with `base_directory` as
its own (models, input, output, user, log) and this pack as its only custom node; `run` queues a workflow and waits
for its end. Everything goes through HTTP and the websocket on 127.0.0.1; nothing of ComfyUI is imported. As a command
it serves in the foreground:

    python -m comfyui_lavie.tools.comfyui_server --port 8188
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path

import aiohttp
import torch
from comfy_cli.workflow_to_api import is_api_format

from ..dev import SetupError, find_comfyui, wait_for
from .workflow import WorkflowError, load_workflow, saved_files, set_inputs, to_api

__all__ = [
    "ComfyUIServer",
    "ServerError",
    "WorkflowError",
    "WorkflowInterrupted",
    "load_workflow",
    "saved_files",
    "set_inputs",
]

PACK = Path(__file__).resolve().parents[1]
START_TIMEOUT_S = 300
STOP_TIMEOUT_S = 15
LOG_TAIL_LINES = 40

Progress = Callable[[str, int, int], None]  # (node id, steps done, steps in all)


class ServerError(RuntimeError):
    """The server did not start, stopped answering, or loaded this pack with errors; shows the end of its log."""


class WorkflowInterrupted(WorkflowError):
    """The running workflow was interrupted."""


class ComfyUIServer:
    """One server process. `port=None` takes a free one; `extra_args` are ComfyUI's own command-line options."""

    def __init__(
        self, comfyui_path: Path | str, base_directory: Path | str, port: int | None = None, extra_args: tuple = ()
    ):
        self.comfyui_path = Path(comfyui_path)
        self.base_directory = Path(base_directory).resolve()
        self.port = port or free_port()
        self.extra_args = tuple(map(str, extra_args))
        self.url = f"http://127.0.0.1:{self.port}"
        self.log_path = self.base_directory / "server.log"
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> ComfyUIServer:
        self.start()
        return self

    def __exit__(self, *exc_info) -> None:
        self.stop()

    def start(self) -> None:
        """Boot and wait until the server answers. Raises ServerError."""
        options = ("--disable-api-nodes", *self.extra_args)
        command = server_command(self.comfyui_path, self.base_directory, self.port, options)
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(command, cwd=self.comfyui_path, stdout=log, stderr=subprocess.STDOUT)
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the process, by force if it does not end by itself; harmless if it has ended."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def object_info(self) -> dict:
        """The server's description of every node: {node id: schema}."""
        return json.loads(self._request("/object_info"))

    def add_input(self, name: str, content: bytes) -> None:
        """Put a file where the loaders of images and videos look for it."""
        (self.base_directory / "input" / name).write_bytes(content)

    def interrupt(self) -> None:
        """Stop the workflow that is running; `run`, waiting for it, raises WorkflowInterrupted."""
        self._request("/interrupt", {})

    def fetch(self, output: dict) -> bytes:
        """The content of a file listed in a run's outputs as {"filename", "subfolder", "type"}."""
        query = {key: output.get(key, "") for key in ("filename", "subfolder", "type")}
        return self._request(f"/view?{urllib.parse.urlencode(query)}")

    def run(self, workflow: dict, progress: Progress | None = None) -> dict:
        """Execute a workflow of either format and return {node id: outputs}, `saved_files` of which `fetch` takes.

        Raises WorkflowError with the server's own message if it refuses the workflow or a node fails,
        WorkflowInterrupted after `interrupt`, ServerError if the server goes away.
        """
        api = workflow if is_api_format(workflow) else to_api(workflow, self.object_info())
        return asyncio.run(self._run(api, progress))

    async def _run(self, api: dict, progress: Progress | None) -> dict:
        client = uuid.uuid4().hex
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{self.url}/ws?clientId={client}", max_msg_size=0) as socket_,
        ):
            queued = await asyncio.to_thread(self._queue, api, client)
            await self._wait_for_end(socket_, queued, progress)
        history = json.loads(self._request(f"/history/{queued}"))
        return history[queued]["outputs"]

    async def _wait_for_end(self, socket_, prompt_id: str, progress: Progress | None) -> None:
        """Follow the websocket until the prompt has left the queue, reporting progress; raise what went wrong."""
        failure: WorkflowError | None = None
        async for message in socket_:
            if message.type != aiohttp.WSMsgType.TEXT:
                continue
            event = json.loads(message.data)
            kind, data = event["type"], event["data"]
            if data.get("prompt_id") != prompt_id:
                continue
            if kind == "progress" and progress is not None:
                progress(data["node"], data["value"], data["max"])
            elif kind == "execution_error":
                text = data["exception_message"].strip()
                failure = WorkflowError(f"{data['node_type']} (node {data['node_id']}) failed: {text}")
            elif kind == "execution_interrupted":
                failure = WorkflowInterrupted(f"interrupted at {data['node_type']} (node {data['node_id']})")
            elif kind == "executing" and data["node"] is None:
                if failure is not None:
                    raise failure
                return
        raise ServerError(f"the server closed the connection while it ran a workflow{self._log_tail()}")

    def _queue(self, api: dict, client: str) -> str:
        """Queue an API workflow and return its prompt id. Raises WorkflowError with each node's complaint."""
        try:
            answer = json.loads(self._request("/prompt", {"prompt": api, "client_id": client}))
        except urllib.error.HTTPError as error:
            raise WorkflowError(_refusal(json.loads(error.read()))) from None
        if answer["node_errors"]:  # other outputs of the workflow are fine, and run
            logging.warning("%s", _refusal({"error": {"message": "some outputs were left out"}, **answer}))
        return answer["prompt_id"]

    def _request(self, path: str, body: dict | None = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.read()
        except urllib.error.HTTPError:
            raise
        except OSError as error:
            raise ServerError(f"the server at {self.url} does not answer ({error}){self._log_tail()}") from None

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if self._process.poll() is not None:
                raise ServerError(f"ComfyUI ended with status {self._process.returncode} on start{self._log_tail()}")
            if time.monotonic() > deadline:
                raise ServerError(f"ComfyUI did not answer within {START_TIMEOUT_S} s{self._log_tail()}")
            time.sleep(0.2)
        log = self.log_path.read_text(encoding="utf-8", errors="replace")
        if any("(IMPORT FAILED)" in line for line in log.splitlines()):
            raise ServerError(f"ComfyUI could not load this node pack{self._log_tail()}")

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/system_stats", timeout=5):
                return self._process.poll() is None  # else it is another server that has the port
        except OSError:
            return False

    def _log_tail(self) -> str:
        lines = self.log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL_LINES:]
        return f". Its log, {self.log_path}, ends:\n" + "\n".join(f"    {line}" for line in lines)


def server_command(comfyui_path: Path, base_directory: Path, port: int, extra_args: tuple = ()) -> list[str]:
    """The command line of a server with this pack, whose base directory is made ready for it."""
    link_pack(base_directory / "custom_nodes" / "lavie")
    for folder in ("models", "input", "output", "user"):
        (base_directory / folder).mkdir(exist_ok=True)
    device = () if torch.accelerator.is_available() else ("--cpu",)
    database = f"sqlite:///{base_directory / 'user' / 'comfyui.db'}"  # its default lies in ComfyUI's own folder
    options = ("--disable-auto-launch", "--port", str(port), "--base-directory", str(base_directory))
    return [sys.executable, "main.py", *device, *options, "--database-url", database, *extra_args]


def link_pack(link: Path) -> None:
    """Make `link` point to this pack, by a symbolic link or, on Windows, a junction, which needs no privilege."""
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.exists() and link.resolve() == PACK:
        return
    if os.name == "nt":
        import _winapi

        _winapi.CreateJunction(str(PACK), str(link))
    else:
        link.unlink(missing_ok=True)
        link.symlink_to(PACK, target_is_directory=True)


def free_port() -> int:
    """A port of this machine that nothing listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _refusal(answer: dict) -> str:
    """The server's answer to a workflow it refused, as one message."""
    error = answer["error"]
    lines = [": ".join(part for part in (error["message"], error.get("details")) if part)]
    for node_id, node in (answer.get("node_errors") or {}).items():
        for problem in node["errors"]:
            lines.append(f"{node['class_type']} (node {node_id}): {problem['message']}: {problem['details']}")
    return "\n".join(lines)


def main() -> int:
    """Serve in the foreground until interrupted."""
    parser = argparse.ArgumentParser(description="ComfyUI's server with this pack, in the foreground.")
    parser.add_argument("--port", type=int, default=8188)
    port = parser.parse_args().port
    base = PACK / "runs" / "comfyui"
    try:
        comfyui = find_comfyui()
    except SetupError as error:
        sys.exit(str(error))
    command = server_command(comfyui, base, port)
    print(f"Models, input and output are in {base}. Open http://127.0.0.1:{port} once it says so; Ctrl+C ends it.")
    return wait_for(subprocess.Popen(command, cwd=comfyui))


if __name__ == "__main__":
    sys.exit(main())
