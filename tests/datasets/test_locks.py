"""One process at a time in a folder: the second is told who the first is, a dead one's lock is worth nothing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

import pytest
from comfyui_lavie.datasets.errors import DataError
from comfyui_lavie.datasets.locks import LOCK_FILE, locked_folder

HOLD = """
import sys, time
from comfyui_lavie.datasets.locks import locked_folder
with locked_folder(sys.argv[1], "a test"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_second_process_is_refused_and_a_dead_holder_is_not_believed(tmp_path):
    holder = subprocess.Popen([sys.executable, "-P", "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(DataError, match=f"process {holder.pid} on {socket.gethostname()} does a test"):
        with locked_folder(tmp_path, "other work"):
            pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / LOCK_FILE).exists(), "a killed process cannot tidy up"
    with locked_folder(tmp_path, "other work"):
        assert f'"process": {os.getpid()}' in (tmp_path / LOCK_FILE).read_text()
    assert not (tmp_path / LOCK_FILE).exists()


def test_lock_ends_with_its_block_also_by_an_error_and_does_not_nest(tmp_path):
    with pytest.raises(KeyError), locked_folder(tmp_path, "work"):
        raise KeyError
    with locked_folder(tmp_path, "work"), pytest.raises(DataError, match="in use"):
        with locked_folder(tmp_path, "again"):
            pass
