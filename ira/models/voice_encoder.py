"""Voice encoder: log-mel [B, M, T] or a description in words [B, L] in, a unit vector [B, P] out, in one space.

Two towers trained against each other as in CLIP (Radford et al. 2021): a transformer over mel frames with attention
pooling, and a smaller one over the characters of a description.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ira.audio.codec import Codec
from ira.audio.waveform import LogMel
from ira.config import TEXT_HEADS, VoiceConfig
from ira.data.text import CharTokenizer, normalize
from ira.models.blocks import EPS, Block, init_weights, length_mask, rope

CROPS = 4  # of a recording, whose voices are averaged
WHOLE = 32  # descriptions are padded to whole multiples: a CPU prepares its kernels anew for every new shape
STACK = 4  # mel frames read as one: 75 Hz becomes 18.75 Hz, finer than any voice changes


class Tower(nn.Module):
    """Vectors [B, T, W] and lengths [B] -> unit vectors [B, P]: bidirectional blocks, attention pooling, projection."""

    def __init__(self, width: int, layers: int, heads: int, dim: int) -> None:
        super().__init__()
        self.head_dim = width // heads
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.RMSNorm(width, eps=EPS)
        self.attend = nn.Linear(width, 1)
        self.out = nn.Linear(width, dim)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        mask = length_mask(lengths.clamp(min=1), x.shape[1])  # an empty row reads its padding, not nothing (NaN)
        angles = rope(torch.arange(x.shape[1], device=x.device), self.head_dim)
        for block in self.blocks:
            x = block(x, angles, mask[:, None, None, :])
        x = self.norm(x)
        weights = self.attend(x).masked_fill(~mask[..., None], -torch.inf).softmax(dim=1)
        return F.normalize(self.out((weights * x).sum(dim=1)).float(), dim=-1)


class VoiceEncoder(nn.Module):
    """Both towers. `text_vocab` is read from the tokenizer."""

    def __init__(self, config: VoiceConfig, *, text_vocab: int) -> None:
        super().__init__()
        self.config, self.text_vocab = config, text_vocab
        self.mel_in = nn.Linear(STACK * config.mel_bins, config.hidden)
        self.audio = Tower(config.hidden, config.layers, config.heads, config.dim)
        self.text_in = nn.Embedding(text_vocab, config.text_hidden)
        self.text = Tower(config.text_hidden, config.text_layers, TEXT_HEADS, config.dim)
        init_weights(self, config.layers)

    def hparams(self) -> dict[str, Any]:
        return {"config": self.config.model_dump(), "text_vocab": self.text_vocab}

    @classmethod
    def from_hparams(cls, hparams: dict[str, Any]) -> VoiceEncoder:
        return cls(VoiceConfig(**hparams["config"]), text_vocab=hparams["text_vocab"])

    def embed_audio(self, mel: Tensor, frames: Tensor) -> Tensor:
        """Log-mel [B, M, T] with `frames` [B] valid ones -> [B, P]; a voice must not depend on the padding."""
        mel = mel.masked_fill(~length_mask(frames, mel.shape[-1])[:, None], 0.0)
        # Loudness is the microphone's, not the voice's: the mean level of each clip is taken out.
        level = mel.sum(dim=(1, 2)) / (frames * mel.shape[1]).clamp(min=1)
        mel = (mel - level[:, None, None]).masked_fill(~length_mask(frames, mel.shape[-1])[:, None], 0.0)
        stacked = F.pad(mel, (0, -mel.shape[-1] % STACK)).unflatten(-1, (-1, STACK))
        x = self.mel_in(stacked.permute(0, 2, 1, 3).flatten(2) / 3)
        return self.audio(x, (frames + STACK - 1) // STACK)

    def embed_text(self, text: Tensor, lengths: Tensor) -> Tensor:
        """Character ids [B, L] -> [B, P]."""
        return self.text(self.text_in(text), lengths)


def embed_tokens(encoder: VoiceEncoder, codec: Codec, mel: LogMel, codes: Tensor, frames: Tensor) -> Tensor:
    """Codec tokens [B, K, T] -> voices [B, P]: a voice is what is left of it after the codec, everywhere."""
    device = encoder.mel_in.weight.device
    with torch.no_grad():
        spectrum = mel(codec.decode(codes.to(device), frames.to(device)))
    return encoder.embed_audio(spectrum, frames.to(device))


def embed_words(encoder: VoiceEncoder, words: list[str], tokenizer: CharTokenizer) -> Tensor:
    """Descriptions -> voices [B, P]; what is not in the alphabet is passed over."""
    ids = [torch.tensor(tokenizer.encode(normalize(text, strict=False))) for text in words]
    device = encoder.mel_in.weight.device
    lengths = torch.tensor([len(row) for row in ids], device=device)
    padded = nn.utils.rnn.pad_sequence(ids, batch_first=True)
    padded = F.pad(padded, (0, -padded.shape[1] % WHOLE))
    return encoder.embed_text(padded.to(device), lengths)


@torch.no_grad()
def embed_recording(encoder: VoiceEncoder, codec: Codec, waveform: Tensor) -> Tensor:
    """Waveform [1, N] at the codec's rate -> the voice in it [P]: the mean over up to four crops, of unit length.

    The crops are as long as those of training and evenly spread, so that one odd moment does not make the voice.
    """
    device = encoder.mel_in.weight.device
    codes = codec.encode(waveform[None].to(device)).codes[0]
    size = min(int(encoder.config.crop_seconds * codec.frame_rate), codes.shape[-1])
    starts = torch.linspace(0, codes.shape[-1] - size, min(CROPS, codes.shape[-1] // size)).long().tolist()
    crops = torch.stack([codes[:, start : start + size] for start in starts])
    mel = LogMel(encoder.config.mel_bins, codec.sample_rate, hop=codec.hop).to(device)
    voices = embed_tokens(encoder, codec, mel, crops, torch.full((len(crops),), size))
    return F.normalize(voices.mean(0), dim=0)
