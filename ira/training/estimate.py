"""A configuration and the shape of a micro-batch in; the memory a stage takes on each process, part by part, out.

    peak = weights + optimizer + max(kept + work [+ gradients], gradients + spare)

- weights: 4 bytes an element; of the LLM 2, its LoRA 4. What a stage reads beside them (SpeechLM, codec) as well.
- gradients: 4 bytes a trained element. They stand beside the activations where a process adds up several micro-batches
  a step; with one, they grow while the activations go, so that the larger of the two counts.
- optimizer: Adam's two moments, 8 bytes a trained element: those of LoRA alone where the LLM is frozen.
- spare: on CUDA the optimizer works on all parameters at once and needs their size once more; else that of the largest.
- kept: what autograd keeps of a forward pass. work: what the loss, or a layer that runs again, needs beside it.

With `fsdp` weights, gradients and moments of what is trained are shared out over the processes; a layer's weights are
gathered while it runs. The frozen models beside (SpeechLM, codec) stay whole, and so do activations and bf16 copies.

Kept by a layer, bytes for each of its N positions; D its width, h that of its feed-forward layer, and a the bytes of
what a matrix product makes (2 under bf16 autocast, 4 in fp32). Every tensor is counted that an operation keeps:

    norm          its input and the normed input, 4D each; what it gives: D a in fp32, else a copy for each product
    attention     rotated queries and keys, values, what it gives: 4 D a; on a CPU its weights as well, where they fit
                  (`ira.models.blocks.weigh`): a for each pair of positions and each head
    crossing      2 D a for queries and what it gives; keys and values 2 D a for each position of the memory
    feed-forward  gate, silu(gate), up, their product: 4 h a
    block         fp32 40 D + 16 h,  bf16 34 D + 8 h      (two norms, attention, feed-forward)
    decoder       fp32 60 D + 16 h,  bf16 48 D + 8 h      (three norms, crossing as well); a Perceiver layer is one
    Llama, LoRA   norms in fp32: 8 D; attention: 8 D; feed-forward: 6 h; for each adapted product its input again and r
                  numbers, 2 bytes each (4 without autocast), with dropout 4 more for the input; the mask, 2 N
    ConvNeXt      10 C a
    matrices      under autocast a copy in bf16, 2 bytes an element of what is trained in fp32

With activation checkpointing a layer keeps its input (4D, of the LLM 2D), and the work of one layer comes back whole.

Beside layers: the prior of the attention to text keeps 4 bytes for each of T x L, where it is fused under autocast 2 a
layer; `speech` rounds T and L up. Codec logits K x T x V: 12 + a bytes each (log-softmax and two gradients in fp32).
LLM logits R x vocabulary: 32 bytes each in `align` (student and teacher, their log-softmax twice, for the answer and
for its end, and gradients), 14 in `reinforce`. Spectra in `codec` and the sound decoded in `voice` are counted by the
sample. The numbers were counted with torch 2.13 on a CPU; its kernels on CUDA keep a little less.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from torch import nn

from ira.audio.waveform import SAMPLE_RATE
from ira.config import FRAME_RATE, WHOLE_FRAMES, Config, StageName
from ira.data.batches import WHOLE_TOKENS
from ira.data.tasks import TRAITS
from ira.models.blocks import WRITTEN_OUT, swiglu_hidden
from ira.training.parts import Parts

CHARACTERS = 15  # of text a second of speech
WORDS_TOKENS = 4  # characters to a token of the LLM
PROMPT = 40  # tokens of the chat template and of the question around the sound
MINIBATCHES = 4  # of a round of rollouts


@dataclass(frozen=True)
class Batch:
    """A micro-batch: rows of `frames` codec frames, `characters` of text, and answers of `answer` LLM tokens each."""

    rows: int
    frames: int
    characters: int
    answer: int = 0
    prompt: int = PROMPT


@dataclass(frozen=True)
class Memory:
    """Bytes on one process: see the module's docstring."""

    weights: float
    optimizer: float
    gradients: float
    kept: float
    work: float
    spare: float
    together: bool  # gradients stand beside the activations

    @property
    def peak(self) -> float:
        beside = self.gradients if self.together else 0.0
        return self.weights + self.optimizer + max(self.kept + self.work + beside, self.gradients + self.spare)


