"""How large and how often the benchmarks measure: in earnest, or small enough to see that all of it runs."""

from __future__ import annotations

from dataclasses import dataclass

from ira.config import SpeechConfig
from ira.models.speech_lm import SpeechLM

TEXT = 60  # text tokens that a row is conditioned on


@dataclass(frozen=True)
class Sizes:
    """repeats: of everything; seconds, frames and rows are those of one repeat.

    compiled: decode and train with ours compiled. seed: the full-scale SpeechLM with `seed_books` codebooks.
    growth: frames at which a step is timed. train: rows and frames of a training step, of the model at hand and of the
    full-scale one. clips: recordings to prepare, the first `peer_clips` of them by the peer.
    """

    quick: bool = False
    compiled: bool = False
    repeats: int = 7
    sound_seconds: float = 10.0
    chunks: tuple[int, ...] = (1, 8, 32)
    steps: int = 20
    batches: tuple[int, ...] = (1, 8)
    growth: tuple[int, ...] = (100, 1_000, 8_000)
    precisions: tuple[str, ...] = ("fp32", "bf16", "fp16", "int8", "int4")
    seed: SpeechConfig = SpeechConfig(window=512)
    seed_books: int = 8
    train: tuple[tuple[int, int], tuple[int, int]] = ((16, 300), (4, 300))
    clips: int = 512
    clip_seconds: float = 4.0
    peer_clips: int = 32
    workers: tuple[int, ...] = (1, 2)
    prepare_repeats: int = 3
    read_bytes: int = 512_000_000
    text: str = "The quick brown fox jumps over the lazy dog."
    question: str = "What is the capital of France?"


EARNEST = Sizes()
QUICK = Sizes(
    quick=True,
    repeats=1,
    sound_seconds=0.2,
    chunks=(1, 8),
    steps=2,
    batches=(1, 2),
    growth=(4, 8),
    seed=SpeechConfig(layers=2, width=32, heads=2, max_steps=64, text_layers=1),
    seed_books=2,
    train=((2, 12), (2, 12)),
    clips=2,
    clip_seconds=0.2,
    peer_clips=1,
    workers=(1,),
    prepare_repeats=1,
    read_bytes=4_000_000,
    text="One two.",
    question="One?",
)


def seed_model(sizes: Sizes, codebook_size: int = 1024) -> SpeechLM:
    """The full-scale SpeechLM with random weights; its pointer never leaves a token before it has to."""
    shape = sizes.seed
    model = SpeechLM(
        shape, codebooks=sizes.seed_books, codebook_size=codebook_size, text_vocab=128, voice_dim=256, languages=["en"]
    )
    model.advance.bias.data.fill_(-20.0)
    return model
