"""Stages without weights on real footage: what the test put into it is found where it was put."""

from __future__ import annotations

import shlex
import sys

import numpy as np
import pytest
from comfyui_lavie.datasets.errors import DataError
from comfyui_lavie.datasets.shots import Pixels, Shot, read_pixels
from comfyui_lavie.datasets.sources.base import Entry, file_locator
from comfyui_lavie.datasets.stages import Scenes
from comfyui_lavie.datasets.stages.captions import Captions, clean_caption
from comfyui_lavie.datasets.stages.duplicates import Duplicates, close_embeddings, close_hashes, group_pairs
from comfyui_lavie.datasets.stages.motion import Motion
from comfyui_lavie.datasets.stages.quality import Quality
from comfyui_lavie.datasets.stages.safety import Safety
from comfyui_lavie.datasets.stages.technical import Technical
from comfyui_lavie.datasets.stages.text import Text
from comfyui_lavie.datasets.video import encode_video
from PIL import Image, ImageDraw, ImageFilter, ImageFont


def shot_of(frames: np.ndarray, key: str = "shot", pace: float = 0.5, step: int = 12) -> Shot:
    """A shot of frames as `read_pixels` would see it."""
    grey = frames.mean(3)[:, ::4, ::4]
    changes = np.abs(np.diff(grey, axis=0)).mean((1, 2)).astype(np.float32)
    stills = tuple(frames[len(frames) * n // 6] for n in (1, 3, 5))
    count, height, width, _ = frames.shape
    return Shot(key, {}, count, 25.0, width, height, pixels=Pixels(stills, frames[step // 2 :: step], pace, changes))


def rows_of(stage, *frames) -> list[dict]:
    return stage.process([shot_of(film) for film in frames], stage.setup("cpu", None))


def test_pixels_of_a_shot_are_those_of_its_part_of_the_file(footage, tmp_path):
    path = tmp_path / "film.mkv"
    encode_video(np.concatenate([footage.rabbit, footage.face]), path, 25)
    _, shot = Scenes(min_seconds=0.5).find_shots(Entry("film", "video", "", file_locator(path)), ())
    pixels = read_pixels(shot)
    assert shot.frames == 60 and len(pixels.changes) == 59 and pixels.pace == pytest.approx(12 / 25)
    assert np.abs(pixels.stills[1].astype(int) - footage.face[30]).mean() < 4
    assert np.abs(pixels.series[2].astype(int) - footage.face[6 + 24]).mean() < 4
    with pytest.raises(DataError, match="expected 61 frames, got 60"):
        read_pixels(Shot(shot.key, shot.locator, 61, shot.fps, shot.width, shot.height))


def test_black_bars_and_the_crop_that_removes_them(footage):
    film = np.maximum(footage.rabbit[:30], 40)
    boxed = film.copy()
    boxed[:, :18], boxed[:, -20:], boxed[:, :, :32] = 5, 9, 12
    noise = np.random.default_rng(0).integers(-4, 5, boxed.shape)
    whole, barred, black = rows_of(
        Technical(), film, np.clip(boxed + noise, 0, 255).astype(np.uint8), np.zeros_like(film)
    )
    crop = [barred[f"crop_{side}"] for side in ("left", "top", "width", "height")]
    assert crop == [32, 18, 256 - 32, 144 - 38] and barred["bars"] == pytest.approx(1 - 224 * 106 / (256 * 144))
    assert whole["bars"] == 0 and (whole["crop_width"], whole["crop_height"]) == (256, 144)
    assert black["bars"] == 0, "a dark scene is not all bar"


def test_frames_that_stand_still_and_frames_that_come_twice(footage):
    film = footage.bikes[:40]
    frozen = np.concatenate([film[:20], np.repeat(film[20:21], 20, axis=0)])
    twice = np.repeat(film[:20], 2, axis=0)
    moving, half, pairs = rows_of(Technical(), film, frozen, twice)
    assert moving["frozen"] == moving["duplicated"] == 0
    assert half["frozen"] == pytest.approx(19 / 39) and half["duplicated"] == 0
    assert pairs["duplicated"] == pytest.approx(20 / 39) and pairs["frozen"] == 0


def test_motion_orders_films_and_tells_camera_from_objects(footage):
    still = np.repeat(footage.rabbit[:1], 44, axis=0)
    bikes, face, nothing = rows_of(Motion(), footage.bikes, footage.face[:44], still)
    assert bikes["motion"] > face["motion"] > nothing["motion"] and nothing["motion"] < 0.05
    wide = np.asarray(Image.fromarray(footage.rabbit[0]).resize((512, 288)))
    pan = np.stack([wide[72:216, 60 + i // 2 : 316 + i // 2] for i in range(44)])  # 6 pixels in 12 frames
    mover = np.repeat(footage.rabbit[:1], 44, axis=0)
    for i, frame in enumerate(mover):
        frame[50:100, 40 + i : 90 + i] = footage.bikes[0, 50:100, 40:90]
    panned, moved = rows_of(Motion(), pan, mover)
    assert panned["motion_camera"] == pytest.approx(6, rel=0.15) and panned["motion_objects"] < 0.2 * 6
    assert moved["motion_camera"] < 0.3 < moved["motion_objects"]


def test_quality_falls_with_blur_and_with_blocks(footage):
    film = footage.rabbit[:30]
    blurred = np.stack([np.asarray(Image.fromarray(f).filter(ImageFilter.GaussianBlur(3))) for f in film])
    blocks = film.reshape(30, 18, 8, 32, 8, 3).mean((2, 4)).repeat(8, 1).repeat(8, 2).astype(np.uint8)
    sharp, soft, coarse, dark = rows_of(Quality(), film, blurred, blocks, np.zeros_like(film))
    assert sharp["sharpness"] > 10 * soft["sharpness"]
    assert coarse["blockiness"] > 100 > 1.3 > sharp["blockiness"] > 0.8
    assert dark["clipped"] == 1 and dark["brightness"] == 0 and dark["colorfulness"] == 0
    grey, luma = film.mean(3), np.array([0.299, 0.587, 0.114])
    assert sharp["brightness"] == pytest.approx((film[15] @ luma).mean(), rel=0.05) and grey.mean() > 0


def test_text_is_found_where_it_was_drawn_and_a_watermark_by_its_staying(footage):
    film, face = (
        np.stack([np.asarray(Image.fromarray(f).resize((512, 288))) for f in frames[:44:4]])
        for frames in (footage.rabbit, footage.face)  # in the face the reader sees one letter as large as the picture
    )
    font = ImageFont.load_default(40)

    def draw(frames, *places):
        pictures = [Image.fromarray(frame) for frame in frames]
        for picture, place in zip(pictures, places, strict=True):
            box = ImageDraw.Draw(picture)
            box.text(place, "SAMPLE", font=font, fill="white", stroke_width=2, stroke_fill="black")
        return np.stack([np.asarray(picture) for picture in pictures])

    marked = draw(film, *[(40, 30)] * 11)
    moving = draw(film, *[(10 + 30 * i, 20 + 20 * i) for i in range(11)])
    plain, face, mark, credits = rows_of(Text(), film, face, marked, moving)
    left, top, right, bottom = ImageDraw.Draw(Image.new("L", (9, 9))).textbbox((40, 30), "SAMPLE", font=font)
    area = (right - left) * (bottom - top) / (512 * 288)
    assert plain["text_area"] == plain["watermark_area"] == plain["text_time"] == 0 and plain["text"] == ""
    assert face == plain
    assert mark["text"] == "SAMPLE" and mark["text_time"] == 1
    assert 0.7 * area < mark["watermark_area"] < 2.5 * area and mark["text_area"] == pytest.approx(
        mark["watermark_area"], rel=0.2
    )
    assert credits["text_time"] > 0.6 and credits["watermark_area"] == 0


def test_safety_scores_are_confidences(footage):
    (row,) = rows_of(Safety(), footage.rabbit[:12])
    assert 0 <= row["nudity"] < 0.5


def test_copies_are_found_after_encoding_anew_and_resizing(footage, tmp_path):
    films = {"bikes": footage.bikes, "rabbit": footage.rabbit[:44], "face": footage.face[:44]}
    shots = [shot_of(film, name) for name, film in films.items()]
    for name, film in films.items():
        small = np.stack([np.asarray(Image.fromarray(f).resize((160, 90))) for f in film])
        encode_video(small, tmp_path / f"{name}.mp4", 25)
        entry = Entry(name, "video", "", file_locator(tmp_path / f"{name}.mp4"))
        (copy,) = Scenes(min_seconds=0.5).find_shots(entry, ())
        shots.append(Shot(name, {}, 44, 25.0, 160, 90, pixels=read_pixels(copy)))
    hashes = [row["hashes"] for row in Duplicates().process(shots, None)]
    assert group_pairs(6, close_hashes(hashes, 6)) == [0, 1, 2, 0, 1, 2]


def test_groups_of_copies_equal_those_of_comparing_all_with_all():
    random = np.random.default_rng(0)
    centers = random.integers(0, 2**63, 30, np.uint64)
    words = [int(random.choice(centers)) for _ in range(200)]
    for index in range(len(words)):
        for bit in random.integers(0, 64, random.integers(0, 5)):
            words[index] ^= 1 << int(bit)
    expected = list(range(200))
    for one in range(200):
        for two in range(one):
            if (words[one] ^ words[two]).bit_count() <= 6:
                low, high = sorted((expected[one], expected[two]))
                expected = [low if group == high else group for group in expected]
    assert group_pairs(200, close_hashes([[f"{word:016x}"] for word in words], 6)) == expected


def test_embeddings_are_grouped_as_a_comparison_of_all_with_all_does():
    random = np.random.default_rng(0)
    vectors = random.normal(size=(2500, 8)).astype(np.float32)  # more than one tile
    vectors[1::5] = vectors[::5] + 0.05 * random.normal(size=(500, 8))
    vectors[2499] = vectors[3]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = group_pairs(len(vectors), close_embeddings(vectors, 0.99))
    expected, near = list(range(len(vectors))), vectors @ vectors.T >= 0.99
    while (lower := [min(expected[i] for i in np.flatnonzero(row)) for row in near]) != expected:
        expected = lower
    assert found == expected and found[2499] == 3 and len(set(found)) < 2100
    assert group_pairs(0, close_embeddings(vectors[:0], 0.99)) == []


def test_captions_are_cleaned_measured_and_may_come_from_a_program(footage):
    assert clean_caption("arafed image of  a dog. ") == "image of a dog."
    assert clean_caption("The video shows a man riding a bike. A man rides. A man rides.") == (
        "a man riding a bike. A man rides."
    )
    shots = [shot_of(footage.bikes), shot_of(footage.face, "other")]
    shots = [Shot(**{**vars(s), "locator": {"path": "x.mp4", "start": 0.0, "end": 1.0}}) for s in shots]
    shots[0] = Shot(**{**vars(shots[0]), "captions": ("собака бежит", "a dog runs")})
    mine, none = Captions().process(shots, Captions().setup("cpu", None))
    assert (mine["caption"], mine["other_captions"], mine["caption_words"]) == ("собака бежит", ["a dog runs"], 2)
    assert mine["caption_script"] == "CYRILLIC" and none["caption"] is None and none["caption_words"] == 0

    assert none["caption_language"] is none["caption_language_confidence"] is None

    code = """
import json, sys
for line in sys.stdin:
    shot = json.loads(line)
    print(json.dumps({"key": shot["key"], "caption": shot["path"]}))
"""
    program = Captions(source="command", command=shlex.join([sys.executable, "-c", code]))
    kept, asked = program.process(shots, program.setup("cpu", None))
    assert kept["caption"] == "собака бежит" and asked["caption"] == "x.mp4"
    broken = Captions(source="command", command=shlex.join([sys.executable, "-c", "raise SystemExit('no model')"]))
    with pytest.raises(DataError, match="failed .1.: no model"):
        broken.process(shots, broken.setup("cpu", None))
    with pytest.raises(DataError, match='needs model = "..."'):
        Captions(source="model")


SENTENCES = {
    "en": "a red fish moving right", "de": "zwei Menschen gehen am Strand", "fr": "un chien court dans un champ",
    "es": "un perro corre por la playa", "it": "un cane corre nel prato", "pt": "um cachorro corre na praia",
    "nl": "een hond rent over het gras", "pl": "pies biegnie po trawie", "ru": "собака бежит по полю",
    "ar": "كلب يجري في الحقل", "zh": "一只狗在草地上奔跑", "ja": "犬が草原を走っている", "ko": "개가 잔디 위를 달린다",
}  # fmt: skip


def test_the_language_of_captions_is_told_and_short_ones_are_left_undetermined():
    shots = [Shot(text, {}, 3, 25.0, 8, 8, (text,)) for text in [*SENTENCES.values(), "a dog", "123"]]
    stage = Captions()
    rows = stage.process(shots, stage.setup("cpu", None))
    assert [row["caption_language"] for row in rows] == [*SENTENCES, "und", "und"]
    assert all(row["caption_language_confidence"] > 0.15 for row in rows[:-2])


def test_what_a_stage_needs_follows_its_settings():
    plain, model = Captions(), Captions(source="model", model="captioner")
    assert not plain.needs_device and model.needs_device
    assert plain.packages == ("py3langid",) and {"torch", "transformers"} <= {*model.packages}
