"""What tests with hostile input share: mutated files of every kind that IRA reads, and the bounds each case keeps.

A case passes where the call succeeds, or raises InputError with one line; nothing else, in bounded time and memory.
"""

from __future__ import annotations

import json
import random
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from ira.audio.waveform import save_audio
from ira.errors import InputError

CORPUS = Path(__file__).parent / "corpus"
SECONDS = 5.0  # of computing that one case may take; by the clock ten times as long, since others compute as well
MEGABYTES = 900  # that one case may take beyond what the process had: an hour of mono sound, and its copy
LONGEST_LINE = 4000  # characters of an error, which a user is to read
HERE = "@here@"

# JSON in the place of a value: what is not JSON, not of the type, too large, too deep, not text, or leads elsewhere.
VALUES = [
    *("null", "true", "false", "0", "-1", "-0.0", "0.5", "1000000000", "9223372036854775808", "1e308", "1e400"),
    *("NaN", "Infinity", "-Infinity", "1" + "0" * 400, "1" + "0" * 5000, "[]", "[[]]", "[null]", "{}", '{"a":1,"a":2}'),
    *("[" * 3000 + "]" * 3000, '{"a":' * 3000 + "1" + "}" * 3000, "[1,2", "'a'", "1 2", "\x00", "\x1b[2J"),
    *('""', '" "', '"a"', '"nan"', '"1e9"', r'"\u0000"', r'"\ud800"', r'"\u001b[2J\u0007"', r'"\u202e\u2066a"'),
    *('"' + "a" * 100_000 + '"', '"' + "e" + "\u0301" * 2000 + '"', '"\U0001f600\U000e0041"', r'"a\nb\r\u2028c"'),
    *('"../../../../etc/passwd"', '"/etc/passwd"', '"/dev/zero"', r'"C:\\x"', '"~"', '"file:///etc/passwd"'),
]


class TooSlow(BaseException):
    """A case took longer than it may; no `except Exception` on the way catches this."""


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """Ends what is inside once it has taken `seconds`."""

    def stop(*_: object) -> None:
        raise TooSlow(f"more than {seconds} s")

    clocks = {signal.ITIMER_PROF: (signal.SIGPROF, seconds), signal.ITIMER_REAL: (signal.SIGALRM, 10 * seconds)}
    before = {number: signal.signal(number, stop) for number, _ in clocks.values()}
    try:
        for clock, (_, most) in clocks.items():
            signal.setitimer(clock, most)
        yield
    finally:
        for clock, (number, _) in clocks.items():
            signal.setitimer(clock, 0)
            signal.signal(number, before[number])


@pytest.fixture
def no_more_memory() -> Iterator[None]:
    """The test may map `MEGABYTES` more than it has, and may not have held more of it than that either."""
    if sys.platform != "linux":
        pytest.skip("memory is bounded and measured through /proc")
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (mapped + (MEGABYTES << 20) + (1 << 29), hard))  # threads map their stacks
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = _kilobytes("VmRSS")
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert _kilobytes("VmHWM") - before < MEGABYTES << 10


def _kilobytes(name: str) -> int:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(name + ":"))


@pytest.fixture
def survive(no_more_memory: None) -> Callable[..., str]:
    """survive(name, call): "" where the call succeeds, the line where it refuses; anything else fails the test."""

    def run(name: str, call: Callable[[], Any], seconds: float = SECONDS) -> str:
        started = time.process_time()
        try:
            with bounded(seconds):
                call()
        except InputError as error:
            line = str(error)
            assert len(line.splitlines()) == 1 and "\n" not in line, f"{name}: {line[:300]!r}"
            assert len(line) <= LONGEST_LINE, f"{name}: a line of {len(line)} characters: {line[:300]!r}"
            assert "MemoryError" not in line and "allocate" not in line, f"{name}: {line[:300]!r}"
            return line
        except BaseException as error:
            place = traceback.extract_tb(error.__traceback__, limit=-3)
            where = ", ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in place)
            raise AssertionError(f"{name}: {type(error).__name__}: {str(error)[:300]!r} in {where}") from None
        assert time.process_time() - started < seconds, name
        return ""

    return run


