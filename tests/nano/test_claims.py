"""The two claims: variants differ in what is claimed and in nothing else, and the page tells what was measured."""

from __future__ import annotations

import argparse
import dataclasses
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from comfyui_lavie.datasets.catalogue import Catalogue
from comfyui_lavie.datasets.sources import read_frames
from comfyui_lavie.lavie_models import LaVieUNet
from comfyui_lavie.lavie_models.checkpoint import convert_state_dict, detect_config, load_checkpoint
from comfyui_lavie.lavie_models.unet import is_temporal
from comfyui_lavie.nano import claims
from comfyui_lavie.nano.__main__ import main
from comfyui_lavie.nano.claims_measure import VIDEO_WORDS, SeenClip, cost, mixed_scenes, scenes_of_words, steady
from comfyui_lavie.nano.claims_page import QUESTIONS, differences, rates, seeds
from comfyui_lavie.nano.measure import measure_clip
from comfyui_lavie.nano.shapes import COLORS, THINGS, Scene, render, triples_of
from comfyui_lavie.nano.source import shapes
from comfyui_lavie.tests.tiny_training import TEXT, VAE, make_unet, save_unet, tiny_recipe
from comfyui_lavie.training.data import TrainingData
from comfyui_lavie.training.errors import TrainingError
from comfyui_lavie.training.export import export_model
from comfyui_lavie.training.recipe_file import RecipeError, recipe_of_run
from comfyui_lavie.training.start import StartWeights, read_source, starting_unet
from safetensors.torch import load_file

TINY = ["run.steps=2", "run.decay=0", "run.save_every=2", "run.precision=no"]
BUCKET = "data.buckets=[{{ frames = {frames}, height = 64, width = 64, rows = 2 }}]"


