"""Folders, lists, shards and shapes: everything found, captioned from where captions lie, or skipped by name."""

from __future__ import annotations

import io
import os
import tarfile

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import webdataset
from comfyui_lavie.datasets.catalogue import Catalogue, Item, Skipped
from comfyui_lavie.datasets.errors import DataError
from comfyui_lavie.datasets.sources import check_source, describe_missing, find_missing, probe, read_frames, scan
from comfyui_lavie.nano.source import shapes
from comfyui_lavie.tests.media import numbered, numbers, write_image, write_video


def found(path) -> dict[str, str]:
    """Captions by key of what a source names; a reason in brackets for what is skipped."""
    return {e.key: f"[{e.reason}]" if isinstance(e, Skipped) else e.caption for e in scan(path)}


class TestFolder:
    def test_captions_beside_files_and_in_captions_csv(self, tmp_path):
        root = tmp_path / "set"
        (root / "deep" / "er").mkdir(parents=True)
        write_video(root / "a.mp4", numbered(3))
        (root / "a.txt").write_text("\ufeff a  red\n car ", encoding="utf-8")
        write_image(root / "deep" / "b.PNG")
        (root / "deep" / "b.json").write_text('{"text": "from json", "score": 5}')
        write_image(root / "deep" / "er" / "c.jpg")
        write_image(root / "d.webp")
        (root / "captions.csv").write_text("path,caption\n./deep/er/c.jpg,from the list\na.mp4,not this\n")
        assert found(root) == {
            "set/a.mp4": "a red car", "set/d.webp": "",
            "set/deep/b.PNG": "from json", "set/deep/er/c.jpg": "from the list",
        }  # fmt: skip
        assert [entry.kind for entry in scan(root)] == ["video", "image", "image", "image"]

    def test_suffixes_count_in_any_case(self, tmp_path):
        """As cameras and Windows write them; what is left over is named."""
        root = tmp_path / "set"
        root.mkdir()
        for stem, suffix, captions in (("IMG_1", "JPG", "TXT"), ("b", "Png", "Json"), ("c", "jpeg", "txt")):
            write_image(root / "x.png").rename(root / f"{stem}.{suffix}")
            text = '{"caption": "of b"}' if captions == "Json" else f"of {stem}"
            (root / f"{stem}.{captions}").write_text(text)
        (root / "c.TXT").write_text("a second one")
        (root / "IMG_2.TXT").write_text("of nothing")
        write_image(root / "d.png")
        (root / "Captions.CSV").write_text("Path,CAPTION\nd.png,of d\n")
        seen = found(root)
        used = {name: seen.pop(f"set/{name}") for name in ("IMG_1.JPG", "b.Png", "c.jpeg", "d.png")}
        assert used == {"IMG_1.JPG": "of IMG_1", "b.Png": "of b", "c.jpeg": "a second one", "d.png": "of d"}
        assert seen.keys() == {"set/c.txt", "set/IMG_2.TXT"}
        assert "a second caption file of this name" in seen["set/c.txt"]

    @pytest.mark.parametrize(
        ("text", "captions"),
        [
            ('["a", "b"]', ["a", "b"]), ('{"captions": ["a", " b "]}', ["a", "b"]), ('{"text": ["a"]}', ["a"]),
            ('{"prompts": "a"}', ["a"]), ('[{"caption": "a"}, {"caption": "b"}, {"caption": "a"}]', ["a", "b"]),
            ('"a"', ["a"]), ('{"caption": "", "text": "a"}', ["a"]), ('{"score": 5}', [""]), ("[1, 2, null]", [""]),
        ],
    )  # fmt: skip
    def test_shapes_of_caption_files(self, tmp_path, text, captions):
        """A file with several captions is as many items, told apart by their keys."""
        write_image(tmp_path / "a.png")
        (tmp_path / "a.json").write_text(text)
        entries = list(scan(tmp_path))
        assert [entry.caption for entry in entries] == captions
        catalogue = Catalogue.of(map(probe, entries))
        assert len({item.key for item in catalogue.items}) == len(captions)

    def test_a_list_may_name_a_file_several_times(self, tmp_path):
        write_image(tmp_path / "a.png")
        (tmp_path / "captions.csv").write_text("path,caption\na.png,one\na.png,two\n")
        assert [entry.caption for entry in scan(tmp_path)] == ["one", "two"]

    @pytest.mark.parametrize("content", [b"{", b"[" * 100000, b"\xff\xfe", b'{"caption": "\xff"}'])
    def test_damaged_caption_files(self, tmp_path, content):
        write_image(tmp_path / "a.png")
        (tmp_path / "a.json").write_bytes(content)
        (skipped,) = scan(tmp_path)
        assert skipped.reason.startswith("its caption file cannot be read: .json")

    def test_nothing_is_lost_in_silence(self, tmp_path):
        root = tmp_path / "set"
        root.mkdir()
        (root / "notes.pdf").write_bytes(b"x")
        (root / "sound.mp3").write_bytes(b"x")
        (root / "lonely.txt").write_text("no picture")
        (root / ".hidden").write_text("x")
        (root / ".thumbnails").mkdir()
        write_image(root / ".thumbnails" / "a.png")
        write_image(root / "a.png")
        (root / "a.json").write_text("{broken")
        (root / "captions.csv").write_text("path,caption\ngone.png,a caption\n")
        (tmp_path / "elsewhere").mkdir()
        os.symlink(tmp_path / "elsewhere", root / "link")
        seen = found(root)
        assert seen.keys() == {f"set/{n}" for n in (
            "notes.pdf", "sound.mp3", "lonely.txt", "a.png", "captions.csv", "link")}  # fmt: skip
        assert "not a kind of video or image that is read (.mp3)" in seen["set/sound.mp3"]
        assert "a caption without a video or image" in seen["set/lonely.txt"]
        assert "caption file cannot be read: .json" in seen["set/a.png"]
        assert "listed but not there: gone.png" in seen["set/captions.csv"]
        assert "name that folder as a source" in seen["set/link"]

    def test_the_order_is_that_of_paths(self, tmp_path):
        for name in ("b.png", "a.png", "c.png"):
            write_image(tmp_path / name, 8, 8)
        assert [entry.key.split("/")[1] for entry in scan(tmp_path)] == ["a.png", "b.png", "c.png"]