def mutants(content: bytes, other: bytes, seed: int, count: int = 40) -> Iterator[bytes]:
    """`count` deterministic changes: cut, bytes flipped, pieces swapped, doubled or taken from another file."""
    draw = random.Random(seed)
    size = max(len(content), 1)
    for number in range(count):
        at, to = sorted(draw.randrange(size) for _ in range(2))
        near = draw.randrange(min(size, 200))  # where headers are
        if number % 5 == 0:
            yield content[: near if number % 2 else at]
        elif number % 5 == 1:
            yield content[:near] + draw.randbytes(draw.choice([1, 2, 4, 8])) + content[near + 4 :]
        elif number % 5 == 2:
            yield content[:at] + bytes([content[at] ^ 1 << draw.randrange(8)]) + content[at + 1 :]
        elif number % 5 == 3:
            yield content[:at] + draw.choice([b"", content[at:to] * 2, other[:300], b"\0" * 64]) + content[to:]
        else:
            yield content[:near] + other[near:] if number % 2 else content + other


def objects(good: dict[str, Any], values: list[str] | None = None) -> Iterator[str]:
    """JSON texts like `good`, each with one leaf that is hostile, gone, given twice, or of another name."""
    for path in _leaves(good):
        text = json.dumps(_replaced(good, path, HERE))
        yield from (text.replace(json.dumps(HERE), value) for value in values or VALUES)
        key = json.dumps(path[-1])
        yield text.replace(f"{key}: {json.dumps(HERE)}", f'{key}: 1, {key}: "x"')
        yield text.replace(f"{key}: {json.dumps(HERE)}", '"\\u202e": 1')


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if path:
        yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, key))


def _replaced(value: dict[str, Any], path: tuple[str, ...], leaf: Any) -> dict[str, Any]:
    inner = leaf if len(path) == 1 else _replaced(value[path[0]], path[1:], leaf)
    return {**value, path[0]: inner}


@pytest.fixture(scope="session")
def corpus() -> list[Path]:
    """The committed files."""
    return sorted(path for path in CORPUS.rglob("*") if path.is_file() and path.name != "README.md")


@pytest.fixture(scope="session")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A twentieth of a second in every format that is read, by suffix and subtype."""
    folder, made = tmp_path_factory.mktemp("sounds"), {}
    time = torch.arange(2400) / 24_000
    wave = (0.4 * torch.sin(2765 * time))[None]
    for suffix in (".wav", ".flac", ".ogg", ".mp3"):
        save_audio(folder / f"a{suffix}", wave)
        made[suffix] = (folder / f"a{suffix}").read_bytes()
    for name, container, subtype in [
        *(("float.wav", "WAV", "FLOAT"), ("double.wav", "WAV", "DOUBLE"), ("adpcm.wav", "WAV", "IMA_ADPCM")),
        *(("vorbis.ogg", "OGG", "VORBIS"), ("a.aiff", "AIFF", "PCM_24"), ("a.w64", "W64", "PCM_16")),
        *(
            ("a.caf", "CAF", "ALAC_16"),
            ("a.au", "AU", "ULAW"),
            ("a.rf64", "RF64", "PCM_16"),
            ("a.voc", "VOC", "PCM_U8"),
        ),
    ]:
        soundfile.write(folder / name, wave[0].numpy(), 24_000, subtype=subtype, format=container)
        made[name] = (folder / name).read_bytes()
    return made


@pytest.fixture(scope="session")
def audio_files(sounds: dict[str, bytes]) -> dict[str, bytes]:
    """Mutated sound files by name: bytes at random, and every word of the headers at its extremes."""
    made: dict[str, bytes] = {}
    seeds = list(sounds.items())
    for number, (name, content) in enumerate(seeds):
        other = seeds[number - 1][1]
        for i, changed in enumerate(mutants(content, other, number)):
            made[f"{number}-mutant{i}-{name.lstrip('.')}"] = changed
        for at in range(4, 64, 4 if name.endswith("wav") else 10):
            for word in (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x01\0\0\0"):
                made[f"{number}-word{at}-{word.hex()}-{name.lstrip('.')}"] = content[:at] + word + content[at + 4 :]
    return made


@pytest.fixture(scope="session")
def manifest_texts() -> list[str]:
    """Manifests of one or two rows, most of them broken in one place."""
    row = {"audio_file": "a.wav", "text": "one", "speaker_id": 1, "speaker": "s", "description": "d", "language": "en"}
    row |= {"instruction": "i", "response": "r", "emotion": "sad", "duration": 0.1, "split": "train", "age": 30}
    good = json.dumps([row, row])
    broken = [f"[{text}]" for text in objects(row)] + [f"[{json.dumps(row)}, {value}]" for value in VALUES] + VALUES
    return broken + [text.decode(errors="surrogateescape") for text in mutants(good.encode(), b'{"a": [', 7, 60)]


@pytest.fixture(scope="session")
def row_texts() -> list[str]:
    """Lines of a batch file, to speak and to listen."""
    speak = {"id": "a", "text": "one", "voice": "a man", "seed": 1, "language": "en"}
    listen = {"id": "a", "audio": ["a.wav"], "prompt": "what?"}
    mutated = [text.decode(errors="surrogateescape") for text in mutants(json.dumps(speak).encode(), b'{"id": ', 8)]
    return [*objects(speak), *objects(listen), *VALUES, *mutated]


@pytest.fixture(scope="session")
def voice_texts() -> list[str]:
    """Saved voices."""
    good = {"format": 1, "embedding": [1.0, 0.0], "voice_encoder": "a" * 64, "source": "words", "consent": ""}
    good |= {"created": "2026-01-01"}
    mutated = [text.decode(errors="surrogateescape") for text in mutants(json.dumps(good).encode(), b"{", 9)]
    return [*objects(good), *VALUES, *(f'"embedding": [{value}]' for value in VALUES), *mutated]


@pytest.fixture(scope="session")
def model_cards(tiny_model_folder: Path) -> list[str]:
    """model.json of a model folder."""
    good = json.loads((tiny_model_folder / "model.json").read_text())
    return [*objects(good), *VALUES]


@pytest.fixture(scope="session")
def part_cards(tiny_model_folder: Path) -> list[tuple[str, str]]:
    """(part, text) of the cards beside the weights; the hash is right wherever it is not what is broken."""
    made = []
    for name in ("codec", "voice", "speech_lm", "adapter"):
        good = json.loads((tiny_model_folder / f"{name}.json").read_text())
        made += [(name, text) for text in objects(good)]
    return made


@pytest.fixture(scope="session")
def weight_files(tiny_model_folder: Path) -> list[bytes]:
    """The SpeechLM's safetensors, altered; whoever alters them can state the hash of what they made."""
    good = (tiny_model_folder / "speech_lm.safetensors").read_bytes()
    size = int.from_bytes(good[:8], "little")
    header, data = json.loads(good[8 : 8 + size]), good[8 + size :]
    made = list(mutants(good, (tiny_model_folder / "codec.safetensors").read_bytes(), 10, 60))
    name = "voice_in.weight"
    for changes in [
        *({"dtype": dtype} for dtype in ("F64", "F16", "I64", "U8", "BOOL", "F8_E4M3", "X", "C64", "", 7)),
        *({"shape": shape} for shape in ([0], [], [-1, 4], [2**62, 4], [10**30], ["a"], [[1]], None, [16, 32])),
        *({"data_offsets": ends} for ends in ([0, 0], [0, 2**63], [5, 1], [-1, 5], [0], "a", [0, len(data) + 1])),
    ]:
        text = json.dumps({**header, name: {**header[name], **changes}}).encode()
        made.append(len(text).to_bytes(8, "little") + text + data)
    made += [n.to_bytes(8, "little") + good[8:] for n in (0, 1, size - 1, size + 1, 2**31, 2**40, 2**63, 2**64 - 1)]
    bad = data[:-400] + np.full(100, np.nan, "<f4").tobytes()
    return [*made, good[: 8 + size] + bad]