def arguments(*words: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    claims.add_arguments(parser)
    return parser.parse_args(list(map(str, words)))


def tiny(folder, *more: object) -> list[str]:
    """The command line of all trainings made tiny, its results in ``folder``."""
    changes = [f"encoders.text={TEXT}", f"encoders.vae={VAE}", *TINY, BUCKET.format(frames=4)]
    words = ["--work", folder / "work", "--out", folder / "claims.md", "--images", 8, "--videos", 8, "--watched", 2]
    words += ["--base", folder / "base.safetensors", "--seeds1", 0, "--seeds2", 3, "--clips", 3, "--sampling-steps", 2]
    return list(map(str, [*words, *more, *(part for change in changes for part in ("--set", change))]))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """All trainings of both claims, tiny; the folder."""
    folder = tmp_path_factory.mktemp("claims")
    save_unet(make_unet(), folder / "base.safetensors", "v")
    assert main(["claims", *tiny(folder)]) == 0
    return folder


def read_run(folder: Path) -> StartWeights:
    """The averaged weights of a run, as a training that starts from it reads them."""
    recipe = recipe_of_run(folder)
    return read_source(replace(recipe, model=replace(recipe.model, start=str(folder))))


def image_model(done) -> dict[str, torch.Tensor]:
    [path] = (done / "work" / "images").glob("image_model_*.safetensors")
    return load_file(path)


def run_unet(done, name: str) -> LaVieUNet:
    source = read_run(done / "work" / name)
    unet = LaVieUNet(source.config)
    unet.load_state_dict(source.weights)
    return unet


def clip_of_noise() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return torch.randn(4, 4, 8, 8, generator=rng), torch.tensor([500]), torch.randn(1, 7, 64, generator=rng)


class TestVariants:
    def test_differ_in_what_is_claimed_alone(self):
        """Within a claim and seed the recipes differ in one setting, and in the folder; across seeds in the seed."""
        runs = claims.runs_of(arguments())
        assert [len([run for run in runs[1:] if run.claim == number]) for number in (1, 2)] == [15, 9]
        expected = {
            (number, seed): {("model", "train"), ("model", "config") if number == 1 else ("data", "images")}
            for number in (1, 2) for seed in (0, 1, 2)
        }  # fmt: skip
        for (number, seed), settings in expected.items():
            same = [run for run in runs[1:] if (run.claim, run.recipe.run.seed) == (number, seed)]
            tables = [dataclasses.asdict(run.recipe) for run in same]
            differing = {
                (section, key)
                for section, values in tables[0].items()
                for key in (values if isinstance(values, dict) else ())
                if any(table[section][key] != values[key] for table in tables)
            }
            assert len(same) == (5 if number == 1 else 3) and differing == settings | {("run", "out")}
            assert {run.recipe.model.start for run in same} == {str(runs[0].weights)}

    def test_settings_reach_all_trainings(self):
        runs = claims.runs_of(arguments("--set", "run.steps=7", "--set", "run.decay=0"))
        assert [run.recipe.run.steps for run in runs[1:]] == [7] * 24
        with pytest.raises(RecipeError, match="run.stepz: unknown"):
            claims.runs_of(arguments("--set", "run.stepz=7"))

    @pytest.mark.parametrize(
        ("name", "knows_order"),
        [("rotary_0", True), ("rotary_alone_0", True), ("bias_alone_0", True), ("no_positions_0", False),
         ("no_temporal_0", False)],
    )
    def test_what_a_network_knows_of_order(self, done, name, knows_order):
        """Frames in another order come out in that order, exactly where the network has no way to know it."""
        unet, (x, t, text) = run_unet(done, name), clip_of_noise()
        order = torch.tensor([2, 0, 3, 1])
        with torch.no_grad():
            straight, shuffled = unet(x, t, text, 4), unet(x[order], t, text, 4)
        same = (straight[order] - shuffled).abs().max()
        assert same > 1e-4 if knows_order else same < 1e-5, same

    @pytest.mark.parametrize("name", ["images", "no_temporal_0", "no_positions_0", "rotary_0"])
    def test_without_temporal_attention_nothing_comes_out_of_it(self, done, name):
        weights = image_model(done) if name == "images" else read_run(done / "work" / name).weights
        outputs = [value for key, value in weights.items() if "attn_temp.to_out" in key]
        assert outputs and any(v.any() for v in outputs) == (name not in ("images", "no_temporal_0"))

    def test_the_image_model_makes_of_pictures_what_the_base_makes(self, done):
        base, images = make_unet(), make_unet(seed=1)
        images.load_state_dict(image_model(done))
        x, t, text = clip_of_noise()
        with torch.no_grad():
            each = x, t.expand(4), text.expand(4, -1, -1), 1
            alone, of_base = images(*each), base(*each, 3)
        torch.testing.assert_close(alone[1:], of_base[1:], atol=1e-4, rtol=1e-3)
        assert (alone[0] - of_base[0]).abs().max() > 1e-2  # the base's own clip of one frame went through its attention

    @pytest.mark.parametrize(("name", "keeps"), [("temporal_only_3", True), ("video_only_3", False)])
    def test_temporal_layers_alone_keep_the_image_model(self, done, name, keeps):
        images, weights = image_model(done), read_run(done / "work" / name).weights
        assert all(torch.equal(weights[key], images[key]) for key in images if not is_temporal(key)) == keeps

    def test_equal_seeds_see_equal_clips(self, done):
        runs = [run for run in claims.runs_of(arguments(*tiny(done))) if run.claim == 2 and run.recipe.data.video]
        plans = []
        for run in runs:
            data = TrainingData(run.recipe.data, Catalogue.load_all(run.recipe.data.catalogues))
            draws = [draw for step in range(3) for draw in data.plan(run.recipe.run.seed, step)]
            plans.append([draw.name for draw in draws if draw.kind == "clip"])
        assert len(plans) == 3 and plans[0] == plans[1] == plans[2] and len(plans[0]) == 6

    def test_equal_numbers_of_clips(self, done):
        costs = {run.folder.name: cost(run) for run in claims.runs_of(arguments(*tiny(done)))[1:]}
        assert {one.clips for one in costs.values()} == {4}
        assert {name: one.images for name, one in costs.items() if one.images} == {"joint_3": 8}
        assert costs["temporal_only_3"].weights == costs["rotary_0"].weights
        assert costs["rotary_0"].weights + costs["no_temporal_0"].weights == costs["joint_3"].weights


class TestData:
    def test_videos_cover_the_chosen_words_alone(self, done):
        catalogue = Catalogue.load_all([done / "work" / "data" / name for name in ("some_videos", "images")])
        videos, images = ([item for item in catalogue.items if item.kind == kind] for kind in ("video", "image"))
        others = (set(COLORS) | set(THINGS)) - set(VIDEO_WORDS)
        assert len(videos) == 8 and not any(others & set(item.caption.split()) for item in videos)
        assert len(images) == 8 and any(others & set(item.caption.split()) for item in images)

    def test_what_is_read_again_is_what_the_caption_says(self):
        items = list(shapes(6, 0, videos_of=("yellow", "rocket", "car")))
        assert {word for item in items for word in item.caption.split()} & set(COLORS) == {"yellow"}
        for item in items:
            seen = measure_clip(read_frames(item, range(16)))
            assert f"a {seen.color} {seen.thing} moving {seen.direction}" in item.caption

    def test_words_of_one_kind_leave_the_others_free(self):
        triples = triples_of("all", ("red", "blue"))
        assert len(triples) == 2 * 6 * 4 and {color for color, _, _ in triples} == {"red", "blue"}


class TestPositions:
    @pytest.mark.parametrize("names", ["comfyui", "published"])
    @pytest.mark.parametrize(
        ("name", "positions"), [("no_positions_0", False), ("rotary_alone_0", "rotary"), ("bias_alone_0", "bias")]
    )
    def test_survive_export(self, done, tmp_path, name, positions, names):
        run = done / "work" / name
        export_model(run, tmp_path / "a.safetensors", names, torch.float32)
        weights, metadata = load_checkpoint(tmp_path / "a.safetensors")
        config, _ = detect_config(weights, metadata)
        assert config.positions == positions and config.architecture.rotary == (positions == "rotary")
        assert any("rel_pos" in key for key in weights) == config.architecture.position_bias == (positions == "bias")
        assert any("rotary" in key for key in weights) == (positions == "rotary" and names == "published")
        ours = convert_state_dict(weights, config)
        assert all(torch.equal(value, ours[key]) for key, value in run_unet(done, run.name).state_dict().items())

    def test_a_recipe_takes_and_gives_them_and_loses_nothing_else(self, tmp_path):
        with_bias = make_unet()
        start = save_unet(with_bias, tmp_path / "with.safetensors")

        def begin(path, **values):
            return starting_unet(tiny_recipe("base", tmp_path / "run", tmp_path, model__start=path, **values))[0]

        without = begin(start, model__config={"positions": False})
        assert without.config.positions is False
        kept = without.state_dict()
        assert all(torch.equal(value, with_bias.state_dict()[key]) for key, value in kept.items())
        bare = save_unet(without, tmp_path / "without.safetensors")
        assert begin(bare).config.positions is False
        assert begin(bare, model__config={"positions": True}).config == with_bias.config
        lame = make_unet(positions=False)
        del lame.middle_block[1].transformer_blocks[0].attn_temp.to_q
        with pytest.raises(TrainingError, match="missing: .*attn_temp.to_q"):
            begin(save_unet(lame, tmp_path / "lame.safetensors"), model__config={"positions": True})


class TestMeasures:
    @pytest.mark.parametrize("in_videos", [True, False])
    def test_scenes_are_balanced(self, in_videos):
        scenes = scenes_of_words(36, in_videos)
        assert len({(s.color, s.thing, s.direction) for s in scenes}) == 36
        for words in ("color", "thing", "direction"):
            counts = Counter(getattr(scene, words) for scene in scenes[:12])
            assert set(counts.values()) == {3 if words == "direction" else 4}
        assert all((s.color in VIDEO_WORDS) == (s.thing in VIDEO_WORDS) == in_videos for s in scenes)
        assert [s.color in VIDEO_WORDS for s in mixed_scenes(36)] == [False] * 24 + [True] * 12

    def test_steady(self):
        scene = Scene("red", "fish", "left", "gray", False, (32, 32), 28, 24, 0.5)
        clip = render(scene, 8)
        assert steady(clip) and steady(clip[::-1])
        for other in ({"color": "blue"}, {"thing": "car"}, {"direction": "up"}):
            assert not steady(np.concatenate([clip[:7], render(replace(scene, **other), 8)[7:]]))
        assert not steady(np.full((8, 64, 64, 3), 128, np.uint8))

    def test_true_clips_are_right_and_shuffled_ones_have_no_motion(self):
        def seen(shuffle):
            clips = []
            for seed, scene in enumerate(mixed_scenes(12)):
                frames = render(scene, 8)[np.random.default_rng(0).permutation(8) if shuffle else slice(None)]
                words = (scene.color, scene.thing, scene.direction)
                clips.append(SeenClip("", seed, *words, measure_clip(frames), steady(frames)))
            return [question.rate(clips).rate for question in QUESTIONS[1]]

        assert seen(False) == [1.0] * 7
        assert seen(True) == [0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0]


class TestCommand:
    @pytest.mark.parametrize("shipped", [False, True])
    def test_the_page_has_every_row(self, done, shipped):
        page = claims.ROOT / "docs" / "claims.md" if shipped else done / "claims.md"
        text = page.read_text(encoding="utf-8")
        for claim in claims.CLAIMS:
            for variant in claim.variants:
                assert f"| {variant.name} |" in text
            for question in QUESTIONS[claim.number]:
                lines = [line for line in text.splitlines() if line.startswith(f"| {question.name} |")]
                assert len(lines) == 2 + shipped, "rates, differences and, of several seeds, each"
        assert f"| {claims.BEFORE.name} |" in text
        assert "of a colour and a thing that no video had" in " ".join(text.split())

    def test_nothing_is_done_twice(self, done):
        """The command again: no training, no server, the same page."""
        page, work = done / "claims.md", done / "work"
        before = page.read_text(encoding="utf-8")
        page.unlink()
        states = {path: path.stat().st_mtime_ns for path in work.glob("*/*") if path.parent.name != "data"}
        assert main(["claims", *tiny(done)]) == 0
        assert page.read_text(encoding="utf-8") == before
        assert {path: path.stat().st_mtime_ns for path in work.glob("*/*") if path.parent.name != "data"} == states

    def test_a_shorter_run_than_there_is_is_refused(self, done, capsys):
        assert main(["claims", *tiny(done), "--set", "run.steps=1"]) == 1
        assert "has made 2 steps, but 1 are asked for" in capsys.readouterr().err

    def test_differences_beyond_chance_are_named(self):
        scene = mixed_scenes(1)[0]
        right = SeenClip("", 0, scene.color, scene.thing, scene.direction, measure_clip(render(scene, 8)), True)
        wrong = replace(right, color="none")
        clear = differences({"a": {0: [right] * 20}, "b": {0: [wrong] * 20}}, "a", QUESTIONS[1][5:6])
        assert "| colour | +1.00 (+0.77 .. +1.00) |" in clear and "without 0: colour, against b (+1.00)." in clear
        unclear = differences({"a": {0: [right]}, "b": {0: [wrong]}}, "a", QUESTIONS[1][5:6])
        assert "Every interval has 0 in it" in unclear

    def test_rates_are_those_of_all_seeds_and_of_each(self):
        scene = mixed_scenes(1)[0]
        right = SeenClip("", 0, scene.color, scene.thing, scene.direction, measure_clip(render(scene, 8)), True)
        wrong = replace(right, color="red" if scene.color != "red" else "blue")
        made = {"a": {0: [right, right], 1: [right, wrong]}, "b": {0: [], 1: [wrong]}}
        tables = [make(made, QUESTIONS[1][5:6]).splitlines()[-1] for make in (rates, seeds)]
        assert tables == ["| colour | 0.75 (0.30 .. 0.95) | 0.00 (0.00 .. 0.79) |", "| colour | 1.00, 0.50 | -, 0.00 |"]
