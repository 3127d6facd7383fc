"""A codec in; seconds of recordings that `ira prepare` encodes in a second, beside a loop over EncodecModel, out.

Both read files of 48 kHz and compute with one thread a process. The loop takes one recording after another.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import soundfile
import torch

from ira.audio.codec import Codec
from ira.audio.waveform import load_audio
from ira.bench.machine import speedup_of
from ira.bench.peers import encodec
from ira.bench.sizes import Sizes
from ira.bench.timing import Figures, Work, in_turns
from ira.data.prepare import prepare
from ira.data.text import CharTokenizer

RATE = 48_000


def measure_prepare(codec: Codec, sizes: Sizes) -> Figures:
    """Times real time of the loop and of `ira prepare` with so many workers; processes that start count.

    Beside what workers gain: what processes that only multiply gain on this machine.
    """
    with TemporaryDirectory() as name:
        home = Path(name)
        manifest = write_recordings(home, sizes.clips, sizes.clip_seconds)
        works = {"encodec_loop": Work(_loop(home, sizes))}
        works |= {f"workers{count}": _prepare(codec, manifest, home / "out", count) for count in sizes.workers}
        timed = in_turns(works, torch.device("cpu"), sizes.prepare_repeats)
    seconds = {name: sizes.clip_seconds * sizes.clips for name in works}
    seconds["encodec_loop"] = sizes.clip_seconds * sizes.peer_clips
    found: Figures = {
        f"{name}_times_real_time": one.seconds.of(lambda s, name=name: seconds[name] / s) for name, one in timed.items()
    }
    rates = {name: seconds[name] / one.seconds.median for name, one in timed.items()}
    one = f"workers{sizes.workers[0]}"
    more = {f"{name}_by_{one}": rates[name] / rates[one] for name in rates if name not in (one, "encodec_loop")}
    more |= {f"processes{count}_by_1": speedup_of(count) for count in sizes.workers if count > 1}
    return found | {"speedup": rates[one] / rates["encodec_loop"], **more}


def write_recordings(home: Path, clips: int, seconds: float) -> Path:
    """Noise, and its manifest; no codec is faster or slower for what it hears."""
    noise, rows = np.random.default_rng(0), []
    for number in range(clips):
        name = f"{number:05}.wav"
        soundfile.write(home / name, noise.uniform(-0.5, 0.5, int(seconds * RATE)).astype(np.float32), RATE)
        rows.append({"audio_file": name, "text": "Noise.", "speaker_id": number % 8})
    manifest = home / "train.json"
    manifest.write_text(json.dumps(rows), encoding="utf-8")
    return manifest


def _prepare(codec: Codec, manifest: Path, out: Path, workers: int) -> Work:
    def run() -> None:
        prepare([manifest], out, codec, CharTokenizer(), workers=workers, progress=False)

    return Work(run, lambda: shutil.rmtree(out, ignore_errors=True))


def _loop(home: Path, sizes: Sizes) -> Callable[[], None]:
    peer = encodec(sizes.quick, torch.device("cpu"))
    kbps = peer.config.target_bandwidths[0]

    @torch.no_grad()
    def run() -> None:
        for path in sorted(home.glob("*.wav"))[: sizes.peer_clips]:
            peer.encode(load_audio(path)[None], bandwidth=kbps)

    return run