def expected_batch(config: Config, name: StageName, seconds: float) -> Batch:
    """The micro-batch of a stage where a recording has `seconds`, padded to what the configuration lets it grow to."""
    train = config.train
    if name == "codec":
        return Batch(round(train.codec.batch_seconds / train.codec.crop_seconds), _frames(train.codec.crop_seconds), 0)
    if name == "voice":
        crop = config.voice.crop_seconds
        return Batch(max(int(train.voice.batch_seconds / (2 * crop)), 2), _frames(crop), 60)
    if name == "reinforce":
        rows = ceil(train.reinforce.rollouts / MINIBATCHES)
        return Batch(rows, _frames(seconds), round(CHARACTERS * seconds), train.reinforce.response_tokens)
    settings = train.speech if name == "speech" else train.align
    rows, text = max(int(settings.batch_seconds / seconds), 1), round(CHARACTERS * seconds)
    answer = min(train.align.response_tokens, ceil(text / WORDS_TOKENS) + 1) if name == "align" else 0
    return Batch(rows, _frames(seconds), text, answer)


def stage_memory(
    config: Config, name: StageName, parts: Parts, batch: Batch, processes: int = 1, cuda: bool = False
) -> Memory:
    """What stage `name` takes on each of `processes`, each with micro-batches like `batch`."""
    trained, frozen, beside, copied = _elements(config, name, parts)
    cut = processes if config.train.parallel == "fsdp" else 1
    kept, work = _activations(config, name, parts, batch, cuda)
    bf16 = config.train.dtype == "bf16"
    largest = max((p.numel() for p in _trained_modules(name, parts) for p in p.parameters()), default=0)
    return Memory(
        weights=(4 * trained + 2 * frozen) / cut + beside,
        optimizer=8 * trained / cut,
        gradients=4 * trained / cut,
        kept=kept + (2 * copied if bf16 else 0),
        work=work,
        spare=4 * (trained if cuda else min(largest, trained)) / cut,
        together=ceil(getattr(config.train, name).accumulation / processes) > 1,
    )


def _trained_modules(name: StageName, parts: Parts) -> list[nn.Module]:
    found = {"codec": parts.codec, "voice": parts.voice, "speech": parts.speech, "align": parts.adapter}
    module = found.get(name)
    return [] if module is None else [module]


def _elements(config: Config, name: StageName, parts: Parts) -> tuple[float, float, float, float]:
    """Elements trained (fp32), elements of the frozen LLM (bf16), bytes of frozen models beside, elements copied."""
    count = parts.sizes(config.llm.lora.r)
    copied = float(sum(_matrices(module) for module in _trained_modules(name, parts)))
    if name in ("codec", "voice"):
        return count[name], 0, 4 * count["codec"] if name == "voice" else 0, copied
    if name == "speech":
        return count["speech"], 0, 4 * (count["codec"] + count["voice"]), copied
    lora = count["lora"] if name == "reinforce" or config.train.align.train_lora else 0
    if name == "align":
        still = 4 * (count["speech"] + count["lora"] - lora)
        return count["adapter"] + lora, count["llm"], still, copied + lora
    return lora, count["llm"], 4 * (count["speech"] + count["adapter"] + lora), lora  # the LoRA it began with as well


def _matrices(module: nn.Module) -> float:
    """Elements that autocast copies: of linear layers and convolutions."""
    return sum(float(m.weight.numel()) for m in module.modules() if isinstance(m, (nn.Linear, nn.Conv1d)))


