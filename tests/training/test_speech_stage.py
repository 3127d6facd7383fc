"""The speech stage on a toy language: every letter is three frames of its own codes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from ira.config import SpeechConfig, SpeechStage, TrainConfig, VoiceConfig
from ira.data.batches import SamplerState, collate
from ira.data.text import CharTokenizer
from ira.errors import InputError
from ira.models.decode import Generated, Sampling, generate
from ira.models.speech_lm import Memory, SpeechLM
from ira.models.voice_encoder import VoiceEncoder
from ira.trackers.base import Picture, Sound
from ira.training.loop import fit
from ira.training.speech import SpeechTraining, VoiceTable

CPU = torch.device("cpu")
START = SamplerState(0, 0, 0)
LETTERS, RUN, SIZE = "abcdef", 3, 20


def loaded(training, state: SamplerState):
    """The stage's micro-batches, each with the state after it."""
    for key, after in training.plan(state):
        yield training.load(key), after


def spelt(text: str) -> Tensor:
    """Codes [2, T] of a text; doubled letters are twice the frames."""
    frames = [(LETTERS.index(letter), r) for letter in text for r in range(RUN)]
    return torch.tensor([[(3 * i + r) % SIZE for i, r in frames], [(5 * i + 2 * r + 1) % SIZE for i, r in frames]])


def texts(count: int, seed: int) -> list[str]:
    generator = torch.Generator().manual_seed(seed)

    def word() -> str:
        size = int(torch.randint(2, 7, (1,), generator=generator))
        return "".join(LETTERS[i] for i in torch.randint(0, len(LETTERS), (size,), generator=generator))

    return [word() for _ in range(count)]


def rows(words: list[str]) -> list[dict[str, Any]]:
    return [{"codes": spelt(text), "text": text, "speaker": "one"} for text in words]


TAUGHT = texts(300, seed=0)
HELD_OUT = [text for text in texts(60, seed=1) if text not in set(TAUGHT)][:16]
NO_VOICE: Any = SimpleNamespace(
    draw=lambda row, generator: torch.zeros(4), of_examples=lambda examples: torch.zeros(len(examples), 4)
)


@pytest.fixture
def stage(make_shards):
    def make(taught: list[dict], steps: int = 320, voices: Any = NO_VOICE, **sizes) -> SpeechTraining:
        torch.manual_seed(0)
        shape = {"width": 64, "drop_text": 0.05, "drop_voice": 0.1, **sizes}
        shape = {"codebook_weights": [2, 1], **shape}
        config = SpeechConfig(layers=2, heads=2, max_steps=64, text_layers=1, **shape)
        vocabulary = CharTokenizer().vocab_size
        model = SpeechLM(config, codebooks=2, codebook_size=SIZE, text_vocab=vocabulary, voice_dim=4)
        settings = SpeechStage(
            steps=steps,
            lr=5e-3,
            warmup_steps=20,
            batch_seconds=6,
            accumulation=1,
            validate_every=160,
            guide_weight=0.2,  # in words of two letters the diagonal is only roughly where the letters are
        )
        shards = make_shards("train", taught), make_shards("val", rows(HELD_OUT))
        return SpeechTraining(model, voices, *shards, settings, CPU, 75.0)

    return make


def condition(model: SpeechLM, words: list[str]) -> Memory:
    ids = [torch.tensor(CharTokenizer().encode(text)) for text in words]
    padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
    return model.condition(padded, torch.tensor([len(row) for row in ids]), torch.zeros(len(words), 4))


def spoken(model: SpeechLM, memory: Memory) -> Generated:
    rows = len(memory.vectors)
    return generate(model, memory, None, torch.full((rows,), 40), list(range(rows)), Sampling(temperature=0))


def test_texts_that_were_never_heard_are_spelt_exactly_and_end(stage, tmp_path):
    training = stage(rows(TAUGHT))
    (tmp_path / "run").mkdir()
    fit(training, TrainConfig(dtype="fp32"), tmp_path / "run", CPU, [])
    memory = condition(training.model, HELD_OUT)
    out = spoken(training.model, memory)
    assert bool(out.finished.all())
    assert out.frames.tolist() == [RUN * len(text) for text in HELD_OUT]
    for text, codes, frames in zip(HELD_OUT, out.codes, out.frames.tolist(), strict=True):
        assert torch.equal(codes[:, :frames], spelt(text)), text
    agree_in_training_and_decoding(training.model, memory, out)
    with torch.no_grad():
        figures = training.validate()
    assert figures["runaway"] == 0 and figures["length_ratio"] == pytest.approx(1, abs=0.1)
    assert figures["score"] == figures["book0_nll"] < 0.1