class TestLists:
    ROWS = [
        {"path": "v/a.mp4", "caption": "whole", "start": None, "end": None},
        {"path": "v/a.mp4", "caption": "part", "start": 0.5, "end": 1.5},
        {"path": "", "caption": "nothing", "start": None, "end": None},
        {"path": "gone.mp4", "caption": "gone", "start": None, "end": None},
        {"path": "https://example.org/a.mp4", "caption": "far", "start": None, "end": None},
        {"path": "v/a.mp4", "caption": "odd", "start": 2.0, "end": 1.0},
        {"path": "v/a.xyz", "caption": "kind", "start": None, "end": None},
    ]

    @pytest.fixture(params=["csv", "tsv", "parquet"])
    def listed(self, request, tmp_path):
        (tmp_path / "v").mkdir()
        write_video(tmp_path / "v" / "a.mp4", numbered(20), fps=10)
        path = tmp_path / f"list.{request.param}"
        if request.param == "parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(self.ROWS), path)
        else:
            mark = "," if request.param == "csv" else "\t"
            lines = [self.ROWS[0].keys(), *(row.values() for row in self.ROWS)]
            path.write_text("\n".join(mark.join("" if v is None else str(v) for v in line) for line in lines))
        return path

    def test_rows_are_entries_or_skipped(self, listed):
        entries = list(scan(listed))
        assert len(entries) == len(self.ROWS)
        items = [probe(entry) for entry in entries if not isinstance(entry, Skipped)]
        assert [(item.caption, item.frames) for item in items] == [("whole", 20), ("part", 10)]
        assert items[0].key != items[1].key
        assert numbers(read_frames(items[1], [0, 9])) == [5, 14]
        reasons = [entry.reason for entry in entries if isinstance(entry, Skipped)]
        for reason, part in zip(reasons, ("no path", "cannot be read", "download it", "no part", ".xyz"), strict=True):
            assert part in reason

    def test_other_names_of_columns(self, tmp_path):
        write_image(tmp_path / "a.png")
        (tmp_path / "metadata.csv").write_text("file_name,score,text\na.png,3,as other tools write it\n")
        assert list(found(tmp_path / "metadata.csv").values()) == ["as other tools write it"]

    def test_a_time_that_is_no_number(self, tmp_path):
        write_video(tmp_path / "a.mp4", numbered(3))
        (tmp_path / "list.csv").write_text("path,caption,start\na.mp4,x,00:10\n")
        assert list(found(tmp_path / "list.csv").values()) == ["[not a time in seconds: start is '00:10']"]

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("a.csv", b"name,text\nx,y\n", "needs a column of path, .*; it has name, text"),
            ("a.csv", b"", "no rows"),
            ("a.csv", b"path,caption\n\xff\xfe,x\n", "cannot be read"),
            ("a.parquet", b"PAR1 not parquet", "cannot be read"),
            ("a.zip", b"x", r"expected a folder, a list \(.csv, .tsv, .parquet\) or a shard"),
        ],
    )
    def test_sources_that_cannot_be_read_at_all(self, tmp_path, name, content, message):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=message):
            check_source(tmp_path / name)

    def test_a_source_that_is_not_there(self, tmp_path):
        with pytest.raises(DataError, match="gone does not exist"):
            scan(tmp_path / "gone")


