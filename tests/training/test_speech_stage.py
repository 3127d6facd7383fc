"""The speech stage on a toy language: every letter is three frames of its own codes, with silence before and after."""

from __future__ import annotations

from itertools import islice
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from ira.config import SpeechConfig, SpeechStage, TrainConfig, VoiceConfig
from ira.data.batches import SamplerState
from ira.data.pronunciation import SpeechTokenizer
from ira.data.text import CharTokenizer
from ira.data.voices import captions
from ira.errors import InputError
from ira.models.decode import Generated, generate
from ira.models.sampling import Sampling
from ira.models.speech_lm import Memory, SpeechLM
from ira.models.voice_encoder import VoiceEncoder, embed_words
from ira.trackers.base import Picture, Sound
from ira.training.loop import fit
from ira.training.speech import SpeechTraining, SpokenBatch, VoiceTable

CPU = torch.device("cpu")
START = SamplerState(0, 0, 0)
LETTERS, RUN, SIZE = "abcdef", 3, 20


def loaded(training, state: SamplerState):
    """The stage's micro-batches, each with the state after it."""
    for key, after in training.plan(state):
        yield training.load(key), after


QUIET = torch.tensor([[18, 18], [0, 0]])


def spelt(text: str) -> Tensor:
    """Codes [2, T] of a text between two frames of silence each."""
    frames = [(LETTERS.index(letter), r) for letter in text for r in range(RUN)]
    said = [[(3 * i + r) % SIZE for i, r in frames], [(5 * i + 2 * r + 1) % SIZE for i, r in frames]]
    return torch.cat([QUIET, torch.tensor(said), QUIET], 1)


def texts(count: int, seed: int) -> list[str]:
    """Words of two to six letters, no letter twice in a row: nobody could tell where the first ends."""
    generator = torch.Generator().manual_seed(seed)

    def word() -> str:
        size = int(torch.randint(2, 7, (1,), generator=generator))
        steps = torch.randint(1, len(LETTERS), (size,), generator=generator).cumsum(0) % len(LETTERS)
        return "".join(LETTERS[i] for i in steps)

    return [word() for _ in range(count)]


def rows(words: list[str], language: str = "de") -> list[dict[str, Any]]:
    """German stays letters."""
    return [{"codes": spelt(text), "text": text, "speaker": "one", "language": language} for text in words]


TAUGHT = texts(150, seed=0)
HELD_OUT = [text for text in texts(60, seed=1) if text not in set(TAUGHT)][:16]
SILENCE = SimpleNamespace(
    decode=lambda codes: torch.zeros(len(codes), 1, 320 * codes.shape[-1]), sample_rate=24_000, frame_rate=75.0, hop=320
)
NO_VOICE: Any = SimpleNamespace(
    draw=lambda row, described, generator: torch.zeros(4),
    of_examples=lambda examples: torch.zeros(len(examples), 4),
    codec=SILENCE,
)


@pytest.fixture
def stage(make_shards):
    def make(taught: list[dict], voices: Any = NO_VOICE, settings: dict | None = None, **sizes) -> SpeechTraining:
        torch.manual_seed(0)
        shape = {"width": 48, "drop_text": 0.05, "drop_voice": 0.1, "codebook_weights": [2, 1], **sizes}
        config = SpeechConfig(layers=2, heads=2, max_steps=128, text_layers=1, **shape)
        vocabulary = SpeechTokenizer().vocab_size
        sizes = {"codebooks": 2, "codebook_size": SIZE, "text_vocab": vocabulary, "voice_dim": 4}
        model = SpeechLM(config, **sizes, languages=["de", "en"])
        schedule = {"steps": 150, "lr": 5e-3, "warmup_steps": 10, "accumulation": 1, "validate_every": 150}
        stage = SpeechStage(**{**schedule, "batch_seconds": 14, **(settings or {})})
        shards = make_shards("train", taught), make_shards("val", rows(HELD_OUT))
        return SpeechTraining(model, voices, *shards, stage, CPU, 75.0)

    return make


