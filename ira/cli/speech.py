"""Verbs for sound: copy it, speak, keep a voice, listen, answer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ira.cli.options import DeviceOption, ModelOption, app, open_pipeline, open_speaker
from ira.console import progress, report_rows, warn
from ira.errors import InputError

if TYPE_CHECKING:
    from ira.inference.spoken import Spoken

SeedOption = Annotated[int, typer.Option("--seed", help="the same seed gives the same speech")]
BitsOption = Annotated[
    int | None,
    typer.Option(
        "--bits",
        help="16, 8 or 4 bits a weight of the SpeechLM's decoder, 16 or 8 of the LLM's: faster on a CPU; 32: as they "
        "are; default: 16 for speak on x86 processors, else 32",
    ),
]
CompileOption = Annotated[
    bool,
    typer.Option(
        "--compile",
        help="the decoder's step as machine code for this processor, several times as fast; needs g++ or clang++",
    ),
]
LanguageOption = Annotated[str, typer.Option("--language", help="two letters, one of those the model has learned")]
VoiceOption = Annotated[
    str | None,
    typer.Option(
        "--voice", help='a recording, a saved NAME.voice, words such as "a calm woman", or a mix: A:0.7+B:0.3'
    ),
]


PaceOption = Annotated[float, typer.Option("--pace", help="how fast: 0.5 to 2, 1 as the voice was learned")]


@app.command()
def resynth(
    audio: Annotated[str, typer.Argument(metavar="AUDIO")],
    out: Annotated[Path, typer.Option(help="sound file to write")],
    bandwidth: Annotated[float | None, typer.Option(metavar="KBPS", help="1.5, 3, 6, 12 or 24")] = None,
    model: ModelOption = None,
    device: DeviceOption = "auto",
) -> None:
    """What the codec makes of a recording.

    \b
    Examples:
      ira resynth speech.wav --out coded.wav
      ira resynth speech.wav --out coded.wav --bandwidth 1.5
    """
    check_sound_name(out)
    pipeline = open_pipeline(model, device)
    pipeline.save_audio(pipeline.resynth(audio, bandwidth), out)
    typer.echo(out)


@app.command()
def speak(
    text: Annotated[str | None, typer.Argument(metavar="TEXT")] = None,
    voice: VoiceOption = None,
    out: Annotated[Path | None, typer.Option(help="sound file; with --batch a folder")] = None,
    seed: SeedOption = 0,
    language: LanguageOption = "en",
    pace: PaceOption = 1.0,
    batch: Annotated[Path | None, typer.Option(metavar="ROWS.jsonl", help="speak every row of a file")] = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="a page to look at: sound, spectrogram, alignment, entropy, timing"),
    ] = None,
    stream: Annotated[
        bool, typer.Option("--stream", help="write the sound as it is made; without --out to stdout")
    ] = False,
    bits: BitsOption = None,
    compiled: CompileOption = False,
    model: ModelOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Text to speech, in a voice from a recording, a saved voice or words; prints the file written.

    \b
    Examples:
      ira speak "Good morning."                          (writes speech.wav)
      ira speak "Good morning." --voice me.wav --out morning.wav --seed 3
      ira speak "Good morning." --voice "a man with a low voice" --out morning.flac
      ira speak "Good morning." --voice "anna.voice:0.7+a calm man:0.3"
      ira speak "Good morning." --report morning.html
      ira speak "Good morning." --pace 0.8               slower; 2 is twice as fast
      ira speak "Good morning." --bits 32                weights as they are, not 16 bits as on x86 processors
      ira speak "Good morning." --compile                several times as fast, with a C++ compiler
      ira speak "Good morning." --stream | aplay         sound leaves while the rest is still being made
      ira speak --batch rows.jsonl --out spoken/         {"id","text","voice","seed","language","pace"} -> spoken/ID.wav
    """
    if (text is None) == (batch is None):
        raise InputError("give either a TEXT or --batch ROWS.jsonl; see ira speak --help")
    check_page_name(report)
    if batch is not None:
        if stream:
            raise InputError("--stream with --batch; rows are written as files; give one of them")
        if out is None:
            raise InputError("--batch without --out; give the folder for the sound files")
        from ira.inference.batch import speak_rows

        with progress("speaking") as said:
            raise typer.Exit(
                report_rows(speak_rows(open_speaker(model, device, bits, compiled), batch, out, said, report))
            )
    path = out or Path("speech.wav")
    check_sound_name(path)
    if stream:
        from ira.cli.live import write_live

        if report is not None:
            raise InputError("--stream with --report; a page shows finished speech; give one of them")
        pipeline = open_speaker(model, device, bits, compiled)
        parts = pipeline.speak_stream(text or "", voice, seed, language, pace)
        write_live(parts, pipeline.parts.codec.sample_rate, out)
        return typer.echo(out) if out else None
    pipeline = open_speaker(model, device, bits, compiled)
    with progress("speaking") as said:
        spoken = pipeline.speak(text or "", voice, seed, language, said, pace)
    save_speech(spoken, path)
    if report is not None:
        from ira.inference.pipeline import SpeakRow
        from ira.inference.speak_report import SpeakReport

        page = SpeakReport(pipeline)
        page.add(str(path), SpeakRow(text or "", voice, seed, language, pace), spoken)
        page.write(report)
    typer.echo(path)


