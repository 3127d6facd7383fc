"""A pipeline and clips in; the figures of a suite out: `codec`, `voice`, `speak` or `listen`.

Every figure follows from the weights and the clips: the seed of a clip is the number of its row. A clip that cannot be
used is counted under `refused` and in no other figure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ira.audio.codec import Codec
from ira.audio.waveform import load_audio
from ira.config import BANDWIDTHS_KBPS, CodecConfig
from ira.data.manifest import Row
from ira.data.shards import Example
from ira.data.text import CharTokenizer, normalize
from ira.data.voices import attributes, captions
from ira.errors import InputError
from ira.evaluation import metrics
from ira.evaluation.clips import Clips, choose
from ira.evaluation.judges import nearest_own_voice, open_recogniser, recognise, voice_statistics
from ira.evaluation.report import Metrics
from ira.inference.pipeline import Pipeline, SpeakRow
from ira.models.audio_llm import AUDIO, PromptItem
from ira.models.voice_encoder import embed_recording, embed_words

Advance = Callable[[int], None]
PACKAGES = {"codec": ("pystoi", "pesq"), "voice": (), "speak": ("jiwer", "pocketsphinx"), "listen": ("jiwer",)}
SPOKEN_TOGETHER = 8
HEARD_TOGETHER = 8
REPEAT = f"Repeat the following word for word: {AUDIO}"
SPARE_TOKENS = 16  # beyond the longest transcript, before an answer is cut off


def evaluate(
    suite: str, pipeline: Callable[[], Pipeline], manifests: Sequence[str], count: int, advance: Advance
) -> Metrics:
    """The figures of one suite, or of all of them under SUITE/NAME.

    Args:
        pipeline: opens the model, after what is wanted has been found to be there.
        advance: called with the number of clips done.

    Raises:
        InputError: a package of the extra is missing, a manifest is not there, or no row suits a suite.
    """
    names = list(SUITES) if suite == "all" else [suite]
    for name in [package for chosen in names for package in PACKAGES[chosen]]:
        metrics.package(name)
    clips = {name: choose(name, manifests, count) for name in names}
    model = pipeline()
    found = {name: _measure(name, model, clips[name], advance) for name in names}
    if suite != "all":
        return found[suite]
    return {f"{name}/{figure}": value for name, figures in found.items() for figure, value in figures.items()}


def _measure(suite: str, pipeline: Pipeline, clips: Clips, advance: Advance) -> Metrics:
    """The suite's figures after the counts: clips measured, rows refused, rows that do not suit."""
    with torch.no_grad():
        measured, figures = SUITES[suite](pipeline, clips.rows, advance)
    refused = clips.refused + len(clips.rows) - measured
    return {"clips": measured, "refused": refused, "unsuited": clips.unsuited, **figures}


def measure_codec(pipeline: Pipeline, rows: list[Row], advance: Advance) -> tuple[int, Metrics]:
    """PESQ, STOI and mel distance at every bandwidth, all from one encoding: any prefix of the codebooks decodes."""
    codec = pipeline.parts.codec
    offers = bandwidths(codec)
    scores: dict[str, list[float]] = {f"{name}@{b:g}": [] for b in offers for name in ("pesq", "stoi", "mel")}
    measured = 0
    for _, clip in _recordings(rows, advance):
        if float(clip.abs().max()) < metrics.SILENT:  # STOI of silence says nothing
            continue
        codes = codec.encode(clip[None].to(pipeline.parts.device), codebooks=max(offers.values())).codes
        for kbps, books in offers.items():
            made = codec.decode(codes[:, :books])[0, :, : clip.shape[-1]].cpu()
            pesq = metrics.pesq(clip, made)
            scores[f"pesq@{kbps:g}"] += [] if pesq is None else [pesq]
            scores[f"stoi@{kbps:g}"].append(metrics.stoi(clip, made))
            scores[f"mel@{kbps:g}"].append(metrics.mel_distance(clip, made))
        measured += 1
    counted = {f"pesq_clips@{b:g}": len(scores[f"pesq@{b:g}"]) for b in offers}
    return measured, {**{name: metrics.mean(values) for name, values in scores.items()}, **counted}


def bandwidths(codec: Codec) -> dict[float, int]:
    """Codebooks of every bandwidth in kbps that the codec offers, the widest first."""
    offers: dict[float, int] = {}
    for kbps in sorted(BANDWIDTHS_KBPS, reverse=True):
        books = CodecConfig(kind="encodec", bandwidth_kbps=kbps).codebooks
        device = next((p.device for p in getattr(codec, "parameters", list)()), None)
        try:
            codec.encode(torch.zeros(1, 1, codec.hop, device=device), codebooks=books)
            offers[kbps] = books
        except InputError:
            continue
    return offers


