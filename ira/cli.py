"""The command `ira`: one verb, one function.

Results go to stdout, progress and warnings to stderr. Input that cannot be used ends with exit code 2 and one line.
Models are imported inside the verbs, so that `ira --help` comes at once.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from ira import __version__
from ira.console import Verbs, print_table, progress, report_rows, warn
from ira.errors import InputError

if TYPE_CHECKING:
    from ira.inference.pipeline import Pipeline, Spoken


# Before torch comes in: threads that spin while they wait make decoding on busy cores many times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

app = typer.Typer(
    cls=Verbs,
    help="A voice and ears for a small open language model.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ModelOption = Annotated[
    Path | None,
    typer.Option("--model", help="model folder, as training writes to RUN/model; default: the weights that ship"),
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps")]
SeedOption = Annotated[int, typer.Option("--seed", help="the same seed gives the same speech")]
LanguageOption = Annotated[str, typer.Option("--language", help="how numbers are read out: en, de or nl")]
VoiceOption = Annotated[
    str | None,
    typer.Option("--voice", help='a recording, a saved NAME.voice, or words such as "a calm woman"'),
]


@app.callback(invoke_without_command=True)
def main(version: Annotated[bool, typer.Option("--version", help="print the version and end")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
def validate(
    manifests: Annotated[list[str], typer.Argument(metavar="MANIFEST", help="split folder, .json or .jsonl")],
    json_file: Annotated[Path | None, typer.Option("--json", help="write the report here as JSON")] = None,
    audio: Annotated[bool, typer.Option(help="decode every recording")] = True,
) -> None:
    """Rows, hours, speakers and problems of manifests; exit code 1 where a row cannot be used.

    \b
    Examples:
      ira validate data/train
      ira validate data/train data/val --json report.json
    """
    from ira.checkpoint import write_aside
    from ira.data.manifest import validate as check

    report = check(manifests, check_audio=audio)
    if json_file:
        record = {"suite": "validate", "model": None, "device": None, "commit": None, "metrics": report.as_dict()}
        with write_aside(json_file) as aside:
            aside.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    languages = ", ".join(f"{name} {count}" for name, count in report.languages.items())
    figures = {"rows": report.rows, "hours": f"{report.hours:.2f}", "speakers": report.speakers}
    print_table([*figures.items(), ("languages", languages), ("unusable", report.unusable)])
    for problem in report.problems:
        place = problem.source if problem.row is None else f"{problem.source} row {problem.row}"
        typer.echo(f"{place}: {problem.kind}: {problem.message}; {problem.remedy}")
    raise typer.Exit(1 if report.unusable else 0)


@app.command()
def prepare(
    manifests: Annotated[list[str], typer.Argument(metavar="MANIFEST", help="split folder, .json or .jsonl")],
    out: Annotated[Path, typer.Option(help="folder of the token shards")],
    config: Annotated[Path | None, typer.Option(help="take the codec of this training configuration")] = None,
    model: ModelOption = None,
    workers: Annotated[int | None, typer.Option(min=1, help="processes; default: data.workers of --config")] = None,
    device: DeviceOption = "auto",
) -> None:
    """Codec tokens of every recording in shards; resumes, and names every row that was refused.

    \b
    Examples:
      ira prepare data/train --out data/shards/train
      ira prepare data/train --out data/shards/train --config configs/tiny.yaml --workers 4
    """
    from torch.nn import Module

    from ira.audio.codec import load_codec
    from ira.config import DataConfig, load_config
    from ira.data.prepare import prepare as make_shards
    from ira.data.text import CharTokenizer
    from ira.models.bundle import EMBEDDED, bundled_codec
    from ira.runtime import pick_device

    if config and model:
        raise InputError(f"both --config {config} and --model {model}; give one: it names the codec")
    data = DataConfig()
    if config:
        settings = load_config(config)
        codec, data = load_codec(settings.codec, Path(settings.run_dir) / "model"), settings.data
        codec = codec.to(pick_device(device)) if isinstance(codec, Module) else codec
    else:
        codec = bundled_codec(model or EMBEDDED, pick_device(device))
    workers = workers or data.workers
    report = make_shards(manifests, out, codec, CharTokenizer(), workers=workers, max_seconds=data.max_seconds)
    for problem in report.refused:
        warn(f"{problem.source} row {problem.row}: {problem.message}; {problem.remedy}")
    print_table(
        [("rows", report.rows), ("hours", f"{report.hours:.2f}"), ("refused", len(report.refused)), ("shards", out)]
    )


@app.command()
def train(
    config: Annotated[Path, typer.Option(help="YAML, such as configs/tiny.yaml")],
    stage: Annotated[str | None, typer.Option(help="run this stage alone")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE")] = None,
) -> None:
    """Train all stages in order, or one; a run that was stopped goes on. Prints the model folder.

    \b
    Examples:
      ira train --config configs/tiny.yaml
      ira train --config configs/tiny.yaml --stage speech
      ira train --config configs/tiny.yaml run_dir=runs/mine train.max_minutes=1
    """
    from ira.config import STAGES, StageName, load_config

    chosen: StageName | None = next((name for name in get_args(StageName) if name == stage), None)
    if stage and not chosen:
        raise InputError(f"stage {stage!r} is unknown; give one of {', '.join(STAGES)}")
    settings = load_config(config, overrides)
    from ira.training.journey import train as run_stages

    typer.echo(run_stages(settings, chosen))


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
    batch: Annotated[Path | None, typer.Option(metavar="ROWS.jsonl", help="speak every row of a file")] = None,
    model: ModelOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Text to speech, in a voice from a recording, a saved voice or words; prints the file written.

    \b
    Examples:
      ira speak "Good morning."                          (writes speech.wav)
      ira speak "Good morning." --voice me.wav --out morning.wav --seed 3
      ira speak "Good morning." --voice "a man with a low voice" --out morning.flac
      ira speak --batch rows.jsonl --out spoken/         rows: {"id","text","voice","seed"} -> spoken/ID.wav
    """
    if (text is None) == (batch is None):
        raise InputError("give either a TEXT or --batch ROWS.jsonl; see ira speak --help")
    if batch is not None:
        if out is None:
            raise InputError("--batch without --out; give the folder for the sound files")
        from ira.inference.batch import speak_rows

        with progress("speaking") as said:
            raise typer.Exit(report_rows(speak_rows(open_pipeline(model, device), batch, out, said)))
    path = out or Path("speech.wav")
    check_sound_name(path)
    pipeline = open_pipeline(model, device)
    with progress("speaking") as said:
        spoken = pipeline.speak(text or "", voice, seed, language, said)
    save_speech(spoken, path)
    typer.echo(path)