class TestShards:
    @pytest.fixture
    def shard(self, tmp_path):
        """As the webdataset package itself writes them."""
        video = write_video(tmp_path / "a.mp4", numbered(12)).read_bytes()
        image = write_image(tmp_path / "a.png", seed=3).read_bytes()
        path = tmp_path / "shards" / "000.tar"
        path.parent.mkdir()
        with webdataset.TarWriter(str(path)) as writer:
            writer.write({"__key__": "one", "mp4": video, "txt": "a video"})
            writer.write({"__key__": "two", "png": image, "json": {"caption": "an image"}})
            writer.write({"__key__": "deep/three", "png": image, "mp4": video, "txt": "both"})
            writer.write({"__key__": "four", "txt": "nothing to see"})
        return path

    def test_samples_read_in_place(self, shard, tmp_path):
        entries = list(scan(shard))
        assert {e.key: e.caption for e in entries if not isinstance(e, Skipped)} == {
            "000.tar/one.mp4": "a video", "000.tar/two.png": "an image",
            "000.tar/deep/three.png": "both", "000.tar/deep/three.mp4": "both",
        }  # fmt: skip
        (skipped,) = [e for e in entries if isinstance(e, Skipped)]
        assert skipped == Skipped("000.tar/four", "a sample without a video or image (only .txt)")
        items = {item.key: item for item in map(probe, (e for e in entries if not isinstance(e, Skipped)))}
        assert numbers(read_frames(items["000.tar/deep/three.mp4"], [2, 11])) == [2, 11]
        pixels = read_frames(items["000.tar/two.png"], [0])[0]
        assert np.array_equal(pixels, np.random.default_rng(3).integers(0, 256, (32, 48, 3), np.uint8))

    @staticmethod
    def captions(path, *members: tuple[str, str]) -> dict[str, str]:
        """What a shard of these members (name, content) gives; images are one and the same."""
        image = write_image(path.parent / "any.png").read_bytes()
        with tarfile.open(path, "w") as shard:
            for name, text in members:
                content = image if name.endswith("png") else text.encode()
                about = tarfile.TarInfo(name)
                about.size = len(content)
                shard.addfile(about, io.BytesIO(content))
        return {key.removeprefix("a.tar/"): value for key, value in found(path).items()}

    def test_each_file_has_the_caption_of_its_own_stem(self, tmp_path):
        names = [f"shot.{i:04}" for i in range(4)]
        members = [(f"{name}.{suffix}", f"of {name}") for name in names for suffix in ("png", "txt")]
        seen = self.captions(tmp_path / "a.tar", *members)
        assert seen == {f"{name}.png": f"of {name}" for name in names}

    def test_else_that_of_the_sample(self, tmp_path):
        members = [("a.left.png", ""), ("a.right.png", ""), ("a.right.TXT", "the right one"), ("a.txt", "both")]
        seen = self.captions(tmp_path / "a.tar", *members)
        assert seen == {"a.left.png": "both", "a.right.png": "the right one"}

    def test_else_the_only_one_that_is_free(self, tmp_path):
        members = [("a.png", ""), ("a.en.txt", "in English"), ("a.meta.json", '{"score": 5}')]
        assert self.captions(tmp_path / "a.tar", *members) == {"a.png": "in English"}

    def test_several_that_could_be_meant(self, tmp_path):
        members = [("a.png", ""), ("a.en.txt", "in English"), ("a.fr.json", '{"caption": "en français"}')]
        seen = self.captions(tmp_path / "a.tar", *members)
        assert seen == {"a.png": "[several captions in its sample: a.en, a.fr; name one of them as the file is named]"}

    def test_another_file_s_caption_is_not_taken(self, tmp_path):
        members = [(f"{name}.png", "") for name in ("a.1", "a.2", "b.1")]
        members += [(f"{name}.txt", "one" if name != "b.2" else "two") for name in ("a.1", "b.1", "b.2")]
        seen, left = self.captions(tmp_path / "a.tar", *members), "[a caption without a video or image of its name]"
        assert seen == {"a.1.png": "one", "a.2.png": "", "b.1.png": "one", "b.2.txt": left}

    def test_shards_inside_a_folder(self, shard):
        assert "shards/000.tar/one.mp4" in found(shard.parent)

    def test_a_shard_cut_short_keeps_what_comes_before(self, shard):
        content = shard.read_bytes()
        with tarfile.open(shard) as tar:
            last = tar.getmember("deep/three.png")
        shard.write_bytes(content[: last.offset_data + 10])
        entries = list(scan(shard))
        readable = [probe(e) for e in entries if not isinstance(e, Skipped) and e.caption]
        assert [item.key for item in readable if isinstance(item, Item)] == ["000.tar/one.mp4", "000.tar/two.png"]
        said = [e.reason for e in [*entries, *map(probe, (e for e in entries if not isinstance(e, Skipped)))]
                if isinstance(e, Skipped)]  # fmt: skip
        assert any("damaged" in reason for reason in said) and any("ends in the middle" in reason for reason in said)

    @pytest.mark.parametrize("content", [b"\x1f\x8b" + bytes(600), b"not a tar file" * 100], ids=["gzip", "text"])
    def test_not_a_tar_file(self, tmp_path, content):
        (tmp_path / "a.tar").write_bytes(content)
        assert "not an uncompressed tar file" in found(tmp_path / "a.tar")["a.tar"]