def measure_voice(pipeline: Pipeline, rows: list[Row], advance: Advance) -> tuple[int, Metrics]:
    """Finding a clip's caption among all captions, telling men from women, and telling speakers apart."""
    encoder, codec = pipeline.parts.voice_encoder, pipeline.parts.codec
    used = [(row, embed_recording(encoder, codec, clip)) for row, clip in _recordings(rows, advance)]
    examples = [_example(row) for row, _ in used]
    if not used:
        return 0, {}
    voices = torch.stack([voice for _, voice in used])
    return len(used), {
        **_retrieval(pipeline, voices, examples),
        **_genders(pipeline, voices, examples),
        **_speakers(voices, examples),
    }


def _retrieval(pipeline: Pipeline, voices: Tensor, examples: list[Example]) -> Metrics:
    """A clip's caption is its description, else the fullest one that its tags give; `captions` are distinct."""
    own = [example.description.strip() or (captions(example) or [""])[-1] for example in examples]
    distinct = sorted({caption for caption in own if caption})
    captioned = [i for i, caption in enumerate(own) if caption]
    figures: Metrics = {"captioned": len(captioned), "captions": len(distinct)}
    if not distinct:
        return figures | {f"{name}{k}": None for k in (1, 10) for name in ("recall@", "chance@")}
    words = embed_words(pipeline.parts.voice_encoder, distinct, CharTokenizer())
    right = [distinct.index(own[i]) for i in captioned]
    for k in (1, 10):
        figures[f"recall@{k}"] = metrics.recall_at_k(voices[captioned] @ words.T, right, k)
        figures[f"chance@{k}"] = min(k / len(distinct), 1.0)
    return figures


def _genders(pipeline: Pipeline, voices: Tensor, examples: list[Example]) -> Metrics:
    sides = embed_words(pipeline.parts.voice_encoder, ["a man", "a woman"], CharTokenizer())
    guessed = (voices @ sides.T).argmax(-1).tolist()
    known = [attributes(example).get("gender") for example in examples]
    right = [guess == ("male", "female").index(g) for guess, g in zip(guessed, known, strict=True) if g]
    return {"gender_known": len(right), "gender_accuracy": metrics.mean(right)}


def _speakers(voices: Tensor, examples: list[Example]) -> Metrics:
    """Over all pairs of clips whose speakers are known."""
    alike = (voices @ voices.T).tolist()
    pairs = [(i, j) for i in range(len(examples)) for j in range(i) if examples[i].speaker and examples[j].speaker]
    same = [alike[i][j] for i, j in pairs if examples[i].speaker == examples[j].speaker]
    different = [alike[i][j] for i, j in pairs if examples[i].speaker != examples[j].speaker]
    return {
        "same_speaker_pairs": len(same),
        "different_speaker_pairs": len(different),
        "speaker_auc": metrics.ranking_area(same, different),
        "speaker_eer": metrics.equal_error_rate(same, different),
    }


def measure_speak(pipeline: Pipeline, rows: list[Row], advance: Advance) -> tuple[int, Metrics]:
    """Each transcript said in the voice of its recording, beside the recording and what the codec makes of it."""
    recogniser = open_recogniser()
    truths: list[str] = []
    heard: dict[str, list[str]] = {"recording": [], "codec": [], "spoken": []}
    voices: dict[str, list[Tensor]] = {name: [] for name in heard}
    unfinished, ratios, speakers = [], [], []
    for row, recording, spoken in _spoken(pipeline, rows, advance):
        sounds = {"recording": recording, "codec": pipeline.resynth(recording), "spoken": spoken.waveform}
        truths.append(normalize(row.text, row.language))
        for name, sound in sounds.items():
            heard[name].append(recognise(recogniser, sound))
            voices[name].append(voice_statistics(sound))
        unfinished.append(not spoken.finished)
        ratios.append(spoken.seconds * pipeline.parts.codec.sample_rate / recording.shape[-1])
        speakers.append(row.speaker)
    told = {name: nearest_own_voice(voices[name], voices["recording"], speakers) for name in voices}
    return len(truths), {
        **{f"cer_{name}": metrics.cer(truths, texts) for name, texts in heard.items()},
        "runaway": metrics.mean(unfinished),
        "length_ratio": metrics.mean(ratios),
        "similarity_clips": len(told["spoken"]),
        "similarity_chance": 1 / len(set(speakers) - {""}) if told["spoken"] else None,
        **{f"similarity_{name}": metrics.mean(right) for name, right in told.items()},
    }


