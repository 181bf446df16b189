"""A client of servers that misbehave: real sockets that refuse, are silent, answer nonsense, or are gone."""

from __future__ import annotations

import contextlib
import pickle
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from comfyui_lavie.comfyui_api.client import Client, NotServed, ServerError, WorkflowInterrupted
from comfyui_lavie.comfyui_api.server import free_port

GRAPH = {"1": {"class_type": "EmptyImage", "inputs": {}}}


class Odd(BaseHTTPRequestHandler):
    """/forbidden is refused, /half breaks off in the middle, everything else is a web page."""

    def do_GET(self):
        self.send_response(403 if self.path == "/forbidden" else 200)
        self.send_header("Content-Length", "100" if self.path == "/half" else "7")
        self.end_headers()
        self.wfile.write(b"<html/>")

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture(scope="module")
def odd():
    with ThreadingHTTPServer(("127.0.0.1", 0), Odd) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("url", ["ftp://a:1", "http://", ""])
def test_what_is_no_address(url):
    with pytest.raises(ServerError, match="address like"):
        Client(url)


def test_address_without_scheme():
    assert Client("gpu7:8188/").url == "http://gpu7:8188"


def test_nobody_listens():
    url = f"http://127.0.0.1:{free_port()}"
    for call in (lambda: Client(url).object_info(), lambda: Client(url).run(GRAPH)):
        with pytest.raises(ServerError, match=f"{url} does not answer"):
            call()


def test_refusal_keeps_its_status(odd):
    with pytest.raises(NotServed, match="refuses /forbidden: 403") as error:
        Client(odd).get("/forbidden")
    assert pickle.loads(pickle.dumps(error.value)).body == b"<html/>", "it can travel from another machine"


def test_something_else_than_comfyui(odd):
    with pytest.raises(ServerError, match="is it ComfyUI"):
        Client(odd).object_info()
    with pytest.raises(ServerError, match="does not answer"):
        Client(odd).run(GRAPH)


def test_answer_that_breaks_off(odd):
    with pytest.raises(ServerError, match="does not answer"):
        Client(odd).get("/half")


def test_silent_server_is_not_waited_for():
    """It takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = Client(f"http://127.0.0.1:{listening.getsockname()[1]}", timeout_s=0.5)
        start = time.monotonic()
        for call in (client.object_info, lambda: client.run(GRAPH)):
            with pytest.raises(ServerError, match="does not answer"):
                call()
        assert time.monotonic() - start < 10


def test_slow_server(comfyui):
    """A run that takes longer than it may counts as the server's failure, and leaves the queue."""
    client = Client(comfyui.server.url)
    with pytest.raises(ServerError, match="within 0.5 s"):
        client.run(comfyui.workflow("lavie_nano_text_to_video.json", steps=900, seed=77), limit_s=0.5)
    deadline = time.monotonic() + 60
    while (queue := client.get("/queue"))["queue_running"] + queue["queue_pending"]:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_lost_workflow_is_noticed(comfyui, monkeypatch):
    """Someone clears the queue behind which it waits: no message tells the client so."""
    monkeypatch.setattr("comfyui_lavie.comfyui_api.client.LOOK_S", 0.5)
    first, second = Client(comfyui.server.url), Client(comfyui.server.url)
    api = comfyui.workflow("lavie_nano_text_to_video.json", steps=900, seed=78)
    running = threading.Thread(target=_quietly, args=(first, api))
    running.start()

    def clear():
        while not first.get("/queue")["queue_pending"]:
            time.sleep(0.1)
        first._request("/queue", {"clear": True})

    clearing = threading.Thread(target=clear)
    clearing.start()
    with pytest.raises(ServerError, match="lost the workflow"):
        while not first.get("/queue")["queue_running"]:
            time.sleep(0.1)
        second.run(comfyui.workflow("lavie_nano_text_to_video.json", steps=2, seed=79))
    clearing.join()
    first.cancel()
    running.join()


def _quietly(client: Client, api: dict) -> None:
    """Run a workflow that is interrupted."""
    with contextlib.suppress(WorkflowInterrupted):
        client.run(api)
