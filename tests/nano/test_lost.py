"""What a base loses from which noise on: nothing at no noise, and the more the more noise there was."""

from __future__ import annotations

import numpy as np
import pytest
from comfyui_lavie.lavie_models.pixels import to_model, to_pixels
from comfyui_lavie.nano.__main__ import main
from comfyui_lavie.nano.evaluate import BASE, VAE, heldout_scenes
from comfyui_lavie.nano.faults import FRAMES, Denoiser
from comfyui_lavie.nano.lost import TEXT, denoised
from comfyui_lavie.nano.shapes import HEADED, render
from comfyui_lavie.training.pack_encoders import load_vae

SCENE = next(scene for scene in heldout_scenes(12) if scene.thing in HEADED)


def test_the_further_from_the_truth_the_more_noise_there_was():
    vae, denoiser = load_vae(VAE).model, Denoiser(BASE, TEXT)
    truth = render(SCENE, FRAMES)
    alone, little, much = (denoised(vae, denoiser, SCENE, start, 0).astype(float) for start in (0, 60, 900))
    assert np.allclose(alone, to_pixels(vae.decode(vae.encode(to_model(truth)))).numpy(), atol=1)
    errors = [np.abs(frames - truth).mean() for frames in (alone, little, much)]
    assert errors[0] < errors[1] < 2 * errors[0] and errors[2] > 1.5 * errors[1], errors


def test_the_table_has_a_row_of_each_timestep(capsys):
    assert main(["lost", "--scenes", "2", "--timesteps", "0", "60"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("| 0 |", "| 60 |"))]
    assert len(rows) == 2 and all(row.count(".") == 4 for row in rows)


@pytest.mark.parametrize("given", ["-1", "1000"])
def test_a_timestep_that_was_never_trained_is_refused(given, capsys):
    with pytest.raises(SystemExit):
        main(["lost", "--timesteps", given])
    assert "0 to 999" in capsys.readouterr().err
