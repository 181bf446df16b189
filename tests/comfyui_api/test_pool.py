"""Handing out work: every thing once, whatever fails; and servers that end with their owner.

Contract: workers here run functions in this process and fail when they are told to; real servers are in
tests/evaluation/test_generate.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
from comfyui_lavie.comfyui_api.client import ServerError
from comfyui_lavie.comfyui_api.graphs import WorkflowError
from comfyui_lavie.comfyui_api.pool import ATTEMPTS, Pool
from comfyui_lavie.comfyui_api.server import KEEPER
from comfyui_lavie.comfyui_api.workers import given, started


class Local:
    """A worker that runs functions here; `failures` calls of `ask` fail, and all of `replace` if `lasting`."""

    def __init__(self, name: str, failures: int = 0, lasting: bool = False, starts: bool = True):
        self.name, self.failures, self.lasting, self.starts = name, failures, lasting, starts
        self.running, self.replaced = False, 0

    def start(self):
        if not self.starts:
            raise ServerError(f"{self.name} cannot start")
        self.running = True

    def ask(self, function, *arguments):
        if self.failures:
            self.failures -= 1
            raise ServerError(f"{self.name} died")
        return function(self, *arguments)

    def replace(self):
        self.replaced += 1
        if self.lasting:
            raise ServerError(f"{self.name} stays dead")

    def stop(self):
        self.running = False


def square(worker, number):
    time.sleep(0.002)
    return number * number


def test_everything_once_in_spite_of_failures():
    workers = [Local("a", failures=2), Local("b"), Local("c", failures=1)]
    with Pool(workers) as pool:
        results = list(pool.map(square, range(50)))
    assert sorted(results) == [(n, n * n) for n in range(50)]
    assert [worker.replaced for worker in workers] == [2, 0, 1]
    assert not any(worker.running for worker in workers)


def test_a_server_that_cannot_be_replaced_leaves_its_work_to_others():
    with Pool([Local("a", failures=9, lasting=True), Local("b")]) as pool:
        assert sorted(pool.map(square, range(9))) == [(n, n * n) for n in range(9)]
        assert [worker.name for worker in pool.workers] == ["b"]


def test_no_server_left():
    worker = Local("a", failures=9, lasting=True)
    with pytest.raises(ServerError, match="no server is left.*stays dead"), Pool([worker]) as pool:
        list(pool.map(square, range(3)))
    assert worker.replaced == ATTEMPTS


def test_a_thing_that_kills_servers_is_given_up():
    def deadly(worker, number):
        if number == 1:
            calls[number] += 1
            raise ServerError("out of memory")
        return number

    calls = Counter()
    with Pool([Local("a"), Local("b")]) as pool:
        results = dict(pool.map(deadly, range(4)))
    assert calls[1] == ATTEMPTS and isinstance(results.pop(1), ServerError) and results == {0: 0, 2: 2, 3: 3}


def test_a_workflow_that_fails_is_not_repeated():
    def refuse(worker, number):
        calls[number] += 1
        raise WorkflowError("no such node")

    calls = Counter()
    with Pool([Local("a"), Local("b")]) as pool:
        assert all(isinstance(result, WorkflowError) for _, result in pool.map(refuse, range(3)))
    assert calls == {0: 1, 1: 1, 2: 1}


def test_all_start_or_none_stays():
    workers = [Local("a"), Local("b", starts=False)]
    with pytest.raises(ServerError, match="b cannot start"), Pool(workers):
        pass
    assert not workers[0].running


def test_each_gpu_gets_its_server(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert [worker.environment for worker in started()] == [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in ("2", "5")]
    assert [worker.environment["CUDA_VISIBLE_DEVICES"] for worker in started(3)] == ["2", "5", "2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert [worker.environment for worker in started()] == [{}]


def test_one_server_named_twice():
    with pytest.raises(ServerError, match="twice"):
        given(["localhost:8188", "http://localhost:8188/"])


@pytest.mark.skipif(os.name == "nt", reason="kills by signal")
def test_what_is_kept_ends_with_its_owner():
    """The owner is killed without a chance to clean up; what it started through the keeper ends nevertheless."""
    sleeper = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    owner = (
        "import subprocess, sys, time\n"
        f"subprocess.Popen([sys.executable, '-I', {str(KEEPER)!r}, sys.executable, '-c', {sleeper!r}],"
        " stdin=subprocess.PIPE)\n"
        "time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", owner], stdout=subprocess.PIPE, text=True)
    kept = int(process.stdout.readline())
    os.kill(kept, 0)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert_gone(kept)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells children that their parent died")
def test_what_is_kept_ends_with_its_keeper():
    """Ray kills the children of an actor that died: of a server that is its keeper."""
    sleeper = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    command = [sys.executable, "-I", str(KEEPER), sys.executable, "-c", sleeper]
    keeper = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    kept = int(keeper.stdout.readline())
    keeper.kill()
    keeper.wait()
    assert_gone(kept)


def assert_gone(process: int) -> None:
    """A process ends within a minute."""
    deadline = time.monotonic() + 60
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < deadline:
            os.kill(process, 0)
            time.sleep(0.05)
