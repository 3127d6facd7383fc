"""How good the weights are on held-out recordings: figures as JSON on stdout.

    python benchmarks/quality.py codec MANIFEST... [--model DIR] [--clips 60]
    python benchmarks/quality.py speak MANIFEST... [--model DIR] [--clips 40]

`codec` compares lossless recordings with what the codec makes of them: STOI, PESQ (wide band), mel distance.
`speak` says the transcripts in the voice of each recording and lets an independent recogniser (pocketsphinx) write
them down, beside the recordings themselves and what the codec makes of them. Needs the extra `eval`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

import jiwer
import numpy as np
import torch
from ira.inference.pipeline import Pipeline
from pesq import NoUtterancesError, pesq
from pocketsphinx import Decoder
from pystoi import stoi
from torch import Tensor

from ira.audio.compact import CompactCodec
from ira.audio.waveform import SAMPLE_RATE, load_audio, resample
from ira.checkpoint import load_model
from ira.data.manifest import Row, read_manifest
from ira.data.text import normalize
from ira.models.bundle import EMBEDDED
from ira.training.losses import MultiScaleMel

BITRATES = {6.0: 8, 3.0: 4, 1.5: 2}
JUDGE_RATE = 16_000


def measure_codec(rows: list[Row], folder: Path) -> dict[str, float]:
    """Means over clips at each bitrate, all from one encoding: any prefix of the codebooks decodes."""
    codec, mel = load_model(CompactCodec, folder, "codec"), MultiScaleMel()
    figures: dict[str, list[float]] = {}
    for row in rows:
        clip = load_audio(row.audio or "")[None]
        codes = codec.encode(clip).codes
        for kbps, books in BITRATES.items():
            made = codec.decode(codes[:, :books])[..., : clip.shape[-1]]
            scores = {"mel": float(mel(made, clip)), **_speech_scores(clip, made)}
            for name, value in scores.items():
                figures.setdefault(f"{name}@{kbps}", []).append(value)
    return {name: round(statistics.mean(values), 4) for name, values in figures.items()}


def _speech_scores(clip: Tensor, made: Tensor) -> dict[str, float]:
    pair = [resample(x[0, 0], SAMPLE_RATE, JUDGE_RATE).numpy() for x in (clip, made)]
    try:
        return {"stoi": float(stoi(*pair, JUDGE_RATE)), "pesq": float(pesq(JUDGE_RATE, *pair, "wb"))}
    except NoUtterancesError:
        return {}


def measure_speech(rows: list[Row], folder: Path) -> dict[str, float]:
    """Character error rates of the recogniser on recordings, on codec copies and on generated speech; runaways."""
    pipeline, judge = Pipeline.from_folder(folder), Decoder(samprate=JUDGE_RATE, loglevel="FATAL")
    texts: dict[str, list[str]] = {"reference": [], "recording": [], "codec": [], "spoken": []}
    unfinished, ratios = 0, []
    for row in rows:
        recording = load_audio(row.audio or "")
        spoken = pipeline.speak(row.text, voice=str(row.audio), seed=row.number)
        texts["reference"].append(normalize(row.text, row.language))
        texts["recording"].append(_recognise(judge, recording))
        texts["codec"].append(_recognise(judge, pipeline.resynth(recording)))
        texts["spoken"].append(_recognise(judge, spoken.waveform))
        unfinished += not spoken.finished
        ratios.append(spoken.waveform.shape[-1] / recording.shape[-1])
        print(f"{texts['reference'][-1]!r} -> {texts['spoken'][-1]!r}", file=sys.stderr)
    plain = {name: [_letters(text) for text in said] for name, said in texts.items()}
    rates = {f"cer_{n}": float(jiwer.cer(plain["reference"], plain[n])) for n in ("recording", "codec", "spoken")}
    return {**rates, "runaway": unfinished / len(rows), "length_ratio": statistics.mean(ratios), "clips": len(rows)}


def _recognise(judge: Decoder, waveform: Tensor) -> str:
    """What pocketsphinx writes; 0.3 s of silence at both ends, peak 0.6."""
    samples = resample(waveform.reshape(-1), SAMPLE_RATE, JUDGE_RATE).numpy()
    silence = np.zeros(int(0.3 * JUDGE_RATE), dtype=np.float32)
    samples = np.concatenate([silence, 0.6 * samples / max(float(np.abs(samples).max()), 1e-4), silence])
    judge.start_utt()
    judge.process_raw((samples * 32767).astype(np.int16).tobytes(), full_utt=True)
    judge.end_utt()
    found = judge.hyp()
    return found.hypstr if found else ""


def _letters(text: str) -> str:
    """Lower-case words without punctuation; a lone space where nothing is left, since jiwer wants something."""
    return " ".join("".join(c if c.isalpha() or c == "'" else " " for c in text.lower()).split()) or " "


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["codec", "speak"])
    parser.add_argument("manifests", nargs="+")
    parser.add_argument("--model", type=Path, default=EMBEDDED)
    parser.add_argument("--clips", type=int, default=60)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for path in chosen.manifests for row in read_manifest(path)[0] if row.audio and row.text]
    if chosen.what == "codec":
        rows = [row for row in rows if row.audio and row.audio.suffix in (".flac", ".wav")]
    rows = rows[:: max(len(rows) // chosen.clips, 1)][: chosen.clips]
    figures = (measure_codec if chosen.what == "codec" else measure_speech)(rows, chosen.model)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