@app.command()
def voice(
    reference: Annotated[str, typer.Argument(metavar="REF", help="as --voice of ira speak")],
    save: Annotated[Path, typer.Option(metavar="NAME.voice", help="file to write")],
    consent: Annotated[str, typer.Option(help="who allowed the use of this voice, and for what")] = "",
    model: ModelOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Keep a voice: its embedding, the model it belongs to, what it came from, and a note of consent.

    \b
    Examples:
      ira voice anna.wav --save anna.voice --consent "Anna, 2 May, for our audio guide"
      ira voice "a calm man with a low voice" --save calm.voice
      ira voice "anna.voice:0.5+calm.voice:0.5" --save between.voice --consent "Anna, 2 May, for our audio guide"
      ira speak "Good morning." --voice calm.voice
    """
    from ira.inference.voice_file import save_voice

    pipeline = open_pipeline(model, device)
    made = pipeline.voice_of(reference)
    save_voice(save, made, consent)
    if "sha256:" in made.source and not consent:
        warn("no consent is noted; add --consent where this is the voice of a person")
    typer.echo(save)


@app.command()
def listen(
    audio: Annotated[list[str] | None, typer.Argument(metavar="AUDIO")] = None,
    prompt: Annotated[
        str | None,
        typer.Option(help="what to ask; <|audio|> marks the sound's place, at the end by default"),
    ] = None,
    batch: Annotated[Path | None, typer.Option(metavar="ROWS.jsonl", help="answer every row of a file")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE.jsonl", help="answers of --batch")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="go on with the lines of stdin, a turn each")] = False,
    bits: BitsOption = None,
    model: ModelOption = None,
    device: DeviceOption = "auto",
) -> None:
    """The language model's answer to or about recordings, on stdout alone.

    \b
    Examples:
      ira listen question.wav
      ira listen speech.wav --prompt "What is this about?"
      ira listen one.wav two.wav --prompt "<|audio|> or <|audio|>: which is a question?"
      ira listen speech.wav --bits 16     sooner on a CPU, once loaded
      ira listen speech.wav --chat        a line is a turn; @FILE in it is one more recording
      ira listen --batch rows.jsonl --out answers.jsonl
        rows: {"id","audio","prompt"}, audio a path, a list or null -> {"id","answer"}
    """
    if batch is not None:
        if audio or prompt or chat or out is None:
            raise InputError(
                "--batch goes with --out FILE.jsonl and with neither AUDIO, --prompt nor --chat; see --help"
            )
        from ira.inference.batch import listen_rows

        with progress("listening") as heard:
            code = report_rows(listen_rows(open_pipeline(model, device, bits), batch, out, heard))
        typer.echo(out)
        raise typer.Exit(code)
    if out is not None:
        raise InputError("--out goes with --batch; a single answer goes to stdout")
    if chat:
        from ira.cli.chat import talk

        return talk(open_pipeline(model, device, bits), list(audio or []), prompt)
    if not audio and not prompt:
        raise InputError("nothing to listen to; give an AUDIO file, --chat, or --batch ROWS.jsonl")
    for bit in open_pipeline(model, device, bits).listen_stream(list(audio or []), prompt):
        typer.echo(bit, nl=False)
        sys.stdout.flush()
    typer.echo()


@app.command()
def respond(
    audio: Annotated[str, typer.Argument(metavar="AUDIO")],
    out: Annotated[Path, typer.Option(help="sound file for the spoken answer")],
    prompt: Annotated[str | None, typer.Option(help="what to do with the recording")] = None,
    voice: VoiceOption = None,
    seed: SeedOption = 0,
    language: LanguageOption = "en",
    stream: Annotated[bool, typer.Option("--stream", help="speak the first sentence before the rest is found")] = False,
    bits: BitsOption = None,
    compiled: CompileOption = False,
    model: ModelOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Speech in, speech out; prints the answer's text.

    \b
    Examples:
      ira respond question.wav --out answer.wav
      ira respond question.wav --out answer.wav --voice "a calm woman"
      ira respond question.wav --out answer.wav --stream        the file grows while it is made
      ira respond question.wav --out answer.wav --stream --bits 16 --compile     sooner, once loaded
    """
    check_sound_name(out)
    pipeline = open_pipeline(model, device, bits, compiled)
    if stream:
        from ira.cli.live import respond_live

        return typer.echo(respond_live(pipeline, audio, prompt, out, voice, seed, language))
    with progress("answering") as said:
        answer, spoken = pipeline.respond(audio, prompt, voice, seed, language, progress=said)
    save_speech(spoken, out)
    typer.echo(answer)


def check_sound_name(path: Path) -> None:
    """Before the work, not after it."""
    from ira.audio.waveform import WRITE_FORMATS

    if path.suffix.lower() not in WRITE_FORMATS:
        raise InputError(f"{path}: cannot write format {path.suffix!r}; use one of {' '.join(WRITE_FORMATS)}")


def check_page_name(path: Path | None) -> None:
    if path is not None and path.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"{path}: a report is a page; name it FILE.html")


def save_speech(spoken: Spoken, path: Path) -> None:
    from ira.audio.waveform import save_audio

    save_audio(path, spoken.waveform, spoken.sample_rate)
    if spoken.remark:
        warn(f"{path}: {spoken.remark}")
