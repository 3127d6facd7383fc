"""All settings of the system, with their defaults and what they may be.

A width that can be read from a model is not here: the adapter asks the LLM for its width, the SpeechLM asks the codec
for its codebooks.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

TEXT_HEADS = 4  # attention heads of the small tower that reads descriptions
STAGES = ("codec", "voice", "speech", "align", "reinforce")
FRAME_RATE = 75  # of both codecs
WHOLE_FRAMES = 64  # what the lengths of batches are multiples of
# Beyond anything that is trained: a slip of the keyboard is refused here, not by a machine without memory.
MOST_LAYERS, WIDEST, LARGEST = 512, 65_536, 2**63
BANDWIDTHS_KBPS = (0.75, 1.5, 3.0, 6.0, 12.0, 24.0)
StageName = Literal["codec", "voice", "speech", "align", "reinforce"]


class Section(BaseModel):
    """A part of the configuration: unknown keys are refused, values are checked, instances do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="after")
    def _numbers_fit_a_machine(self) -> Section:
        wide = [name for name, value in self if isinstance(value, (int, float)) and abs(value) >= LARGEST]
        if wide:
            raise ValueError(f"{', '.join(wide)} of {LARGEST:.0e} or more cannot be computed with")
        return self


def _check_heads(name: str, width: int, heads: int) -> None:
    if width % (2 * heads):
        raise ValueError(f"{name} {width} is not a multiple of 2 x {heads} heads (rotary pairs)")


class CompactConfig(Section):
    """Architecture of IRA's own codec: 24 kHz, hop 320 (75 frames a second), factorised residual quantizers.

    `vocoder_books`: the first codebooks, which know no phase; a SpeechLM that writes only those writes no noise.
    """

    width: int = Field(default=256, gt=0, le=WIDEST)
    encoder_layers: int = Field(default=6, gt=0, le=MOST_LAYERS)
    decoder_layers: int = Field(default=8, gt=0, le=MOST_LAYERS)
    mel_bins: int = Field(default=100, gt=0, le=1024)
    codebooks: int = Field(default=8, ge=2, le=8)
    vocoder_books: int = Field(default=2, ge=1)
    codebook_size: int = Field(default=1024, ge=2, le=65536)
    code_dim: int = Field(default=8, gt=0, le=WIDEST)

    @model_validator(mode="after")
    def _books_left(self) -> CompactConfig:
        if self.vocoder_books >= self.codebooks:
            raise ValueError(
                f"vocoder_books {self.vocoder_books} of {self.codebooks} codebooks; at least one more is wanted; "
                "lower vocoder_books"
            )
        return self


class CodecConfig(Section):
    """Which codec turns sound into tokens. `path` is a hub id or folder; without it, the run's codec stage is asked."""

    kind: Literal["compact", "encodec"] = "compact"
    path: str | None = None
    bandwidth_kbps: float = 6.0
    compact: CompactConfig = CompactConfig()

    @model_validator(mode="after")
    def _bandwidth_fits(self) -> CodecConfig:
        if self.bandwidth_kbps not in BANDWIDTHS_KBPS:
            wanted = ", ".join(f"{kbps:g}" for kbps in BANDWIDTHS_KBPS)
            raise ValueError(f"bandwidth_kbps {self.bandwidth_kbps:g} is none of {wanted}")
        if self.kind == "compact" and self.codebooks > self.compact.codebooks:
            has = self.compact.codebooks
            raise ValueError(f"{self.bandwidth_kbps} kbps is {self.codebooks} codebooks, compact has {has}")
        return self

    @property
    def codebooks(self) -> int:
        """Codebooks at 75 frames a second and 10 bits each: 1.5, 3, 6, 12, 24 kbps are 2, 4, 8, 16, 32."""
        return int(round(self.bandwidth_kbps / 0.75))


