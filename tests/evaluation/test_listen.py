"""The listening suite with models whose answers are known, and with the tiny one."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ira.data.manifest import Row, read_manifest
from ira.data.tasks import Task
from ira.evaluation import listen, metrics
from ira.evaluation.clips import choose
from ira.evaluation.listen import Asked, Clip, gap_share, measure_listen, other_clips, pose
from ira.inference.pipeline import Pipeline
from ira.models.audio_llm import AUDIO, PromptItem

Answer = Callable[[str, int | None], str]


@pytest.fixture(scope="module")
def pipeline(tiny_model_folder: Path) -> Pipeline:
    return Pipeline.from_folder(tiny_model_folder, "cpu")


@pytest.fixture(autouse=True)
def quick_recogniser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "open_recogniser", lambda: None)
    monkeypatch.setattr(listen, "recognise", lambda *_: "heard by a machine")


def rows_of(manifest: Path) -> list[Row]:
    return [row for row in read_manifest(manifest)[0] if row.text != "five"]


def knowing(monkeypatch: pytest.MonkeyPatch, answer: Answer) -> Any:
    """A pipeline whose clips are their numbers, and whose LLM gives `answer(prompt, number of the clip heard)`."""
    count = iter(range(1000))

    def generate(items: Sequence[PromptItem], limit: int) -> list[str]:
        return [answer(item.messages[0]["content"], int(item.audio[0]) if item.audio else None) for item in items]

    tokenizer = lambda text, **_: SimpleNamespace(input_ids=text.split())  # noqa: E731
    llm = SimpleNamespace(tokenizer=tokenizer, model=None, eos_ids=(2,))
    monkeypatch.setattr(listen, "log_chance", lambda *_: -1.0)
    audio_llm = SimpleNamespace(generate=generate, llm=llm)
    parts = SimpleNamespace(audio_llm=audio_llm)
    return SimpleNamespace(parts=parts, hear=lambda _: torch.tensor(next(count)))


def clip(text: str, number: int = 0, recognised: str | None = None, **extra: object) -> Clip:
    row = Row(Path("a.wav"), text, "", None, "", "en", "", "", "", None, "", number, Path("a.json"), dict(extra))
    return Clip(row, torch.tensor(number), recognised)


def test_one_that_hears_all_closes_the_gap_and_knows_men_from_women(manifest: Path, monkeypatch: pytest.MonkeyPatch):
    words, who = ["one", "two", "three", "four"], ["a man", "a man", "a woman", "a woman"]

    def answer(prompt: str, heard: int | None) -> str:
        if prompt.startswith("Is a man"):
            return "a man" if heard is None else who[heard]
        return prompt.split()[-1] if heard is None else words[heard]

    measured, found = measure_listen(knowing(monkeypatch, answer), rows_of(manifest), lambda _: None)
    figures = found.figures
    assert measured == 4 and figures["gap_closed"] == 1.0
    wanted = {"text": 1.0, "cascade": 0.0, "audio": 1.0, "none": 0.0, "shuffled": 0.0}
    assert {name: figures[f"transcription_{name}"] for name in wanted} == wanted
    assert (figures["gender_audio"], figures["gender_none"], figures["gender_text"]) == (1.0, 0.5, 0.5)
    groups = {group["task"]: group for group in found.groups}
    assert list(groups) == ["transcription", "gender", "language"]
    assert groups["transcription"]["gap_closed"] == (1.0, 1.0, 1.0) and groups["gender"]["gap_closed"] is None
    mean, low, high = groups["gender"]["none"]
    assert low < mean == 0.5 < high


def test_every_answer_is_told(manifest: Path, monkeypatch: pytest.MonkeyPatch):
    pipeline = knowing(monkeypatch, lambda prompt, heard: f"{prompt}/{heard}")
    _, found = measure_listen(pipeline, rows_of(manifest), lambda _: None)
    assert len(found.sentences) == 4 * 3
    first = found.sentences[0]
    assert (first["row"], first["task"], first["wanted"], first["voice"]) == (0, "transcription", "one", "a")
    assert first["said_text"] == "Repeat the following word for word: one/None"
    assert first["said_cascade"] == "Repeat the following word for word: heard by a machine/None"
    assert first["said_audio"] == f"Repeat the following word for word: {AUDIO}/0"
    assert first["said_none"] == "Repeat the following word for word:/None"
    assert first["said_shuffled"].startswith(f"Repeat the following word for word: {AUDIO}/")
    assert not first["said_shuffled"].endswith("/0")


def test_nothing_that_is_known_leaks_into_what_the_ears_are_asked():
    clips = [clip("What is red?", 0, "wot", answer="blood", gender="male"), clip("Z A N E", 1, f"zed {AUDIO}", age=30)]
    for one in pose(clips):
        ears = {name: one.items[name] for name in ("audio", "none", "shuffled") if name in one.items}
        for name, item in ears.items():
            assert item.messages[0]["content"] == one.task.prompt + ("" if name == "none" else f" {AUDIO}")
            heard = {"audio": [one.clip], "none": [], "shuffled": [1 - one.clip]}
            assert [int(sound) for sound in item.audio] == heard[name]
        for known in (clips[one.clip].text, "blood", "wot", "zed"):
            assert known not in one.task.prompt
        assert one.items["text"].audio == one.items["cascade"].audio == []
        assert AUDIO not in one.items["cascade"].messages[0]["content"]


def test_an_order_without_a_transcript_is_read_from_its_answer_or_not_at_all():
    told, silent = (
        pose([clip("", 0, slots={"size": "small"}, answer="A small one.")])[0],
        pose([clip("", 0, slots={"size": "small"})])[0],
    )
    assert told.items["text"].messages[0]["content"].endswith(" A small one.")
    assert set(silent.items) == {"audio", "none"}


def test_the_other_clip_says_something_else():
    texts = ["a", "a", "b", "b", "c", "c"]
    others = other_clips(texts)
    assert all(other is not None and texts[i] != texts[other] for i, other in enumerate(others))
    assert others == other_clips(texts)
    assert other_clips(["a"]) == [None] and other_clips(["a", "a"]) == [1, 0]


def asked(number: int, name: str = "question", **scores: float) -> Asked:
    return Asked(number, Task(name, "", ""), {}, {}, scores)


def test_the_share_of_the_gap_by_hand():
    some = [asked(0, audio=1, none=0, text=1), asked(1, audio=0, none=0, text=1), asked(2, audio=1)]
    share = gap_share(some)
    assert share is not None and share[0] == 0.5 and share[1:] == (0.0, 1.0)
    assert gap_share([asked(0, audio=1, none=0.5, text=0.54)]) is None
    assert gap_share([asked(0, audio=1, text=1)]) is None


def test_the_slots_of_one_order_are_no_independent_draws():
    scores = [1.0] * 5 + [0.0] * 5
    apart = metrics.mean_interval(scores, list(range(10)))
    together = metrics.mean_interval(scores, [0] * 5 + [1] * 5)
    assert apart and together and together == (0.5, 0.0, 1.0) and 0 < apart[1] < 0.5 < apart[2] < 1
    assert metrics.mean_interval([], []) is None


def test_both_clips_of_a_text_must_be_known():
    clips = [clip("same"), clip("same"), clip("other"), clip("other"), clip("alone")]
    who = ["a man", "a woman", "a man", "a woman", "a man"]
    points = [1, 1, 1, 0, 0]
    some = [Asked(i, Task("gender", "", who[i], ("a man", "a woman")), {}, {}, {"audio": points[i]}) for i in range(5)]
    assert listen.same_words(some, clips) == 0.5
    assert listen.same_words(some[:1], clips) is None


def test_the_llm_reads_text_as_it_came_and_hears_with_what_it_learned(manifest: Path, monkeypatch: pytest.MonkeyPatch):
    plain: list[bool] = [False]

    @contextmanager
    def off(_: object) -> Iterator[None]:
        plain[0] = True
        yield
        plain[0] = False

    monkeypatch.setattr(listen, "lora_off", off)
    pipeline = knowing(monkeypatch, lambda *_: "plain" if plain[0] else "learned")
    sentences = measure_listen(pipeline, rows_of(manifest), lambda _: None)[1].sentences
    said = {name: {one[f"said_{name}"] for one in sentences} for name in listen.CONDITIONS}
    assert said["text"] == said["cascade"] == {"plain"}
    assert said["audio"] == said["none"] == said["shuffled"] == {"learned"}


def test_one_clip_at_a_time_is_answered_as_eight_are(
    pipeline: Pipeline, manifest: Path, monkeypatch: pytest.MonkeyPatch
):
    together = measure_listen(pipeline, rows_of(manifest)[1:3], lambda _: None)[1].sentences
    monkeypatch.setattr(listen, "HEARD_TOGETHER", 1)
    alone = measure_listen(pipeline, rows_of(manifest)[1:3], lambda _: None)[1].sentences
    assert alone == together


def test_a_single_clip_has_no_other_sound(pipeline: Pipeline, manifest: Path):
    measured, found = measure_listen(pipeline, choose("listen", [str(manifest)], 1).rows, lambda _: None)
    assert measured == 1 and found.figures["logprob_shuffled"] is None is found.figures["transcription_shuffled"]
    assert found.figures["logprob_audio"] is not None


def test_without_a_recogniser_there_is_no_cascade_and_one_warning(
    manifest: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    _, found = measure_listen(knowing(monkeypatch, lambda *_: ""), rows_of(manifest), lambda _: None)
    assert found.figures["transcription_cascade"] is None is found.sentences[0]["recognised"]
    assert capsys.readouterr().err.count("pocketsphinx") == 1


def test_the_chance_of_a_transcript_is_that_of_its_tokens(pipeline: Pipeline):
    """A model that is certain of nothing gives every token the same chance."""
    head = pipeline.parts.audio_llm.language.get_output_embeddings()
    kept = head.weight.detach().clone()
    try:
        head.weight.data.zero_()
        with torch.no_grad():
            chance = listen.log_chance(pipeline, PromptItem([{"role": "user", "content": "Repeat: one"}]), "one")
    finally:
        head.weight.data.copy_(kept)
    assert chance == pytest.approx(-torch.tensor(float(len(head.weight))).log().item(), abs=1e-4)


def test_rare_tasks_and_pairs_have_their_share_of_the_clips(manifest: Path, tmp_path: Path):
    sound = (manifest.parent / "0.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(sound)
    rows: list[dict] = [{"text": f"sentence {'x' * i}"} for i in range(40)]
    rows[33] |= {"text": "Z A N E"}
    rows[5] |= {"text": "the same", "gender": "male"}
    rows[29] |= {"text": "the same", "gender": "female"}
    for i in range(10, 20):
        rows[i]["gender"] = "male"
    (tmp_path / "test.json").write_text(json.dumps([{"audio_file": "a.wav", **row} for row in rows]))
    chosen = [row.number for row in choose("listen", [str(tmp_path / "test.json")], 10).rows]
    assert len(chosen) == 10 and {5, 29, 33} < set(chosen) and chosen == sorted(chosen)
    assert max(chosen) > 33 and min(chosen) < 5
