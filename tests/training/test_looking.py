"""Commands around a training: what its data looks like, what fits it, what is encoded ahead."""

import dataclasses
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from comfyui_lavie.datasets.catalogue import Catalogue
from comfyui_lavie.datasets.prepare import Limits, prepare
from comfyui_lavie.lavie_models.schedule import alphas_cumprod, rescale_to_zero_terminal_snr
from comfyui_lavie.tests.media import write_image
from comfyui_lavie.tests.tiny_training import make_catalogue, settings, tiny_recipe
from comfyui_lavie.training.__main__ import main
from comfyui_lavie.training.batch import Inputs
from comfyui_lavie.training.buckets import propose_buckets
from comfyui_lavie.training.data import Bucket, DataSettings, TrainingData
from comfyui_lavie.training.fill_cache import fill_cache
from comfyui_lavie.training.metrics import Metrics, Rate
from comfyui_lavie.training.recipe_file import RecipeError, recipe_of_run, save_recipe
from comfyui_lavie.training.step import draw_noise
from PIL import Image


def test_look_shows_the_pixels_of_the_loader(tmp_path, capsys):
    catalogue = make_catalogue(tmp_path / "catalogue", size=128)
    changes = settings(data__catalogues=[str(catalogue)], data__images=1, data__stride=[1, 1], validation__heldout=1,
                       data__buckets=[{"frames": 4, "height": 96, "width": 96, "rows": 2}])  # fmt: skip
    words = [word for change in changes for word in ("--set", change)]
    assert main(["look", "base", "--steps", "1", "--out", str(tmp_path / "looks"), *words]) == 0
    said = capsys.readouterr().out
    files = sorted((tmp_path / "looks").iterdir())
    assert [file.name for file in files] == ["step000000_row00.png", "step000000_row01.png"]
    data = tiny_recipe("base", tmp_path, catalogue, data__images=1, data__stride=[1, 1],
                       data__buckets=[{"frames": 4, "height": 96, "width": 96, "rows": 2}]).data  # fmt: skip
    whole = TrainingData(data, Catalogue.load(catalogue).split(1)[0])
    share = Inputs(tiny_recipe("base", tmp_path, catalogue, model__start="none"), "cpu").read(whole, 0, 0)
    assert share.draws[0].item.caption in said
    sheet = np.asarray(Image.open(files[0]))
    for i in range(4):
        assert np.array_equal(sheet[4:100, 4 + 100 * i : 100 + 100 * i], share.pixels[0][i]), i


def test_cache_encodes_all_that_a_run_will_ask_for(tmp_path):
    catalogue = make_catalogue(tmp_path / "catalogue", videos=3, images=3)
    recipe = tiny_recipe("base", tmp_path, catalogue, encoders__cache=tmp_path / "cache", data__images=1,
                         data__variants=2, data__stride=[1, 2], model__start="none")  # fmt: skip
    plans = TrainingData(recipe.data, Catalogue.load(catalogue))
    asked = {draw.name for step in range(12) for draw in plans.plan(0, step)}  # two rounds of twelve samples, and more
    parts = [fill_cache(recipe, rank, 2) for rank in range(2)]
    assert sum(made for _, made, _ in parts) == len(asked) > 6 and not any(bad for *_, bad in parts)
    assert fill_cache(recipe)[1] == 0, "what is there is left"
    inputs, data = Inputs(recipe, "cpu"), TrainingData(recipe.data, Catalogue.load(catalogue))
    shares = [inputs.read(data, 0, step) for step in range(12)]
    assert all(pixels is None for share in shares for pixels in share.pixels)


