from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import soundfile
import torch

from ira.errors import InputError
from ira.inference import speak_report
from ira.inference.faults import Fault
from ira.inference.pipeline import Pipeline, SpeakRow
from ira.inference.speak_report import SpeakReport, look
from ira.inference.spoken import Spoken

HOSTILE = "<script>alert(1)</script> \"'&amp; <!--MODEL--> \ud800 \0 \x1b[2J"


class Tags(HTMLParser):
    """Counts of tags, and every address that an attribute names."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]


@pytest.fixture(scope="module")
def pipeline(tiny_model_folder: Path) -> Pipeline:
    return Pipeline.from_folder(tiny_model_folder, "cpu")


@pytest.fixture(scope="module")
def spoken(pipeline: Pipeline) -> Spoken:
    return pipeline.speak("good day")


def page(pipeline: Pipeline, folder: Path, *sections: tuple[str, SpeakRow | None, Spoken | InputError]) -> str:
    report = SpeakReport(pipeline)
    for section in sections:
        report.add(*section)
    report.write(folder / "page.html")
    return (folder / "page.html").read_text(encoding="utf-8")


def test_the_page_tells_what_was_asked_for_what_came_of_it_and_how_long_it_took(
    pipeline: Pipeline, spoken: Spoken, tmp_path: Path
):
    written = page(pipeline, tmp_path, ("a.wav", SpeakRow("Good day", "a calm man", 41), spoken))
    for told in ("a calm man", "<td>41</td>", "good day", "real-time factor", "decode tokens", "nats", "<td>yes</td>"):
        assert told in written
    assert pipeline.parts.voice_encoder_hash()[:16] in written and pipeline.parts.codec.fingerprint() in written
    assert '"bad"' not in written


def test_the_page_needs_nothing_from_elsewhere(pipeline: Pipeline, spoken: Spoken, tmp_path: Path):
    tags = Tags(page(pipeline, tmp_path, ("a", SpeakRow("x"), spoken)))
    assert len(tags.addresses) >= 3 and all(address.startswith("data:") for address in tags.addresses)
    assert "link" not in tags.tags and "iframe" not in tags.tags


def test_the_sound_in_the_page_is_the_sound_that_was_made(pipeline: Pipeline, spoken: Spoken, tmp_path: Path):
    written = page(pipeline, tmp_path, ("a", SpeakRow("x"), spoken))
    found = re.search(r'src="data:audio/flac;base64,([^"]+)"', written)
    assert found is not None
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(found[1])), dtype="float32")
    assert rate == 24_000 and torch.allclose(torch.from_numpy(samples), spoken.waveform[0].clamp(-1, 1), atol=1e-4)


def test_hostile_words_stay_words(pipeline: Pipeline, spoken: Spoken, tmp_path: Path):
    plain = Tags(
        page(pipeline, tmp_path, ("a", SpeakRow("x", "y", language="en"), spoken), ("b", None, InputError("z")))
    )
    piece, said = spoken.pieces[0]
    bad = replace(said, faults=[Fault("loop", HOSTILE)], symbols=[HOSTILE] * len(said.symbols))
    worse = replace(spoken, text=HOSTILE, pieces=[(replace(piece, text=piece.text), bad)])
    row = SpeakRow(HOSTILE, HOSTILE, language=HOSTILE)
    written = page(pipeline, tmp_path, (HOSTILE, row, worse), (HOSTILE, None, InputError(HOSTILE)))
    tags = Tags(written)
    assert tags.tags.count("script") == plain.tags.count("script") and "alert(1)" in written
    assert "<script>alert" not in written and "\0" not in written and "\x1b" not in written
    assert written.count("<th>SpeechLM</th>") == 1  # a mark of the template in the text is text


def test_a_row_without_speech_has_its_reason_and_faults_are_listed(pipeline: Pipeline, spoken: Spoken, tmp_path: Path):
    piece, said = spoken.pieces[0]
    bad = replace(spoken, pieces=[(piece, replace(said, faults=[Fault("silence", "is silent for 2.0 s")]))])
    written = page(pipeline, tmp_path, ("a", SpeakRow("x"), bad), ("b", SpeakRow("y"), InputError("no sound came")))
    assert "it is silent for 2.0 s" in written and "no sound came" in written and written.count("<section>") == 2


def test_sounds_beyond_the_page_s_room_and_broken_ones_are_left_out_and_said_so(
    pipeline: Pipeline, spoken: Spoken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    broken = replace(spoken, waveform=torch.full((1, 100), float("nan")))
    assert "cannot be played" in page(pipeline, tmp_path, ("a", SpeakRow("x"), broken))
    monkeypatch.setattr(speak_report, "SOUND_BYTES", 1_000)
    written = page(pipeline, tmp_path, ("a", SpeakRow("x"), spoken))
    assert "<audio" not in written and "left out" in written


def test_the_attention_shown_is_a_share_of_every_text_token_for_every_frame(pipeline: Pipeline, spoken: Spoken):
    piece, said = spoken.pieces[0]
    attention = look(pipeline.parts.speech_lm, piece, said)
    assert attention is not None and attention.shape == (len(said.path), len(said.symbols))
    assert bool((attention >= 0).all()) and bool((attention.sum(-1) <= 1 + 1e-4).all())
    assert look(pipeline.parts.speech_lm, piece, replace(said, path=torch.zeros(0).long())) is None


def test_a_page_that_cannot_be_written_is_one_line(pipeline: Pipeline, tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        SpeakReport(pipeline).write(tmp_path / "file" / "page.html")
