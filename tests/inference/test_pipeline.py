from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ira.audio.waveform import load_audio, save_audio
from ira.errors import InputError
from ira.inference.faults import Fault
from ira.inference.loudness import speech_level
from ira.inference.pipeline import (
    ListenRow,
    Pipeline,
    SpeakRow,
    create_pipeline_from_checkpoints,
    place_audio,
)
from ira.inference.sentences import PARAGRAPH_PAUSE, SENTENCE_PAUSE
from ira.inference.speaking import PIECE_STEP, Piece, SaidPiece
from ira.inference.voice_file import Voice, save_voice
from ira.models.audio_llm import AUDIO

LONG = "this is the first sentence of a text. " * 4


def tone(seconds: float = 1.5, hertz: float = 150.0, seed: int = 0) -> torch.Tensor:
    """Something with a pitch and some noise: [1, N]."""
    time = torch.arange(int(seconds * 24_000)) / 24_000
    noise = torch.randn(len(time), generator=torch.Generator().manual_seed(seed))
    return (0.3 * torch.sin(6.2832 * hertz * time).sign() + 0.05 * noise)[None]


@pytest.fixture
def fresh(tiny_model_folder: Path) -> Pipeline:
    """Nothing loaded yet."""
    return Pipeline.from_folder(tiny_model_folder, "cpu")


@pytest.fixture(scope="module")
def pipeline(tiny_model_folder: Path) -> Pipeline:
    return Pipeline.from_folder(tiny_model_folder, "cpu")


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recordings") / "ref.wav"
    save_audio(path, tone())
    return path