class VoiceConfig(Section):
    """Voice encoder: log-mel -> hidden -> embedding, and a character tower of the same kind for descriptions."""

    mel_bins: int = Field(default=128, gt=0, le=1024)
    hidden: int = Field(default=512, gt=0, le=WIDEST)
    dim: int = Field(default=256, gt=0, le=WIDEST)
    layers: int = Field(default=4, gt=0, le=MOST_LAYERS)
    heads: int = Field(default=8, gt=0)
    text_hidden: int = Field(default=256, gt=0, le=WIDEST)
    text_layers: int = Field(default=2, gt=0, le=MOST_LAYERS)
    crop_seconds: float = Field(default=4.0, gt=0, le=3600)

    @model_validator(mode="after")
    def _heads_divide(self) -> VoiceConfig:
        _check_heads("hidden", self.hidden, self.heads)
        _check_heads("text_hidden", self.text_hidden, TEXT_HEADS)
        return self


class SpeechConfig(Section):
    """SpeechLM: a causal transformer over delayed codec tokens with cross-attention to text and voice.

    The attention to text has a Gaussian prior around a pointer, `pointer_width` tokens wide; the pointer stays at a
    token for at most `longest_stay` frames. A step looks at itself and the `window` - 1 steps before it, or at all.
    """

    layers: int = Field(default=12, gt=0, le=MOST_LAYERS)
    width: int = Field(default=768, gt=0, le=WIDEST)
    heads: int = Field(default=12, gt=0)
    max_steps: int = Field(default=8192, gt=0, le=10_000_000)
    window: int | None = Field(default=None, gt=0)
    text_layers: int = Field(default=4, ge=0, le=MOST_LAYERS)
    drop_text: float = Field(default=0.1, ge=0, le=1)
    drop_voice: float = Field(default=0.1, ge=0, le=1)
    pointer_width: float = Field(default=0.75, gt=0)
    longest_stay: int = Field(default=90, gt=0, le=10_000)
    codebook_weights: list[float] = [8, 4, 2, 1, 1, 1, 1, 1]

    @model_validator(mode="after")
    def _heads_divide(self) -> SpeechConfig:
        _check_heads("width", self.width, self.heads)
        return self


class AdapterConfig(Section):
    """A trunk over a learned mix of SpeechLM layers, and a Perceiver with `queries` per window of `window_seconds`.

    `stack` frames make a position of the trunk; two are 37.5 a second, room for all that can be spelled in one.
    """

    trunk_layers: int = Field(default=6, ge=0, le=MOST_LAYERS)
    layers: int = Field(default=4, gt=0, le=MOST_LAYERS)
    queries: int = Field(default=32, gt=0, le=WIDEST)
    window_seconds: float = Field(default=10.0, gt=0, le=3600)
    width: int = Field(default=768, gt=0, le=WIDEST)
    heads: int = Field(default=12, gt=0)
    stack: int = Field(default=2, gt=0, le=1024)
    mix_layers: int = Field(default=4, gt=0, le=MOST_LAYERS)

    @model_validator(mode="after")
    def _heads_divide(self) -> AdapterConfig:
        _check_heads("width", self.width, self.heads)
        return self


