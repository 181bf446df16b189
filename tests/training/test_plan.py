"""Plans: pure functions of (seed, step), equal for any division among processes, and in the ranges that were set."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from comfyui_lavie.datasets.catalogue import Catalogue, Item
from comfyui_lavie.datasets.errors import DataError
from comfyui_lavie.nano.source import shapes
from comfyui_lavie.training.data import Bucket, DataSettings, TrainingData
from comfyui_lavie.training.data.plan import nearest_stride, pick_bucket, shuffled

SMALL = Bucket(4, 32, 48, 6)


def item(number: int, kind: str = "video", frames=60, fps=24.0, width=96, height=64) -> Item:
    """An item of no file: planning reads none."""
    frames, fps = (frames, fps) if kind == "video" else (1, 0.0)
    locator = {"source": "file", "n": number}
    return Item(f"{kind}{number}", kind, f"caption {number}", frames, fps, width, height, locator)


def catalogue(videos: int = 10, images: int = 10, **facts) -> Catalogue:
    return Catalogue(
        tuple(item(i, **facts) for i in range(videos)) + tuple(item(i, "image", **facts) for i in range(images))
    )


def data(items: Catalogue | None = None, **changes) -> TrainingData:
    settings = DataSettings(catalogues=("unused",), buckets=(SMALL,), images=2)
    return TrainingData(replace(settings, **changes), items or catalogue())


def clips(plan) -> list:
    return [draw for draw in plan if draw.kind == "clip"]


class TestPurity:
    def test_asking_in_any_order_gives_the_same(self):
        forwards, backwards = data(), data()
        plans = [forwards.plan(7, step) for step in range(20)]
        assert plans == [backwards.plan(7, step) for step in reversed(range(20))][::-1]
        assert len({draw.name for plan in plans for draw in clips(plan)}) > 100
        assert plans != [forwards.plan(8, step) for step in range(20)]
        assert plans[3] == forwards.plan(np.int64(7), np.int64(3))

    def test_another_process_plans_the_same(self):
        """One that has other string hashes."""
        code = "from comfyui_lavie.tests.training.test_plan import digest_of_plans; print(digest_of_plans())"
        other = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
        assert other.stdout.strip() == digest_of_plans()

    @pytest.mark.parametrize("world", [2, 3, 6])
    def test_shares_joined_are_the_whole(self, world):
        some = data(buckets=(replace(SMALL, probability=0.5), Bucket(8, 16, 16, 12, 0.5)))
        for step in range(10):
            whole = some.plan(0, step)
            assert [draw for rank in range(world) for draw in some.plan(0, step, rank, world)] == whole

    def test_rows_that_cannot_be_shared(self):
        with pytest.raises(DataError, match=r"\[6\] rows cannot be among 4 processes"):
            data().plan(0, 0, 0, 4)

    def test_rows_are_a_clip_then_its_images(self):
        plan = data().plan(0, 3)
        assert [draw.kind for draw in plan] == ["clip", "image", "image"] * 6
        assert all(draw.item.kind == ("video" if draw.kind == "clip" else "image") for draw in plan)


def digest_of_plans() -> str:
    names = [draw.name for step in range(5) for draw in data(variants=3).plan(1, step)]
    names += [draw.name for step in range(5) for draw in data(flip=0.5).plan(1, step)]
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


class TestRounds:
    @pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 17, 100, 1000])
    def test_each_round_visits_each_once_in_an_order_of_its_own(self, size):
        rounds = [[shuffled(r * size + i, size, "key") for i in range(size)] for r in range(3)]
        for number, visits in enumerate(rounds):
            assert sorted(place for place, _ in visits) == list(range(size))
            assert {r for _, r in visits} == {number}
        if size > 16:
            assert rounds[0] != rounds[1] and [p for p, _ in rounds[0]] != list(range(size))

    def test_orders_are_evenly_random(self):
        """Where the first of five goes: each place about equally often over many keys."""
        places = Counter(shuffled(0, 5, key)[0] for key in range(2000))
        assert min(places.values()) > 330 and max(places.values()) < 470  # 400 +- 4 sigma

    def test_clips_and_images_are_seen_equally_often(self):
        plans = [data().plan(0, step) for step in range(10)]
        seen = Counter(draw.item.key for plan in plans for draw in plan)
        assert set(seen[f"video{i}"] for i in range(10)) == {6}  # 60 rows, 10 videos
        assert set(seen[f"image{i}"] for i in range(10)) == {12}

    def test_buckets_come_with_their_probabilities(self):
        buckets = (Bucket(4, 32, 48, 6, 0.7), Bucket(1, 32, 48, 6, 0.2), Bucket(4, 32, 48, 1, 0.1))
        counts = Counter(pick_bucket(buckets, 0, step) for step in range(2000))
        for number, bucket in enumerate(buckets):
            assert counts[number] / 2000 == pytest.approx(bucket.probability, abs=0.045)
        several = data(buckets=buckets)
        assert {len(several.plan(0, step)) for step in range(50)} == {18, 3}


class TestClips:
    def test_strides_take_all_values_between_both_ends(self):
        draws = [draw for step in range(60) for draw in clips(data(stride=(3, 6)).plan(0, step))]
        strides = Counter(draw.stride for draw in draws)
        assert set(strides) == {3, 4, 5, 6} and min(strides.values()) > 60
        assert all(draw.fps == 24 / draw.stride for draw in draws)

    def test_clips_lie_inside_and_reach_both_ends(self):
        some = data(catalogue(frames=20), stride=(3, 10))
        draws = [draw for step in range(60) for draw in clips(some.plan(0, step))]
        last = [draw.start + (draw.count - 1) * draw.stride for draw in draws]
        assert min(draw.start for draw in draws) == 0 and max(last) == 19
        assert max(draw.stride for draw in draws) == 6  # 3 x 6 fit into 20 frames, 3 x 7 do not

    def test_fps_evens_out_mixed_rates(self):
        items = Catalogue((item(0, fps=24.0), item(1, fps=30.0), item(2, fps=60.0), item(3, fps=8.0)))
        draws = [draw for step in range(10) for draw in data(items, fps=8.0, images=0).plan(0, step)]
        seen = {draw.item.key: (draw.stride, draw.fps) for draw in draws}
        assert seen == {"video0": (3, 8.0), "video1": (4, 7.5), "video2": (8, 7.5), "video3": (1, 8.0)}

    def test_a_rate_that_cannot_be_had_is_named(self, caplog):
        items = Catalogue((item(0, fps=24.0), item(1, fps=5.0)))
        some = data(items, fps=8.0, images=0)
        assert [skip.key for skip in some.unused] == ["video1"]
        assert "video1 plays at 5 fps at best, fps = 8" in caplog.text

    @pytest.mark.parametrize(
        ("rate", "wanted", "stride"),
        [(60, 24, 3), (60, 8, 8), (30, 24, 1), (30, 8, 4), (24, 8, 3), (25, 10, 3), (50, 24, 2), (8, 8, 1), (5, 8, 1)],
    )
    def test_the_stride_that_plays_nearest(self, rate, wanted, stride):
        """60 at 24: every third plays at 20, every second at 30, which is farther."""
        assert nearest_stride(rate, wanted) == stride

    def test_of_all_strides_none_plays_nearer(self):
        rng = np.random.default_rng(0)
        for rate, wanted in zip(rng.uniform(1, 240, 500), rng.uniform(1, 60, 500), strict=True):
            plays = [rate / stride for stride in range(1, 300)]
            assert abs(rate / nearest_stride(rate, wanted) - wanted) == min(abs(fps - wanted) for fps in plays)

    def test_mixed_rates_without_fps_are_said_aloud(self, caplog):
        data(Catalogue((item(0, fps=24.0), item(1, fps=60.0))), images=0)
        assert "24 to 60 frames per second" in caplog.text and "set fps" in caplog.text

    def test_single_images_for_image_training(self):
        plan = data(video=False, images=0, buckets=(Bucket(1, 32, 32, 4),)).plan(0, 0)
        assert [(draw.kind, draw.item.kind, draw.count) for draw in plan] == [("image", "image", 1)] * 4


class TestCrops:
    @pytest.mark.parametrize("crop", ["cover", "native"])
    def test_boxes_lie_inside_and_keep_proportions(self, crop):
        rng = np.random.default_rng(0)
        for _ in range(60):
            width, height = (int(rng.integers(48, 300)), int(rng.integers(32, 300)))
            some = data(catalogue(3, 3, width=width, height=height), crop=crop)
            for draw in some.plan(0, int(rng.integers(1000))):
                left, top, wide, high = draw.box
                assert left >= 0 and top >= 0 and left + wide <= width + 1e-6 and top + high <= height + 1e-6
                assert wide / high == pytest.approx(48 / 32)
                if crop == "native":
                    assert (wide, high) == (48, 32)
                else:
                    assert wide == pytest.approx(width) or high == pytest.approx(height)

    def test_all_places_are_taken(self):
        draws = [d for step in range(60) for d in data(catalogue(width=52, height=33), crop="native").plan(0, step)]
        assert {d.box[:2] for d in draws} == {(x, y) for x in range(5) for y in range(2)}

    def test_too_small_is_named_or_enlarged(self, caplog):
        items = Catalogue((item(0), item(1, width=40), item(0, "image"), item(1, "image", height=31)))
        some = data(items)
        assert [(s.key, s.reason) for s in some.unused] == [
            ("video1", "is 40x64, smaller than 48x32, and enlarge is false"),
            ("image1", "is 96x31, smaller than 48x32, and enlarge is false"),
        ]
        assert "2 of 4 items are not used: video1 is 40x64" in caplog.text
        larger = data(items, enlarge=True)
        assert larger.unused == ()
        boxes = [draw.box[2:] for draw in larger.plan(0, 0) if draw.item.key == "video1"]
        assert boxes == [pytest.approx((40, 40 * 32 / 48))] * 3

    def test_flips(self):
        flips = [draw.flip for step in range(40) for draw in data(flip=0.3).plan(0, step)]
        assert np.mean(flips) == pytest.approx(0.3, abs=0.06)
        assert not any(draw.flip for draw in data().plan(0, 0))

    def test_image_clips(self):
        """Large images in random translation make their share of the clips; small ones none."""
        items = Catalogue((*catalogue(5, 5).items, *(item(10 + i, "image", width=50, height=34) for i in range(5))))
        some = data(items, image_clips=0.4, images=1, crop="native")
        rows = [draw for step in range(60) for draw in some.plan(0, step)[::2]]
        pans = [draw for draw in rows if draw.kind == "pan"]
        assert len(pans) / len(rows) == pytest.approx(0.4, abs=0.08)
        assert {draw.item.key for draw in pans} == {f"image{i}" for i in range(5)}
        for draw in pans:
            (left, top, wide, high), (x, y) = draw.box, draw.drift
            assert draw.count == 4 and (wide, high) == (48, 32)
            assert 0 <= left + x <= 96 - 48 and 0 <= top + y <= 64 - 32
            assert abs(x) <= 24 and abs(y) <= 16
        assert np.mean([abs(draw.drift[0]) > 4 for draw in pans]) > 0.5


class TestVariants:
    def test_draws_are_finite_and_all_are_seen(self):
        some = data(variants=3, flip=0.5)
        names = {draw.name for step in range(100) for draw in clips(some.plan(0, step))}
        per_item = Counter(name.split()[0] for name in names)
        assert set(per_item.values()) == {3} and len(per_item) == 10

    def test_they_do_not_depend_on_the_seed(self):
        def names(seed):
            return {draw.name for step in range(100) for draw in data(variants=2).plan(seed, step)}

        assert names(0) == names(1)

    def test_names_tell_everything_that_decides_pixels(self):
        one = data().plan(0, 0)[0]
        changed = [
            replace(one, start=one.start + 1), replace(one, stride=one.stride + 1), replace(one, count=3),
            replace(one, box=(1.5, *one.box[1:])), replace(one, drift=(0.25, 0.0)), replace(one, size=(32, 32)),
            replace(one, flip=not one.flip), replace(one, kind="pan"), replace(one, item=item(99)),
            replace(one, item=replace(one.item, locator={"source": "file", "n": "newer"})),
        ]  # fmt: skip
        assert len({draw.name for draw in (one, *changed)}) == len(changed) + 1
        assert replace(one, item=replace(one.item, caption="other")).name == one.name


class TestProblems:
    def test_all_of_the_settings_are_named_at_once(self):
        settings = DataSettings(
            catalogues=("x",), buckets=(Bucket(0, 30, 32, 0, 0.5), Bucket(2, 32, 32, 1, 0.2)), images=-1, stride=(5, 3),
            fps=0.0, crop="middle", image_clips=2.0, flip=-1.0, variants=-1, video=False,
        )  # fmt: skip
        with pytest.raises(DataError) as caught:
            TrainingData(settings, catalogue())
        for part in (
            "images: expected 0 or more, got -1", "variants:", "stride: expected two whole numbers", "fps:",
            "crop: expected one of cover, native, got 'middle'", "image_clips:", "flip:", "image_clips makes clips",
            "bucket 1: height: expected a multiple of 8, got 30", "bucket 1: frames:", "bucket 1: rows:",
            "bucket 2: frames is 2, but with video = false", "probabilities sum to 0.7; expected 1",
        ):  # fmt: skip
            assert part in str(caught.value)

    def test_empty_settings(self):
        problems = DataSettings((), ()).problems()
        assert len(problems) == 2 and "catalogues: expected at least one" in problems[0] and "buckets:" in problems[1]

    def test_defaults_are_in_order(self):
        assert DataSettings(("x",), (Bucket(16, 320, 512, 8),)).problems() == []

    def test_buckets_that_nothing_fills_are_named_at_once(self):
        big = (Bucket(40, 32, 32, 2, 0.5), Bucket(4, 256, 256, 2, 0.5))
        with pytest.raises(DataError) as caught:
            data(catalogue(images=0), buckets=big)
        text = str(caught.value)
        assert "bucket 1: none of 10 videos can be used; video0 has 60 frames, 40 at stride 3 take 118" in text
        assert "bucket 2: none of 10 videos can be used; video0 is 96x64, smaller than 256x256" in text
        assert text.count("needs images, but the catalogue has no images") == 2

    def test_images_that_nothing_asks_for_are_said_aloud(self, caplog):
        some = data(images=0)
        assert len(some.unused) == 10
        assert "image0 the settings ask for no images" in caplog.text and "and 7 more" in caplog.text

    def test_the_nano_model_s_data(self):
        """The settings under which shapes are drawn whole: every clip is the generator's own sixteen frames."""
        some = data(Catalogue.of(shapes(20, 20)), buckets=(Bucket(16, 64, 64, 8),), stride=(1, 1))
        assert some.unused == ()
        assert {(d.start, d.stride, d.box) for d in clips(some.plan(0, 0))} == {(0, 1, (0.0, 0.0, 64.0, 64.0))}