def condition(model: SpeechLM, words: list[str]) -> Memory:
    ids = [torch.tensor(SpeechTokenizer().encode(text, "de")) for text in words]
    padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
    lengths, german = torch.tensor([len(row) for row in ids]), torch.zeros(len(words), dtype=torch.long)
    return model.condition(padded, lengths, torch.zeros(len(words), 4), german)


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
    assert out.frames.tolist() == [RUN * len(text) + 4 for text in HELD_OUT]
    for text, codes, path, frames in zip(HELD_OUT, out.codes, out.path, out.frames.tolist(), strict=True):
        assert torch.equal(codes[:, :frames], spelt(text)), text
        letters = [place for place in range(len(text)) for _ in range(RUN)]
        assert path[2 : frames - 2].tolist() == [place + 1 for place in letters], text
    agree_in_training_and_decoding(training.model, memory, out)
    with torch.no_grad():
        figures = training.validate()
    assert figures["runaway"] == 0 and figures["length_ratio"] == pytest.approx(1, abs=0.1)
    assert figures["score"] == figures["book0_nll"] < 0.1 and figures["advance"] < 0.1


@torch.no_grad()
def agree_in_training_and_decoding(model: SpeechLM, memory: Memory, out: Generated) -> None:
    """The training forward on what was spoken chooses, at every frame and at every move, what decoding chose."""
    said = model(out.codes, out.frames, memory, out.path)
    chosen = said.logits[..., :SIZE].argmax(-1)
    for row, frames in enumerate(out.frames.tolist()):
        assert torch.equal(chosen[row, :, :frames], out.codes[row, :, :frames])
        path = out.path[row, :frames].tolist()
        moves = [one != other for one, other in zip(path, [*path[1:], -1], strict=True)]
        assert (said.advance[row, :frames] > 0).tolist() == moves


def batch_of(training: SpeechTraining, words: list[str], codes: Tensor) -> SpokenBatch:
    words_and_codes = zip(words, codes, strict=True)
    examples: Any = [SimpleNamespace(text=t, codes=c, frames=c.shape[1], language="de") for t, c in words_and_codes]
    return training._batch(examples, torch.zeros(len(words), 4))


NOISE = torch.randint(0, SIZE, (2, 2, RUN * 4), generator=torch.Generator().manual_seed(0))


def test_a_row_without_its_text_learns_nothing_from_the_text(stage):
    """The loss of rows whose text is dropped is the same whatever the text says: nothing leaks past the null."""
    training, losses = stage(rows(TAUGHT[:20]), drop_text=1.0), []
    for said in (["abcd", "abcd"], ["fefe", "ab"]):
        torch.manual_seed(5)
        losses.append(training.loss(batch_of(training, said, NOISE), 0.1))
    assert float(losses[0].loss.detach()) == pytest.approx(float(losses[1].loss.detach()), rel=1e-6)
    assert losses[0].metrics["advance"] == losses[1].metrics["advance"] == 0


@pytest.mark.parametrize("weight", [0.0, 0.5, 3.0])
def test_the_loss_is_that_of_the_codes_and_the_weighted_one_of_the_advance(stage, weight):
    training = stage(rows(TAUGHT[:8]), settings={"advance_weight": weight}, drop_text=0.0)
    found = training.loss(batch_of(training, ["abcd", "fe"], NOISE), 0.0)
    wanted = found.metrics["cross_entropy"] + weight * found.metrics["advance"]
    assert float(found.loss.detach()) == pytest.approx(wanted, rel=1e-5) and found.metrics["advance"] > 0.1


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_as_many_steps_are_hidden_as_was_asked_for(stage, share, monkeypatch):
    training, seen = stage(rows(TAUGHT[:20]), settings={"hide_share": share}), []
    batch, _ = next(loaded(training, START))
    forward = training.model.forward
    monkeypatch.setattr(training.model, "forward", lambda *a, **k: (seen.append(k.get("hide")), forward(*a, **k))[1])
    for _ in range(2):
        training.loss(batch, 0.0)
    assert seen[0].shape == seen[1].shape == (len(batch.voices), batch.rows.codes.shape[-1] + 2)
    assert float(torch.cat(seen).float().mean()) == pytest.approx(share, abs=0.05)
    assert torch.equal(seen[0], seen[1]) == (share in (0.0, 1.0))


