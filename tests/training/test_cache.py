"""The tensor cache: exact, bound to a fingerprint, bounded, honest about damage, harmless when it cannot work."""

from __future__ import annotations

import logging
import os
import resource
import subprocess
import sys
import threading
import time

import pytest
import torch
from comfyui_lavie.datasets.errors import DataError
from comfyui_lavie.training.data.cache import TensorCache


def entry_files(folder) -> list:
    return sorted(folder.glob("??/*"))


def tensors(seed: int, size: int = 8) -> dict[str, torch.Tensor]:
    return {"latents": torch.randn(size, 4, generator=torch.Generator().manual_seed(seed))}


def test_what_is_put_is_got(tmp_path):
    cache = TensorCache(tmp_path / "cache", "vae")
    given = {
        "half": torch.randn(3, 4).half(), "bfloat": torch.randn(2).bfloat16(), "scalar": torch.tensor(3),
        "turned": torch.randn(3, 4).T, "empty": torch.zeros(0, 4), "flags": torch.tensor([True, False]),
    }  # fmt: skip
    cache.put("a key: with / any * characters\n", given)
    for one in (cache, TensorCache(tmp_path / "cache", "vae")):
        found = one.get("a key: with / any * characters\n")
        assert found.keys() == given.keys()
        for name, tensor in given.items():
            assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)
    assert cache.get("another key") is None


def test_the_last_put_counts(tmp_path):
    cache = TensorCache(tmp_path, "vae")
    cache.put("key", tensors(0))
    cache.put("key", tensors(1))
    assert torch.equal(cache.get("key")["latents"], tensors(1)["latents"])
    assert len(entry_files(tmp_path)) == 1


def test_another_fingerprint_empties_it_aloud(tmp_path, caplog):
    TensorCache(tmp_path, "first").put("key", tensors(0))
    assert TensorCache(tmp_path, "first").get("key") is not None
    assert caplog.text == ""
    assert TensorCache(tmp_path, "second").get("key") is None
    assert "was made for first and is now for second: its 1 entries are removed" in caplog.text
    assert entry_files(tmp_path) == []
    assert TensorCache(tmp_path, "first").get("key") is None


@pytest.mark.parametrize("harm", ["cut short", "emptied", "a bit turned", "another's content"])
def test_a_damaged_entry_is_removed_aloud(tmp_path, caplog, harm):
    cache = TensorCache(tmp_path, "vae")
    cache.put("key", tensors(0))
    (file,) = entry_files(tmp_path)
    content = bytearray(file.read_bytes())
    if harm == "cut short":
        content = content[:-5]
    elif harm == "emptied":
        content = b""
    elif harm == "a bit turned":
        content[-3] ^= 1
    else:
        cache.put("other", tensors(1))
        content = next(f for f in entry_files(tmp_path) if f != file).read_bytes()
    file.write_bytes(content)
    assert cache.get("key") is None
    assert "is damaged" in caplog.text and "'key'" in caplog.text and not file.exists()
    cache.put("key", tensors(0))
    assert torch.equal(cache.get("key")["latents"], tensors(0)["latents"])


def test_a_mark_that_is_damaged_empties_it(tmp_path, caplog):
    TensorCache(tmp_path, "vae").put("key", tensors(0))
    (tmp_path / "cache.json").write_text("{")
    assert TensorCache(tmp_path, "vae").get("key") is None
    assert "entries are removed" in caplog.text


def test_the_oldest_go_when_it_is_full(tmp_path):
    one = TensorCache(tmp_path / "one", "vae")
    one.put("0", tensors(0))
    size = entry_files(tmp_path / "one")[0].stat().st_size
    cache = TensorCache(tmp_path / "cache", "vae", max_bytes=5 * size)
    for i in range(20):
        cache.put(str(i), tensors(i))
        for file in entry_files(tmp_path / "cache"):
            if file.stat().st_mtime_ns > 10**18:  # not yet aged: give it an age in the order of writing
                os.utime(file, ns=(0, 10**9 * i))
        assert sum(file.stat().st_size for file in entry_files(tmp_path / "cache")) <= 5 * size
    kept = [i for i in range(20) if cache.get(str(i)) is not None]
    assert kept == list(range(20 - len(kept), 20)) and len(kept) >= 4
    reopened = TensorCache(tmp_path / "cache", "vae", max_bytes=2 * size)
    reopened.put("20", tensors(20))
    assert len(entry_files(tmp_path / "cache")) == 1 and reopened.get("20") is not None


def test_a_folder_that_is_something_else_is_left_alone(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match="not empty and not a cache; name a folder of its own"):
        TensorCache(tmp_path, "vae")
    assert (tmp_path / "photos" / "a.jpg").exists() and not (tmp_path / "cache.json").exists()


def test_a_full_disk_stops_nothing(tmp_path, caplog):
    """Under a limit that lets no file grow past 4 kB: said once, what was there is still read, nothing half-written."""
    cache = TensorCache(tmp_path, "vae")
    cache.put("small", tensors(0))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        for i in range(3):
            cache.put(f"large {i}", tensors(i, size=10000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caplog.text.count("cannot be written") == 1 and "going on without" in caplog.text
    assert cache.get("large 0") is None and torch.equal(cache.get("small")["latents"], tensors(0)["latents"])
    assert len(entry_files(tmp_path)) == 1


def test_threads_share_it(tmp_path, caplog):
    """All read and write the same few keys at once; whoever reads sees nothing or the whole."""
    caplog.set_level(logging.WARNING)
    cache, wrong = TensorCache(tmp_path, "vae", max_bytes=4000), []

    def work(offset):
        for i in range(40):
            number = (i + offset) % 10
            cache.put(str(number), tensors(number))
            found = cache.get(str((number + 3) % 10))
            if found is not None and not torch.equal(found["latents"], tensors((number + 3) % 10)["latents"]):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and caplog.text == ""


def test_processes_share_it(tmp_path, caplog):
    """Another process fills it with half of the same keys while this one reads and writes."""
    code = """
import sys
from comfyui_lavie.tests.training.test_cache import tensors
from comfyui_lavie.training.data.cache import TensorCache
cache = TensorCache(sys.argv[1], "vae")
for i in range(20):
    cache.put(str(i), tensors(i))
"""
    cache = TensorCache(tmp_path, "vae")
    other = subprocess.Popen([sys.executable, "-P", "-c", code, str(tmp_path)], stderr=subprocess.PIPE)
    while other.poll() is None:
        for i in range(10, 30):
            cache.put(str(i), tensors(i))
            found = cache.get(str(i - 10))
            assert found is None or torch.equal(found["latents"], tensors(i - 10)["latents"])
        time.sleep(0.01)
    assert other.communicate()[1] == b"" and caplog.text == ""
    assert all(torch.equal(cache.get(str(i))["latents"], tensors(i)["latents"]) for i in range(30))
