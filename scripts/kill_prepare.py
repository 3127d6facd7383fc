"""A number of kills in; whether killed preparations end with the very bytes of one that was left alone, out.

    python scripts/kill_prepare.py
    python scripts/kill_prepare.py --kills 50 --workers 2 --seed 7

Makes a small corpus of noise, prepares it once in peace with the codec that ships, then again and again with SIGKILL at
moments drawn from the length of the first run. A run that comes to its end is compared and begun anew. Attempts are
forked from this process, which has imported everything, so that kills meet work instead of start-up. Exit code 1 where
a byte differs. Posix only.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import shutil
import signal
import sys
import tempfile
import time
from multiprocessing.context import ForkProcess
from pathlib import Path

import torch

from ira.audio.codec import Codec
from ira.audio.waveform import save_audio
from ira.data import prepare as preparing
from ira.data.text import CharTokenizer
from ira.models.bundle import EMBEDDED, bundled_codec


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)  # a fork beside threads at work could hang
    preparing.ROWS_PER_SHARD = 32
    codec = bundled_codec(EMBEDDED, torch.device("cpu"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = make_corpus(folder / "train", given.rows)
        begun = time.monotonic()
        alone = start(manifest, folder / "whole", codec, given.workers)
        alone.join()
        seconds = time.monotonic() - begun
        print(f"left alone: {shards_in(folder / 'whole')} shards in {seconds:.1f} s", flush=True)
        return alone.exitcode or kill_and_compare(manifest, folder, codec, given, seconds)


def kill_and_compare(manifest: Path, folder: Path, codec: Codec, given: argparse.Namespace, seconds: float) -> int:
    chance, kills, mid_run, compared, before = random.Random(given.seed), 0, 0, 0, 0
    out, wanted = folder / "cut", contents(folder / "whole")
    while kills < given.kills or not compared:
        process = start(manifest, out, codec, given.workers)
        process.join(chance.uniform(0, seconds) if kills < given.kills else None)
        process.kill()
        process.join()
        done = shards_in(out)
        if process.exitcode == -signal.SIGKILL:
            kills += 1
            mid_run += done > before
            print(f"kill {kills}: {before} shards were there, {done} are", flush=True)
            before = done
        elif process.exitcode or contents(out) != wanted:
            print(f"after {kills} kills: the shards differ", flush=True)
            return 1
        else:
            compared, before = compared + 1, 0
            shutil.rmtree(out)
    print(f"{kills} kills, {mid_run} of them after new shards; {compared} finished runs, every byte as if left alone")
    return 0


def make_corpus(folder: Path, rows: int) -> Path:
    """Noise of 0.1 to 0.4 s: the codec does not care, and the moments of the kills fall anywhere."""
    lines = []
    for i in range(rows):
        generator = torch.Generator().manual_seed(i)
        samples = int(torch.randint(2_400, 9_600, (1,), generator=generator))
        save_audio(folder / "audio_files" / f"{i}.wav", 0.3 * torch.randn(1, samples, generator=generator))
        lines.append({"audio_file": f"audio_files/{i}.wav", "text": f"number {i}", "speaker_id": i % 7})
    (folder / "train.json").write_text(json.dumps(lines))
    return folder


def start(manifest: Path, out: Path, codec: Codec, workers: int) -> ForkProcess:
    settings = {"workers": workers, "progress": False}
    words = ([manifest], out, codec, CharTokenizer())
    process = multiprocessing.get_context("fork").Process(target=preparing.prepare, args=words, kwargs=settings)
    process.start()
    return process


def shards_in(folder: Path) -> int:
    return len(list(folder.glob("shard-*.json")))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


if __name__ == "__main__":
    sys.exit(main())