def test_buckets_follow_the_shapes_of_the_data(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, (width, height) in enumerate([(160, 90)] * 6 + [(90, 160)] * 3 + [(100, 100)]):
        write_image(folder / f"{i}.png", width * 8, height * 8, seed=i)
    items = prepare([folder], tmp_path / "catalogue", Limits(), "a photo", progress=False).items
    found = propose_buckets(items, 512 * 320, 1, 4, 3)
    assert [(b.width / b.height > 1.5, b.width / b.height < 0.7, b.probability) for b in found] == [
        (True, False, 0.6), (False, True, 0.3), (False, False, 0.1)
    ]  # fmt: skip
    assert all(abs(b.width * b.height / (512 * 320) - 1) < 0.25 and b.width % 64 == b.height % 64 == 0 for b in found)
    data = DataSettings((str(tmp_path),), tuple(found), images=0, video=False, nearest_aspect=True)
    cut = [1 - d.box[2] * d.box[3] / (d.item.width * d.item.height)
           for step in range(30) for d in TrainingData(data, Catalogue.of(items)).plan(0, step)]  # fmt: skip
    assert max(cut) < 0.2
    freely = dataclasses.replace(data, nearest_aspect=False)
    assert max(1 - d.box[2] * d.box[3] / (d.item.width * d.item.height) for step in range(30)
               for d in TrainingData(freely, Catalogue.of(items)).plan(0, step)) > 0.4  # fmt: skip


def test_repeats_make_a_catalogue_come_more_often(tmp_path):
    for name, videos in (("a", 2), ("b", 4)):
        make_catalogue(tmp_path / name, videos=videos, images=0)
        found = Catalogue.load(tmp_path / name).items
        Catalogue.of(dataclasses.replace(item, key=f"{name}{i}") for i, item in enumerate(found)).save(tmp_path / name)
    folders = (str(tmp_path / "a"), str(tmp_path / "b"))
    data = DataSettings(folders, (Bucket(4, 32, 32, 8),), images=0, stride=(1, 1), repeats=(2, 1))
    plan = TrainingData(data, Catalogue.load_all(folders, data.repeats)).plan(0, 0)
    assert sorted(draw.item.key for draw in plan) == ["a0", "a0", "a1", "a1", "b0", "b1", "b2", "b3"]


def test_a_run_knows_its_files_from_anywhere(tmp_path, monkeypatch):
    recipe = tiny_recipe("base", tmp_path / "run", "catalogue", encoders__text="a/text", model__start="random")
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path)
    save_recipe(recipe, tmp_path / "run")
    monkeypatch.chdir("/")
    found = recipe_of_run(tmp_path / "run")
    assert found.encoders.text == f"{tmp_path}/a/text" and found.data.catalogues == (f"{tmp_path}/catalogue",)
    assert found.model.start == "random" and found.encoders.cache == ""


def test_offset_noise_moves_whole_frames():
    """Variance of frame means: 1 / pixels for plain noise, offset^2 more with an offset."""
    def means(offset):
        rngs = [np.random.default_rng(i) for i in range(200)]
        return draw_noise(rngs, (2, 4, 16, 16), offset).mean((-1, -2))

    assert means(0.0).var().item() == pytest.approx(1 / 256, rel=0.1)
    assert means(0.5).var().item() == pytest.approx(1 / 256 + 0.25, rel=0.1)


def test_a_schedule_without_signal_at_its_end(tmp_path):
    """As ComfyUI's ModelSamplingDiscrete makes it of the same sigmas with zsnr, but for its floor under the last."""
    from comfy.model_sampling import rescale_zero_terminal_snr_sigmas

    alphas = alphas_cumprod()
    stretched = rescale_to_zero_terminal_snr(alphas)
    assert stretched[-1] == 0 and stretched[0].item() == pytest.approx(alphas[0].item())
    theirs = rescale_zero_terminal_snr_sigmas(((1 - alphas) / alphas) ** 0.5)
    torch.testing.assert_close(((1 - stretched) / stretched)[:-1] ** 0.5, theirs[:-1], rtol=1e-3, atol=0)
    catalogue = make_catalogue(tmp_path / "catalogue", videos=2, images=2)
    with pytest.raises(RecipeError, match="zero_terminal_snr needs model.prediction = v"):
        tiny_recipe("base", tmp_path, catalogue, objective__zero_terminal_snr=True)


def test_what_is_left_is_not_told_by_the_first_step():
    rate = Rate()
    rate.add(4)
    assert rate.seconds_for(10) is None and rate.rows_per_second == 0
    rate.add(4)
    assert 0 < rate.seconds_for(10) < 5


@pytest.mark.skipif(find_spec("wandb") is not None, reason="wandb is installed")
def test_wandb_that_is_not_installed_is_named(tmp_path):
    with pytest.raises(ImportError, match="run.wandb = lavie needs the package wandb"):
        Metrics(tmp_path, 0, 1, "lavie")
