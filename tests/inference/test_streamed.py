"""Speech in parts is the speech of one attempt, sample for sample, and begins early."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import pytest
import soundfile
import torch

from ira.cli.live import write_live
from ira.errors import InputError
from ira.inference import speaking, streamed
from ira.inference.pipeline import Pipeline
from ira.models.decode import Decoding

LONG = "The first sentence of a long text is here to be spoken aloud. " * 4


@pytest.fixture(scope="module")
def pipeline(tiny_model_folder: Path) -> Pipeline:
    return Pipeline.from_folder(tiny_model_folder, "cpu")


@pytest.mark.parametrize(("first", "most"), [(1, 1), (4, 32), (50, 50)])
def test_the_parts_joined_are_what_one_attempt_says(pipeline, monkeypatch, first, most):
    monkeypatch.setattr(speaking, "ATTEMPTS", 1)
    monkeypatch.setattr(streamed, "FIRST_FRAMES", first)
    monkeypatch.setattr(streamed, "MOST_FRAMES", most)
    ((_, whole),) = pipeline.speak(
        "hello there, how are you?", seed=2
    ).pieces  # before its loudest peak is brought down
    parts = list(pipeline.speak_stream("hello there, how are you?", seed=2))
    assert len(parts) > 1 and all(part.shape[-1] for part in parts)
    torch.testing.assert_close(torch.cat(parts, dim=-1), whole.waveform, atol=1e-5, rtol=1e-4)


def test_the_first_part_comes_after_a_few_steps_and_a_stopped_stream_computes_no_more(pipeline, monkeypatch):
    steps, advance = [], Decoding.advance

    def counted(self):
        steps.append(1)
        advance(self)

    monkeypatch.setattr(Decoding, "advance", counted)
    parts = pipeline.speak_stream("hello there, how are you?")
    assert not steps  # nothing is computed before it is asked for
    next(parts)
    heard = len(steps)
    assert heard <= 4 + 8 + pipeline.parts.speech_lm.codebooks  # the codec holds three frames back
    parts.close()
    assert len(steps) == heard


def test_pieces_follow_one_another_with_their_pauses(pipeline):
    said = pipeline.speak(LONG)
    parts = list(pipeline.speak_stream(LONG))
    silences = [part for part in parts if part.abs().max() == 0]
    assert len(said.pieces) > 1
    lengths = [int(piece.pause * pipeline.parts.codec.sample_rate) for piece, _ in said.pieces[:-1]]
    assert [part.shape[-1] for part in silences if part.shape[-1] in lengths] == lengths


def test_words_one_by_one_sound_as_the_whole_text_and_begin_before_its_end(pipeline):
    read: list[str] = []

    def words():
        for word in LONG.split():
            read.append(word)
            yield f"{word} "

    parts = pipeline.speak_stream(words(), seed=2)
    said = [next(parts)]
    assert len(read) < len(LONG.split()) * 0.8
    said += list(parts)
    assert len(read) == len(LONG.split())
    assert torch.equal(torch.cat(said, dim=-1), torch.cat(list(pipeline.speak_stream(LONG, seed=2)), dim=-1))


def test_an_answer_is_spoken_as_it_is_found(pipeline):
    sound = torch.sin(torch.arange(24_000) / 20)[None]
    heard = pipeline.listen_stream(sound, "what?", max_new_tokens=4)
    assert next(pipeline.speak_stream(chain(["Yes. "], heard), strict=False)).shape[0] == 1


def test_what_cannot_be_said_is_refused_before_the_first_part(pipeline):
    with pytest.raises(InputError, match="holds nothing to say"):
        pipeline.speak_stream("...")
    with pytest.raises(InputError, match="holds nothing to say"):
        next(pipeline.speak_stream(iter([".", ".."])))
    with pytest.raises(InputError, match="language 'xx'"):
        pipeline.speak_stream("hello", language="xx")


def test_parts_are_in_the_file_as_they_come(tmp_path: Path, capsys):
    path = tmp_path / "live.wav"
    seen = []

    def parts():
        for number in range(4):
            yield torch.full((1, 2400), 0.1 * number)
            seen.append(path.stat().st_size)

    write_live(parts(), 24_000, path)
    assert seen == sorted(seen) and seen[0] > 4000
    sound, rate = soundfile.read(path, dtype="float32")
    assert rate == 24_000 and len(sound) == 9600 and sound[-1] == pytest.approx(0.3, abs=1e-3)
    assert "first sound after" in capsys.readouterr().err


def test_a_pipe_gets_a_wav_file_whose_length_nobody_knows_yet(capfdbinary):
    write_live(iter([torch.full((1, 240), 0.5), torch.full((1, 240), -2.0)]), 24_000, None)
    out = capfdbinary.readouterr().out
    assert out[:4] == b"RIFF" and out[8:16] == b"WAVEfmt " and out[36:40] == b"data" and len(out) == 44 + 2 * 480
    assert int.from_bytes(out[24:28], "little") == 24_000
    assert int.from_bytes(out[44:46], "little", signed=True) == 16383
    assert int.from_bytes(out[-2:], "little", signed=True) == -32767