class LoraConfig(Section):
    """Low-rank adaptation of the LLM's attention and feed-forward projections (peft)."""

    r: int = Field(default=16, gt=0, le=WIDEST)
    alpha: int = Field(default=32, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: list[str] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class FreshLLM(Section):
    """A new Llama of this shape with random weights and the tokenizer of `llm.name`, for work on LLMs from scratch."""

    hidden: int = Field(default=256, gt=0, le=WIDEST)
    layers: int = Field(default=4, gt=0, le=MOST_LAYERS)
    heads: int = Field(default=4, gt=0)
    intermediate: int = Field(default=768, gt=0, le=WIDEST)


class LLMConfig(Section):
    """`name` is a hub id, a folder, a .gguf file, or "embedded" (SmolLM2-135M-Instruct, wherever it is found)."""

    name: str = "HuggingFaceTB/SmolLM2-1.7B-Instruct"
    fresh: FreshLLM | None = None
    lora: LoraConfig = LoraConfig()
    max_new_tokens: int = Field(default=128, gt=0, le=1_000_000)


class AugmentConfig(Section):
    """Changed copies of training recordings, made before tokens. A range is [lowest, highest]; null leaves it out."""

    copies: int = Field(default=0, ge=0)
    stretch: list[float] | None = [0.9, 1.1]
    semitones: list[float] | None = [-2.0, 2.0]
    snr_db: list[float] | None = [15.0, 40.0]
    seed: int = 0

    @model_validator(mode="after")
    def _ranges_are_ranges(self) -> AugmentConfig:
        for name, low, high in (("stretch", 0.5, 2.0), ("semitones", -12.0, 12.0), ("snr_db", -20.0, 100.0)):
            given = getattr(self, name)
            if given is not None and not (len(given) == 2 and low <= given[0] <= given[1] <= high):
                raise ValueError(f"{name} {given} is no [lowest, highest] within {low:g} to {high:g}")
        return self


class DataConfig(Section):
    """Manifests in, token shards out. A manifest is a split folder, a .json or a .jsonl file."""

    train: list[str] = ["data/train"]
    val: list[str] = ["data/val"]
    shards: str = "data/shards"
    max_seconds: float = Field(default=20.0, gt=0, le=86_400)
    workers: int = Field(default=1, ge=1, le=4096)
    augment: AugmentConfig = AugmentConfig()


class StageConfig(Section):
    """How long and how fast one stage learns."""

    steps: int = Field(default=10_000, gt=0)
    lr: float = Field(default=3e-4, gt=0)
    warmup_steps: int = Field(default=500, ge=0)
    accumulation: int = Field(default=16, ge=1)
    validate_every: int = Field(default=500, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)


class SoundStage(StageConfig):
    """A stage whose batches hold about `batch_seconds` of speech."""

    batch_seconds: float = Field(default=120.0, gt=0, le=1_000_000)


class CodecStage(SoundStage):
    """Discriminators judge the last `adversarial_share` of the run; EnCodec is passed over unless `finetune` is on."""

    crop_seconds: float = Field(default=1.0, gt=0, le=3600)
    mel_weight: float = Field(default=6.0, ge=0)
    magnitude_weight: float = Field(default=20.0, ge=0)
    phase_weight: float = Field(default=40.0, ge=0)
    waveform_weight: float = Field(default=5.0, ge=0)
    adversarial_share: float = Field(default=0.0, ge=0, le=1)
    cache_gb: float = Field(default=0.0, ge=0, le=1e6)
    finetune: bool = False


class VoiceStage(SoundStage):
    """`cache_gb` of decoded crops are kept in memory, so that the codec need not say them again."""

    cache_gb: float = Field(default=0.0, ge=0, le=1e6)
    temperature: float = Field(default=0.07, gt=0)


class SpeechStage(SoundStage):
    """`advance_weight` scales the loss of the pointer's advance; an end counts `eos_weight` times a frame.

    `described_share` of the voices come from captions in words, the rest from recordings. At `hide_share` of the steps
    the model does not see the codes so far, so that it relies on the text.
    """

    advance_weight: float = Field(default=1.0, ge=0)
    eos_weight: float = Field(default=5.0, gt=0)
    described_share: float = Field(default=0.2, ge=0, le=1)
    hide_share: float = Field(default=0.15, ge=0, le=1)


class AlignStage(SoundStage):
    """Distillation from the frozen LLM on the text to the same LLM on the audio.

    For `hearing_share` of the run the adapter learns from transcripts alone, without the LLM. `weights` of the losses
    (kl, end, cosine, answer, characters, tokens; 1 where one is not named) are fixed; null learns them by uncertainty.
    """

    hearing_share: float = Field(default=0.6, ge=0, le=1)
    weights: dict[Literal["kl", "end", "cosine", "answer", "characters", "tokens"], float] | None = None
    temperature: float = Field(default=2.0, gt=0)
    teacher_responses: int = Field(default=1000, ge=0)
    response_tokens: int = Field(default=48, gt=0, le=1_000_000)
    train_lora: bool = True


class ReinforceStage(StageConfig):
    """Reinforced behaviour alignment: PPO on the LLM's text answers to speech."""

    accumulation: int = Field(default=1, ge=1)  # a step over many minibatches would never leave the old policy
    rollouts: int = Field(default=64, ge=2, le=1_000_000)
    epochs: int = Field(default=4, ge=1)
    clip: float = Field(default=0.2, gt=0)
    kl_coef: float = Field(default=0.05, ge=0)
    gamma: float = Field(default=1.0, gt=0, le=1)
    gae_lambda: float = Field(default=0.95, ge=0, le=1)
    value_coef: float = Field(default=0.1, ge=0)
    temperature: float = Field(default=0.7, gt=0)
    response_tokens: int = Field(default=48, gt=0, le=1_000_000)
    missing_eos_penalty: float = Field(default=1.0, ge=0)


class TrainConfig(Section):
    """What every stage shares, and the five stages. `max_minutes` bounds each stage by the clock.

    With many processes each holds a copy of the weights (`ddp`) or a share of them (`fsdp`); one that stands still for
    `stuck_minutes` ends the job.
    """

    stages: list[StageName] = list(STAGES)
    seed: int = Field(default=0, ge=0)
    dtype: Literal["bf16", "fp32"] = "bf16"
    clip_grad: float = Field(default=1.0, gt=0)
    max_minutes: float | None = Field(default=None, gt=0)
    checkpoint_minutes: float = Field(default=10.0, gt=0)
    keep_checkpoints: int = Field(default=2, ge=1)
    parallel: Literal["ddp", "fsdp"] = "ddp"
    activation_checkpointing: bool = False
    compile: bool = False
    stuck_minutes: float = Field(default=30.0, gt=0)
    threads: int | None = Field(default=None, ge=1, le=4096)
    codec: CodecStage = CodecStage()
    voice: VoiceStage = VoiceStage()
    speech: SpeechStage = SpeechStage()
    align: AlignStage = AlignStage()
    reinforce: ReinforceStage = ReinforceStage()


class LogConfig(Section):
    """Where metrics go, beside the JSONL that is always written."""

    trackers: list[Literal["console", "tensorboard", "wandb"]] = ["console"]
    wandb_project: str = "ira"


class Config(Section):
    """The whole system."""

    run_dir: str = "runs/default"
    device: str = "auto"
    codec: CodecConfig = CodecConfig()
    voice: VoiceConfig = VoiceConfig()
    speech: SpeechConfig = SpeechConfig()
    adapter: AdapterConfig = AdapterConfig()
    llm: LLMConfig = LLMConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    log: LogConfig = LogConfig()

    @model_validator(mode="after")
    def _sections_fit(self) -> Config:
        """What no section can see alone, here rather than after hours of training."""
        books, weights, steps = self.codec.codebooks, len(self.speech.codebook_weights), self.speech.max_steps
        if weights < books:
            kbps = self.codec.bandwidth_kbps
            raise ValueError(f"speech.codebook_weights has {weights} numbers, {kbps:g} kbps is {books} codebooks")
        needed = (int(self.data.max_seconds * FRAME_RATE) // WHOLE_FRAMES + 1) * WHOLE_FRAMES + books
        if needed > steps:
            seconds = self.data.max_seconds
            raise ValueError(f"data.max_seconds {seconds:g} takes {needed} steps, speech.max_steps is {steps}")
        mixed, layers = self.adapter.mix_layers, self.speech.layers
        if mixed > layers:
            raise ValueError(f"adapter.mix_layers {mixed} is more than speech.layers {layers}")
        return self