def _spoken(pipeline: Pipeline, rows: list[Row], advance: Advance) -> Iterator[tuple[Row, Tensor, Any]]:
    """Rows with their recording and what the model says, several at a time, but for those that are refused."""
    for start in range(0, len(rows), SPOKEN_TOGETHER):
        part = list(_recordings(rows[start : start + SPOKEN_TOGETHER], lambda _: None))
        asked = [SpeakRow(row.text, row.audio, row.number, row.language) for row, _ in part]
        for (row, recording), spoken in zip(part, pipeline.speak_batch(asked), strict=True):
            if not isinstance(spoken, InputError):
                yield row, recording, spoken
        advance(min(start + SPOKEN_TOGETHER, len(rows)))


def measure_listen(pipeline: Pipeline, rows: list[Row], advance: Advance) -> tuple[int, Metrics]:
    """Repeating what is said: from its text, its sound, nothing, and another clip's sound.

    wer: of the greedy answer, at most 1 a clip; logprob: nats a token of the true transcript as the answer, which still
    tells models apart whose answers are all wrong; gap_closed: where the sound stands between nothing and the text.
    """
    heard = []
    for row, clip in _recordings(rows, advance):
        try:
            heard.append((row, pipeline.hear(clip)))
        except InputError:
            continue
    texts = [row.text.strip() for row, _ in heard]
    conditions = listen_conditions(texts, [sound for _, sound in heard])
    figures: Metrics = {}
    for name, items in conditions.items():
        figures[f"logprob_{name}"] = metrics.mean(_log_chances(pipeline, items, texts))
        figures[f"wer_{name}"] = metrics.mean(_word_errors(pipeline, items, texts))
    ends = [figures.get(f"logprob_{name}") for name in ("audio", "none", "text")]
    return len(heard), {**figures, "gap_closed": metrics.gap_closed(*ends)}


def listen_conditions(texts: list[str], sounds: list[Tensor]) -> dict[str, list[PromptItem]]:
    """The prompts of the four rows of the comparison; a single clip has no other sound, so nothing is shuffled."""
    other = sounds[1:] + sounds[:1] if len(sounds) > 1 else []
    return {
        "text": [_item(REPEAT.replace(AUDIO, text.replace(AUDIO, " "))) for text in texts],
        "audio": [_item(REPEAT, sound) for sound in sounds],
        "none": [_item(REPEAT.replace(AUDIO, "").strip()) for _ in texts],
        "shuffled": [_item(REPEAT, sound) for sound in other],
    }


def _item(prompt: str, *sounds: Tensor) -> PromptItem:
    return PromptItem([{"role": "user", "content": prompt}], list(sounds))


def _log_chances(pipeline: Pipeline, items: list[PromptItem], texts: list[str]) -> list[float]:
    """Mean log-probability in nats a token of each transcript with the end of turn, as the answer to its prompt."""
    model, found = pipeline.parts.audio_llm, []
    for item, text in zip(items, texts[: len(items)], strict=True):
        answer = [*_token_ids(pipeline, text), model.llm.eos_ids[-1]]
        logits = model.response_logits([item], [answer]).logits[0].float()
        chances = logits.log_softmax(-1).gather(1, torch.tensor(answer, device=logits.device)[:, None])
        found.append(float(chances.mean()))
    return found


def _word_errors(pipeline: Pipeline, items: list[PromptItem], texts: list[str]) -> list[float]:
    limit = max((len(_token_ids(pipeline, text)) for text in texts), default=0) + SPARE_TOKENS
    answers: list[str] = []
    for start in range(0, len(items), HEARD_TOGETHER):
        answers += pipeline.parts.audio_llm.generate(items[start : start + HEARD_TOGETHER], limit)
    rates = [metrics.capped_wer(text, answer) for text, answer in zip(texts[: len(answers)], answers, strict=True)]
    return [rate for rate in rates if rate is not None]


def _token_ids(pipeline: Pipeline, text: str) -> list[int]:
    return pipeline.parts.audio_llm.llm.tokenizer(text, add_special_tokens=False).input_ids


def _recordings(rows: list[Row], advance: Advance) -> Iterator[tuple[Row, Tensor]]:
    """Rows with their sound [1, N], but for those that cannot be read."""
    for done, row in enumerate(rows, 1):
        try:
            sound = load_audio(row.audio or "")
        except InputError:
            continue
        yield row, sound
        advance(done)


def _example(row: Row) -> Example:
    """What is known of a row, as `ira.data.voices` reads it."""
    words = (row.text, row.speaker, row.description, row.language, row.instruction, row.response, row.emotion)
    return Example(torch.zeros(0, 0), 0, *words, extra=row.extra, speaker_id=row.speaker_id)


SUITES: dict[str, Callable[[Pipeline, list[Row], Advance], tuple[int, Metrics]]] = {
    "codec": measure_codec,
    "voice": measure_voice,
    "speak": measure_speak,
    "listen": measure_listen,
}
