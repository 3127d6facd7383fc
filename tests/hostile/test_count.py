"""How many hostile files there are, and that they stay the same from run to run."""

from __future__ import annotations

from pathlib import Path


def test_there_are_more_than_a_thousand_hostile_files_of_every_kind(
    corpus: list[Path],
    audio_files: dict[str, bytes],
    manifest_texts: list[str],
    row_texts: list[str],
    voice_texts: list[str],
    model_cards: list[str],
    part_cards: list[tuple[str, str]],
    weight_files: list[bytes],
    config_texts: list[str],
):
    texts = (manifest_texts, row_texts, voice_texts, model_cards, part_cards, config_texts)
    kinds = [set(audio_files.values()), set(weight_files), *(set(map(str, kind)) for kind in texts)]
    assert all(len(kind) >= 80 for kind in kinds), [len(kind) for kind in kinds]
    assert sum(len(kind) for kind in kinds) + len(corpus) >= 1000
    assert sum(path.stat().st_size for path in corpus) < 300_000
