"""A trained model in use: text and a voice in, speech out; sound in, the language model's answer out; sound to sound.

Sound is a path or a waveform [1, N] at 24 kHz. Speaking needs no LLM, listening no voice encoder, and a saved voice
needs no voice encoder either.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ira.audio import waveform as files
from ira.config import BANDWIDTHS_KBPS, CodecConfig
from ira.errors import InputError
from ira.inference.answering import ListenRow, Sound, answer_bits, llm_threads, place_audio, sounds_of
from ira.inference.loudness import join
from ira.inference.parts import Parts, checkpoint_path
from ira.inference.sentences import Cut, cut_as_it_comes, cut_text
from ira.inference.speaking import PIECE_STEP, SEEDS, Piece, SaidPiece, cpu_threads, say
from ira.inference.spoken import NoSound, Spoken
from ira.inference.streamed import stream
from ira.inference.voice_file import Voice
from ira.inference.voices import Voices, VoiceSpec, pace_in_words
from ira.models.audio_llm import PromptItem
from ira.models.bundle import EMBEDDED
from ira.models.sampling import Sampling
from ira.runtime import pick_device

SLOWEST, FASTEST = 0.5, 2.0  # paces that are offered
NOTHING = "holds nothing to say; give at least one word"


@dataclass(frozen=True)
class SpeakRow:
    """One text to speak; `voice` as `Pipeline.voice_of` takes it.

    pace: from 0.5, half as fast as the voice was learned, to 2.0; words such as "slowly" in a voice count beside it.
    strict: False where signs that cannot be spoken are left out, as of an LLM's answer, and not refused.
    """

    text: str
    voice: VoiceSpec = None
    seed: int = 0
    language: str = "en"
    pace: float = 1.0
    strict: bool = True


@dataclass(frozen=True)
class _Manner:
    """How a text is said: by a voice [P], in a language the model knows, at a pace."""

    voice: Tensor
    language: str
    pace: float


@dataclass(frozen=True)
class _Prepared:
    """What to decode for a row, and the seconds that it took to know it."""

    pieces: list[Piece]
    took: dict[str, float]


@dataclass
class Pipeline:
    """The `parts` at work; see `Pipeline.from_folder`."""

    parts: Parts
    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        self.voices = Voices(self.parts)

    @classmethod
    def from_folder(
        cls,
        folder: str | Path = EMBEDDED,
        device: str = "auto",
        llm: str | None = None,
        bits: int | None = None,
        compiled: bool = False,
    ) -> Pipeline:
        """The model in `folder` (RUN/model of a training, or the one that ships), `llm` in place of the card's LLM.

        bits, compiled: see `Parts`.
        """
        folder = Path(folder)
        return cls(Parts(folder, folder, folder, folder, llm, pick_device(device), bits, compiled))

    # -- speaking ----------------------------------------------------------------------------------------------

    def speak(
        self,
        text: str,
        voice: VoiceSpec = None,
        seed: int = 0,
        language: str = "en",
        progress: Callable[[int], None] | None = None,
        pace: float = 1.0,
    ) -> Spoken:
        """Say `text`; the same text, voice and seed give the same speech.

        Args:
            voice: see `voice_of`.
            pace: 0.5, slow, to 2.0, fast.
            progress: called with the number of codec frames of the batch at work.

        Raises:
            InputError: nothing to say, a character that cannot be spoken, a language that the model never saw, or an
                unusable voice.
        """
        (spoken,) = self.speak_batch([SpeakRow(text, voice, seed, language, pace)], progress)
        if isinstance(spoken, InputError):
            raise spoken
        return spoken

    def speak_stream(
        self,
        text: str | Iterable[str],
        voice: VoiceSpec = None,
        seed: int = 0,
        language: str = "en",
        pace: float = 1.0,
        strict: bool = True,
    ) -> Iterator[Tensor]:
        """As `speak`, in parts [1, n] that come while the rest is still being decoded.

        Of a text of one piece the parts joined are what one attempt of `speak` gives; there is no second attempt, and
        pieces are not brought to one loudness. A text may come in bits, words of `listen_stream` for one: it sounds as
        it does whole, and sentences are said while later ones are still to come.

        Raises:
            InputError: as `speak`, before the first part; about a text in bits when they have come.
        """
        manner = self._manner(SpeakRow("", voice, seed, language, pace, strict))
        if isinstance(text, str):
            cuts = _some(text, cut_text(text, manner.language, strict=strict))
        else:
            cuts = _some_to_come(cut_as_it_comes(text, manner.language, strict=strict))
        pieces = _pieces(cuts, manner, seed)
        return stream(self.parts.speech_lm, self.parts.codec, pieces, self.sampling)

    def speak_batch(
        self, rows: Sequence[SpeakRow], progress: Callable[[int], None] | None = None
    ) -> list[Spoken | InputError]:
        """Each row's speech, or the reason why there is none; a bad row changes nothing for the others."""
        prepared = [self._prepare(row) for row in rows]
        pieces = [piece for row in prepared if not isinstance(row, InputError) for piece in row.pieces]
        said = iter(say(self.parts.speech_lm, self.parts.codec, pieces, self.sampling, progress) if pieces else [])
        return [
            row if isinstance(row, InputError) else self._join(row, [next(said) for _ in row.pieces])
            for row in prepared
        ]

    def voice_of(self, spec: VoiceSpec) -> Voice:
        """A recording's path, a saved NAME.voice, words ("a calm woman"), or a mix: "a.voice:0.7+a calm man:0.3"."""
        return self.voices.of(spec)

    def _prepare(self, row: SpeakRow) -> _Prepared | InputError:
        """What to decode for a row."""
        try:
            started = time.monotonic()
            cuts = _some(row.text, cut_text(row.text, self._learned(row.language), strict=row.strict))
            read = time.monotonic()
            manner = self._manner(row)
            took = {"text": read - started, "voice": time.monotonic() - read}
            return _Prepared(list(_pieces(cuts, manner, row.seed)), took)
        except InputError as error:
            return error

    def _manner(self, row: SpeakRow) -> _Manner:
        """How a row's text is said, whatever it is."""
        language = self._learned(row.language)
        if not SLOWEST <= row.pace <= FASTEST:
            raise InputError(f"pace {row.pace:g}; a number from {SLOWEST:g} to {FASTEST:g} is wanted; 1 is plain")
        if not 0 <= row.seed < SEEDS:
            raise InputError(f"seed {row.seed}; a whole number from 0 to {SEEDS - 1} is wanted")
        voice = self._fitting(self.voice_of(row.voice))
        pace = min(max(row.pace * pace_in_words(voice.source), SLOWEST), FASTEST)
        return _Manner(voice.embedding, language, pace)

    def _learned(self, given: str) -> str:
        """The language as two letters, where the SpeechLM has learned it."""
        language, known = given.strip().lower().partition("-")[0], self.parts.speech_lm.languages
        if language not in known:
            raise InputError(f"language {given[:20]!r}; this model has learned {', '.join(known)}; give one of them")
        return language

    def _fitting(self, voice: Voice) -> Voice:
        if len(voice.embedding) != self.parts.speech_lm.voice_dim:
            raise InputError(
                f"voice {voice.source[:40]!r} has {len(voice.embedding)} numbers, the SpeechLM takes "
                f"{self.parts.speech_lm.voice_dim}; make the voice with this model's encoder"
            )
        return voice

    def _join(self, row: _Prepared, said: list[SaidPiece]) -> Spoken | InputError:
        """The pieces' sound, one after another."""
        text, rate = " ".join(piece.text for piece in row.pieces), self.parts.codec.sample_rate
        if not any(piece.codes.shape[-1] for piece in said):
            return NoSound(f"no sound came for {text[:40]!r}; try another seed or a longer text")
        waveform, starts = join([one.waveform for one in said], [piece.pause for piece in row.pieces], rate)
        codes = torch.cat([piece.codes for piece in said], dim=-1)
        finished, attempts = all(piece.finished for piece in said), max(piece.attempts for piece in said)
        took = {
            **row.took,
            "decoding": sum(one.decoding for one in said),
            "sound": sum(one.sounding for one in said),
        }
        pairs = list(zip(row.pieces, said, strict=True))
        return Spoken(waveform, codes, finished, attempts, text, rate, pairs, starts, took)

    # -- listening ---------------------------------------------------------------------------------------------

    def listen(
        self, audio: Sound | Sequence[Sound] | None, prompt: str | None = None, max_new_tokens: int | None = None
    ) -> str:
        """The LLM's answer, greedy. Without a prompt the sound stands where the user's own words would.

        Raises:
            InputError: unreadable sound, a prompt whose `<|audio|>` do not fit it, or more than the LLM can hold.
        """
        (answer,) = self.listen_batch([ListenRow(audio, prompt)], max_new_tokens)
        if isinstance(answer, InputError):
            raise answer
        return answer

    def listen_stream(
        self, audio: Sound | Sequence[Sound] | None, prompt: str | None = None, max_new_tokens: int | None = None
    ) -> Iterator[str]:
        """The answer of `listen` in bits, each as soon as the LLM has said it.

        Raises:
            InputError: as `listen`, before the first bit.
        """
        with cpu_threads(llm_threads()):
            item = self._item(ListenRow(audio, prompt))
        if isinstance(item, InputError):
            raise item
        limit = max_new_tokens or self.parts.card.llm.max_new_tokens
        return answer_bits(self.parts.audio_llm, item, limit, self.parts.opening.copy())

    def listen_batch(self, rows: Sequence[ListenRow], max_new_tokens: int | None = None) -> list[str | InputError]:
        """Each row's answer, or the reason why there is none. All rows go through the LLM as one batch."""
        with cpu_threads(llm_threads()):
            items = [self._item(row) for row in rows]
            good = [item for item in items if not isinstance(item, InputError)]
            limit = max_new_tokens or self.parts.card.llm.max_new_tokens
            past = self.parts.opening.copy() if len(good) == 1 else None
            answers = iter(self.parts.audio_llm.generate(good, limit, past=past) if good else [])
        return [item if isinstance(item, InputError) else next(answers) for item in items]

    @torch.no_grad()
    def _item(self, row: ListenRow) -> PromptItem | InputError:
        try:
            sounds = sounds_of(row.audio)
            messages = [{"role": "user", "content": place_audio(row.prompt, len(sounds))}]
            item = PromptItem(messages, [self.hear(sound) for sound in sounds])
            self.parts.audio_llm.prompts([item])  # raises where the LLM has no room for it
            return item
        except InputError as error:
            return error

    @torch.no_grad()
    def hear(self, sound: Sound) -> Tensor:
        """A sound as embeddings [q, E]; one that is longer than the SpeechLM reads goes in whole adapter windows."""
        codes = self.parts.codec.encode(self._waveform(sound)[None].to(self.parts.device)).codes
        adapter, model = self.parts.audio_llm.adapter, self.parts.speech_lm
        room = model.config.max_steps - model.codebooks
        window = adapter.window * adapter.config.stack
        size = room // window * window or room
        parts = codes.split(size, dim=-1)
        heard = [
            self.parts.audio_llm.listen(part, torch.tensor([part.shape[-1]], device=self.parts.device))
            for part in parts
        ]
        return torch.cat([one.rows()[0] for one in heard])

    def _waveform(self, sound: Sound) -> Tensor:
        """[1, N], N > 0, all finite."""
        if not isinstance(sound, Tensor):
            return files.load_audio(sound, self.parts.codec.sample_rate)
        if sound.numel() == 0 or sound.numel() != sound.shape[-1] or not torch.isfinite(sound).all():
            raise InputError(f"waveform of shape {list(sound.shape)}; finite samples of one channel [1, N] are wanted")
        return sound.detach().float().cpu().reshape(1, -1)

    # -- both --------------------------------------------------------------------------------------------------

    def respond(
        self,
        audio: Sound,
        prompt: str | None = None,
        voice: VoiceSpec = None,
        seed: int = 0,
        language: str = "en",
        max_new_tokens: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> tuple[str, Spoken]:
        """The answer to a recording, and that answer spoken; signs that cannot be spoken are left out of the speech."""
        self._learned(language)  # refused before the LLM is asked, not after
        self._fitting(self.voice_of(voice))
        answer = self.listen(audio, prompt, max_new_tokens)
        if not cut_text(answer, language, strict=False):
            raise InputError(f"the answer {answer[:40]!r} holds nothing that can be spoken; ask with another prompt")
        (spoken,) = self.speak_batch([SpeakRow(answer, voice, seed, language, strict=False)], progress)
        if isinstance(spoken, InputError):
            raise spoken
        return answer, spoken

    def resynth(self, audio: Sound, bandwidth: float | None = None) -> Tensor:
        """What the codec makes of a sound: [1, N], as long as it was. `bandwidth` in kbps; None is the model's own.

        Raises:
            InputError: a bandwidth that is not offered, or more than this codec has.
        """
        if bandwidth is not None and bandwidth not in BANDWIDTHS_KBPS:
            raise InputError(f"{bandwidth:g} kbps; give one of {', '.join(f'{b:g}' for b in BANDWIDTHS_KBPS)}")
        books = None if bandwidth is None else CodecConfig(kind="encodec", bandwidth_kbps=bandwidth).codebooks
        sound = self._waveform(audio)
        tokens = self.parts.codec.encode(sound[None].to(self.parts.device), codebooks=books)
        return self.parts.codec.decode(tokens.codes)[0, :, : sound.shape[-1]].cpu()

    def end_to_end_pipeline(
        self,
        input_text: str,
        voice_style_reference: VoiceSpec = None,
        llm_prompt: str | None = None,
        return_audio: bool = True,
        seed: int = 0,
    ) -> dict[str, Any]:
        """Speak `input_text` and let the LLM listen to that speech: the sound alone, never the text.

        Returns:
            audio_waveform: [1, N] (None without `return_audio`); llm_response: str; speech_tokens: [K, T].
        """
        spoken = self.speak(input_text, voice_style_reference, seed)
        answer = self.listen(spoken.waveform, llm_prompt)
        waveform = spoken.waveform if return_audio else None
        return {"audio_waveform": waveform, "llm_response": answer, "speech_tokens": spoken.codes}

    @staticmethod
    def save_audio(waveform: Tensor, path: str | Path) -> None:
        """Write a waveform [1, N] in the format of the suffix."""
        files.save_audio(path, waveform)


def create_pipeline_from_checkpoints(
    speech_lm_checkpoint: str | Path,
    llm_name_or_path: str | None,
    adapter_checkpoint: str | Path,
    voice_encoder_checkpoint: str | Path | None = None,
    device: str = "auto",
) -> Pipeline:
    """A pipeline of parts from different places.

    Args:
        speech_lm_checkpoint: speech_lm.safetensors or the model folder that holds it; the codec, the voice encoder
            and the LLM's LoRA are those beside it.
        llm_name_or_path: hub id, folder, .gguf file or "embedded"; None is the LLM of the model folder.
        adapter_checkpoint: adapter.safetensors or its folder.
        voice_encoder_checkpoint: voice.safetensors or its folder; None is the one beside the SpeechLM.

    Raises:
        InputError: a checkpoint is not there or not safetensors.
    """
    speech_lm, adapter = checkpoint_path(speech_lm_checkpoint), checkpoint_path(adapter_checkpoint)
    folder = speech_lm if speech_lm.is_dir() else speech_lm.parent
    voice_encoder = folder if voice_encoder_checkpoint is None else checkpoint_path(voice_encoder_checkpoint)
    return Pipeline(Parts(folder, speech_lm, adapter, voice_encoder, llm_name_or_path, pick_device(device)))


def _some(text: str, cuts: list[Cut]) -> Iterable[Cut]:
    """The cuts of a text, of which there has to be one."""
    if not cuts:
        raise InputError(f"text {text[:40]!r} {NOTHING}")
    return cuts


def _some_to_come(cuts: Iterator[Cut]) -> Iterator[Cut]:
    """The same of cuts that are made when they are asked for."""
    first = next(cuts, None)
    if first is None:
        raise InputError(f"the text {NOTHING}")
    yield first
    yield from cuts


def _pieces(cuts: Iterable[Cut], manner: _Manner, seed: int) -> Iterator[Piece]:
    """All in one voice, each with a seed of its own that follows from the text's."""
    for cut, one in zip(cuts, count(seed, PIECE_STEP), strict=False):
        yield Piece(cut.text, manner.voice, one, manner.language, cut.pause / manner.pace, manner.pace)