@torch.no_grad()
def test_nothing_is_hidden_and_nothing_dropped_where_held_out_speech_is_judged(stage):
    training = stage(rows(TAUGHT[:20]), settings={"hide_share": 1.0}, drop_text=1.0, drop_voice=1.0)
    torch.manual_seed(0)
    first = training.validate()
    training.settings = training.settings.model_copy(update={"hide_share": 0.0})
    assert training.validate() == first and first["advance"] > 0.1


def test_every_frame_of_a_batch_is_walked_from_the_first_token_to_the_last(stage):
    training = stage(rows(TAUGHT[:10]))
    batch, _ = next(loaded(training, START))
    for row, (frames, length) in enumerate(zip(batch.rows.frames, batch.rows.text_lengths, strict=True)):
        walk = batch.walks[row, :frames]
        assert walk[0] == 0 and walk[-1] == length - 1 and set(walk.diff().tolist()) <= {0, 1}
        assert batch.walks[row, frames:].eq(0).all()
    assert batch.walks.shape == batch.rows.codes[:, 0].shape


def test_half_of_the_rows_that_lose_their_text_lose_their_voice_as_well(stage):
    training = stage(rows(TAUGHT[:20]), drop_text=0.4, drop_voice=0.1)
    torch.manual_seed(0)
    text, voice = training._drops(20_000)
    assert float(text.float().mean()) == pytest.approx(0.4, abs=0.02)
    assert float(voice[~text].float().mean()) == pytest.approx(0.1, abs=0.02)
    assert float(voice[text].float().mean()) == pytest.approx(1 - 0.9 * 0.5, abs=0.02)


def test_the_sampler_state_alone_decides_the_batches(stage, tone_codec, encoder, make_shards):
    """Which rows, with which voices, of recordings or in words, and how they are walked through."""
    taught = [{**row, "extra": {"gender": "female"}} for row in rows(TAUGHT[:60])]
    table = VoiceTable(
        encoder, tone_codec, make_shards("heard", [{**row, "codes": row["codes"] % 16} for row in taught])
    )
    voices = SimpleNamespace(draw=table.draw, of_examples=NO_VOICE.of_examples)
    training = stage(taught, voices=voices, settings={"batch_seconds": 5, "described_share": 0.5})
    torch.manual_seed(1)
    stream = loaded(training, START)
    seen = [next(stream) for _ in range(5)]
    torch.manual_seed(2)
    for (_, after), (following, _) in zip(seen, seen[1:], strict=False):
        again, _ = next(loaded(training, after))
        assert torch.equal(again.rows.codes, following.rows.codes) and torch.equal(again.rows.text, following.rows.text)
        assert torch.equal(again.voices, following.voices) and torch.equal(again.walks, following.walks)
        assert torch.equal(again.languages, following.languages)
    assert len({tuple(voice) for batch, _ in seen for voice in batch.voices.tolist()}) > 5


def test_every_row_is_said_in_its_language_and_one_that_the_model_lacks_is_not_judged(stage, make_shards):
    english = [{**row, "text": text} for row, text in zip(rows(["ab", "cd"], "EN-us"), ["cat", "a fox"], strict=True)]
    training, found = stage([*rows(TAUGHT[:10]), *english]), {}
    for batch, _ in islice(loaded(training, START), 4):
        found |= {one.text: int(place) for one, place in zip(batch.rows.examples, batch.languages, strict=True)}
    assert found["cat"] == found["a fox"] == 1 and found[TAUGHT[0]] == 0
    mixed = make_shards("mixed", [*rows(["abc"], "nl"), *rows(HELD_OUT[:3])])
    again = SpeechTraining(training.model, NO_VOICE, training.shards, mixed, training.settings, CPU, 75.0)
    assert [one.text for one in again.judged] == HELD_OUT[:3]