@pytest.fixture(scope="session")
def config_texts() -> list[str]:
    """Configurations with one key that is hostile (YAML reads JSON), and YAML's own tricks."""
    from ira.config import Config

    made, short = [], [value for value in VALUES if len(value) < 1000]
    for number, path in enumerate(_leaves(Config().model_dump())):
        around = "".join(f'{{"{key}": ' for key in path), "}" * len(path)
        made += [f"{around[0]}{value}{around[1]}" for value in short[number % 8 :: 8] + short[7:15:2]]
    lines = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    made += ["a0: &a0 [x]\n" + "\n".join(lines), "a: &a {b: *a}", "a: &a [*a]", "<<: &a {<<: *a}", "train: !!set {a}"]
    made += [
        "!!python/object/apply:os.system [true]",
        "!!python/name:os.system",
        "train: !!binary aaa",
        "%YAML 9.9\n---",
    ]
    made += [
        "? [a, b]\n: 1",
        "? {a: b}\n: 1",
        "1: 2",
        "null: 1",
        "2020-01-01: 1",
        "a: 0x" + "f" * 5000,
        "a: 1:" + "1:" * 999,
    ]
    made += [
        "[" * 5000,
        "- " * 5000,
        "{" * 3000,
        "? " * 3000,
        "\t",
        "\x00",
        "\ufeff",
        "a: b: c",
        "--- 1\n--- 2",
        "a: |9\n",
    ]
    made += ["train: {seed: 2020-13-45}", "train: {seed: 2020-01-01T99:99:99}", "train: {seed: !!int x}"]
    made += ["a: &" + "a" * 100_000 + " 1", '"' + "\\x41" * 50_000 + '": 1', "train: {" + "a: 1, " * 2000 + "}"]
    return made
