"""Stage `speech`: token shards with text in, a SpeechLM that says a given text in a given voice out.

Cross-entropy on every codebook, end of speech supervised; a diagonal prior, a forward-sum loss (Neekhara et al. 2024)
and a guided-attention loss (Tachibana et al. 2018) make attention walk through the text at the pace of speech; text
and voice are dropped at random, alone and together, for guidance and for listening.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from ira.audio.codec import Codec
from ira.audio.waveform import LogMel
from ira.checkpoint import write_aside
from ira.config import SpeechStage
from ira.data.batches import SamplerState, SpeechBatch, batches, collate, spread
from ira.data.shards import Example, TokenShards
from ira.data.text import CharTokenizer
from ira.errors import InputError
from ira.models.decode import Generated, frame_bound, generate
from ira.models.speech_lm import Memory, SpeechLM
from ira.models.voice_encoder import VoiceEncoder, embed_tokens
from ira.processes import mine, summed
from ira.trackers.base import Samples
from ira.training.losses import codec_cross_entropy, diagonal_prior, forward_sum, guided_attention
from ira.training.samples import attention, sound_and_spectrogram
from ira.training.stage import StepLoss
from ira.training.voice import speaker_of

JUDGED = 48  # held-out rows whose likelihood is measured
SPOKEN = 8  # held-out sentences that are spoken at every validation
SHOWN = 2  # held-out sentences among the samples


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
        self.tokenizer, self.frame_rate = CharTokenizer(), frame_rate
        self.rows = [i for i in range(len(shards)) if shards[i].text]
        if not self.rows:
            raise InputError(f"{shards.folder}: no row has text; the speech stage needs transcripts")
        judged = [held_out[i] for i in range(len(held_out)) if held_out[i].text]
        self.judged = spread(judged, JUDGED) or [shards[i] for i in self.rows[:SPOKEN]]
        self.judged_voices = voices.of_examples(self.judged)
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
        for chosen, after in batches(lengths, int(self.settings.batch_seconds * self.frame_rate), state):
            yield (after, [self.rows[i] for i in chosen]), after

    def load(self, key: tuple[SamplerState, list[int]]) -> tuple[SpeechBatch, Tensor]:
        """The rows with a voice each [B, P]: half the time that of another clip of the same speaker."""
        place, rows = key
        generator = torch.Generator().manual_seed(hash((place.seed, place.epoch, place.cursor)) % 2**63)
        voices = torch.stack([self.voices.draw(row, generator) for row in rows])
        return collate([self.shards[row] for row in rows], self.tokenizer), voices

    def loss(self, batch: tuple[SpeechBatch, Tensor], share_done: float) -> StepLoss:
        rows, voices = batch
        drop_text, drop_voice = self._drops(len(voices))
        prior_scale = max(0.0, 1 - share_done / self.settings.guide_share) if self.settings.guide_share else 0.0
        losses = self._losses(rows, voices, drop_text, drop_voice, prior_scale)
        weights = {"cross_entropy": 1.0, "forward_sum": self.settings.align_weight, "guide": self.settings.guide_weight}
        total = torch.stack([weights[name] * value for name, value in losses.items()]).sum()
        metrics = {name: float(value.detach()) for name, value in losses.items()}
        return StepLoss(total, int(rows.frames.sum()), metrics)

    def _drops(self, rows: int) -> tuple[Tensor, Tensor]:
        """Which rows lose text and voice: half of `drop_text` loses both, so that listening is trained too."""
        config = self.model.config
        text = torch.rand(rows) < config.drop_text
        voice = (torch.rand(rows) < config.drop_voice) | (text & (torch.rand(rows) < 0.5))
        return text.to(self.device), voice.to(self.device)

    def _losses(
        self, rows: SpeechBatch, voices: Tensor, drop_text: Tensor, drop_voice: Tensor, prior_scale: float
    ) -> dict[str, Tensor]:
        codes, frames, text, lengths = (
            x.to(self.device) for x in (rows.codes, rows.frames, rows.text, rows.text_lengths)
        )
        memory = self.model.condition(text, lengths, voices.to(self.device), drop_text=drop_text, drop_voice=drop_voice)
        told = lengths.masked_fill(drop_text, 0)
        prior = None
        if prior_scale > 0:
            prior = prior_scale * diagonal_prior(frames, lengths, codes.shape[-1] + 1, text.shape[1])
            prior = prior.masked_fill(drop_text[:, None, None], 0.0)
        out = self.model(codes, frames, memory, prior=prior, align=True)
        assert out.alignment is not None
        return {
            "cross_entropy": codec_cross_entropy(
                out.logits, codes, frames, self.book_weights, self.settings.eos_weight
            ),
            "forward_sum": forward_sum(out.alignment, frames, told),
            "guide": guided_attention(out.alignment, frames, told),
        }

    def validate(self) -> dict[str, float]:
        """Likelihood of held-out speech without the prior, and how held-out sentences are spoken.

        `score` chooses the checkpoint: book 0's cross-entropy plus the share of sentences that never end.
        """
        rows = collate(self.judged, self.tokenizer)
        keep = torch.zeros(len(self.judged), dtype=torch.bool, device=self.device)
        book0, walked, strayed = 0.0, 0.0, 0.0
        for part in mine(torch.arange(len(self.judged)).split(8)):
            codes, frames = rows.codes[part].to(self.device), rows.frames[part].to(self.device)
            memory = self.model.condition(
                rows.text[part].to(self.device),
                rows.text_lengths[part].to(self.device),
                self.judged_voices[part].to(self.device),
                drop_text=keep[part],
            )
            out = self.model(codes, frames, memory, align=True)
            assert out.alignment is not None
            only = torch.eye(self.model.codebooks, device=self.device)[0]
            book0 += float(codec_cross_entropy(out.logits, codes, frames, only, 1.0)) * len(part)
            lengths = rows.text_lengths[part].to(self.device)
            walked += float(forward_sum(out.alignment, frames, lengths)) * len(part)
            strayed += float(guided_attention(out.alignment, frames, lengths)) * len(part)
        totals = summed({"book0_nll": book0, "forward_sum": walked, "off_diagonal": strayed})
        figures = {name: total / len(self.judged) for name, total in totals.items()}
        figures |= self._speak(spread(self.judged, SPOKEN), self.judged_voices[spread(range(len(self.judged)), SPOKEN)])
        return figures | {"score": figures["book0_nll"] + figures["runaway"]}

    def _speak(self, examples: list[Example], voices: Tensor) -> dict[str, float]:
        """Speak the texts: the share that never ends, and the length against the recording's.

        Every process speaks all of them: a batch takes about as long as its longest sentence, and a part of it might
        be rounded, and so drawn, differently.
        """
        rows = collate(examples, self.tokenizer)
        spoken = self._generate(self._condition(rows, voices), rows)
        ratio = float((spoken.frames.cpu() / rows.frames).mean())
        return {"runaway": float((~spoken.finished).float().mean()), "length_ratio": ratio}

    def _condition(self, rows: SpeechBatch, voices: Tensor) -> Memory:
        return self.model.condition(
            rows.text.to(self.device), rows.text_lengths.to(self.device), voices.to(self.device)
        )

    def _generate(self, memory: Memory, rows: SpeechBatch) -> Generated:
        bound = frame_bound(rows.text_lengths.to(self.device), self.frame_rate)
        return generate(self.model, memory, None, bound, seeds=list(range(len(rows.examples))))

    @torch.no_grad()
    def samples(self) -> Samples:
        """Two held-out sentences: spoken, to hear and to see, and where attention stands as the recording goes on."""
        by_length = sorted(range(len(self.judged)), key=lambda row: self.judged[row].frames)
        chosen = spread(by_length[: max(len(by_length) // 2, SHOWN)], SHOWN)  # long ones take as long as validation
        rows = collate([self.judged[i] for i in chosen], self.tokenizer)
        memory = self._condition(rows, self.judged_voices[chosen])
        out = self.model(rows.codes.to(self.device), rows.frames.to(self.device), memory, align=True)
        assert out.alignment is not None
        found, weights = Samples(), out.alignment.float().softmax(-1)
        for row, (frames, letters) in enumerate(zip(rows.frames.tolist(), rows.text_lengths.tolist(), strict=True)):
            found[f"sentence{row + 1}-attention"] = attention(weights[row, :frames, :letters].T)
        return found | self._hear(self._generate(memory, rows))

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

    def draw(self, row: int, generator: torch.Generator) -> Tensor:
        """The voice of this row [P], or as often that of a random row of its speaker."""
        if float(torch.rand((), generator=generator)) < 0.5:
            return self.embeddings[row]
        clips = self.by_speaker[self.speakers[row]]
        return self.embeddings[clips[int(torch.randint(len(clips), (1,), generator=generator))]]

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