def test_rows_without_text_are_left_out_and_none_with_text_is_an_error(stage):
    silent = [{"codes": spelt("ab")}, {"codes": spelt("abc")}]
    training = stage([*silent, *rows(["abcd", "ef"])])
    stream = loaded(training, START)
    seen = {example.text for _ in range(4) for example in next(stream)[0].rows.examples}
    assert seen == {"abcd", "ef"}


def test_shards_without_any_text_are_refused(stage):
    with pytest.raises(InputError, match="no row has text"):
        stage([{"codes": spelt("ab")}])


def test_fewer_weights_than_codebooks_are_refused(stage):
    with pytest.raises(InputError, match="1 weights for 2 codebooks"):
        stage(rows(TAUGHT[:4]), codebook_weights=[1])


def test_two_held_out_sentences_are_heard_and_their_attention_is_seen(stage):
    decoded: list[Tensor] = []
    decode = SILENCE.decode
    codec = SimpleNamespace(**{**vars(SILENCE), "decode": lambda codes: decoded.append(codes) or decode(codes)})
    training = stage(rows(TAUGHT[:20]), voices=SimpleNamespace(**{**vars(NO_VOICE), "codec": codec}))
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
    return VoiceEncoder(config, text_vocab=CharTokenizer().vocab_size).eval()


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
        drawn = [table.draw(row, 0.0, generator) for _ in range(120)]
        found = {i for voice in drawn for i in range(len(shards)) if torch.equal(voice, table.embeddings[i])}
        assert found == others
        own = sum(torch.equal(voice, table.embeddings[row]) for voice in drawn) / len(drawn)
        assert own == pytest.approx(0.5 + 0.5 / len(others), abs=0.15)


def test_as_many_voices_are_described_in_words_as_was_asked_for(make_shards, tone_codec, encoder):
    known = [{**row, "extra": {"gender": "female"}, "description": "a bright voice"} for row in notes(3, "a")]
    shards = make_shards("voices", [*known, *({**row, "language": "xx"} for row in notes(2, "b"))])
    table = VoiceTable(encoder, tone_codec, shards)
    generator = torch.Generator().manual_seed(0)
    assert len(captions(shards[1])) > 1 and not captions(shards[4])
    words = embed_words(encoder, captions(shards[1]), CharTokenizer()).detach()
    for share in (0.0, 0.3, 1.0):
        drawn = [table.draw(1, share, generator) for _ in range(200)]
        heard = [voice for voice in drawn if any(torch.equal(voice, own) for own in table.embeddings)]
        assert 1 - len(heard) / len(drawn) == pytest.approx(share, abs=0.1)
        read = [voice for voice in drawn if not any(torch.equal(voice, own) for own in table.embeddings)]
        places = [int((words - voice).abs().amax(-1).argmin()) for voice in read]
        assert all(torch.allclose(voice, words[i], atol=1e-5) for voice, i in zip(read, places, strict=True))
        assert set(places) == (set(range(len(words))) if share else set())
    assert all(any(torch.equal(table.draw(4, 1.0, generator), own) for own in table.embeddings[3:]) for _ in range(20))


def test_the_speaker_heard_most_is_that_of_the_language_where_somebody_speaks_it(make_shards, tone_codec, encoder):
    german = [{**row, "language": "de"} for row in notes(6, "c")]
    shards = make_shards("voices", notes(3, "a") + notes(4, "b") + german)
    table = VoiceTable(encoder, tone_codec, shards)
    for language, speaker, own in (("en", "b", slice(3, 7)), ("de", "c", slice(7, 13)), ("nl", "c", slice(7, 13))):
        name, voice = table.most_heard(shards, language)
        wanted = torch.nn.functional.normalize(table.embeddings[own].mean(0), dim=0)
        assert name.endswith(speaker) and torch.allclose(voice, wanted)


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
