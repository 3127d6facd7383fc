"""Stage `voice`: token shards with descriptions in, a voice encoder out.

Two contrastive losses under learned uncertainty weights: a clip against descriptions in words (soft targets, since
many clips share a description), and a clip against another clip of the same speaker.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ira.audio.codec import Codec
from ira.audio.waveform import LogMel
from ira.config import VoiceStage
from ira.data.batches import SamplerState, spread
from ira.data.shards import Example, TokenShards
from ira.data.text import CharTokenizer
from ira.data.voices import attributes, captions, tag_overlap
from ira.models.voice_encoder import VoiceEncoder, embed_tokens, embed_words
from ira.processes import in_order, mine
from ira.trackers.base import Samples
from ira.training.losses import UncertaintyWeights, soft_contrastive
from ira.training.samples import heat_map
from ira.training.stage import StepLoss

TARGET_SHARPNESS = 0.1  # soft targets are exp((overlap - 1) / this): only near-identical tags count as a match
JUDGED = 96  # held-out clips that validation looks at
HEARD_TOGETHER = 16
SHOWN = 32  # of them in the picture


@dataclass
class VoiceBatch:
    """Two crops of each of B voices, whose they are, and a caption of the first: codes [B, K, T], lengths, words."""

    first: tuple[Tensor, Tensor]
    second: tuple[Tensor, Tensor]
    examples: list[Example]
    speakers: list[str]
    words: list[str]


class Temperature(nn.Module):
    """A learned softmax temperature, kept in 0.01..1."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor([start]).log())

    def forward(self) -> Tensor:
        return self.log.exp().clamp(0.01, 1.0)


