"""The commands `measure` and `report` on folders of clips: what comes out, what is refused, what is not done twice."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from comfyui_lavie.datasets.video import encode_video
from comfyui_lavie.evaluation.__main__ import main
from comfyui_lavie.evaluation.clips import write_clip
from comfyui_lavie.evaluation.errors import EvaluationError
from comfyui_lavie.evaluation.manifest import MANIFEST, ClipRecord, append
from comfyui_lavie.evaluation.measurements import LINES, SUMMARY, TABLE, Measurements
from comfyui_lavie.evaluation.vbench import DIMENSIONS, export_clips, import_scores, summary
from comfyui_lavie.evaluation.watch import figures

PIXELS = "temporal_flickering,sharpness"
LAVIE = {  # VBench's leaderboard, in the order of DIMENSIONS
    name: value / 100 for name, value in zip(DIMENSIONS, (
        91.41, 97.47, 98.30, 96.38, 49.72, 54.94, 61.90, 91.82, 33.32, 96.80, 86.39, 34.09, 52.69, 23.56, 25.93, 26.41,
    ), strict=True)
}  # fmt: skip


def frames(seed: int, count: int = 17, steps: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 150, (1, 24, 32, 3)) + steps * np.arange(count)[:, None, None, None]).astype(np.uint8)


def run_of(folder, count: int = 6, steps: int = 3, clips=write_clip) -> None:
    """A folder of lossless clips and their manifest."""
    folder.mkdir()
    for i in range(count):
        clips(frames(i, steps=steps), folder / f"{i}.mkv")
        append(folder, ClipRecord(f"{steps}-{i}", f"{i}.mkv", f"prompt {i} <b>", 100 + i, 17, 32, 24, 8.0, "mine",
                                  sampling={"steps": 4}, seconds=1.5))  # fmt: skip


@pytest.fixture
def clips(tmp_path):
    run_of(tmp_path / "clips")
    return tmp_path / "clips"


class Network(torch.nn.Module):
    """Speaks as the published I3D file does; its weights are random."""

    def __init__(self, width: int = 400):
        super().__init__()
        self.layer = torch.nn.Linear(6, width)

    def forward(self, x: torch.Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False):
        assert x.shape[1] == 3 and rescale and return_features
        said = self.layer(torch.cat([x.mean((2, 3, 4)), x.std((2, 3, 4))], 1) / 255)
        return said + 1 if resize else said


@pytest.fixture
def weights(tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    torch.manual_seed(0)
    torch.jit.script(Network()).save(str(folder / "i3d_torchscript.pt"))
    return folder


def test_numbers_of_a_folder_go_into_summary_table_and_terminal(clips, capsys):
    assert main(["measure", str(clips), "--metrics", PIXELS, "--count", "6"]) == 0
    found = Measurements.load(clips)
    flicker, _ = found.metrics
    assert flicker.values == pytest.approx([(255 - 3) / 255] * 6) and len(flicker.protocol_id) == 12
    assert "| temporal flickering (VBench) | 0.9882 (0.9882 .. 0.9882) | higher |" in capsys.readouterr().out
    table = pq.read_table(clips / TABLE).to_pydict()
    assert table["seed"] == list(range(100, 106)) and table["temporal_flickering"] == list(flicker.values)


def test_what_is_measured_is_not_measured_again(clips):
    assert main(["measure", str(clips), "--metrics", "sharpness"]) == 0
    lines = (clips / LINES).read_bytes()
    (clips / LINES).write_bytes(lines[:-20])  # killed in the middle of the last line
    (clips / SUMMARY).unlink()
    assert main(["measure", str(clips), "--metrics", PIXELS]) == 0
    written = [json.loads(line) for line in (clips / LINES).read_text().splitlines()]
    assert [line["metric"] for line in written].count("sharpness") == 6 and len(written) == 12


def test_all_missing_weights_are_named_before_any_work(clips, caplog, capsys):
    assert main(["measure", str(clips), "--metrics", "fvd,clipsim,lpips_vgg"]) == 1
    said = capsys.readouterr().err
    for words in ("i3d_torchscript.pt", "StyleGAN-V", "clip-vit-base-patch32", "vgg16.pt", "no --real", "no --refer"):
        assert words in said
    assert not (clips / LINES).exists()
    assert main(["measure", str(clips)]) == 0
    told = {metric.name: metric for metric in Measurements.load(clips).metrics}
    assert "file missing: c3d_ucf101.pt" in told["inception_score"].reason and told["sharpness"].values
    assert main(["report", str(clips)]) == 0
    assert "| FVD | file missing: i3d_torchscript.pt" in (clips / "report" / "report.md").read_text()


def test_a_distance_to_real_clips(clips, weights, tmp_path):
    """A random network of the same interface: that the published one is called rightly is not proved by this."""
    run_of(tmp_path / "real", steps=5)
    words = ["measure", str(clips), "--metrics", "fvd,fvd_128", "--weights", str(weights)]
    words += ["--real", str(tmp_path / "real")]
    assert main(words) == 0
    found = Measurements.load(clips)
    for metric in found.metrics:
        assert metric.of_set.value.value > 0 and len(metric.weights["i3d_torchscript.pt"]) == 64
    before = (clips / LINES).read_bytes()
    assert main(words) == 0 and Measurements.load(clips).metrics == found.metrics
    assert (clips / LINES).read_bytes() == before and before.count(b"features") == 2 * 12
    torch.jit.script(Network(7)).save(str(weights / "i3d_torchscript.pt"))
    assert main(words) == 1
    (weights / "i3d_torchscript.pt").write_bytes(b"no network")
    assert main(words) == 1


def test_references_by_name(clips, tmp_path, capsys):
    truth = tmp_path / "truth"
    truth.mkdir()
    for i in range(6):
        write_clip(frames(i) + np.uint8(10), truth / f"{i}")  # folders of pictures
    words = ["measure", str(clips), "--metrics", "psnr", "--references", str(truth)]
    assert main(words) == 0
    assert Measurements.load(clips).metrics[0].values == pytest.approx([20 * np.log10(25.5)] * 6, abs=1e-4)
    shutil.rmtree(truth / "3")
    write_clip(frames(4, count=9), truth / "4")
    assert main(words) == 1
    said = capsys.readouterr().err
    assert "2 of 6 references" in said and "3.mkv: no reference" in said and "its reference (9, 32, 24)" in said


def test_what_a_training_watches_is_the_mean_over_its_videos():
    """Of stills only sharpness can be told."""
    found = figures([("a", frames(0)), ("b", frames(1))])
    assert found["temporal_flickering"] == pytest.approx((255 - 3) / 255)
    alone = [figures([("a", frames(seed))])["sharpness"] for seed in (0, 1)]
    assert found["sharpness"] == pytest.approx(sum(alone) / 2) and alone[0] != alone[1]
    assert figures([("a still", frames(0, count=1))]).keys() == {"sharpness"}


class TestBadInput:
    def test_another_count(self, clips, capsys):
        assert main(["measure", str(clips), "--count", "7"]) == 1
        assert "expected 7 clips (--count), got 6" in capsys.readouterr().err

    def test_damaged_missing_and_uneven_clips_are_all_named(self, clips, capsys):
        (clips / "0.mkv").write_bytes(b"damaged")
        (clips / "1.mkv").unlink()
        write_clip(frames(2, count=5), clips / "2.mkv")
        words = ["measure", str(clips), "--metrics", "sharpness"]
        assert main(words) == 1
        said = capsys.readouterr().err
        assert "3 of 6 clips" in said and "0.mkv: not a readable video" in said.replace(str(clips) + "/", "")
        assert "no such file" in said and "the manifest says 17 frames" in said
        assert main([*words, "--lenient"]) == 0
        found = Measurements.load(clips)
        assert len(found.clips) == 3 and sorted(found.left_out) == ["0.mkv", "1.mkv", "2.mkv"]

    def test_several_lengths(self, clips, capsys):
        (clips / MANIFEST).unlink()
        write_clip(frames(0, count=5), clips / "0.mkv")
        assert main(["measure", str(clips), "--metrics", "sharpness"]) == 1
        assert "17 frames of 32 x 24: 5 clips" in capsys.readouterr().err
        assert main(["measure", str(clips), "--metrics", "sharpness", "--lenient"]) == 0

    def test_unknown_metric_and_unmeasured_run(self, clips, capsys):
        assert main(["measure", str(clips), "--metrics", "fid"]) == 1
        assert "unknown metrics fid; there are fvd" in capsys.readouterr().err
        assert main(["report", str(clips)]) == 1
        assert "run measure first" in capsys.readouterr().err


def test_a_report_of_two_runs(clips, tmp_path):
    run_of(tmp_path / "other", steps=4)
    for folder in (clips, tmp_path / "other"):
        assert main(["measure", str(folder), "--metrics", PIXELS]) == 0
    assert main(["report", str(clips), str(tmp_path / "other"), "--out", str(tmp_path / "report")]) == 0
    text = (tmp_path / "report" / "report.md").read_text()
    apart = f"{-1 / 255:+.4f}"
    assert f"| temporal flickering (VBench) | {apart} ({apart} .. {apart}) | 0.031 | 6 |" in text  # 2 of 2^6 sign flips
    assert "526.3" in text and "steps 4" in text and "VBench's formula" in text
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count("<video") == 12 and "prompt 0 &lt;b&gt;" in page and "seed 105" in page
    assert len(list((tmp_path / "report" / "media").glob("*.mp4"))) == 12


# --- VBench -----------------------------------------------------------------------------------------------------------


def test_lavies_published_dimensions_give_its_published_scores(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({name: [score, []] for name, score in LAVIE.items()}))
    found = summary(import_scores([tmp_path / "a.json"]))
    assert {name: round(100 * value, 2) for name, value in found.items()} == {
        "quality": 78.78, "semantic": 70.31, "total": 77.08,
    }  # fmt: skip


def test_no_total_of_a_part(tmp_path):
    part = {name: score for name, score in LAVIE.items() if name != "scene"}
    assert summary(part).keys() == {"quality"}
    (tmp_path / "b.json").write_text(json.dumps({"scenery": [0.5, []]}))
    with pytest.raises(EvaluationError, match="got scenery 0.5"):
        import_scores([tmp_path / "b.json"])


def test_clips_are_laid_out_under_the_names_that_vbench_looks_for(tmp_path):
    encode_video(frames(0), tmp_path / "x.mp4", 8)
    record = ClipRecord("a", "x.mp4", "a person’s dog", 1, 17, 32, 24, 8.0, index=3)
    export_clips(tmp_path, [record], tmp_path / "vbench")
    assert os.listdir(tmp_path / "vbench") == ["a person’s dog-3.mp4"]
    for wrong, words in (
        ([record, replace(record, id="b")], "would both be"), ([replace(record, prompt="a/b")], "no file can be named"),
        ([replace(record, prompt=None)], "is not known"), ([replace(record, prompt="ü" * 130)], "no file can be named"),
    ):  # fmt: skip
        with pytest.raises(EvaluationError, match=words):
            export_clips(tmp_path, wrong, tmp_path / "never")
    assert not (tmp_path / "never").exists()
