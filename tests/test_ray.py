"""Work on a Ray cluster: the same as without one, and what a lost worker costs. All of it on one cluster of real
processes on this machine, which is why it is one file."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from functools import partial
from operator import attrgetter

import numpy as np
import pytest
from comfyui_lavie.comfyui_api.client import Client, ServerError
from comfyui_lavie.comfyui_api.clips import frames_only, make_clip
from comfyui_lavie.comfyui_api.pool import Pool
from comfyui_lavie.comfyui_api.ray_pool import ray_workers
from comfyui_lavie.datasets.__main__ import main
from comfyui_lavie.datasets.blueprint import load_blueprint
from comfyui_lavie.datasets.build import FILES, SHOTS, Work, build
from comfyui_lavie.datasets.catalogue import Catalogue
from comfyui_lavie.datasets.cluster import ACTOR_BLOCK, pool_map
from comfyui_lavie.ray_cluster import connect_ray
from comfyui_lavie.tests.datasets.blueprints import STAGES
from comfyui_lavie.tests.media import write_video

PROMPT = "a red fish moving right"


@pytest.fixture(scope="module")
def ray():
    """Ray with two CPUs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")
        found = connect_ray(num_cpus=2, object_store_memory=100 << 20)
    yield found
    found.shutdown()


@pytest.fixture
def project(tmp_path):
    """A folder with a blueprint, six films of captioned moving noise, and one that is damaged."""
    films = tmp_path / "films"
    films.mkdir()
    for i in range(6):
        noise = np.random.default_rng(i).integers(0, 256, (9, 16, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        write_video(films / f"{i}.mp4", np.stack([np.roll(noise, step, 1) for step in range(20)]), fps=25)
        (films / f"{i}.txt").write_text(f"noise of kind {i}")
    (films / "damaged.mp4").write_bytes((films / "0.mp4").read_bytes()[:999])
    (tmp_path / "blueprint.toml").write_text(STAGES)
    return tmp_path


def test_prepare_finds_the_same(ray, project):
    for out, where in (("here", ()), ("there", ("--ray",))):
        assert main(["prepare", str(project / "films"), *where, "--out", str(project / out)]) == 0
    catalogue = Catalogue.load(project / "there")
    assert catalogue == Catalogue.load(project / "here") and len(catalogue.items) == 6


def test_build_makes_the_same_tables(ray, project):
    blueprint = load_blueprint(project / "blueprint.toml")
    for out, work in (("here", Work()), ("there", Work(cluster=True))):
        assert build(blueprint, project / out, work) == {"files": 7, "skipped": 1, "shots": 6, "usable": 6}
    for name in (SHOTS, FILES):
        assert (project / "there" / name).read_bytes() == (project / "here" / name).read_bytes()


def test_a_lost_worker_costs_its_block_and_nothing_else(ray, tmp_path):
    """One is killed at thing 5 of 12: every result is there, in order, and only things of its block are repeated."""
    log, fatal = tmp_path / "worked", 5

    def make():
        def work(thing: int) -> int:
            first = not (tmp_path / "killed").exists()
            with log.open("a") as file:
                file.write(f"{thing}\n")
            if thing == fatal and first:
                (tmp_path / "killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return thing * thing

        return work

    assert list(pool_map([(make, (), False)], range(12))) == [thing * thing for thing in range(12)]
    worked = Counter(map(int, log.read_text().split()))
    begin = fatal - fatal % ACTOR_BLOCK
    assert worked.keys() == set(range(12)) and worked[fatal] > 1
    assert {thing for thing, times in worked.items() if times > 1} <= set(range(begin, begin + ACTOR_BLOCK))


def clip_of(client: Client, seed: int, api: dict):
    """The clip of a seed."""
    return make_clip(client, api, PROMPT, seed)


def test_servers_make_the_same_clips(ray, comfyui):
    """A Ray actor makes what the server of all tests makes; killed, it takes its server along and is replaced."""
    make = partial(clip_of, api=frames_only(comfyui.workflow("lavie_nano_text_to_video.json", steps=1, frames=2)))
    with pytest.raises(ServerError, match="at most 2 servers"):
        ray_workers(3)
    with Pool(ray_workers(1)) as pool:
        (worker,) = pool.workers
        orphan = Client(worker.ask(attrgetter("url")))
        results = []
        for seed, clip in pool.map(make, range(3)):
            results.append((seed, clip.frames))
            if len(results) == 1:
                ray.kill(worker.actor)
        assert sorted(seed for seed, _ in results) == [0, 1, 2]
        for seed, frames in results:
            assert np.array_equal(frames, make(comfyui.server, seed).frames)
        deadline = time.monotonic() + 60
        with pytest.raises(ServerError, match="does not answer"):
            while time.monotonic() < deadline:
                orphan.get("/queue")
                time.sleep(0.1)