@torch.no_grad()
def agree_in_training_and_decoding(model: SpeechLM, memory: Memory, out: Generated) -> None:
    """The training forward on what was spoken chooses, at every frame and at the end, what decoding chose."""
    logits = model(out.codes, out.frames, memory).logits
    chosen = logits[..., :SIZE].argmax(-1)
    for row, frames in enumerate(out.frames.tolist()):
        assert torch.equal(chosen[row, :, :frames], out.codes[row, :, :frames])
        assert logits[row, 0].argmax(-1).tolist().index(SIZE) == frames


def test_a_row_without_its_text_learns_nothing_from_the_text(stage):
    """The loss of rows whose text is dropped is the same whatever the text says: nothing leaks past the null."""
    training = stage(rows(TAUGHT), drop_text=1.0)
    generator, frames = torch.Generator().manual_seed(0), RUN * 4
    codes = torch.randint(0, SIZE, (2, 2, frames), generator=generator)
    losses = []
    for said in (["abcd", "abcd"], ["fefe", "ab"]):
        batch = collate(
            [SimpleNamespace(text=t, codes=c, frames=frames) for t, c in zip(said, codes, strict=True)],  # type: ignore[misc]
            CharTokenizer(),
        )
        torch.manual_seed(5)
        losses.append(training.loss((batch, torch.zeros(2, 4)), 0.1))
    assert float(losses[0].loss.detach()) == pytest.approx(float(losses[1].loss.detach()), rel=1e-6)
    assert losses[0].metrics["forward_sum"] == 0


def test_half_of_the_rows_that_lose_their_text_lose_their_voice_as_well(stage):
    training = stage(rows(TAUGHT), drop_text=0.4, drop_voice=0.1)
    torch.manual_seed(0)
    text, voice = training._drops(20_000)
    assert float(text.float().mean()) == pytest.approx(0.4, abs=0.02)
    assert float(voice[~text].float().mean()) == pytest.approx(0.1, abs=0.02)
    assert float(voice[text].float().mean()) == pytest.approx(1 - 0.9 * 0.5, abs=0.02)


def test_the_prior_guides_the_start_of_a_run_and_fades_out(stage, monkeypatch):
    training, seen = stage(rows(TAUGHT), drop_text=0.0), []
    batch, _ = next(loaded(training, START))
    forward = training.model.forward
    monkeypatch.setattr(training.model, "forward", lambda *a, **k: (seen.append(k["prior"]), forward(*a, **k))[1])
    for share in (0.0, 0.25, 0.5, 1.0):
        training.loss(batch, share)
    assert torch.allclose(seen[1], 0.5 * seen[0]) and float(seen[0].min()) < 0
    assert seen[2] is None and seen[3] is None


def test_the_sampler_state_alone_decides_the_batches(stage):
    training = stage(rows(TAUGHT[:60]))
    torch.manual_seed(1)
    stream = loaded(training, START)
    seen = [next(stream) for _ in range(5)]
    torch.manual_seed(2)
    for (_, after), (following, _) in zip(seen, seen[1:], strict=False):
        (again, voices), _ = next(loaded(training, after))
        assert torch.equal(again.codes, following[0].codes) and torch.equal(voices, following[1])


def test_rows_without_text_are_left_out_and_none_with_text_is_an_error(stage):
    silent = [{"codes": spelt("ab")}, {"codes": spelt("abc")}]
    training = stage([*silent, *rows(["abcd", "ef"])])
    stream = loaded(training, START)
    seen = {example.text for _ in range(4) for example in next(stream)[0][0].examples}
    assert seen == {"abcd", "ef"}


def test_shards_without_any_text_are_refused(stage):
    with pytest.raises(InputError, match="no row has text"):
        stage([{"codes": spelt("ab")}])