# -- speaking ----------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_audio_and_another_seed_another(pipeline: Pipeline):
    first, again, other = (pipeline.speak("hello there", seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.waveform, again.waveform) and torch.equal(first.codes, again.codes)
    assert not torch.equal(first.codes, other.codes)
    assert first.waveform.shape == (1, first.codes.shape[-1] * 320)
    assert first.seconds == pytest.approx(first.waveform.shape[-1] / 24_000)


def test_text_and_voice_are_both_heard_in_what_is_said(pipeline: Pipeline, recording: Path):
    said = [pipeline.speak(text, voice) for text, voice in [("yes", None), ("no no no", None), ("yes", recording)]]
    assert not torch.equal(said[0].codes, said[1].codes)
    assert not torch.equal(said[0].codes, said[2].codes)


def test_long_text_is_spoken_in_pieces_with_pauses_between_them(pipeline: Pipeline):
    spoken = pipeline.speak(LONG)
    assert spoken.text == LONG.strip() and len(spoken.pieces) == len(spoken.starts) == 2  # two sentences each
    assert all(torch.equal(piece.voice, pipeline.voice_of(None).embedding) for piece, _ in spoken.pieces)
    said = [one for _, one in spoken.pieces]
    assert torch.equal(torch.cat([one.codes for one in said], dim=-1), spoken.codes)
    ends = [start + one.waveform.shape[-1] / 24_000 for start, one in zip(spoken.starts, said, strict=True)]
    pauses = [start - end for start, end in zip(spoken.starts[1:], ends, strict=False)]
    assert all(SENTENCE_PAUSE - 0.2 < pause < SENTENCE_PAUSE + 0.1 for pause in pauses)
    assert spoken.seconds == pytest.approx(ends[-1])


def test_a_piece_knows_its_path_through_the_text_its_entropy_and_its_time(pipeline: Pipeline):
    spoken = pipeline.speak("Good day!")
    ((piece, said),) = spoken.pieces
    frames = spoken.codes.shape[-1]
    assert said.path.shape == said.entropy.shape == (frames,)
    assert bool((said.path.diff() >= 0).all()) and int(said.path[0]) == 0 and said.symbols[1] == "G"
    assert 0 < float(said.entropy.mean()) <= 4.18  # ln 65
    assert piece.text == "good day!" and list(spoken.took) == ["text", "voice", "decoding", "sound"]
    assert all(seconds > 0 for seconds in spoken.took.values())


def test_a_batch_gives_the_speech_of_single_calls_and_errors_in_their_own_place(pipeline: Pipeline):
    rows = [SpeakRow("hello"), SpeakRow("  "), SpeakRow(LONG, seed=5), SpeakRow("语"), SpeakRow("hello", "x.wav")]
    results = pipeline.speak_batch([*rows, SpeakRow("bye", "a calm woman", seed=9), SpeakRow("hi", seed=-1)])
    kinds = [type(result).__name__ for result in results]
    assert kinds == ["Spoken", "InputError", "Spoken", "InputError", "InputError", "Spoken", "InputError"]
    for index, alone in [(0, pipeline.speak("hello")), (2, pipeline.speak(LONG, seed=5))]:
        assert torch.equal(results[index].waveform, alone.waveform)  # type: ignore[union-attr]


@pytest.mark.parametrize("text", ["", "   ", "...", "\N{GRINNING FACE}"])
def test_text_with_nothing_to_say_is_one_line(pipeline: Pipeline, text: str):
    with pytest.raises(InputError) as caught:
        pipeline.speak(text)
    assert "\n" not in str(caught.value)


def test_progress_counts_frames(pipeline: Pipeline):
    seen: list[int] = []
    spoken = pipeline.speak("hello", seed=1, progress=seen.append)
    assert seen == sorted(seen) and seen[-1] >= spoken.codes.shape[-1]


@pytest.mark.parametrize("language", ["nl", "", "english", "\n"])
def test_a_language_that_the_model_never_saw_is_refused_with_those_it_has(pipeline: Pipeline, language: str):
    with pytest.raises(InputError, match="has learned de, en") as caught:
        pipeline.speak("hello", language=language)
    assert "\n" not in str(caught.value)


def test_the_language_is_heard_in_what_is_said(pipeline: Pipeline):
    english, german, austrian = (pipeline.speak("am 3. mai", language=name) for name in ("en", "de", "de-AT"))
    assert not torch.equal(english.codes, german.codes) and torch.equal(german.codes, austrian.codes)
    assert "three" in english.text and "drei" in german.text


def test_what_is_wrong_after_the_last_attempt_is_told_in_one_line(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch):
    from ira.inference import pipeline as module

    def worse(*given):
        cut = Fault("endless", "did not end within 1.0 s")
        return [replace(one, finished=False, attempts=3, faults=[cut]) for one in real(*given)]

    real = module.say
    assert pipeline.speak("hello").remark == "" and pipeline.speak("hello").faults == []
    monkeypatch.setattr(module, "say", worse)
    spoken = pipeline.speak("hello")
    assert not spoken.finished
    assert spoken.remark == "after 3 attempts it did not end within 1.0 s; try another seed"
    long = pipeline.speak(LONG + LONG)
    assert long.faults[1] == "piece 2 of 4 ('this is the first') did not end within 1.0 s"
    assert "piece 3 of 4" in long.remark and "piece 4 of 4" not in long.remark and "and 1 more;" in long.remark


def test_a_thousand_words_are_spoken_to_their_end_at_one_loudness_in_one_voice(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
):
    from ira.inference import speaking

    asked: list[Piece] = []

    def drifting(model: object, pieces: list[Piece], *rest: object) -> list[SaidPiece]:
        """What each piece's seed says is how many pieces stand before it: each is 0.1 dB quieter than the last."""
        asked.extend(pieces)
        frames = [int(75 * (0.3 + len(piece.text) / 15)) for piece in pieces]
        place = [piece.seed // PIECE_STEP for piece in pieces]
        return [SaidPiece(torch.full((2, n), at), True) for n, at in zip(frames, place, strict=True)]

    def decode(codes: torch.Tensor, frames: None = None) -> torch.Tensor:
        noise = torch.randn(1, 1, codes.shape[-1] * 320, generator=torch.Generator().manual_seed(1))
        return 0.1 * noise * 10 ** (-int(codes[0, 0, 0]) * 0.1 / 20)

    monkeypatch.setattr(speaking, "_decode", drifting)
    monkeypatch.setattr(speaking, "find_faults", lambda *given: [])
    monkeypatch.setattr(pipeline.parts.codec, "decode", decode)
    words = " ".join(
        f"The {name} sentence of this very long story is told, and all of it is heard." for name in "abcdefg"
    )
    text = "\n\n".join([words] * 9)
    assert len(text.split()) > 1_000
    spoken = pipeline.speak(text)
    assert len(asked) == len(spoken.pieces) == 63 and "".join(spoken.text.split()) == "".join(text.lower().split())
    voice = pipeline.voice_of(None).embedding
    assert all(torch.equal(piece.voice, voice) for piece in asked)
    spans = [
        (int(start * 24_000), int(start * 24_000) + said.waveform.shape[-1])
        for start, (_, said) in zip(spoken.starts, spoken.pieces, strict=True)
    ]
    levels = [speech_level(spoken.waveform[:, first:end], 24_000) for first, end in spans]
    assert max(levels) - min(levels) < 1.0  # it was 6.2 dB before
    gaps = [(after[0] - before[1]) / 24_000 for before, after in zip(spans, spans[1:], strict=False)]
    assert gaps[6] == pytest.approx(PARAGRAPH_PAUSE, abs=0.02) and gaps[5] == pytest.approx(SENTENCE_PAUSE, abs=0.02)
    assert spans[-1][1] == spoken.waveform.shape[-1]


# -- voices ------------------------------------------------------------------------------------------------------


def test_a_saved_voice_speaks_like_the_recording_it_came_from(pipeline: Pipeline, recording: Path, tmp_path: Path):
    voice = pipeline.voice_of(recording)
    save_voice(tmp_path / "me.voice", voice, "mine")
    from_file = pipeline.speak("hello there", tmp_path / "me.voice", seed=2)
    assert torch.equal(from_file.waveform, pipeline.speak("hello there", recording, seed=2).waveform)
    assert torch.equal(from_file.waveform, pipeline.speak("hello there", voice, seed=2).waveform)


def test_a_voice_is_a_unit_vector_and_names_where_it_came_from(pipeline: Pipeline, recording: Path):
    sound, words, default = pipeline.voice_of(recording), pipeline.voice_of("a calm woman"), pipeline.voice_of(None)
    for voice in (sound, words, default):
        assert voice.embedding.shape == (16,)
        assert float(voice.embedding.norm()) == pytest.approx(1, abs=1e-5)
        assert voice.voice_encoder == pipeline.parts.voice_encoder_hash()
    assert sound.source.startswith("sha256:") and words.source == "a calm woman"
    assert not torch.equal(words.embedding, default.embedding)


def test_the_voice_of_a_long_recording_is_that_of_several_crops_not_of_its_start(pipeline: Pipeline, tmp_path: Path):
    save_audio(tmp_path / "start.wav", tone(4.0))
    save_audio(tmp_path / "both.wav", torch.cat([tone(4.0), tone(12.0, hertz=400, seed=1)], dim=1))
    start, both = (pipeline.voice_of(tmp_path / name).embedding for name in ("start.wav", "both.wav"))
    assert float((start - both).norm()) > 1e-3


@pytest.mark.parametrize("spec", ["absent.wav", "folder/absent", "absent.voice", "...", "", "语"])
def test_a_voice_that_leads_nowhere_is_one_line(pipeline: Pipeline, spec: str):
    with pytest.raises(InputError):
        pipeline.voice_of(spec)


def test_words_that_are_also_the_name_of_a_folder_are_words(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "calm").mkdir()
    monkeypatch.chdir(tmp_path)
    assert pipeline.voice_of("calm").source == "calm"


def test_a_recording_too_short_or_silent_for_a_voice_is_refused(pipeline: Pipeline, tmp_path: Path):
    save_audio(tmp_path / "short.wav", tone(0.3))
    save_audio(tmp_path / "silent.wav", torch.zeros(1, 48_000))
    for name in ("short.wav", "silent.wav"):
        with pytest.raises(InputError, match="too short or silent"):
            pipeline.voice_of(tmp_path / name)


def test_a_mix_of_a_recording_words_and_a_saved_voice_speaks(pipeline: Pipeline, recording: Path, tmp_path: Path):
    save_voice(tmp_path / "calm.voice", pipeline.voice_of("a calm woman"), "")
    spec = f"{recording}:0.5+{tmp_path}/calm.voice:0.3+a man:0.2"
    mixed, parts = pipeline.voice_of(spec), [pipeline.voice_of(one) for one in (recording, "a calm woman", "a man")]
    mean = torch.stack([share * one.embedding for share, one in zip((0.5, 0.3, 0.2), parts, strict=True)]).sum(0)
    assert torch.allclose(mixed.embedding, mean / mean.norm(), atol=1e-6)
    save_voice(tmp_path / "mix.voice", mixed, "")
    said = [pipeline.speak("hello", voice) for voice in (spec, tmp_path / "mix.voice", "a man")]
    assert torch.equal(said[0].codes, said[1].codes) and not torch.equal(said[0].codes, said[2].codes)
    with pytest.raises(InputError, match="absent.voice"):
        pipeline.speak("hello", "absent.voice:0.5+a man:0.5")


def test_a_batch_embeds_a_recording_once_under_all_its_names(
    fresh: Pipeline, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from ira.inference import voices

    copy, seen = Path(shutil.copy(recording, tmp_path / "copy.wav")), []
    real = voices.embed_recording
    monkeypatch.setattr(voices, "embed_recording", lambda *given: seen.append(1) or real(*given))
    rows = [
        SpeakRow("a", str(recording)),
        SpeakRow("b", recording),
        SpeakRow("a", str(copy)),
        SpeakRow("a", f"{copy}:1+a man:1"),
    ]
    spoken = fresh.speak_batch(rows)
    assert seen == [1] and torch.equal(spoken[0].codes, spoken[2].codes)  # type: ignore[union-attr]
    save_audio(copy, tone(hertz=400))
    fresh.speak_batch(rows[2:3])
    assert seen == [1, 1]


def test_a_voice_of_another_size_is_refused(pipeline: Pipeline):
    with pytest.raises(InputError, match="has 8 numbers, the SpeechLM takes 16"):
        pipeline.speak("hello", Voice(torch.ones(8) / 8**0.5, "x", "elsewhere"))


# -- listening ---------------------------------------------------------------------------------------------------


def test_a_batch_of_answers_equals_single_answers(pipeline: Pipeline, recording: Path):
    rows = [
        ListenRow(recording),
        ListenRow(tone(0.4, 300), "what is this?"),
        ListenRow([tone(0.9, 200), recording], f"compare {AUDIO} with {AUDIO} please"),
        ListenRow(None, "hello"),
        ListenRow("absent.wav"),
        ListenRow(tone(2.3), "say it again"),
    ]
    together = pipeline.listen_batch(rows)
    assert isinstance(together[4], InputError)
    good = [0, 1, 2, 3, 5]
    assert [together[i] for i in good] == [pipeline.listen(rows[i].audio, rows[i].prompt) for i in good]
    assert len({together[i] for i in good}) > 2


def test_the_answer_follows_the_sound_and_never_the_text(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch):
    one, two = pipeline.speak("the sun is shining", seed=1), pipeline.speak("it rains", seed=2)
    answers = {}
    for name, spoken in (("one", one), ("two", two)):
        monkeypatch.setattr(Pipeline, "speak", lambda *_, spoken=spoken: spoken)
        for text in ("the sun is shining", "something else entirely"):
            answers[name, text] = pipeline.end_to_end_pipeline(text)["llm_response"]
    assert len({answers["one", text] for text in ("the sun is shining", "something else entirely")}) == 1
    assert answers["one", "the sun is shining"] == pipeline.listen(one.waveform)
    assert answers["one", "the sun is shining"] != answers["two", "the sun is shining"]


def test_sound_longer_than_the_speech_lm_reads_is_heard_in_whole_windows(pipeline: Pipeline):
    queries, per_call = 4, 5  # 398 frames of room hold five windows of 76 frames (1 s, rounded to stacks of 2)
    heard, windows = pipeline.hear(tone(11.0)), -(-825 // 76)
    assert windows <= len(heard) <= queries * windows  # each window leaves its first query at least
    first = pipeline.hear(tone(11.0)[:, : per_call * 76 * 320])
    torch.testing.assert_close(heard[: len(first)], first)


@pytest.mark.parametrize(
    ("audio", "prompt"),
    [
        (None, None),
        (None, AUDIO),
        (tone(0.2), f"{AUDIO} {AUDIO}"),
        ([], " "),
        (torch.zeros(1, 0), None),
        (torch.full((1, 100), float("nan")), None),
        (torch.zeros(2, 100), None),
    ],
)
def test_what_cannot_be_listened_to_is_one_line(pipeline: Pipeline, audio, prompt: str | None):
    with pytest.raises(InputError) as caught:
        pipeline.listen(audio, prompt)
    assert "\n" not in str(caught.value)


def test_more_sound_than_the_llm_holds_is_that_rows_error_alone(pipeline: Pipeline):
    long, short = pipeline.listen_batch([ListenRow([tone(0.1)] * 520), ListenRow(tone(0.5))])
    assert isinstance(long, InputError) and "holds 512" in str(long)
    assert short == pipeline.listen(tone(0.5))


def test_the_places_of_sound_are_added_where_a_prompt_has_none():
    assert place_audio(None, 1) == AUDIO
    assert place_audio("what is it?", 2) == f"what is it? {AUDIO} {AUDIO}"
    assert place_audio(f"hear {AUDIO} now", 1) == f"hear {AUDIO} now"
    assert place_audio("hello", 0) == "hello"


# -- both, and the rest ------------------------------------------------------------------------------------------


def test_the_answer_is_spoken_as_text_without_signs_that_cannot_be(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Pipeline, "listen", lambda *_: "Paris \N{GRINNING FACE} 2!")
    answer, spoken = pipeline.respond(tone(), seed=4)
    assert answer == "Paris \N{GRINNING FACE} 2!"
    assert torch.equal(spoken.waveform, pipeline.speak("paris two!", seed=4).waveform)
    monkeypatch.setattr(Pipeline, "listen", lambda *_: "\N{GRINNING FACE}")
    with pytest.raises(InputError, match="nothing that can be spoken"):
        pipeline.respond(tone())


def test_resynth_gives_sound_of_the_same_length_and_more_codebooks_change_it(pipeline: Pipeline, recording: Path):
    own, low, high = (pipeline.resynth(recording, kbps) for kbps in (None, 0.75, 3.0))
    assert own.shape == low.shape == high.shape == load_audio(recording).shape
    assert torch.equal(own, pipeline.resynth(recording, 1.5))
    assert not torch.equal(low, high)
    for kbps in (2.0, 24.0):
        with pytest.raises(InputError):
            pipeline.resynth(recording, kbps)


def test_the_public_call_returns_its_three_names_and_saves_its_audio(
    pipeline: Pipeline, recording: Path, tmp_path: Path
):
    result = pipeline.end_to_end_pipeline(
        input_text="Hello, how are you today?",
        voice_style_reference=str(recording),
        llm_prompt="Analyze the sentiment of this speech",
        return_audio=True,
    )
    assert set(result) == {"audio_waveform", "llm_response", "speech_tokens"}
    assert result["speech_tokens"].shape == (2, result["audio_waveform"].shape[-1] // 320)
    heard = pipeline.listen(result["audio_waveform"], "Analyze the sentiment of this speech")
    assert result["llm_response"] == heard
    pipeline.save_audio(result["audio_waveform"], tmp_path / "output.wav")
    assert load_audio(tmp_path / "output.wav").shape == result["audio_waveform"].shape
    assert pipeline.end_to_end_pipeline("hello", return_audio=False)["audio_waveform"] is None


def test_speaking_loads_no_llm_and_listening_no_voice_encoder(fresh: Pipeline, recording: Path, tmp_path: Path):
    loaded = vars(fresh.parts)
    fresh.speak("hello")
    assert "voice_encoder" in loaded and "audio_llm" not in loaded
    save_voice(tmp_path / "me.voice", fresh.voice_of(recording), "")
    for action in (
        lambda pipeline: pipeline.speak("hello", tmp_path / "me.voice"),
        lambda pipeline: pipeline.listen(recording),
        lambda pipeline: pipeline.resynth(recording),
    ):
        other = Pipeline.from_folder(fresh.parts.folder, "cpu")
        action(other)
        assert "voice_encoder" not in vars(other.parts)


def test_separate_checkpoints_give_the_same_pipeline_as_their_folder(
    pipeline: Pipeline, tiny_model_folder: Path, tiny_llm_folder: Path, tmp_path: Path
):
    for suffix in ("safetensors", "json"):
        shutil.copy(tiny_model_folder / f"adapter.{suffix}", tmp_path / f"ears.{suffix}")
    made = create_pipeline_from_checkpoints(
        speech_lm_checkpoint=tiny_model_folder / "speech_lm.safetensors",
        llm_name_or_path=str(tiny_llm_folder),
        adapter_checkpoint=tmp_path / "ears.safetensors",
        device="cpu",
    )
    assert torch.equal(made.speak("hello").waveform, pipeline.speak("hello").waveform)
    assert made.listen(tone()) == pipeline.listen(tone())
    folders = create_pipeline_from_checkpoints(tiny_model_folder, None, tiny_model_folder, tiny_model_folder, "cpu")
    assert folders.listen(tone()) == pipeline.listen(tone())


def test_pickled_and_missing_checkpoints_are_refused(tiny_model_folder: Path, tmp_path: Path):
    (tmp_path / "speech_lm.pt").touch()
    for speech, adapter in [
        (tmp_path / "speech_lm.pt", tiny_model_folder),
        (tiny_model_folder, "path/to/adapter.pt"),
        (tmp_path / "absent.safetensors", tiny_model_folder),
        (tmp_path, tiny_model_folder),  # a folder without a model card
    ]:
        with pytest.raises(InputError, match="model folder") as caught:
            create_pipeline_from_checkpoints(speech, None, adapter)
        assert "\n" not in str(caught.value)


def test_pace_multiplies_how_fast_the_text_is_gone_through(pipeline: Pipeline):
    slow, plain, fast = (pipeline.speak("hello there, how are you", pace=pace).seconds for pace in (0.5, 1.0, 2.0))
    assert slow > 1.5 * plain > 2 * fast
    for pace in (0.0, 0.49, 2.1, float("nan")):
        with pytest.raises(InputError, match="a number from 0.5 to 2 is wanted"):
            pipeline.speak("hello", pace=pace)
