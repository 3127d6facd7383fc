"""Stage `speech`: token shards with text in, a SpeechLM that says a given text in a given voice out.

Cross-entropy on every codebook, and on when the pointer goes on to the next text token; which token each frame says is
found beforehand (`ira.training.alignment`). Text and voice are dropped at random, alone and together, for guidance and
for listening.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from ira.audio.codec import Codec
from ira.audio.waveform import LogMel
from ira.checkpoint import write_aside
from ira.config import WHOLE_FRAMES, SpeechStage
from ira.data.batches import SamplerState, SpeechBatch, batches, collate, spread
from ira.data.pronunciation import SPELLED, SpeechTokenizer
from ira.data.shards import Example, TokenShards, language_of
from ira.data.text import CharTokenizer
from ira.data.voices import captions
from ira.errors import InputError
from ira.models.decode import Generated, frame_bound, generate
from ira.models.speech_lm import Memory, SpeechLM
from ira.models.voice_encoder import VoiceEncoder, embed_tokens, embed_words
from ira.processes import mine, summed
from ira.trackers.base import Samples
from ira.training.alignment import FITTED_ON, Spoken, WalkModel
from ira.training.hearing import judge_spoken
from ira.training.losses import advance_loss, codec_cross_entropy
from ira.training.samples import attention, sound_and_spectrogram
from ira.training.stage import StepLoss
from ira.training.voice import speaker_of

JUDGED = 48  # held-out rows whose likelihood is measured
SPOKEN = 8  # held-out sentences that are spoken at every validation
SHOWN = 2  # held-out sentences among the samples


@dataclass
class SpokenBatch:
    """Rows with what they are said by: voices [B, P], places in the model's languages [B], and walks [B, T]."""

    rows: SpeechBatch
    voices: Tensor
    languages: Tensor
    walks: Tensor