class VoiceTraining:
    """The stage: trains `encoder` on crops of `shards`, decoded by `codec`; judged on held-out speakers."""

    name = "voice"
    metric = "contrastive"

    def __init__(
        self,
        encoder: VoiceEncoder,
        codec: Codec,
        shards: TokenShards,
        held_out: TokenShards,
        settings: VoiceStage,
        device: torch.device,
    ) -> None:
        self.encoder, self.codec, self.shards, self.held_out = encoder, codec, shards, held_out
        self.settings, self.device, self.tokenizer = settings, device, CharTokenizer()
        self.mel = LogMel(encoder.config.mel_bins).to(device)
        self.crop = int(encoder.config.crop_seconds * codec.frame_rate)
        self.rows = max(int(settings.batch_seconds / (2 * encoder.config.crop_seconds)), 2)
        self.weights = UncertaintyWeights(["words", "speaker"]).to(device)
        self.temperature = Temperature(settings.temperature).to(device)
        self.by_speaker: dict[str, list[int]] = {}
        for index in range(len(shards)):
            self.by_speaker.setdefault(speaker_of(shards[index], index), []).append(index)

    def modules(self) -> dict[str, nn.Module]:
        return {"voice": self.encoder, "weights": self.weights, "temperature": self.temperature}

    def plan(self, state: SamplerState) -> Iterator[tuple[tuple[SamplerState, list[int]], SamplerState]]:
        """Batches over speakers, not clips, so that a talkative speaker does not fill them."""
        while True:
            generator = torch.Generator().manual_seed(hash((state.seed, state.epoch)) % 2**63)
            indices = self._epoch(generator)
            while state.cursor + self.rows <= len(indices) or state.cursor == 0:
                key = (state, indices[state.cursor : state.cursor + self.rows])
                state = SamplerState(state.seed, state.epoch, state.cursor + self.rows)
                yield key, state
            state = SamplerState(state.seed, state.epoch + 1, 0)

    def load(self, key: tuple[SamplerState, list[int]]) -> VoiceBatch:
        place, rows = key
        drawn = torch.Generator().manual_seed(hash((place.seed, place.epoch, place.cursor)) % 2**63)
        return self._batch(self.shards, rows, drawn)

    def _epoch(self, generator: torch.Generator) -> list[int]:
        """Every speaker's clips, at most 64 each, in random order."""
        chosen = []
        for clips in self.by_speaker.values():
            order = torch.randperm(len(clips), generator=generator)[:64]
            chosen += [clips[i] for i in order.tolist()]
        return [chosen[i] for i in torch.randperm(len(chosen), generator=generator).tolist()]

    def _batch(self, shards: TokenShards, indices: list[int], generator: torch.Generator) -> VoiceBatch:
        examples = [shards[i] for i in indices]
        speakers = [speaker_of(example, i) for example, i in zip(examples, indices, strict=True)]
        partners = [self._partner(name, generator) for name in speakers] if shards is self.shards else examples
        words = []
        for example in examples:
            options = captions(example) or ["a voice"]
            words.append(options[int(torch.randint(len(options), (1,), generator=generator))])
        first, second = self._crops(examples, generator), self._crops(partners, generator)
        return VoiceBatch(first, second, examples, speakers, words)

    def _partner(self, speaker: str, generator: torch.Generator) -> Example:
        clips = self.by_speaker[speaker]
        return self.shards[clips[int(torch.randint(len(clips), (1,), generator=generator))]]

    def _crops(self, examples: list[Example], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Random crops of at most `crop_seconds`: codes [B, K, T] and frames [B]."""
        frames = torch.tensor([min(e.frames, self.crop) for e in examples])
        codes = torch.zeros(len(examples), examples[0].codes.shape[0], int(frames.max()), dtype=torch.long)
        for row, example in enumerate(examples):
            size = int(frames[row])
            start = int(torch.randint(example.frames - size + 1, (1,), generator=generator))
            codes[row, :, :size] = example.codes[:, start : start + size]
        return codes, frames

    def loss(self, batch: VoiceBatch, share_done: float) -> StepLoss:
        losses = self._losses(batch, self._embed(*batch.first), self._embed(*batch.second))
        metrics = {name: float(value.detach()) for name, value in losses.items()}
        return StepLoss(self.weights(losses), len(batch.words), metrics)

    def _embed(self, codes: Tensor, frames: Tensor) -> Tensor:
        return embed_tokens(self.encoder, self.codec, self.mel, codes, frames)

    def _embed_shared(self, codes: Tensor, frames: Tensor) -> Tensor:
        """The voices [B, P] on every process, each of which embeds some of them; no graph is kept."""
        parts = mine(torch.arange(len(frames)).split(HEARD_TOGETHER))
        own = {int(part[0]): self._embed(codes[part], frames[part]).detach().cpu() for part in parts}
        return torch.cat(in_order(own)).to(self.device)

    def _losses(self, batch: VoiceBatch, first: Tensor, second: Tensor) -> dict[str, Tensor]:
        """The contrastive losses of a batch whose crops have these voices [B, P]."""
        text = embed_words(self.encoder, batch.words, self.tokenizer)
        tags = [_tags(example) for example in batch.examples]
        overlap = torch.tensor([[tag_overlap(a, b) for b in tags] for a in tags])
        same = torch.tensor([[a == b for b in batch.speakers] for a in batch.speakers])
        temperature = self.temperature()
        soft = ((overlap - 1) / TARGET_SHARPNESS).exp().to(self.device)
        return {
            "words": soft_contrastive(first, text, soft, temperature),
            "speaker": soft_contrastive(first, second, same.float().to(self.device), temperature),
        }

    def validate(self) -> dict[str, float]:
        """Losses on held-out clips, and how often "a man" and "a woman" sort them rightly (where gender is known)."""
        generator = torch.Generator().manual_seed(0)
        count = min(len(self.held_out), JUDGED)
        indices = torch.randperm(len(self.held_out), generator=generator)[:count].tolist()
        batch = self._batch(self.held_out, indices, generator)
        first, second = self._embed_shared(*batch.first), self._embed_shared(*batch.second)
        losses = self._losses(batch, first, second)
        figures = {"contrastive": float(losses["words"] + losses["speaker"])}
        known = [i for i, e in enumerate(batch.examples) if e.extra.get("gender") in ("male", "female")]
        if known:
            audio = first[known]
            sides = embed_words(self.encoder, ["a man", "a woman"], self.tokenizer)
            female = torch.tensor([batch.examples[i].extra["gender"] == "female" for i in known], device=audio.device)
            figures["gender_accuracy"] = float(((audio @ sides.T).argmax(-1) == female.long()).float().mean())
        return figures

    @torch.no_grad()
    def samples(self) -> Samples:
        """Cosines of held-out clips (rows) with their captions (columns), both in the captions' order.

        Voices that are known by their words are blocks along the diagonal.
        """
        indices = spread(range(len(self.held_out)), SHOWN)
        batch = self._batch(self.held_out, indices, torch.Generator().manual_seed(0))
        audio = self._embed(*batch.first)
        cosines = audio @ embed_words(self.encoder, batch.words, self.tokenizer).T
        order = sorted(range(len(indices)), key=lambda row: batch.words[row])
        return {"clips-by-captions": heat_map(cosines[order][:, order])}


def speaker_of(example: Example, row: int) -> str:
    """Whose voice it is; a recording that does not say is taken for a speaker of its own."""
    return example.speaker or f"row {row}"


def _tags(example: Example) -> dict[str, str]:
    """What two recordings are compared by: the known attributes, and the description in words where there is one."""
    described = {"description": example.description} if example.description else {}
    return attributes(example) | described