@app.command()
def voice(
    reference: Annotated[str, typer.Argument(metavar="REF", help='a recording, or words such as "a calm woman"')],
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
      ira speak "Good morning." --voice calm.voice
    """
    from ira.inference.voice_file import save_voice

    pipeline = open_pipeline(model, device)
    made = pipeline.voice_of(reference)
    save_voice(save, made, consent)
    if made.source.startswith("sha256:") and not consent:
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
    model: ModelOption = None,
    device: DeviceOption = "auto",
) -> None:
    """The language model's answer to or about a recording, on stdout alone.

    \b
    Examples:
      ira listen question.wav
      ira listen speech.wav --prompt "What is this about?"
      ira listen --batch rows.jsonl --out answers.jsonl
        rows: {"id","audio","prompt"}, audio a path, a list or null -> {"id","answer"}
    """
    if batch is not None:
        if audio or prompt or out is None:
            raise InputError("--batch goes with --out FILE.jsonl and with neither AUDIO nor --prompt; see --help")
        from ira.inference.batch import listen_rows

        with progress("listening") as heard:
            code = report_rows(listen_rows(open_pipeline(model, device), batch, out, heard))
        typer.echo(out)
        raise typer.Exit(code)
    if out is not None:
        raise InputError("--out goes with --batch; a single answer goes to stdout")
    if not audio and not prompt:
        raise InputError("nothing to listen to; give an AUDIO file, or --batch ROWS.jsonl")
    typer.echo(open_pipeline(model, device).listen(list(audio or []), prompt))


@app.command()
def respond(
    audio: Annotated[str, typer.Argument(metavar="AUDIO")],
    out: Annotated[Path, typer.Option(help="sound file for the spoken answer")],
    prompt: Annotated[str | None, typer.Option(help="what to do with the recording")] = None,
    voice: VoiceOption = None,
    seed: SeedOption = 0,
    language: LanguageOption = "en",
    model: ModelOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Speech in, speech out; prints the answer's text.

    \b
    Examples:
      ira respond question.wav --out answer.wav
      ira respond question.wav --out answer.wav --voice "a calm woman"
    """
    check_sound_name(out)
    pipeline = open_pipeline(model, device)
    with progress("answering") as said:
        answer, spoken = pipeline.respond(audio, prompt, voice, seed, language, progress=said)
    save_speech(spoken, out)
    typer.echo(answer)


@app.command("eval")
def evaluate(
    suite: Annotated[str, typer.Argument(metavar="SUITE", help="codec, voice, speak, listen or all")],
    manifests: Annotated[
        list[str] | None, typer.Argument(metavar="[MANIFEST]...", help="held-out rows; default: data/test or data/val")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the figures here as JSON")] = None,
    clips: Annotated[int, typer.Option(min=1, help="at most as many, evenly spread over the rows")] = 60,
    model: ModelOption = None,
    device: DeviceOption = "auto",
) -> None:
    """How good a model is on held-out recordings; needs the extra: pip install -e '.[eval]'.

    \b
    Examples:
      ira eval codec data/test
      ira eval all data/test --json figures.json
      ira eval speak data/test --model runs/tiny/model --clips 20
    """
    from ira.evaluation.clips import default_manifests
    from ira.evaluation.report import show, write_report
    from ira.evaluation.suites import SUITES
    from ira.evaluation.suites import evaluate as measure
    from ira.runtime import pick_device

    if suite not in (*SUITES, "all"):
        raise InputError(f"suite {suite!r} is unknown; give one of {', '.join(SUITES)} or all")
    with progress(f"{suite}: clips") as advance:
        found = measure(suite, lambda: open_pipeline(model, device), manifests or default_manifests(), clips, advance)
    show(found)
    if json_file:
        write_report(json_file, suite, str(model or "embedded"), str(pick_device(device)), found)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="folder for the results")] = Path("out/demo"),
    model: ModelOption = None,
    device: DeviceOption = "auto",
) -> None:
    """The main job: speak a sentence, let the language model listen, speak its answer.

    \b
    Examples:
      ira demo
      ira demo --out out/demo --model runs/tiny/model
    """
    from ira.inference.demo import run_demo

    made = run_demo(open_pipeline(model, device), out, lambda step: typer.echo(f"{step} ...", err=True))
    print_table([("it heard", made.heard), ("it answered", made.answer)])
    typer.echo("")
    print_table([(str(path), what) for path, what in made.files.items()])
    typer.echo("")
    print_table([(step, f"{seconds:.1f} s") for step, seconds in made.took.items()])


@app.command()
def doctor() -> None:
    """What this machine has and lacks; exit code 1 where something is missing.

    \b
    Examples:
      ira doctor
    """
    from ira.inference.doctor import examine

    findings = examine()
    print_table([(f.name, f"{f.found}; {f.remedy}" if f.remedy else f.found) for f in findings])
    raise typer.Exit(1 if any(finding.remedy for finding in findings) else 0)


def open_pipeline(model: Path | None, device: str) -> Pipeline:
    from ira.inference.pipeline import Pipeline
    from ira.models.bundle import EMBEDDED

    return Pipeline.from_folder(model or EMBEDDED, device)


def check_sound_name(path: Path) -> None:
    """Before the work, not after it."""
    from ira.audio.waveform import WRITE_FORMATS

    if path.suffix.lower() not in WRITE_FORMATS:
        raise InputError(f"{path}: cannot write format {path.suffix!r}; use one of {' '.join(WRITE_FORMATS)}")


def save_speech(spoken: Spoken, path: Path) -> None:
    from ira.audio.waveform import save_audio

    save_audio(path, spoken.waveform)
    if spoken.cut_off:
        warn(f"{path}: {spoken.cut_off}")