def test_fewer_weights_than_codebooks_are_refused(stage):
    with pytest.raises(InputError, match="1 weights for 2 codebooks"):
        stage(rows(TAUGHT[:4]), codebook_weights=[1])


def test_two_held_out_sentences_are_heard_and_their_attention_is_seen(stage):
    decoded: list[Tensor] = []
    codec = SimpleNamespace(
        decode=lambda codes: decoded.append(codes) or torch.zeros(1, 1, 320 * codes.shape[-1]),
        sample_rate=24_000,
        hop=320,
    )
    training = stage(rows(TAUGHT[:20]), voices=SimpleNamespace(**vars(NO_VOICE), codec=codec))
    before = torch.get_rng_state()
    found = training.samples()
    kinds = {"sentence": Sound, "sentence-mel": Picture, "sentence-attention": Picture}
    names = {f"sentence{i}{kind.removeprefix('sentence')}": of for i in (1, 2) for kind, of in kinds.items()}
    assert {name: type(sample) for name, sample in found.items()} == names
    assert [tuple(codes.shape[:2]) for codes in decoded] == [(1, 2)] * 2
    for i in (1, 2):
        sound = found[f"sentence{i}"]
        assert isinstance(sound, Sound) and len(sound.waveform) == 320 * decoded[i - 1].shape[-1]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture
def encoder() -> VoiceEncoder:
    torch.manual_seed(0)
    config = VoiceConfig(mel_bins=20, hidden=16, dim=4, layers=1, heads=2, text_hidden=8, text_layers=1, crop_seconds=1)
    return VoiceEncoder(config, text_vocab=10).eval()


def notes(count: int, speaker: str) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(count)
    return [
        {"codes": torch.randint(0, 16, (1, 20 + 9 * i), generator=generator), "text": "a", "speaker": speaker}
        for i in range(count)
    ]


def test_a_row_speaks_with_its_own_voice_or_one_of_its_speakers(make_shards, tone_codec, encoder):
    shards = make_shards("voices", notes(3, "a") + notes(4, "b") + notes(2, ""))
    table = VoiceTable(encoder, tone_codec, shards)
    generator = torch.Generator().manual_seed(0)
    for row, others in ((1, {0, 1, 2}), (5, {3, 4, 5, 6}), (7, {7}), (8, {8})):
        drawn = [table.draw(row, generator) for _ in range(120)]
        found = {i for voice in drawn for i in range(len(shards)) if torch.equal(voice, table.embeddings[i])}
        assert found == others
        own = sum(torch.equal(voice, table.embeddings[row]) for voice in drawn) / len(drawn)
        assert own == pytest.approx(0.5 + 0.5 / len(others), abs=0.15)


def test_voices_do_not_depend_on_their_neighbours_and_are_kept_for_the_next_run(make_shards, tone_codec, encoder):
    shards = make_shards("voices", notes(5, "a"))
    table = VoiceTable(encoder, tone_codec, shards)
    alone = torch.cat([table.of_examples([shards[i]]) for i in range(5)])
    assert torch.allclose(table.embeddings, alone, atol=1e-5)
    (kept,) = shards.folder.glob("voices-*.npy")
    before = kept.stat().st_mtime_ns
    assert torch.equal(VoiceTable(encoder, tone_codec, shards).embeddings, table.embeddings)
    assert kept.stat().st_mtime_ns == before


def test_voices_kept_for_other_rows_or_weights_are_made_anew(make_shards, tone_codec, encoder):
    few, many = make_shards("few", notes(2, "a")), make_shards("many", notes(5, "a"))
    VoiceTable(encoder, tone_codec, few)
    (kept,) = few.folder.glob("voices-*.npy")
    other = make_shards("other", notes(2, "b"))
    VoiceTable(encoder, tone_codec, other)
    assert [path.name for path in other.folder.glob("voices-*.npy")] != [kept.name]
    (many.folder / kept.name).write_bytes(kept.read_bytes())
    first = VoiceTable(encoder, tone_codec, many).embeddings
    assert first.shape == (5, 4) and len(set(map(tuple, first.tolist()))) == 5
    with torch.no_grad():
        encoder.mel_in.weight.mul_(1.5)
    assert not torch.allclose(VoiceTable(encoder, tone_codec, many).embeddings, first)
