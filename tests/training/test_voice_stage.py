"""The voice stage on tones: low voices and high voices, known by their descriptions alone."""

from __future__ import annotations

import pytest
import torch

from ira.audio.waveform import LogMel
from ira.config import TrainConfig, VoiceConfig, VoiceStage
from ira.data.batches import SamplerState
from ira.data.text import CharTokenizer
from ira.models.voice_encoder import VoiceEncoder, embed_tokens, embed_words
from ira.trackers.base import Picture
from ira.training.loop import fit
from ira.training.samples import heat_map
from ira.training.voice import VoiceTraining, blotted

CPU = torch.device("cpu")
START = SamplerState(0, 0, 0)
KINDS = {"a low voice": (0, 6), "a high voice": (9, 15)}  # codes from, to: pitches of the tone codec


def loaded(training, state: SamplerState):
    """The stage's micro-batches, each with the state after it."""
    for key, after in training.plan(state):
        yield training.load(key), after


def keys(crops) -> list:
    return [crop.key for crop in crops]


def clips(per_speaker: int, first_speaker: int, seed: int, **columns) -> list[dict]:
    """Clips of 24 to 40 frames by two speakers of each kind; the notes are random within the kind's range."""
    generator, rows = torch.Generator().manual_seed(seed), []
    for kind, (low, high) in KINDS.items():
        for speaker in range(2):
            for _ in range(per_speaker):
                frames = int(torch.randint(24, 41, (1,), generator=generator))
                codes = torch.randint(low, high + 1, (1, -(-frames // 8)), generator=generator)
                name = f"{kind} {first_speaker + speaker}"
                row = {"codes": codes.repeat_interleave(8, 1)[:, :frames], "description": kind, "speaker": name}
                rows.append(row | columns)
    return rows


@pytest.fixture
def stage(make_shards, tone_codec):
    def make(rows: list[dict] | None = None, **settings) -> VoiceTraining:
        torch.manual_seed(0)
        config = VoiceConfig(
            mel_bins=40, hidden=32, dim=16, layers=1, heads=4, text_hidden=16, text_layers=1, crop_seconds=0.4
        )
        encoder = VoiceEncoder(config, text_vocab=CharTokenizer().vocab_size)
        given = {"steps": 120, "lr": 3e-3, "warmup_steps": 5, "batch_seconds": 12.8, "validate_every": 40, **settings}
        shards = make_shards("train", rows or clips(6, 0, seed=0)), make_shards("val", clips(4, 9, seed=1))
        return VoiceTraining(encoder, tone_codec, *shards, VoiceStage(accumulation=1, **given), CPU)

    return make


def sorted_rightly(training: VoiceTraining) -> float:
    """Share of held-out clips that are nearer to their own description."""
    shards = training.held_out
    mel, tokenizer = LogMel(training.encoder.config.mel_bins), CharTokenizer()
    with torch.no_grad():
        words = embed_words(training.encoder, list(KINDS), tokenizer)
        right = []
        for example in (shards[i] for i in range(len(shards))):
            frames = torch.tensor([example.frames])
            voice = embed_tokens(training.encoder, training.codec, mel, example.codes[None], frames)
            right.append(list(KINDS)[int((voice @ words.T).argmax())] == example.description)
    return sum(right) / len(right)


def test_clips_of_unheard_speakers_are_sorted_by_descriptions_in_words(stage, tmp_path, monkeypatch):
    monkeypatch.setattr("ira.training.voice.measure", lambda sound, rate: {})  # the descriptions alone are to tell
    training = stage()
    (tmp_path / "run").mkdir()
    fit(training, TrainConfig(dtype="fp32"), tmp_path / "run", CPU, [])
    assert sorted_rightly(training) > 0.95


@torch.no_grad()
def test_gender_is_reported_where_it_is_known(stage, make_shards):
    training = stage()
    assert {"contrastive", "matching_cosine"} <= set(training.validate())
    assert "gender_accuracy" not in training.validate()
    training.held_out = make_shards("known", clips(1, 0, 0, extra={"gender": "female"}))
    assert 0 <= training.validate()["gender_accuracy"] <= 1


def test_the_sampler_state_alone_decides_the_batches(stage):
    training = stage()
    torch.manual_seed(1)
    stream = loaded(training, START)
    seen = [next(stream) for _ in range(4)]
    torch.manual_seed(2)
    for (batch, after), (following, _) in zip(seen, seen[1:], strict=False):
        again = next(loaded(training, after))[0]
        assert again.seed == following.seed != batch.seed
        assert keys(again.first) == keys(following.first) != keys(batch.first)
        assert keys(again.second) == keys(following.second)
    assert seen[-1][1].epoch > 0


def test_both_crops_are_of_one_speaker_and_no_longer_than_asked(stage):
    training = stage()
    batch, _ = next(loaded(training, START))
    assert training.crop == 30
    for first, second in zip(batch.first, batch.second, strict=True):
        assert first.speaker == second.speaker
        for crop in (first, second):
            low, high = KINDS[crop.example.description]
            assert low <= int(crop.codes.min()) <= int(crop.codes.max()) <= high
            assert crop.codes.shape[1] == min(crop.example.frames, 30)
    assert keys(batch.first) != keys(batch.second)


@torch.no_grad()
def test_a_crop_in_memory_is_the_crop_decoded_anew_and_memory_is_bounded(stage):
    training = stage()
    batch, _ = next(loaded(training, START))
    anew = training._hear(batch.first)
    assert not training.kept
    training.room = anew[0][0].nbytes * 10
    assert [len(training._hear(batch.first)) for _ in range(2)] == [16, 16]
    assert 5 <= len(training.kept) < len(set(keys(batch.first))) and training.room >= 0
    for (mel, measures), (again, same) in zip(anew, training._hear(batch.first), strict=True):
        assert torch.equal(mel, again) and measures == same


def test_blots_change_a_band_and_leave_the_rest_tilted():
    torch.manual_seed(0)
    mels = torch.randn(2, 40, 30)
    changed = blotted(mels) - mels
    assert changed.shape == mels.shape and not torch.equal(changed[0], changed[1])
    flat = changed.std(-1) < 1e-5  # where only the tilt was added, a bin moves as a whole
    assert (flat.float().mean(1) > 0.6).all()


def test_clips_of_one_speaker_are_a_match_and_clips_without_a_speaker_only_of_themselves(stage):
    known = next(loaded(stage(), START))[0]
    assert [crop.speaker for crop in known.first] == [crop.example.speaker for crop in known.first]
    assert len({crop.speaker for crop in known.first}) == 4


def test_clips_without_a_speaker_match_themselves_alone(stage):
    unknown = next(loaded(stage(clips(6, 0, 0, speaker="")), START))[0]
    assert len({crop.speaker for crop in unknown.first}) == len(unknown.first) == 16


def test_a_description_that_cannot_be_spelt_does_not_end_the_run(stage):
    training = stage(clips(6, 0, 0, description="a \N{SNOWMAN} voice"))
    batch, _ = next(loaded(training, START))
    assert bool(training.loss(batch, 0.0).loss.isfinite())


@torch.no_grad()
def test_the_picture_of_voices_and_captions_is_in_the_order_of_the_captions(stage, monkeypatch):
    training, drawn = stage(), []
    monkeypatch.setattr("ira.training.descriptions.captions", lambda example: [example.description])
    monkeypatch.setattr("ira.training.voice.heat_map", lambda cosines: drawn.append(cosines) or heat_map(cosines))
    assert isinstance(training.samples()["clips-by-captions"], Picture)
    (cosines,) = drawn
    assert cosines.shape == (16, 16)
    captions = embed_words(training.encoder, sorted(KINDS), training.tokenizer)
    assert torch.allclose(cosines[:, :8], cosines[:, :1].expand(-1, 8), atol=1e-5)
    assert torch.allclose(cosines[:, 8:], cosines[:, 8:9].expand(-1, 8), atol=1e-5)
    assert not torch.allclose(captions[0], captions[1])