def _frames(seconds: float) -> int:
    return max(int(seconds * FRAME_RATE), 1)


def _activations(config: Config, name: StageName, parts: Parts, batch: Batch, cuda: bool) -> tuple[float, float]:
    """Bytes kept for backward, and bytes of work beside."""
    again = config.train.activation_checkpointing
    layers, rest, loss = _PASSES[name](config, parts, batch, cuda)
    if again:
        return sum(held * count for count, _, held in layers) + rest, max(loss, *(whole for _, whole, _ in layers), 0)
    return sum(whole * count for count, whole, _ in layers) + rest, loss


# Layers of a kind: how many, bytes that one keeps, bytes that one keeps if it is to run again.
Layers = list[tuple[int, float, float]]


def _speech(config: Config, parts: Parts, batch: Batch, cuda: bool) -> tuple[Layers, float, float]:
    shape, a, bf16 = config.speech, _width(config), config.train.dtype == "bf16"
    D, H, h = shape.width, shape.heads, swiglu_hidden(shape.width)
    T = _whole(batch.frames, WHOLE_FRAMES) + config.codec.codebooks
    L = _whole(batch.characters + 2, WHOLE_TOKENS)  # a space before, an end after
    steps, text = batch.rows * T, batch.rows * L
    looks = _looks(batch.rows * H, T, T, a, cuda) + _looks(batch.rows * H, T, L + 1, a, cuda)
    crossing = steps * (L + 1)  # of frames and characters
    decoder = _decoder(steps, text, D, h, a) + looks + (2 * crossing if bf16 and cuda else 0)
    layers: Layers = [
        (shape.layers, decoder, 4 * steps * D),
        (shape.text_layers, _block(text, D, h, a) + _looks(batch.rows * H, L, L, a, cuda), 4 * text * D),
    ]
    logits = steps * config.codec.codebooks * (parts.speech.codebook_size + 1)
    rest = steps * D * (8 + a) + 12 * text * D + (4 + a) * D * steps + 4 * crossing
    return layers, rest, (12 + a) * logits


def _voice(config: Config, parts: Parts, batch: Batch, cuda: bool) -> tuple[Layers, float, float]:
    shape, a = config.voice, _width(config)
    sound = batch.rows * ceil(batch.frames / 4)
    letters = batch.rows * batch.characters
    D, T = shape.hidden, shape.text_hidden
    looks = _looks(batch.rows * shape.heads, ceil(batch.frames / 4), ceil(batch.frames / 4), a, cuda)
    layers: Layers = [
        (2 * shape.layers, _block(sound, D, swiglu_hidden(D), a) + looks, 4 * sound * D),
        (shape.text_layers, _block(letters, T, swiglu_hidden(T), a), 4 * letters * T),
    ]
    rest = 2 * sound * (20 * D + 16 * shape.mel_bins) + letters * 20 * T
    return layers, rest, 25_000 * batch.rows * batch.frames  # the sound that the codec makes of the second crops


def _codec(config: Config, parts: Parts, batch: Batch, cuda: bool) -> tuple[Layers, float, float]:
    shape, a, frames = config.codec.compact, _width(config), batch.rows * batch.frames
    # Twice: the vocoder, and the part that writes the other books.
    spectra = 2 * 5 * 60 * frames * SAMPLE_RATE // FRAME_RATE  # five windows, about 60 bytes a sample each
    blocks = 2 * 10 * shape.width * a * frames * (shape.encoder_layers + shape.decoder_layers)
    books = shape.codebooks * frames * (8 * shape.width + 4 * shape.codebook_size)
    return [], blocks + books + spectra + frames * 40 * 1282, spectra / 5


def _align(config: Config, parts: Parts, batch: Batch, cuda: bool) -> tuple[Layers, float, float]:
    heard, kept = _adapter(config, parts, batch, cuda)
    learns = config.train.align.train_lora
    layers, rest, logits = _language(config, parts, batch, learns, config.llm.lora.dropout > 0)
    return heard + layers, kept + rest, 32 * logits


