"""Stage `voice`: token shards with descriptions in, a voice encoder out.

Four losses under learned uncertainty weights: a clip against descriptions in words (soft targets, since many clips
share a description), a clip against another clip of the same speaker, a clip against the captions that tell the values
of one attribute apart, and the angle between a clip and its fullest caption.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ira.audio.codec import Codec
from ira.audio.measure import measure
from ira.audio.waveform import LogMel
from ira.config import VoiceStage
from ira.data.batches import SamplerState, spread
from ira.data.shards import Example, TokenShards
from ira.data.text import CharTokenizer
from ira.models.voice_encoder import CROPS, WHOLE, VoiceEncoder, embed_words
from ira.processes import in_order, mine
from ira.trackers.base import Samples
from ira.training.descriptions import Scale, say, scales, word_targets
from ira.training.losses import UncertaintyWeights, soft_contrastive
from ira.training.samples import heat_map
from ira.training.stage import StepLoss

JUDGED = 96  # held-out clips that validation looks at
HEARD_TOGETHER = 16
SHOWN = 32  # of them in the picture
LOSSES = ("words", "speaker", "attributes", "gap")


@dataclass(frozen=True)
class Crop:
    """A piece of a recording: the row, whose it is, and codes [K, T]; `key` names it in its shards."""

    example: Example
    speaker: str
    codes: Tensor
    key: tuple[str, int, int]


@dataclass
class VoiceBatch:
    """Two crops of each of B voices, and where the captions are drawn from."""

    first: list[Crop]
    second: list[Crop]
    seed: int


class Temperature(nn.Module):
    """Learned softmax temperatures [n], kept in 0.01..1."""

    def __init__(self, start: float, count: int) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.full((count,), start).log())

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
        self.weights = UncertaintyWeights(list(LOSSES)).to(device)
        self.temperature = Temperature(settings.temperature, 3).to(device)
        self.kept: dict[tuple[str, int, int], tuple[Tensor, dict[str, float]]] = {}
        self.room = settings.cache_gb * 2**30
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
        first = [self._crop(shards, i, generator) for i in indices]
        if shards is self.shards:
            partners = [self.by_speaker[crop.speaker] for crop in first]
            indices = [clips[int(torch.randint(len(clips), (1,), generator=generator))] for clips in partners]
        second = [self._crop(shards, i, generator) for i in indices]
        return VoiceBatch(first, second, int(torch.randint(2**31, (1,), generator=generator)))

    def _crop(self, shards: TokenShards, row: int, generator: torch.Generator) -> Crop:
        """One of the up to four crops of `crop_seconds` that a voice in use is the mean of."""
        example = shards[row]
        size = min(example.frames, self.crop)
        starts = torch.linspace(0, example.frames - size, min(CROPS, example.frames // size)).long().tolist()
        start = starts[int(torch.randint(len(starts), (1,), generator=generator))]
        key = ("train" if shards is self.shards else "val", row, start)
        return Crop(example, speaker_of(example, row), example.codes[:, start : start + size], key)

    def loss(self, batch: VoiceBatch, share_done: float) -> StepLoss:
        (first, measures), (second, _) = self._embed(batch.first, blot=True), self._embed(batch.second, blot=True)
        losses = self._losses(batch, first, second, measures)
        metrics = {name: float(value.detach()) for name, value in losses.items()}
        return StepLoss(self.weights(losses), len(batch.first), metrics)

    def _embed(self, crops: list[Crop], blot: bool = False) -> tuple[Tensor, list[dict[str, float]]]:
        """Voices [B, P] and measures."""
        heard = self._hear(crops)
        mels = nn.utils.rnn.pad_sequence([mel.T.float() for mel, _ in heard], batch_first=True).transpose(1, 2)
        frames = torch.tensor([crop.codes.shape[1] for crop in crops], device=self.device)
        mels = F.pad(mels, (0, self.crop - mels.shape[-1]))
        mels = blotted(mels) if blot else mels
        return self.encoder.embed_audio(mels, frames), [measures for _, measures in heard]

    @torch.no_grad()
    def _hear(self, crops: list[Crop]) -> list[tuple[Tensor, dict[str, float]]]:
        """The log-mel [M, T] and the measures of each crop, from memory where it is there and else from the codec."""
        new = list({crop.key: crop for crop in crops if crop.key not in self.kept}.values())
        made: dict[tuple[str, int, int], tuple[Tensor, dict[str, float]]] = {}
        if new:
            codes = nn.utils.rnn.pad_sequence([crop.codes.T for crop in new], batch_first=True).transpose(1, 2)
            frames = torch.tensor([crop.codes.shape[1] for crop in new], device=self.device)
            sounds = self.codec.decode(codes.to(self.device), frames).float()
            for crop, sound, mel in zip(new, sounds.cpu(), self.mel(sounds).half(), strict=True):
                size = crop.codes.shape[1]
                measures = measure(sound[0, : size * self.codec.hop], self.codec.sample_rate)
                made[crop.key] = mel[:, :size].clone(), measures
        for key, (mel, measures) in made.items():
            if self.room >= mel.nbytes:
                self.kept[key] = mel, measures
                self.room -= mel.nbytes
        return [self.kept[crop.key] if crop.key in self.kept else made[crop.key] for crop in crops]

    def _embed_shared(self, crops: list[Crop]) -> tuple[Tensor, list[dict[str, float]]]:
        """The voices [B, P] on every process, each of which embeds some of them; no graph is kept."""
        parts = mine(torch.arange(len(crops)).split(HEARD_TOGETHER))
        own: dict[int, tuple[Tensor, list[dict[str, float]]]] = {}
        for part in parts:
            voices, measures = self._embed([crops[i] for i in part.tolist()])
            own[int(part[0])] = voices.detach().cpu(), measures
        voices, measures = zip(*in_order(own), strict=True)
        return torch.cat(voices).to(self.device), [row for rows in measures for row in rows]

    def _losses(
        self, batch: VoiceBatch, first: Tensor, second: Tensor, measures: list[dict[str, float]]
    ) -> dict[str, Tensor]:
        """The losses of a batch whose crops have these voices [B, P]; the first ones were measured."""
        examples = heard_examples(batch.first)
        said = say(examples, measures, torch.Generator().manual_seed(batch.seed))
        asked = scales(said)
        text = self._read([said.drawn, said.fullest, *(options for scale in asked for options in scale.captions)])
        speakers = [crop.speaker for crop in batch.first]
        same = torch.tensor([[float(a == b) for b in speakers] for a in speakers], device=self.device)
        to_words, to_speaker, to_scale = self.temperature().unbind()
        return {
            "words": soft_contrastive(
                first, _rows(text, said.drawn), word_targets(said, examples).to(self.device), to_words
            ),
            "speaker": soft_contrastive(first, second, same, to_speaker),
            "attributes": torch.cat([_tell_apart(first, text, scale, to_scale) for scale in asked]).mean()
            if asked
            else first.sum() * 0,
            "gap": (1 - (first * _rows(text, said.fullest)).sum(-1)).clamp(min=0).mean(),
        }

    def _read(self, groups: list[list[str]]) -> dict[str, Tensor]:
        """The voice [P] of every caption, each read once."""
        distinct = sorted({caption for group in groups for caption in group})
        more = [""] * (-len(distinct) % WHOLE)
        return dict(zip(distinct, embed_words(self.encoder, distinct + more, self.tokenizer), strict=False))

    def validate(self) -> dict[str, float]:
        """The losses on held-out clips, and how often the captions of each attribute name its value; of an ordered one
        with more than three, or one step beside it.
        """
        generator = torch.Generator().manual_seed(0)
        indices = torch.randperm(len(self.held_out), generator=generator)[:JUDGED].tolist()
        batch = self._batch(self.held_out, indices, generator)
        (first, measures), (second, _) = self._embed_shared(batch.first), self._embed_shared(batch.second)
        losses = self._losses(batch, first, second, measures)
        figures = {"contrastive": float(losses["words"] + losses["speaker"] + losses["attributes"])}
        figures["matching_cosine"] = 1 - float(losses["gap"])
        said = say(heard_examples(batch.first), measures, generator)
        for scale in scales(said):
            text = self._read(scale.captions)
            words = torch.stack([_rows(text, options) for options in scale.captions])
            guess = (first[scale.rows][:, None] * words).sum(-1).argmax(-1).cpu()
            off = (guess - scale.targets.argmax(-1)).abs()
            figures[f"{scale.name}_accuracy"] = float((off <= (scale.targets.shape[1] == 5)).float().mean())
        return figures

    @torch.no_grad()
    def samples(self) -> Samples:
        """Cosines of held-out clips (rows) with their captions (columns), both in the captions' order.

        Voices that are known by their words are blocks along the diagonal.
        """
        indices = spread(range(len(self.held_out)), SHOWN)
        batch = self._batch(self.held_out, indices, torch.Generator().manual_seed(0))
        audio, measures = self._embed(batch.first)
        said = say(heard_examples(batch.first), measures, torch.Generator().manual_seed(0)).drawn
        cosines = audio @ embed_words(self.encoder, said, self.tokenizer).T
        order = sorted(range(len(indices)), key=lambda row: said[row])
        return {"clips-by-captions": heat_map(cosines[order][:, order])}


def heard_examples(crops: list[Crop]) -> list[Example]:
    """Each crop's recording; its text only where the crop is all of it, or its words would be said in a crop's time."""
    return [
        crop.example if crop.codes.shape[1] == crop.example.frames else replace(crop.example, text="") for crop in crops
    ]


def _tell_apart(voices: Tensor, text: dict[str, Tensor], scale: Scale, temperature: Tensor) -> Tensor:
    """KL [n] of which caption of the scale is nearest to a voice of [B, P] against its targets."""
    words = torch.stack([_rows(text, options) for options in scale.captions])
    near = (voices[scale.rows][:, None] * words).sum(-1).float() / temperature
    targets = scale.targets.to(voices.device)
    return F.kl_div(torch.log_softmax(near, -1), targets, reduction="none").sum(-1).clamp(min=0)


def _rows(text: dict[str, Tensor], captions: list[str]) -> Tensor:
    """[n, P] of n captions."""
    return torch.stack([text[caption] for caption in captions])


def blotted(mels: Tensor) -> Tensor:
    """Log-mel [B, M, T] with a band of up to a sixth of the bins at each row's mean (Park et al. 2019), and tilted.

    A microphone colours the spectrum of all that its speaker says; the voice must not be known by that.
    """
    rows, bins, _ = mels.shape
    drawn = torch.rand(3, rows, 1, 1).to(mels.device)
    ramp = torch.linspace(-1, 1, bins, device=mels.device)[:, None]
    low = drawn[0] * bins
    band = (torch.arange(bins, device=mels.device)[:, None] - low).abs() < drawn[1] * bins / 12
    return torch.where(band, mels.mean((1, 2), keepdim=True), mels) + (drawn[2] - 0.5) * ramp


def speaker_of(example: Example, row: int) -> str:
    """Whose voice it is; a recording that does not say is taken for a speaker of its own."""
    return example.speaker or f"row {row}"
