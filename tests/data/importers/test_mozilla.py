"""Common Voice in its true layout: tables without quotes beside clips/."""

from __future__ import annotations

import pytest

from ira.data.shards import Example
from ira.data.voices import attributes
from ira.errors import InputError

COLUMNS = (
    "client_id path sentence_id sentence sentence_domain up_votes down_votes age gender accents variant locale segment"
)


def table(path, rows, columns=COLUMNS):
    """Each row gives some columns; the others are empty, as in the corpus."""
    names = columns.split()
    lines = ["\t".join(row.get(name, "") for name in names) for row in rows]
    path.write_text("\n".join(["\t".join(names), *lines]) + "\n", encoding="utf-8")


def row(speaker, number, sentence, **columns):
    base = {"client_id": f"{speaker:0128x}", "path": f"common_voice_nl_{number}.mp3", "sentence": sentence}
    return {**base, "up_votes": "2", "down_votes": "0", "locale": "nl", **columns}


@pytest.fixture
def corpus(tmp_path, sound):
    root = tmp_path / "cv-corpus-17.0-2024-03-15" / "nl"
    for number in range(4):
        sound(root / "clips" / f"common_voice_nl_{number}.mp3")
    said = {"age": "fourties", "gender": "female_feminine", "accents": "Nederlands Nederlands,zacht"}
    train = [row(1 << 400, 0, 'Zij zei: "Goed.', **said), row(1 << 400, 9, "Weg."), row(1 << 400, 1, " ")]
    table(root / "train.tsv", train)
    table(root / "dev.tsv", [row(2 << 400, 2, "Dag.", age="teens", gender="do_not_wish_to_say")])
    table(root / "test.tsv", [row(3 << 400, 3, "Hallo.")])
    table(root / "validated.tsv", [*train, row(2 << 400, 2, "Dag."), row(3 << 400, 3, "Hallo.")])
    return root


def test_the_splits_are_kept_and_what_is_known_comes_along(corpus, bring_in):
    _, splits = bring_in("commonvoice", corpus)
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 1, "val": 1, "test": 1}
    (train,), (val,) = splits["train"], splits["val"]
    assert train.text == 'Zij zei: "Goed.' and train.language == "nl"
    assert train.extra == {"gender": "female", "age": "40-49", "accent": "Nederlands Nederlands"}
    assert val.extra["age"] == "13-19" and len(train.speaker) < 50
    example = Example(None, 0, train.text, "", "", "nl", "", "", "", extra=train.extra)  # type: ignore[arg-type]
    assert {"gender": "female", "age": "middle-aged"}.items() <= attributes(example).items()


def test_missing_clips_and_empty_sentences_are_named(corpus, bring_in):
    report, _ = bring_in("commonvoice", corpus)
    assert report.refused == [("common_voice_nl_1.mp3", "no text"), ("common_voice_nl_9.mp3", "the file is not there")]


def test_a_script_that_cannot_be_spoken_is_named_row_by_row(corpus, bring_in):
    table(corpus / "test.tsv", [row(3 << 400, 3, "Привет"), row(4 << 400, 2, "Dag.")])
    report, _ = bring_in("commonvoice", corpus)
    assert any(name == "common_voice_nl_3.mp3" and "cannot be spoken" in why for name, why in report.refused)


def test_older_tables_and_names_without_suffix_are_read(corpus, bring_in):
    columns = "client_id path sentence up_votes down_votes age gender accent"
    table(corpus / "train.tsv", [row(1, 0, "Oud.", path="common_voice_nl_0", accent="vlaams", gender="male")], columns)
    _, splits = bring_in("commonvoice", corpus)
    assert splits["train"][0].extra == {"gender": "male", "accent": "vlaams"}
    assert splits["train"][0].language == "nl"  # the folder says it where the table does not


def test_a_language_without_splits_is_split_by_speaker_from_the_validated_clips(corpus, bring_in):
    for name in ("train", "dev", "test"):
        table(corpus / f"{name}.tsv", [])
    report, splits = bring_in("commonvoice", corpus)
    assert set(splits) == {"train", "val", "test"} and "speaker" in report.rule


def test_the_release_folder_serves_where_it_holds_one_language_and_is_asked_about_where_it_holds_two(corpus, bring_in):
    bring_in("commonvoice", corpus.parent)
    (corpus.parent / "de" / "clips").mkdir(parents=True)
    table(corpus.parent / "de" / "validated.tsv", [])
    with pytest.raises(InputError, match="holds de, nl; give one of them"):
        bring_in("commonvoice", corpus.parent)


def test_a_table_of_another_kind_is_refused_with_its_columns(corpus, bring_in):
    table(corpus / "train.tsv", [], "sentence_id sentence source")
    with pytest.raises(InputError, match="column client_id is wanted, sentence_id, sentence, source was found"):
        bring_in("commonvoice", corpus)