def _reinforce(config: Config, parts: Parts, batch: Batch, cuda: bool) -> tuple[Layers, float, float]:
    layers, rest, logits = _language(config, parts, batch, True, False)  # a policy has no dropout
    return layers, rest, 14 * logits


def _adapter(config: Config, parts: Parts, batch: Batch, cuda: bool) -> tuple[Layers, float]:
    shape, a, adapter = config.adapter, _width(config), parts.adapter
    assert adapter is not None
    windows = batch.rows * ceil(batch.frames / (adapter.window * shape.stack))
    queries, stacks = windows * shape.queries, windows * adapter.window
    D, sound = shape.width, batch.rows * ceil(batch.frames / shape.stack)
    trunk = _block(sound, D, swiglu_hidden(D), a) + (8 + 2 * a) * sound * D
    trunk += _looks(batch.rows * shape.heads, sound // batch.rows, sound // batch.rows, a, cuda)
    whole = _decoder(queries, stacks, D, swiglu_hidden(D), a) + 4 * stacks * D + a * stacks * D
    for keys in (shape.queries, adapter.window):
        whole += _looks(windows * shape.heads, shape.queries, keys, a, cuda)
    states = batch.rows * batch.frames * config.speech.width
    rest = states * (a * adapter.source_layers + 4 + a) + 8 * stacks * D + 4 * queries * adapter.window
    rest += queries * (8 * D + 2 * adapter.leave.out_features + 16 * len(adapter.tokens))
    return [(shape.trunk_layers, trunk, 4 * sound * D), (shape.layers, whole, 4 * queries * D)], rest


def _language(config: Config, parts: Parts, batch: Batch, learns: bool, dropout: bool) -> tuple[Layers, float, float]:
    """The LLM on prompt, sound and answer; the last is the number of logits."""
    shape, b = parts.llm.config, _width(config)
    assert parts.adapter is not None
    windows = ceil(batch.frames / (parts.adapter.window * config.adapter.stack))
    length = batch.prompt + len(TRAITS) + windows * config.adapter.queries + batch.answer
    tokens, D, h = batch.rows * length, shape.hidden_size, shape.intermediate_size
    per_token = 16 * D + 6 * h + 2 * length
    if learns:
        inputs = sum(i for i, _ in parts.lora) / shape.num_hidden_layers
        dropped = 4 * inputs if dropout else 0
        per_token += b * inputs + dropped + b * config.llm.lora.r * len(parts.lora) / shape.num_hidden_layers
    rest = tokens * (2 * length + 6 * D)
    return (
        [(shape.num_hidden_layers, tokens * per_token, 2 * tokens * D)],
        rest,
        batch.rows * batch.answer * shape.vocab_size,
    )


def _width(config: Config) -> int:
    """Bytes of what a matrix product makes."""
    return 2 if config.train.dtype == "bf16" else 4


def _whole(length: int, of: int) -> int:
    return ceil(length / of) * of


def _looks(heads: int, queries: int, keys: int, a: int, cuda: bool) -> float:
    """What attention keeps of its weights, `heads` being those of all rows."""
    count = heads * queries * keys
    return 0 if cuda or count > WRITTEN_OUT else a * count


def _block(positions: float, width: int, hidden: int, a: int) -> float:
    """Two norms, attention, feed-forward."""
    return positions * ((40 if a == 4 else 34) * width + 4 * a * hidden)


def _decoder(positions: float, memory: float, width: int, hidden: int, a: int) -> float:
    """Three norms, attention, crossing to `memory` positions, feed-forward."""
    return positions * ((60 if a == 4 else 48) * width + 4 * a * hidden) + memory * width * (
        2 * a + (a if a == 2 else 0)
    )


_PASSES = {"codec": _codec, "voice": _voice, "speech": _speech, "align": _align, "reinforce": _reinforce}
