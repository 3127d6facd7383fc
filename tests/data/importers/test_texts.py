"""A list of texts becomes speech of many voices; stand-ins for flite and espeak-ng write what they were given."""

from __future__ import annotations

import json
import os
import shutil
import stat

import pytest

from ira.data.importers.texts import read, voices_of
from ira.data.importers.write import import_corpus
from ira.errors import InputError

TEXTS = [f"Sentence number {number} is here." for number in range(60)]
# Writes half a second of a tone to the file after -o or -w, or fails where the text asks for it.
STAND_IN = """#!{python}
import sys, wave, struct, math
if "fail" in sys.argv[-1]:
    sys.exit("no such word")
out = sys.argv[1 + max(i for i, a in enumerate(sys.argv) if a in ("-o", "-w"))]
with wave.open(out, "wb") as file:
    file.setparams((1, 2, 16000, 0, "NONE", ""))
    file.writeframes(b"".join(struct.pack("<h", int(9000 * math.sin(i / 9))) for i in range(8000)))
"""


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A PATH with both stand-ins and nothing else."""
    import sys

    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("flite", "espeak-ng"):
        path = folder / name
        path.write_text(STAND_IN.format(python=sys.executable))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.fixture
def listed(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join([*TEXTS, "", "fail here"]) + "\n", encoding="utf-8")
    return path


def test_every_text_is_said_by_voices_of_its_split_and_nothing_is_in_two(programs, listed, bring_in):
    report, splits = bring_in("texts", listed, voices=3)
    assert [name for name, why in report.refused if "no such word" in why] and len(report.refused) == 3
    assert set(splits) == {"train", "val", "test"}
    assert sum(len(rows) for rows in splits.values()) == 3 * 60
    for one, other in (("train", "test"), ("train", "val"), ("val", "test")):
        for what in ("text", "speaker"):
            met = [{getattr(row, what) for row in splits[split]} for split in (one, other)]
            assert met[0] and not met[0] & met[1], what
    assert len({row.speaker for row in splits["train"]}) > 40
    row = splits["train"][0]
    assert row.extra["gender"] in ("male", "female") and row.extra["accent"].startswith("en")


def test_the_same_list_gives_the_same_recordings_and_is_kept(programs, listed, tmp_path):
    first = import_corpus("texts", listed, tmp_path / "one")
    manifest = (tmp_path / "one" / "train" / "train.json").read_bytes()
    again = import_corpus("texts", listed, tmp_path / "one")
    assert set(first.files) == {"copied"} and set(again.files) == {"kept"}
    assert (tmp_path / "one" / "train" / "train.json").read_bytes() == manifest


def test_columns_of_json_lines_reach_the_manifest(programs, tmp_path, bring_in):
    path = tmp_path / "asked.jsonl"
    rows = [{"text": f"What is {n} plus one?", "response": str(n + 1), "task": "sum"} for n in range(30)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    _, splits = bring_in("texts", path)
    found = [row for rows in splits.values() for row in rows]
    assert len(found) == 30 and {row.extra["task"] for row in found} == {"sum"}
    assert all(int(row.response) == int(row.text.split()[2]) + 1 for row in found)


def test_german_has_voices_of_its_own_and_a_language_without_any_is_refused(programs, tmp_path):
    voices = [voice.name for split in voices_of("de").values() for voice in split]
    assert voices and all(name.startswith("espeak-de") for name in voices)
    with pytest.raises(InputError, match="'xx': no voices"):
        voices_of("xx")


def test_without_the_programs_it_says_which_to_install(listed, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InputError, match="apt install flite espeak-ng"):
        read(listed)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [("none.txt", None, "no such file"), ("empty.txt", "\n\n", "no line"), ("bad.jsonl", '{"a": 1}\n', "line 1")],
)
def test_lists_that_cannot_be_read_are_refused(tmp_path, programs, name, content, said):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=said):
        read(tmp_path / name)


@pytest.mark.skipif(not (shutil.which("flite") and shutil.which("espeak-ng")), reason="no flite and espeak-ng here")
def test_the_true_programs_speak_even_what_looks_like_an_option():
    for voice in (voices_of("en")["train"][0], voices_of("en")["train"][-1], voices_of("nl")["train"][0]):
        assert len(voice.say("-x is the option of a program.")) > 20_000, (voice.name, os.environ["PATH"])
