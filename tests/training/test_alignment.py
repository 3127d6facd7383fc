"""Walks: the likeliest one against all of them; a made language whose durations are known is aligned as it was made."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from ira.data.pronunciation import SpeechTokenizer
from ira.data.shards import Example
from ira.training.alignment import Spoken, WalkModel, likeliest_walks

TOKENIZER = SpeechTokenizer()
LETTERS, SIZE = "abcdefgh", 64
QUIET = 60  # codes from here on are silence


def every_walk(frames: int, tokens: int) -> list[tuple[int, ...]]:
    """From the first to the last without a skip."""
    found = []
    for cuts in itertools.combinations(range(1, frames), tokens - 1):
        found.append(tuple(sum(t >= cut for cut in cuts) for t in range(frames)))
    return found


def likeliest(scores: np.ndarray) -> np.ndarray:
    """The walk beside that of a longer row, whose padding must not matter."""
    frames, tokens = scores.shape
    both = np.full((2, frames + 3, tokens + 2), -1e4, dtype=np.float32)
    both[0, :frames, :tokens] = scores
    return likeliest_walks(both, np.array([frames, frames + 3]), np.array([tokens, tokens + 2]))[0]


@pytest.mark.parametrize("frames, tokens", [(1, 1), (5, 1), (5, 5), (6, 3), (8, 4)])
def test_the_likeliest_walk_is_the_best_of_all(frames: int, tokens: int):
    for seed in range(5):
        scores = np.random.default_rng(seed).normal(size=(frames, tokens)).astype(np.float32)
        walks = every_walk(frames, tokens)
        best = max(walks, key=lambda walk: sum(scores[t, place] for t, place in enumerate(walk)))
        assert tuple(likeliest(scores)) == best


@pytest.mark.parametrize("frames, tokens", [(1, 4), (3, 7), (4, 5)])
def test_more_tokens_than_frames_are_spread_over_them(frames: int, tokens: int):
    walk = likeliest(np.zeros((frames, tokens), dtype=np.float32))
    assert walk.shape == (frames,) and walk[0] == 0 and (np.diff(walk) > 0).all() and walk[-1] < tokens


def spoken(seed: int, language: str = "de", most: int = 5) -> tuple[Example, np.ndarray]:
    """A word of 2 to 6 letters, 2 to `most` frames each, a pause at both ends; a fifth of the codes is noise."""
    random = np.random.default_rng([seed, most])
    text = "".join(random.choice(list(LETTERS), size=random.integers(2, 7)))
    durations = [
        int(random.integers(1, 9)),
        *random.integers(2, most + 1, len(text)).tolist(),
        int(random.integers(1, 9)),
    ]
    walk = np.repeat(np.arange(len(durations)), durations)
    place = np.array([QUIET // 3, *(LETTERS.index(letter) for letter in text), QUIET // 3])[walk]
    shift = 0 if language == "de" else 24  # another language says the same letters with other codes
    first = np.where(place < len(LETTERS), (3 * place + shift) % QUIET, QUIET) + random.integers(0, 3, len(walk))
    codes = np.stack([first, (7 * first + 5) % SIZE])
    noise = random.integers(0, SIZE, codes.shape)
    codes = np.where(random.random(codes.shape) < 0.2, noise, codes)
    return Example(torch.from_numpy(codes), len(walk), text, "", "", language, "", "", ""), walk


@pytest.fixture(scope="module")
def model() -> WalkModel:
    model = WalkModel(TOKENIZER, ["de", "nl"])
    model.fit([spoken(seed, language)[0] for seed in range(60) for language in ("de", "nl")], SIZE)
    return model


def walk(model: WalkModel, example: Example) -> np.ndarray:
    ids = TOKENIZER.encode(example.text, example.language)
    return model.walks([Spoken(example.codes.numpy(), ids, example.language)])[0]


def near(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """[T] whether each frame has a token that it, or the frame before or after it, truly has."""
    padded = np.pad(truth, 1, mode="edge")
    return (found == padded[:-2]) | (found == truth) | (found == padded[2:])


@pytest.mark.parametrize("language", ["de", "nl"])
def test_durations_that_are_known_are_found_again_in_words_that_were_never_heard(model: WalkModel, language: str):
    right = []
    for seed in range(1000, 1040):
        example, truth = spoken(seed, language)
        found = walk(model, example)
        assert found[0] == 0 and found[-1] == len(example.text) + 1 and set(np.diff(found)) <= {0, 1}
        right.append(near(found, truth))
    assert np.concatenate(right).mean() >= 0.95


def test_long_pauses_belong_to_the_opening_space_and_to_the_end(model: WalkModel):
    example, truth = spoken(7)
    quiet = torch.full((2, 1), QUIET)
    quiet[1] = (7 * QUIET + 5) % SIZE
    codes = torch.cat([quiet.expand(2, 25), example.codes, quiet.expand(2, 15)], 1)
    long = Example(codes, codes.shape[1], example.text, "", "", "de", "", "", "")
    found, wanted = walk(model, long), np.pad(truth, (25, 15), mode="edge")
    assert (found == wanted).mean() > 0.9 and (found[:24] == 0).all() and (found[-14:] == truth[-1]).all()


def test_signs_and_spaces_are_pauses_as_the_end_is(model: WalkModel):
    ids = TOKENIZER.encode("ab, c", "de")
    rows = model._rows(ids, "de").tolist()
    assert [rows[i] for i in (0, 3, 4, -1)] == [TOKENIZER.end] * 4 and len({*rows}) == 4
    assert model._rows(ids, "nl").tolist() == [row + TOKENIZER.vocab_size for row in rows]


def test_one_frame_and_a_text_longer_than_its_sound_do_no_harm(model: WalkModel):
    codes, ids = np.zeros((2, 3), dtype=np.int64), TOKENIZER.encode("abcdefgh", "de")
    assert model.walks([Spoken(codes, ids, "de")])[0].tolist() == [0, 3, 6]
    assert model.walks([Spoken(codes[:, :1], ids, "de")])[0].tolist() == [0]
    assert model.walks([Spoken(codes[:, :1], TOKENIZER.encode("", "de")[:1], "de")])[0].tolist() == [0]
    short = Example(torch.zeros(2, 1, dtype=torch.long), 1, "abcdefgh", "", "", "de", "", "", "")
    mixed = WalkModel(TOKENIZER, ["de"])
    mixed.fit([short, spoken(0)[0]], SIZE)
    assert all(np.isfinite(table).all() for table in mixed.scores)


def test_a_language_with_its_region_is_that_language():
    example = spoken(1)[0]
    example.language = "DE-at"
    model = WalkModel(TOKENIZER, ["de"])
    model.fit([example], SIZE)
    assert model.scores[0].shape == (TOKENIZER.vocab_size, SIZE)