class SpeechTraining:
    """The stage: trains `model` on the rows of `shards` that have text, each with the voice of its speaker."""

    name = "speech"
    metric = "score"

    def __init__(
        self,
        model: SpeechLM,
        voices: VoiceTable,
        shards: TokenShards,
        held_out: TokenShards,
        settings: SpeechStage,
        device: torch.device,
        frame_rate: float,
    ) -> None:
        self.model, self.voices, self.shards, self.settings, self.device = model, voices, shards, settings, device
        self.tokenizer, self.frame_rate = SpeechTokenizer(), frame_rate
        self.rows = rows_with_text(shards)
        known = [held_out[i] for i in range(len(held_out)) if language_of(held_out[i]) in model.languages]
        judged = [example for example in known if example.text]
        self.judged = spread(judged, JUDGED) or [shards[i] for i in self.rows[:SPOKEN]]
        self.judged_voices = voices.of_examples(self.judged)
        self.walker = WalkModel(self.tokenizer, model.languages)
        self.walker.fit([shards[i] for i in spread(self.rows, FITTED_ON)], model.codebook_size)
        weights = torch.tensor(model.config.codebook_weights[: model.codebooks])
        if len(weights) < model.codebooks:
            raise InputError(
                f"speech.codebook_weights: {len(weights)} weights for {model.codebooks} codebooks; give one for each"
            )
        self.book_weights = (weights / weights.sum()).to(device)

    def modules(self) -> dict[str, nn.Module]:
        return {"speech_lm": self.model}

    def plan(self, state: SamplerState) -> Iterator[tuple[tuple[SamplerState, list[int]], SamplerState]]:
        """Rows of like length, and the place in the run that their voices are drawn by."""
        lengths = self.shards.lengths[self.rows]
        for chosen, after in batches(lengths, int(self.settings.batch_seconds * self.frame_rate), state, WHOLE_FRAMES):
            yield (after, [self.rows[i] for i in chosen]), after

    def load(self, key: tuple[SamplerState, list[int]]) -> SpokenBatch:
        """The rows with a voice each: of the clip, of another clip of the same speaker, or of the clip in words."""
        place, rows = key
        generator = torch.Generator().manual_seed(hash((place.seed, place.epoch, place.cursor)) % 2**63)
        voices = torch.stack([self.voices.draw(row, self.settings.described_share, generator) for row in rows])
        return self._batch([self.shards[row] for row in rows], voices, SPELLED)

    def _batch(self, examples: list[Example], voices: Tensor, spelled: float = 0.0) -> SpokenBatch:
        rows = collate(examples, self.tokenizer, spelled)
        languages = torch.tensor([self.model.languages.index(language_of(one)) for one in examples])
        ids = [text[:length].tolist() for text, length in zip(rows.text, rows.text_lengths, strict=True)]
        spoken = [Spoken(one.codes.numpy(), said, language_of(one)) for one, said in zip(examples, ids, strict=True)]
        walks = torch.zeros_like(rows.codes[:, 0])
        for row, walk in enumerate(self.walker.walks(spoken)):
            walks[row, : len(walk)] = torch.from_numpy(walk)
        return SpokenBatch(rows, voices, languages, walks)

    def loss(self, batch: SpokenBatch, share_done: float) -> StepLoss:
        losses = self._losses(batch, *self._drops(len(batch.voices)))
        total = losses["cross_entropy"] + self.settings.advance_weight * losses["advance"]
        return StepLoss(total, int(batch.rows.frames.sum()), {name: float(x.detach()) for name, x in losses.items()})

    def _drops(self, rows: int) -> tuple[Tensor, Tensor]:
        """Which rows lose text and voice: half of `drop_text` loses both, so that listening is trained too."""
        config = self.model.config
        text = torch.rand(rows) < config.drop_text
        voice = (torch.rand(rows) < config.drop_voice) | (text & (torch.rand(rows) < 0.5))
        return text.to(self.device), voice.to(self.device)

    def _condition(
        self, batch: SpokenBatch, drop_text: Tensor | None = None, drop_voice: Tensor | None = None
    ) -> Memory:
        text, lengths = batch.rows.text.to(self.device), batch.rows.text_lengths.to(self.device)
        voices, languages = batch.voices.to(self.device), batch.languages.to(self.device)
        return self.model.condition(text, lengths, voices, languages, drop_text=drop_text, drop_voice=drop_voice)

    def _losses(self, batch: SpokenBatch, drop_text: Tensor, drop_voice: Tensor) -> dict[str, Tensor]:
        codes, frames, walks = (x.to(self.device) for x in (batch.rows.codes, batch.rows.frames, batch.walks))
        hide = torch.rand(len(codes), codes.shape[-1] + self.model.codebooks) < self.settings.hide_share
        memory = self._condition(batch, drop_text, drop_voice)
        out = self.model(codes, frames, memory, walks, hide=hide.to(self.device))
        weight = self.settings.eos_weight
        told = frames.masked_fill(drop_text, 0)
        return {
            "cross_entropy": codec_cross_entropy(out.logits, codes, frames, self.book_weights, weight),
            "advance": advance_loss(out.advance, walks, told, weight),
        }

    def validate(self) -> dict[str, float]:
        """Likelihood of held-out speech, and how held-out sentences are spoken.

        `score` chooses the checkpoint: the recogniser's error rate, or book 0's cross-entropy where there is none, plus
        the share of sentences that never end.
        """
        totals = {"book0_nll": 0.0, "advance": 0.0}
        only = torch.eye(self.model.codebooks, device=self.device)[0]
        for part in mine(torch.arange(len(self.judged)).split(8)):
            batch = self._batch([self.judged[i] for i in part], self.judged_voices[part])
            codes, frames, walks = (x.to(self.device) for x in (batch.rows.codes, batch.rows.frames, batch.walks))
            out = self.model(codes, frames, self._condition(batch), walks)
            totals["book0_nll"] += float(codec_cross_entropy(out.logits, codes, frames, only, 1.0)) * len(part)
            totals["advance"] += float(advance_loss(out.advance, walks, frames, 1.0)) * len(part)
        figures = {name: total / len(self.judged) for name, total in summed(totals).items()}
        chosen = spread(range(len(self.judged)), SPOKEN)
        examples = [self.judged[i] for i in chosen]
        # Every process speaks all of them: a batch takes about as long as its longest sentence, and a part of it might
        # be rounded, and so drawn, differently.
        spoken = self._generate(self._batch(examples, self.judged_voices[chosen]))
        figures |= judge_spoken(self.voices.codec, spoken, examples)
        return figures | {"score": figures.get("error_rate", figures["book0_nll"]) + figures["runaway"]}

    def _generate(self, batch: SpokenBatch) -> Generated:
        bound = frame_bound(batch.rows.text_lengths.to(self.device), self.frame_rate)
        untold = self.model.condition(None, None, None, batch=len(batch.voices))
        return generate(self.model, self._condition(batch), untold, bound, seeds=list(range(len(batch.voices))))

    @torch.no_grad()
    def samples(self) -> Samples:
        """Two held-out sentences: spoken, to hear and to see, and where attention stands as the recording goes on."""
        by_length = sorted(range(len(self.judged)), key=lambda row: self.judged[row].frames)
        chosen = spread(by_length[: max(len(by_length) // 2, SHOWN)], SHOWN)  # long ones take as long as validation
        batch = self._batch([self.judged[i] for i in chosen], self.judged_voices[chosen])
        codes, frames, walks = (x.to(self.device) for x in (batch.rows.codes, batch.rows.frames, batch.walks))
        out = self.model(codes, frames, self._condition(batch), walks, look=True)
        assert out.attention is not None
        found = Samples()
        for row, (size, tokens) in enumerate(zip(frames.tolist(), batch.rows.text_lengths.tolist(), strict=True)):
            found[f"sentence{row + 1}-attention"] = attention(out.attention[row, :size, :tokens].T)
        return found | self._hear(self._generate(batch))

    def _hear(self, spoken: Generated) -> Samples:
        codec, found = self.voices.codec, Samples()
        for row, frames in enumerate(spoken.frames.tolist()):
            waveform = codec.decode(spoken.codes[row : row + 1, :, : max(frames, 1)])[0, 0]
            found |= sound_and_spectrogram(f"sentence{row + 1}", waveform, codec.sample_rate, codec.hop)
        return found


class VoiceTable:
    """The voice embedding of every row of a shard folder [N, P], computed once; and of its speaker's other rows."""

    def __init__(self, encoder: VoiceEncoder, codec: Codec, shards: TokenShards) -> None:
        self.encoder, self.codec = encoder, codec
        self.mel = LogMel(encoder.config.mel_bins).to(encoder.mel_in.weight.device)
        self.crop = int(encoder.config.crop_seconds * codec.frame_rate)
        self.embeddings = self._embed_all(shards)
        self.by_speaker: dict[str, list[int]] = {}
        self.speakers = [speaker_of(shards[i], i) for i in range(len(shards))]
        for index, speaker in enumerate(self.speakers):
            self.by_speaker.setdefault(speaker, []).append(index)
        self._describe(shards)

    def draw(self, row: int, described: float, generator: torch.Generator) -> Tensor:
        """The voice of this row in words, or [P] as it sounds, or as often as that of a random row of its speaker."""
        of = float(torch.rand((), generator=generator))
        if of < described and (said := self.captions[row]):
            return self.words[said[int(torch.randint(len(said), (1,), generator=generator))]]
        if of < described + (1 - described) / 2:
            return self.embeddings[row]
        clips = self.by_speaker[self.speakers[row]]
        return self.embeddings[clips[int(torch.randint(len(clips), (1,), generator=generator))]]

    def most_heard(self, shards: TokenShards, language: str) -> tuple[str, Tensor]:
        """The speaker with the most frames in a language, of all where nobody speaks it, and that voice [P]."""
        rows = [i for i in range(len(shards)) if language_of(shards[i]) == language] or list(range(len(shards)))
        heard: dict[str, int] = {}
        for row in rows:
            heard[self.speakers[row]] = heard.get(self.speakers[row], 0) + int(shards.lengths[row])
        speaker = max(heard, key=heard.__getitem__)
        own = [row for row in rows if self.speakers[row] == speaker]
        return speaker, nn.functional.normalize(self.embeddings[own].mean(0), dim=0)

    @torch.no_grad()
    def _describe(self, shards: TokenShards) -> None:
        """`words`: the voices of all captions; `captions`: which of them are each row's."""
        said = [captions(shards[i]) for i in range(len(shards))]
        distinct = {caption: place for place, caption in enumerate(dict.fromkeys(c for row in said for c in row))}
        self.captions = [[distinct[caption] for caption in row] for row in said]
        few = [list(distinct)[i : i + 256] for i in range(0, len(distinct), 256)]
        found = [embed_words(self.encoder, some, CharTokenizer()).cpu() for some in few]
        self.words = torch.cat(found) if found else torch.zeros(0, self.encoder.config.dim)

    def of_examples(self, examples: list[Example]) -> Tensor:
        """Voices [B, P] of examples from elsewhere."""
        frames = torch.tensor([min(e.frames, self.crop) for e in examples])
        codes = nn.utils.rnn.pad_sequence([e.codes.T[: self.crop] for e in examples], batch_first=True).transpose(1, 2)
        return embed_tokens(self.encoder, self.codec, self.mel, codes, frames).detach().cpu()

    @torch.no_grad()
    def _embed_all(self, shards: TokenShards) -> Tensor:
        """Every row's voice, sorted by length so that little is padding; kept beside the shards for the next run."""
        kept = shards.folder / f"voices-{parameter_hash(self.encoder)}-{rows_hash(shards)}.npy"
        found = torch.from_numpy(np.load(kept, allow_pickle=False)) if kept.is_file() else torch.zeros(0)
        if len(found) == len(shards):
            return found
        out = torch.zeros(len(shards), self.encoder.config.dim)
        groups = torch.from_numpy(np.argsort(shards.lengths)).split(16)
        for rows in track(groups, "voices", console=Console(stderr=True)):
            out[rows] = self.of_examples([shards[int(i)] for i in rows])
        with write_aside(kept) as aside:
            np.save(aside, out.numpy())
        return out


def rows_with_text(shards: TokenShards) -> list[int]:
    """The rows that say something.

    Raises:
        InputError: none does.
    """
    rows = [i for i in range(len(shards)) if shards[i].text]
    if not rows:
        raise InputError(f"{shards.folder}: no row has text; the speech stage needs transcripts")
    return rows


def rows_hash(shards: TokenShards) -> str:
    """Eight hex digits that change when a row of the shards or what it was made of does."""
    digest = hashlib.sha256()
    for folder in shards.folders:
        for path in sorted([*folder.glob("shard-*.json"), *folder.glob("index-*.jsonl")]):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


def parameter_hash(module: nn.Module) -> str:
    """Eight hex digits that change when a weight does."""
    digest = hashlib.sha256()
    for parameter in module.state_dict().values():
        digest.update(parameter.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:8]
