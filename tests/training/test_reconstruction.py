"""What a copy is told: that it is too dull, too loud, or out of phase."""

from __future__ import annotations

import pytest
import torch

from ira.training.reconstruction import PHASED, SCALES, Reconstruction, frames_of

RATE = 24_000


def speechlike(phase: float = 0.0) -> torch.Tensor:
    """Half a second of a voice of 150 Hz, all partials moved by the same phase."""
    time = torch.arange(RATE // 2) / RATE
    tones = [torch.sin(2 * torch.pi * 150 * k * time + phase) / k for k in range(1, 12)]
    return 0.1 * torch.stack(tones).sum(0)[None, None]


@pytest.fixture
def losses() -> Reconstruction:
    return Reconstruction().eval()


def test_a_copy_that_is_the_original_loses_nothing(losses):
    assert all(float(loss) == 0 for loss in losses(speechlike(), speechlike()).values())


def test_phases_alone_move_the_phase_and_the_waveform_and_hardly_the_spectrum(losses):
    turned = losses(speechlike(1.5), speechlike())
    assert turned["phase"] > 10 * turned["magnitude"] and turned["waveform"] > 0.5
    quieter = losses(0.5 * speechlike(), speechlike())
    assert quieter["magnitude"] > turned["magnitude"] and quieter["mel"] > turned["mel"]


def test_a_quiet_recording_counts_as_much_as_a_loud_one(losses):
    loud = losses(speechlike(1.0), speechlike())
    quiet = losses(0.1 * speechlike(1.0), 0.1 * speechlike())
    for name in ("magnitude", "phase", "waveform"):
        assert float(quiet[name]) == pytest.approx(float(loud[name]), rel=0.05), name


def test_silence_has_finite_losses_and_gradients(losses):
    made = torch.zeros(2, 1, 4800, requires_grad=True)
    torch.stack(list(losses(made, torch.zeros(2, 1, 4800)).values())).sum().backward()
    assert made.grad is not None and made.grad.isfinite().all()


def test_in_training_a_step_looks_at_two_windows_and_in_time_at_all(losses):
    torch.manual_seed(0)
    drawn = [losses.train()._windows() for _ in range(40)]
    assert all(len(windows) == 2 and len({*windows} & {*PHASED}) == 1 for windows in drawn)
    assert {window for windows in drawn for window in windows} == {window for window, _ in SCALES}
    assert len(losses.eval()._windows()) == len(SCALES)


def test_frames_are_the_samples_in_their_order():
    frames = frames_of(torch.arange(1.0, 17.0)[None], 8)
    assert frames.shape == (1, 8, 8)
    assert frames[0, 0].tolist() == [0] * 6 + [1, 2] and frames[0, 3].tolist() == list(range(1, 9))
    assert frames_of(torch.ones(1, 15), 8).shape == (1, 8, 8)  # the last hop is filled up
