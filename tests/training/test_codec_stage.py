"""The codec stage on recordings of tones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ira.audio.compact import CompactCodec
from ira.audio.waveform import SAMPLE_RATE, save_audio
from ira.config import CodecStage, CompactConfig, TrainConfig
from ira.data.batches import SamplerState
from ira.data.manifest import Row
from ira.errors import InputError
from ira.trackers.base import Picture, Sound
from ira.training.codec import CodecTraining, Recordings, _usage, crops, random_gain
from ira.training.loop import fit

CPU = torch.device("cpu")
START = SamplerState(0, 0, 0)


def loaded(training, state: SamplerState):
    """The stage's micro-batches, each with the state after it."""
    for key, after in training.plan(state):
        yield training.load(key), after


def row(audio: Path | None, number: int = 0) -> Row:
    return Row(
        audio=audio,
        text="",
        speaker="",
        speaker_id=None,
        description="",
        language="en",
        instruction="",
        response="",
        emotion="",
        duration=None,
        split="train",
        number=number,
        source=Path("train.json"),
        extra={},
    )


@pytest.fixture
def tones(tmp_path: Path) -> list[Row]:
    """Six recordings of half a second, each another tone."""
    time = torch.arange(SAMPLE_RATE // 2) / SAMPLE_RATE
    rows = []
    for i in range(6):
        wave = sum(torch.sin(2 * torch.pi * (150 + 40 * i) * h * time) / h for h in (1, 2, 3))
        save_audio(tmp_path / f"{i}.wav", 0.2 * wave[None])  # type: ignore[index]
        rows.append(row(tmp_path / f"{i}.wav", i))
    return rows


def stage(rows: list[Row], held_out: list[Row], **settings) -> CodecTraining:
    torch.manual_seed(0)
    config = CompactConfig(
        width=48,
        encoder_layers=1,
        decoder_layers=2,
        mel_bins=40,
        codebooks=4,
        codebook_size=64,
        code_dim=6,
    )
    given = {"steps": 110, "lr": 1e-2, "warmup_steps": 5, "batch_seconds": 1.6, "crop_seconds": 0.2, **settings}
    plain = CodecStage(accumulation=1, validate_every=1000, **given)
    return CodecTraining(CompactCodec(config), rows, held_out, plain, CPU)


def test_one_batch_is_learnt_and_more_codebooks_sound_better(tones, tmp_path):
    training = stage(tones[:2], tones[:2])
    batch = training.judged.repeat(3, 1, 1)
    training.load = lambda key: batch
    before = training.validate()
    (tmp_path / "run").mkdir()
    fit(training, TrainConfig(dtype="fp32"), tmp_path / "run", CPU, [])
    after = training.validate()
    assert after["mel_distance"] < 0.15 * before["mel_distance"]
    assert after["mel_distance"] < after["mel_distance_half"] < before["mel_distance_half"]


def test_a_killed_run_that_is_taken_up_ends_with_the_very_same_weights(tones, tmp_path, monkeypatch):
    """Also of the running counts that decide which codes are revived."""
    config, folders = TrainConfig(dtype="bf16", checkpoint_minutes=1e-9), [tmp_path / "whole", tmp_path / "killed"]
    for folder in folders:
        folder.mkdir()
    whole, killed, again = (stage(tones, tones, steps=4, adversarial_share=0.7) for _ in range(3))
    torch.manual_seed(7)
    fit(whole, config, folders[0], CPU, [])
    losses, loss = [], killed.loss

    def dies(batch, share_done):
        losses.append(share_done)
        if len(losses) == 3:
            raise KeyboardInterrupt
        return loss(batch, share_done)

    killed.loss = dies  # type: ignore[method-assign]
    torch.manual_seed(7)
    with pytest.raises(KeyboardInterrupt):
        fit(killed, config, folders[1], CPU, [])
    fit(again, config, folders[1], CPU, [])
    for part, module in whole.modules().items():
        for name, value in module.state_dict().items():
            assert torch.equal(value, again.modules()[part].state_dict()[name]), name


def test_the_sampler_state_alone_decides_the_batches(tones):
    one, two = stage(tones, []), stage(tones, [])
    torch.manual_seed(1)
    stream = loaded(one, START)
    seen = [next(stream) for _ in range(5)]
    torch.manual_seed(2)
    for (batch, after), (following, _) in zip(seen, seen[1:], strict=False):
        assert torch.equal(next(loaded(two, after))[0], following)
        assert not torch.equal(batch, following)
    assert seen[-1][1].epoch > 0


def test_every_recording_is_visited_once_an_epoch(tones, monkeypatch):
    training, visited = stage(tones, []), []

    def watched(recordings, rows, samples, each, generator):
        visited.append([r.number for r in rows])
        return crops(recordings, rows, samples, each, generator)

    monkeypatch.setattr("ira.training.codec.crops", watched)
    stream, state = loaded(training, START), START
    while state.cursor < len(tones):
        _, state = next(stream)
    assert sorted(number for rows in visited for number in rows) == list(range(6))


def test_a_crop_is_a_piece_of_the_recording_and_a_short_one_is_padded(tones):
    generator = torch.Generator().manual_seed(0)
    found = torch.stack(crops(Recordings(), tones[:1], 3200, 3, generator))
    assert found.shape == (3, 1, 3200) and not torch.equal(found[0], found[1])
    (long,) = crops(Recordings(), tones[:1], SAMPLE_RATE, 1, generator)
    assert float(long[..., SAMPLE_RATE // 2 :].abs().max()) == 0 < float(long[..., : SAMPLE_RATE // 2].abs().max())


def test_a_recording_that_cannot_be_read_is_left_out_and_none_at_all_is_an_error(tones, tmp_path, capsys, monkeypatch):
    (tmp_path / "broken.wav").write_bytes(b"not audio")
    broken, generator = row(tmp_path / "broken.wav"), torch.Generator().manual_seed(0)
    for _ in range(2):
        assert len(crops(Recordings(), [broken, tones[0]], 3200, 2, generator)) == 2
    assert capsys.readouterr().err.count("broken.wav") == 1
    monkeypatch.setattr("ira.training.codec.MAX_SECONDS", 0.2)
    assert crops(Recordings(), [tones[0]], 3200, 2, generator) == []
    monkeypatch.undo()
    training = stage([broken, *tones[:2]], tones[2:3], batch_seconds=0.8)  # a file a batch: others stand in for it
    assert training.files == 1
    batches = [training.load((0, 0, cursor)) for cursor in range(3)]
    assert all(batch.shape == batches[0].shape and bool(batch.any()) for batch in batches)
    training.rows = [broken]
    with pytest.raises(InputError, match="none of 1 recordings can be read; run ira validate"):
        training.load((0, 0, 0))
    with pytest.raises(InputError, match="no row has an audio file"):
        stage([row(None)], [])


def test_gain_stays_below_full_scale():
    loud = random_gain(0.9 * torch.ones(50, 1, 8), torch.Generator().manual_seed(0))
    assert float(loud.max()) <= 1.0 and float(loud.min()) < 0.4
    assert float(random_gain(torch.zeros(2, 1, 8), torch.Generator().manual_seed(0)).abs().max()) == 0


def test_half_of_the_rows_use_every_codebook_and_the_others_any_number(tones):
    torch.manual_seed(0)
    books = stage(tones, [])._dropped_books(4000, 3)
    shares = torch.bincount(books, minlength=4).float() / 4000
    assert shares[0] == 0 and shares[1:].tolist() == pytest.approx([1 / 6, 1 / 6, 2 / 3], abs=0.03)


def test_code_usage_is_1_where_all_codes_are_used_alike():
    assert _usage(torch.arange(64).view(1, 1, 64), 64) == pytest.approx(1)
    assert _usage(torch.arange(256).view(1, 1, 256) % 16, 64) == pytest.approx(16 / 64)
    assert _usage(torch.zeros(1, 2, 100, dtype=torch.long), 64) == pytest.approx(1 / 64)


def test_held_out_crops_are_heard_and_seen_beside_their_copies(tones):
    training = stage(tones[:2], tones[2:])
    training.codec.eval()
    found = training.samples()
    pairs = [f"clip{i}-{kind}" for i in (1, 2, 3) for kind in ("original", "copy")]
    assert {name for name, sample in found.items() if isinstance(sample, Sound)} == set(pairs)
    assert {name for name, sample in found.items() if isinstance(sample, Picture)} == {f"{p}-mel" for p in pairs}
    original, copy = found["clip2-original"], found["clip2-copy"]
    assert isinstance(original, Sound) and isinstance(copy, Sound)
    assert torch.equal(original.waveform, training.judged[1, 0])
    whole = training.codec.decode(training.codec.encode(training.judged[1:2]).codes)
    assert torch.allclose(copy.waveform, whole[0, 0], atol=1e-5)


def test_the_adversary_is_asked_in_the_last_share_of_the_run_alone(tones):
    training = stage(tones, tones, adversarial_share=0.25)
    assert list(training.modules()) == ["codec", "discriminators"]
    assert "discriminator" not in training.loss(training.judged, 0.74).metrics
    found = training.loss(training.judged, 0.76)
    assert {"mel", "phase", "adversarial", "features", "discriminator", "codebook"} <= set(found.metrics)
    found.loss.backward()
    for name, parameter in training.codec.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    assert list(stage(tones, tones).modules()) == ["codec"]


def test_the_loss_has_the_gradient_of_the_weighted_reconstruction(tones):
    """It is made at the codec's output, where the adversary's is added, and carried back from there."""
    training = stage(tones, tones)
    training.reconstruction.eval()  # all windows
    training.codec.train(False)
    torch.manual_seed(3)
    found = training.loss(training.judged, 0.0).loss
    torch.manual_seed(3)
    made, quantized = training.codec(training.judged, training._dropped_books(len(training.judged), 4))
    losses = training.reconstruction(made, training.judged)
    whole = sum(training._weights()[name] * loss for name, loss in losses.items())
    whole = whole + quantized.codebook_loss + 0.25 * quantized.commitment_loss
    vocoder: Any = training.codec.vocoder
    whole = whole + training._vocoder_loss(vocoder, training.judged)[0]
    assert float(found.detach()) == pytest.approx(float(whole.detach()), rel=1e-4)
    weight: Any = training.codec.encoder_in.weight  # type: ignore[union-attr]
    (one,), (other,) = (torch.autograd.grad(loss, weight) for loss in (found, whole))
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)


def test_recordings_are_kept_up_to_their_share_of_memory_and_sound_the_same(tones):
    path = tones[0].audio
    assert path is not None
    kept, forgotten = Recordings(1e-3), Recordings(0.0)
    first = kept.read(path), forgotten.read(path)
    path.unlink()
    assert torch.equal(kept.read(path), first[0]) and torch.equal(first[0], first[1])
    with pytest.raises(InputError):
        forgotten.read(path)


def test_the_adversary_grows_into_its_share(tones):
    training = stage(tones, [], adversarial_share=0.5)
    assert [training._ramp(share) for share in (0.5, 0.55, 0.6, 1.0)] == pytest.approx([0, 0.5, 1, 1])
