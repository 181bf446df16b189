"""`select` on tables whose right answer is known; then what is made of a selection: shards, a page, a prediction."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import webdataset
from comfyui_lavie.datasets import report, write_shards
from comfyui_lavie.datasets.blueprint import Selection, load_blueprint
from comfyui_lavie.datasets.build import Work, build
from comfyui_lavie.datasets.catalogue import Catalogue
from comfyui_lavie.datasets.charts import bin_edges, histogram
from comfyui_lavie.datasets.datasheet import make_datasheet
from comfyui_lavie.datasets.errors import DataError
from comfyui_lavie.datasets.predict import Machines, Rates, measured_rates, predict_days, prediction_text
from comfyui_lavie.datasets.select import judge, mark_alike, select
from comfyui_lavie.datasets.sources import scan
from comfyui_lavie.datasets.video import decode_video, encode_video
from comfyui_lavie.datasets.write_shards import Encoding
from comfyui_lavie.tests.datasets.blueprints import STAGES
from PIL import Image


def row(number: int, **values) -> dict:
    return {
        "key": f"shot {number}", "unusable": None, "caption": "a dog", "width": 64, "height": 36, "frames": 20,
        "seconds": 2.0, "motion": 1.0, "category": "dogs", "hashes": [f"{number * 0x1F1F1F1F1F:016x}"] * 3, **values,
    }  # fmt: skip


def test_every_shot_has_all_its_reasons_and_every_rule_its_cost():
    rows = [row(0), row(1, motion=0.1), row(2, motion=None), row(3, caption=None), row(4, unusable="too short: 3"),
            row(5, motion=50.0, category="cats", caption=None), row(6, category="birds")]  # fmt: skip
    verdicts = judge(rows, Selection(limits={"motion": (0.3, 20.0), "category": ("dogs", "birds")}))
    assert verdicts.reasons == [
        [], ["motion too low: 0.1, expected at least 0.3"], ["motion: no score"], ["no caption"], ["too short: 3"],
        ["motion too high: 50, expected at most 20", "category not wanted: cats", "no caption"], [],
    ]  # fmt: skip
    costs = [(cost.rule, cost.fails, cost.alone, cost.left) for cost in verdicts.costs()]
    assert costs == [
        ("all shots", 0, 0, 7), ("usable", 1, 1, 6), ("0.3 <= motion <= 20", 3, 2, 3),
        ("category in dogs, birds", 1, 0, 3), ("caption", 2, 1, 2),
    ]  # fmt: skip


def test_of_copies_the_preferred_one_stays_and_quotas_keep_the_best():
    same = ["00ff00ff00ff00ff"] * 3
    rows = [row(0, hashes=same, motion=2.0), row(1, hashes=same, motion=3.0), row(2), row(3, hashes=same, motion=None)]
    kept = judge(rows, Selection(duplicates=6, prefer="motion")).left
    assert kept == [1, 2]
    kept = judge([row(0, hashes=same), row(1, hashes=same, width=128)], Selection(duplicates=0)).left
    assert kept == [1], "the one with most pixels"

    rows = [row(n, motion=float(n), category="cats" if n % 3 else "dogs") for n in range(9)]
    verdicts = judge(rows, Selection(quotas={"category": 2}, prefer="motion"))
    assert verdicts.left == [3, 6, 7, 8] and "quota of category is full: cats" in verdicts.reasons[1][0]
    lucky = judge(rows, Selection(quotas={"aspect": 4})).left
    assert len(lucky) == 4 and lucky == judge(rows, Selection(quotas={"aspect": 4})).left


def test_copies_are_found_by_embeddings_where_those_are_given():
    rows = [row(0), row(1, frames=30), row(2), row(3)]
    vectors = np.array([[1, 0], [0.96, 0.28], [0, 1], [0.8, 0.6]], np.float32)  # cosines 0.96 of 0 and 1, 0.936 of 1, 3
    verdicts = judge(rows, Selection(similarity=0.95), lambda chosen: vectors[chosen])
    assert verdicts.left == [1, 2, 3] and verdicts.reasons[0] == ["near-duplicate: of shot 1"]
    assert verdicts.costs()[-1].rule == "duplicates by cosine 0.95"
    marks = mark_alike(rows, [0, 1, 2], Selection(duplicates=6), lambda chosen: vectors[chosen])
    assert set(marks) == {0, 1} and marks[0] == marks[1] == "-".join(rows[0]["hashes"])
    assert mark_alike(rows, [0, 1], Selection(duplicates=6, similarity=0.9), lambda chosen: vectors[chosen]) == {}


SELECTION = """
[select]
prefer = "sharpness"
[select.limits]
motion = [1.5, ""]
"""


@pytest.fixture(scope="module")
def dataset(footage, tmp_path_factory):
    """A build of four shots in three films and a broken one; two shots are selected."""
    folder = tmp_path_factory.mktemp("dataset")
    films = folder / "films"
    films.mkdir()
    for name, frames in (("a", footage.bikes[:30]), ("b", footage.rabbit[:30]), ("c", footage.bikes[14:44])):
        encode_video(frames, films / f"{name}.mp4", 25)
        (films / f"{name}.txt").write_text(f"a film & a caption <{name}>")
    (films / "broken.mp4").write_bytes(b"nothing")
    (folder / "blueprint.toml").write_text(STAGES + SELECTION)
    blueprint = load_blueprint(folder / "blueprint.toml")
    build(blueprint, folder / "out", Work())
    select(folder / "out", blueprint.selection)
    return folder / "out"


def test_shards_are_exact_the_same_each_time_and_go_on(dataset, tmp_path):
    catalogue, encoding = Catalogue.load(dataset), Encoding(128, 128, per_shard=1)
    assert [item.key[:11] for item in catalogue.items] == ["films/a.mp4", "films/c.mp4"]
    about = write_shards.write_shards(catalogue, tmp_path / "one", encoding)
    other = write_shards.write_shards(catalogue, tmp_path / "two", encoding, workers=2)
    assert about == other and list(about["shards"]) == ["000000.tar", "000001.tar"]
    first, second = (tmp_path / "one" / name for name in about["shards"])
    assert first.read_bytes() == (tmp_path / "two/000000.tar").read_bytes()

    before = first.stat().st_mtime_ns
    second.write_bytes(second.read_bytes()[:1000])
    assert write_shards.write_shards(catalogue, tmp_path / "one", encoding) == about
    assert first.stat().st_mtime_ns == before and second.stat().st_size == about["shards"][second.name]["bytes"]
    with pytest.raises(DataError, match="of another catalogue or encoding"):
        write_shards.write_shards(catalogue, tmp_path / "one", Encoding(64, 64))

    (sample,) = webdataset.WebDataset(str(first), shardshuffle=False)
    pictures = decode_video(sample["mp4"])
    assert pictures.shape == (30, 128, 128, 3) and sample["txt"].decode() == catalogue.items[0].caption
    assert json.loads(sample["json"])["key"] == catalogue.items[0].key
    (entry,) = scan(first)
    assert entry.kind == "video" and entry.caption == catalogue.items[0].caption


def test_a_clip_is_cut_to_the_size_around_its_middle(footage):
    picture = footage.bikes[0]
    cut = write_shards._cover(picture, Encoding(144, 144))
    expected = Image.fromarray(picture[:, 56:200])
    assert np.array_equal(cut, np.asarray(expected))
    with pytest.raises(DataError, match="even numbers, got 63x64"):
        Encoding(63, 64)


def test_a_vanished_clip_is_named_in_the_shards(dataset, tmp_path):
    catalogue = Catalogue.load(dataset)
    broken = catalogue.items[0].locator | {"bytes": 1}
    items = (replace(catalogue.items[0], locator=broken), catalogue.items[1])
    about = write_shards.write_shards(Catalogue(items), tmp_path / "out", Encoding(32, 32))
    (fact,) = about["shards"].values()
    assert fact["clips"] == 1 and list(fact["skipped"]) == [items[0].key]
    with tarfile.open(fileobj=io.BytesIO((tmp_path / "out/000000.tar").read_bytes())) as tar:
        assert len(tar.getnames()) == 3


def test_the_datasheet_tells_what_was_kept_and_what_was_not(dataset):
    sheet = make_datasheet(dataset)
    assert sheet.facts["files"] == "4, 1 of them skipped" and sheet.facts["selected"].startswith("2 (")
    assert sum(sheet.languages.values()) == 2
    everything, kept = sheet.measures["motion"]
    assert len(everything) == 3 and len(kept) == 2 and min(kept) >= 1.5 > min(everything)
    assert sheet.words["film"] == 2 and "a" not in sheet.words and sheet.ranked_by == "sharpness"
    assert {name: len(shown) for name, shown in sheet.examples.items()} == {
        "random": 2, "best": 2, "worst": 2, "rejected": 1,
    }  # fmt: skip
    (rejected,) = sheet.examples["rejected"]
    assert rejected.line.startswith("motion too low") and rejected.picture.shape == (126, 224, 3)

    page = report.html_report(sheet, "Films & more")
    assert page.count("<svg") == len(sheet.measures) and page.count("data:image/jpeg") == 7
    assert "Films &amp; more" in page and "&lt;a&gt;" in page and "<a>" not in page and "http" not in page.replace(
        "http://www.w3.org/2000/svg", ""
    )
    text = report.markdown_report(sheet, "Films", dataset)
    assert "| 1.5 <= motion | 1 | 1 | 2 |" in text
    with Image.open(dataset / "report/random.jpg") as picture:
        assert picture.width > 400


def test_histograms_count_every_value_once():
    values = [0.5, 1.5, 1.5, 2.5]
    assert bin_edges([1, 2, 2, 4]).tolist() == [0.5, 1.5, 2.5, 3.5, 4.5]
    assert bin_edges([3.0, 3.0]).tolist() == [2.5, 3.5]
    assert histogram("x < y", values, [1.5]).count("<rect") == 3 + 1
    assert "x &lt; y" in histogram("x < y", values, [])


def test_a_prediction_is_its_arithmetic(dataset, tmp_path):
    rates = Rates({"reading": 0.4, "motion": 0.6}, {"captions": 0.1}, 0.25, 5.0, 100.0, 2e6)
    # 25 million of every fourth shot: 100 million shots, 1 s each, on 100 * 16 workers that work 85 % of the time.
    cpu, gpu = predict_days(rates, 25_000_000, Machines(100, 16, 1))
    assert cpu == pytest.approx(1e8 / (0.85 * 1600 * 86400)) and gpu == pytest.approx(1e7 / (0.85 * 100 * 86400))
    text = prediction_text(rates, 25_000_000, Machines(100, 16, 1))
    assert "1.4 days (CPU stages 0.9, model stages 1.4)" in text
    assert "table 10.0 GB" in text and "shards 50.00 TB" in text and "not in it: aesthetics, agreement" in text
    measured = measured_rates(dataset, None)
    assert measured.kept == pytest.approx(2 / 3) and measured.seconds == pytest.approx(1.2)
    stages = {"scenes", "reading", "technical", "motion", "quality", "duplicates", "captions"}
    assert set(measured.cpu) == stages and not measured.device, "captions from files need no GPU"
    sums = json.loads((dataset / "rates.json").read_text())
    (tmp_path / "costs.json").write_text((dataset / "costs.json").read_text())
    shutil.copy(dataset / "shots.parquet", tmp_path)
    (tmp_path / "rates.json").write_text(json.dumps(sums | {"captions": sums["captions"] | {"device": True}}))
    assert set(measured_rates(tmp_path, None).device) == {"captions"}, "a captioner of its own does"
