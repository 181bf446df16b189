"""Prompt sets: what is shipped, files of one's own, what cannot be read; jobs, seeds and names."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from comfyui_lavie.evaluation.errors import EvaluationError
from comfyui_lavie.evaluation.jobs import (
    Job,
    check_vbench_names,
    content_id,
    ignores_case,
    jobs_of,
    name_by_content,
    name_for_vbench,
)
from comfyui_lavie.evaluation.plan import plan, seconds_per_clip
from comfyui_lavie.evaluation.prompts import Prompt, PromptSet, load_prompts

VBENCH_SIZES = {  # as VBench publishes them
    "subject_consistency": 72, "background_consistency": 86, "temporal_flickering": 75, "motion_smoothness": 72,
    "dynamic_degree": 72, "aesthetic_quality": 93, "imaging_quality": 93, "object_class": 79, "multiple_objects": 82,
    "human_action": 100, "color": 85, "spatial_relationship": 84, "scene": 86, "appearance_style": 90,
    "temporal_style": 100, "overall_consistency": 93,
}  # fmt: skip


def test_vbench_is_whole():
    prompts = load_prompts("vbench")
    assert len(prompts.prompts) == 946 and len(prompts.distinct().prompts) == 944
    assert Counter(tag for prompt in prompts.prompts for tag in prompt.tags) == VBENCH_SIZES
    (joined,) = (p for p in prompts.distinct().prompts if p.text == "The bund Shanghai, oil painting")
    assert set(joined.tags) == {"appearance_style", "overall_consistency", "aesthetic_quality", "imaging_quality"}
    assert len(prompts.having(["color", "scene"]).prompts) == 85 + 86


def test_vbench_names_and_their_traps(tmp_path):
    jobs = jobs_of(load_prompts("vbench"), 5, samples_of={"temporal_flickering": 25})
    assert len(jobs) == 944 * 5 + 75 * 20
    names = [name_for_vbench(job, "") for job in jobs]
    assert len(set(names)) == len(names) and max(len(name.encode()) for name in names) == 210 + len("-0.mp4")
    assert "In a still frame, a stop sign-24.mp4" in names
    assert not ignores_case(tmp_path), "these tests run where case counts"
    check_vbench_names(jobs, tmp_path)
    with pytest.raises(EvaluationError, match="file name: this/that"):
        check_vbench_names([Job(Prompt("this/that"), 0, 0)], tmp_path)
    with pytest.raises(EvaluationError, match="longer than 254 bytes"):
        check_vbench_names([Job(Prompt("é" * 125), 0, 0)], tmp_path)


def test_folder_that_ignores_case_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("comfyui_lavie.evaluation.jobs.ignores_case", lambda folder: True)
    jobs = jobs_of(load_prompts("vbench"), 1)
    with pytest.raises(EvaluationError, match="A fantasy landscape.*a fantasy landscape"):
        check_vbench_names(jobs, tmp_path)
    check_vbench_names([job for job in jobs if job.prompt.text != "a fantasy landscape"], tmp_path)


def test_ucf101_has_its_classes():
    prompts = load_prompts("ucf101").prompts
    assert len(prompts) == len(set(prompts)) == 101
    assert prompts[0] == Prompt("apply eye makeup", ("ApplyEyeMakeup",)) and prompts[-1] == Prompt("yo yo", ("YoYo",))
    assert all(prompt.text.replace(" ", "") == prompt.tags[0].lower() for prompt in prompts)


def test_msrvtt_takes_the_first_caption_of_each_test_video(tmp_path):
    videos = [("video1", "train"), ("video2", "test"), ("video3", "test")]
    sentences = [(5, "video2", "later"), (3, "video2", "first"), (1, "video1", "other"), (9, "video3", "only")]
    file = tmp_path / "test_videodatainfo.json"
    content = {
        "videos": [{"video_id": video, "split": split} for video, split in videos],
        "sentences": [{"sen_id": number, "video_id": video, "caption": text} for number, video, text in sentences],
    }
    file.write_text(json.dumps(content))
    assert load_prompts(f"msrvtt:{file}").prompts == (Prompt("first", ("video2",)), Prompt("only", ("video3",)))
    content["sentences"].pop()
    file.write_text(json.dumps(content))
    with pytest.raises(EvaluationError, match="MSR-VTT.*video3"):
        load_prompts(f"msrvtt:{file}")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("mine.txt", "a cat\n\n  a dog \n"),
        ("mine.json", '["a cat", {"prompt": "a dog"}]'),
        ("mine.jsonl", '{"caption": "a cat"}\n"a dog"\n'),
        ("mine.csv", 'prompt,other\na cat,1\n"a dog",2\n'),
        ("mine.csv", "\ufeffprompt\na cat\na dog\n"),
    ],
)
def test_own_files(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert load_prompts(str(tmp_path / name)) == PromptSet("mine", (Prompt("a cat"), Prompt("a dog")))


def test_tags_of_own_files(tmp_path):
    (tmp_path / "a.csv").write_text("prompt,tags\na cat,x y\n")
    (tmp_path / "a.json").write_text('[{"prompt": "a cat", "tags": ["x", "y"]}]')
    for name in ("a.csv", "a.json"):
        assert load_prompts(str(tmp_path / name)).prompts == (Prompt("a cat", ("x", "y")),)


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("a.txt", b"\n\n", ("holds no prompts",)),
        ("a.txt", b"\xff\xfe\x00", ("UTF-8",)),
        ("a.json", b"{", ("not JSON",)),
        ("a.json", b'{"a": 1}', ("expected a list", "dict")),
        ("a.json", b'["a", 3]', ("entry 2", "expected a text", "3")),
        ("a.jsonl", b'"a"\n\n{"prompt": ""}', ("line 3", "expected a text")),
        ("a.csv", b"words\nhello\n", ("row 1", "prompt")),
        ("a.json", b'[{"prompt": "a", "tags": 3}]', ("entry 1", "tags", "3")),
        ("a.docx", b"", ("expected a prompt set", "vbench", ".txt", "a.docx")),
    ],
)
def test_files_that_are_no_prompts(tmp_path, name, content, parts):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(EvaluationError) as error:
        load_prompts(str(tmp_path / name))
    assert all(part in str(error.value) for part in parts), error.value


def test_missing_file_and_unknown_tag(tmp_path):
    with pytest.raises(EvaluationError, match="cannot be read"):
        load_prompts(str(tmp_path / "none.txt"))
    with pytest.raises(EvaluationError, match="tag colour; it has .*color"):
        load_prompts("vbench").having(["colour"])
    with pytest.raises(EvaluationError, match="tag colour"):
        jobs_of(load_prompts("vbench"), 5, samples_of={"colour": 25})


def test_seeds_stay_when_samples_or_prompts_are_added():
    prompts = PromptSet("s", (Prompt("a"), Prompt("b"), Prompt("a", ("t",))))
    few = {(job.prompt.text, job.index): job.seed for job in jobs_of(prompts, 2, 7)}
    assert few == {("a", 0): 7, ("b", 0): 1007, ("a", 1): 8, ("b", 1): 1008}
    more = PromptSet("s", (*prompts.prompts, Prompt("c")))
    many = {(job.prompt.text, job.index): job.seed for job in jobs_of(more, 3, 7)}
    assert few.items() < many.items() and len(set(many.values())) == 9
    with pytest.raises(EvaluationError, match="1 to 1000"):
        jobs_of(prompts, 1001)


def test_content_id_changes_with_whatever_changes_the_clip():
    job, weights = Job(Prompt("a"), 0, 1), {"m": "1"}
    others = [
        (Job(Prompt("b"), 0, 1), "d", weights), (Job(Prompt("a"), 0, 2), "d", weights), (job, "e", weights),
        (job, "d", {"m": "2"}),
    ]  # fmt: skip
    assert len({content_id(*other) for other in others} | {content_id(job, "d", weights)}) == 5
    assert content_id(Job(Prompt("a", ("tag",)), 3, 1), "d", weights) == content_id(job, "d", weights)


@pytest.mark.parametrize(
    ("text", "name"), [("A red fish!", "a_red_fish-"), ("鱼", "clip-"), ("x" * 300, "x" * 60 + "-")]
)
def test_names_by_content(text, name):
    assert name_by_content("mkv")(Job(Prompt(text), 0, 0), "0123456789abcdef") == f"{name}0123456789ab.mkv"


def test_plan_of_vbench_on_many_gpus():
    """4,720 distinct clips of 18 s are 23.6 GPU hours; on 64 GPUs the last ones work at 74 clips each."""
    text = plan(944, 4720, 0, 18.0, "measured")
    assert "23.6 GPU hours" in text and "| 1 | 23.60 |" in text and "| 64 | 0.37 |" in text
    assert "1180 left" in plan(944, 4720, 3540, 18.0, "measured")
    with pytest.raises(EvaluationError, match="--seconds"):
        seconds_per_clip([], None)