class TestReading:
    def test_a_changed_file_is_refused(self, tmp_path):
        """The catalogue says what it was; other pixels under its name would go unnoticed."""
        path = write_image(tmp_path / "a.png")
        (tmp_path / "a.txt").write_text("x")
        (item,) = map(probe, scan(tmp_path))
        write_image(path, 50, 40)
        with pytest.raises(DataError, match=r"a\.png: its content has changed.* prepare"):
            read_frames(item, [0])
        path.unlink()
        with pytest.raises(DataError, match=r"a\.png: the file cannot be read \(No such file"):
            read_frames(item, [0])

    def test_files_are_checked_together_without_opening_them(self, tmp_path):
        for name in "abcd":
            write_image(tmp_path / f"{name}.png")
            (tmp_path / f"{name}.txt").write_text("x")
        items = [probe(entry) for entry in scan(tmp_path)]
        assert find_missing([*items, *shapes(videos=1, images=0)]) == ([], 4)
        (tmp_path / "b.png").unlink()
        write_image(tmp_path / "d.png", 50, 40)
        missing, count = find_missing(items)
        assert [path[-5:] for path in missing] == ["b.png", "d.png"]
        assert "2 of 4 files are gone or changed" in describe_missing(missing, count)

    def test_probing_a_bad_file_gives_its_reason(self, tmp_path):
        (tmp_path / "a.mp4").write_bytes(b"not a video")
        (tmp_path / "a.txt").write_text("x")
        (skipped,) = map(probe, scan(tmp_path))
        assert isinstance(skipped, Skipped) and "not a readable video" in skipped.reason
