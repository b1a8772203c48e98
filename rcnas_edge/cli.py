"""The command line: words and exit codes only.

0 done, and robust; 1 a bug; 2 bad input or usage; 3 a budget cannot be or was not met; 4 not robust, by the gate if one
was asked; 5 inconclusive or not checked; 6 training failed; 130 interrupted (resumable).
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from rcnas_edge import __version__
from rcnas_edge.errors import RcnasError
from rcnas_edge.terminal import TerminalConsole

if TYPE_CHECKING:
    from rcnas_edge.pipeline.console import Console
    from rcnas_edge.pipeline.stages import Pipeline
    from rcnas_edge.setting import TaskSetting

# Threads that wait must not spin: beside another busy process, spinning made two threads 30 times slower than one.
# The runtime of torch's threads reads this when it is loaded, so it is said before any import of torch.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

Command = TypeVar("Command", bound=Callable[..., Any])
INTERRUPTED = 130


def options(*declared: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several click options as one decorator, shown in the order given."""

    def decorate(command: Command) -> Command:
        for option in reversed(declared):
            command = option(command)
        return command

    return decorate


OUT = click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the run.")
LOG = click.option(
    "--log", type=click.Choice(["tensorboard"]), help="Write the numbers of search and training to OUT/tensorboard too."
)
DATA = options(
    click.option("--dataset", help="digits (default), cifar10, cifar100, fashion-mnist or folder."),
    click.option("--data-root", help="Folder of the data, in torchvision's layout; for 'folder' one folder per class."),
    click.option("--image-size", type=int, help="Pixels per side, for --dataset folder."),
    click.option(
        "--subset", type=int, help="Only so many training images and at most so many test images, for trials."
    ),
)
COMMON = options(
    click.option("--seed", type=int, help="Everything random follows from it; default 0."),
    click.option("--device", help="auto (default: a GPU if there is one), cpu or cuda."),
)
ATTACK = click.option("--attack", help="Threat model linf:EPSILON:STEPS[:STEP], as linf:8/255:10; default by data set.")
TEACHER = options(
    click.option("--teacher", help="A checkpoint folder, a network as resnet-18, or package.module:factory of yours."),
    click.option("--weights", help="Weights of such a network or classifier: safetensors or a plain state dict."),
    click.option("--family", help="Family of the students: wrn, resnet or mobilenet; default the teacher's, else wrn."),
    click.option("--base", help="Largest student, as wrn-28-4; default the teacher's network if it is of the family."),
)
PRECISION = click.option("--precision", help="Of the files: fp32 (default), fp16, int8, or several, as fp32,int8.")
BUDGETS = options(
    click.option(
        "--profile",
        multiple=True,
        help="Device profile; default host, measured on first use. Several times: one network fits all of them.",
    ),
    PRECISION,
    click.option("--target-precision", help="The one that budgets and gates are about; default the first."),
    click.option(
        "--threads",
        type=int,
        help="Threads of the runtime; default 1. For one device NAME/PRECISION/THREADS.",
    ),
    click.option(
        "--max-latency", multiple=True, help="2ms, 500us or 60% of the teacher; for one device NAME=2ms, several times."
    ),
    click.option("--max-macs", multiple=True, help="Multiply-accumulates: 40M or 40%. 1 MAC = 2 FLOPs."),
    click.option("--max-flops", multiple=True, help="FLOPs: 80M or 40%. 1 MAC = 2 FLOPs."),
    click.option("--max-params", multiple=True, help="Parameters: 1.5M or 40%."),
    click.option("--max-size", multiple=True, help="Bytes of the file that ships: 500kB, 2MiB or 40%."),
    click.option("--max-memory", multiple=True, help="Peak activations and weights: 4MB or 40%."),
)
SEARCH = options(
    click.option("--strategy", help="rc-nas (default), evolution, random, uniform or robust-scaling."),
    click.option("--reward", help="What rc-nas learns from: budget (default), n2n or linear."),
    click.option(
        "--agent",
        help="Where rc-nas starts: the folder of a meta-trained agent, or none (from scratch); default the one that "
        "ships, where it fits.",
    ),
    click.option("--evaluations", type=int, help="Architectures to judge; default 12."),
    click.option("--judge-epochs", type=int, help="Epochs of the judge's short training; default 2."),
    click.option("--finalists", type=int, help="Recommended networks that are exported and timed; default 3."),
)
TRAIN = options(
    click.option("--recipe", help="rslad (default) or another one of 'rcnas-edge train --list-recipes'."),
    click.option("--epochs", type=int, help="Epochs; default by recipe and data set."),
    click.option("--batch-size", type=int, help="Images in a step."),
    click.option("--learning-rate", type=float, help="Peak learning rate."),
)
EXPORT = options(
    click.option("--format", "format", help="Exporter of the file that is timed and attacked; onnx."),
    click.option(
        "--also", help="Formats written beside it: auto (default: all that can be here), none, or names, as tensorrt."
    ),
    click.option("--opset", type=int, help="ONNX opset, 17 or higher; default 18."),
    click.option(
        "--qat-epochs", type=int, help="Epochs of adversarial fine-tuning with int8 rounding; default 0: none."
    ),
)
VERIFY = options(
    click.option("--level", help="smoke (256 test images), standard (1000, default) or publish (10,000)."),
    click.option("--min-robust", type=float, help="Gate: least robust accuracy, a fraction; exit code 4 below it."),
    click.option("--max-robust-drop", type=float, help="Gate: largest loss against the teacher, a fraction."),
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="rcnas-edge")
@click.option("-v", "--verbose", is_flag=True, help="Log what happens inside.")
def cli(verbose: bool) -> None:
    """Compress an image classifier for a device by robust architecture search, and verify the file that ships."""
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, format="%(levelname)s %(name)s: %(message)s")
    if not verbose:
        logging.getLogger("rcnas_edge").setLevel(logging.WARNING)


@cli.command()
@click.argument("task", required=False, type=click.Path(path_type=Path))
@OUT
@DATA
@TEACHER
@ATTACK
@BUDGETS
@SEARCH
@TRAIN
@EXPORT
@VERIFY
@COMMON
@LOG
@click.option("--dry-run", is_flag=True, help="Print the task, whether its budgets can be met and an estimate of time.")
@click.option(
    "--measure-command",
    multiple=True,
    help="Run in the bundle's folder, it measures a board: 'scp -qr . board:b && ssh board python3 b/run.py bench'; "
    "DEVICE=COMMAND for one of several.",
)
@click.option(
    "--per-device", is_flag=True, help="One network for each --profile, in OUT/PROFILE, from scores that all share."
)
def compress(task: Path | None, out: Path, log: str | None, dry_run: bool, per_device: bool, **flags: Any) -> int:
    """Search, train, export, verify and report: the whole path, from flags or a TASK file (flags override it).

    Without any flag it compresses the teacher that ships with the package, on scikit-learn's digits (8x8 pixels,
    epsilon 0.1). The same command again resumes a run that was interrupted.
    """
    setting = _setting(task, flags)
    from rcnas_edge.pipeline.job import compress as run_it
    from rcnas_edge.pipeline.job import dry_run as only_look

    if per_device:
        from rcnas_edge.pipeline.per_device import compress_each, dry_run_each

        if not dry_run:
            return compress_each(setting, out, lambda folder: _console(log, folder))
        dry_run_each(setting, TerminalConsole())
        return 0
    if dry_run:
        only_look(setting, TerminalConsole())
        return 0
    return run_it(setting, out, _console(log, out)).exit_code


@cli.command()
@OUT
@DATA
@click.option("--family", help="Network family: wrn (default), resnet or mobilenet.")
@click.option("--network", help="wrn-28-10, robustresnet-a1, resnet-18, mobilenet-v2-0.5 ...; default the family's.")
@ATTACK
@click.option("--recipe", help="pgd-at (default) or one of 'rcnas-edge train --list-recipes' without a teacher.")
@click.option("--epochs", type=int, help="Epochs.")
@click.option("--batch-size", type=int, help="Images in a step.")
@click.option("--learning-rate", type=float, help="Peak learning rate.")
@click.option("--attack-steps", type=int, help="Steps of the inner attack; default 10.")
@click.option("--level", help="Test images that it is attacked on afterwards: smoke, standard (default) or publish.")
@COMMON
@LOG
def teacher(out: Path, log: str | None, **flags: Any) -> int:
    """Train a teacher adversarially and record how robust it is; the folder is what --teacher takes."""
    from rcnas_edge.pipeline.teach import TeacherSetting, teach

    teach(TeacherSetting(**_given(flags)), out, _console(log, out))
    return 0


@cli.command()
@click.argument("task", required=False, type=click.Path(path_type=Path))
@OUT
@DATA
@TEACHER
@ATTACK
@BUDGETS
@SEARCH
@TRAIN
@COMMON
@LOG
def search(task: Path | None, out: Path, log: str | None, **flags: Any) -> int:
    """Search only: judge architectures, time the best ones, pick one (search.json, architecture.json)."""
    from rcnas_edge.pipeline.job import stage

    stage(_setting(task, flags), out, _console(log, out), lambda pipeline: pipeline.search())
    return 0


@cli.command("meta-train")
@click.argument("tasks_file", required=False, metavar="[TASKS.toml]", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the agent.")
@click.option("--data-root", help="Folder of data sets that the tasks file gives none for, in torchvision's layout.")
@click.option("--tasks", type=int, help="Tasks drawn from the buffers; default 24.")
@click.option("--evaluations", type=int, help="Architectures judged in each task; default 8.")
@click.option("--together", type=int, help="Tasks of a round, which start from the same weights; default 2.")
@click.option("--update", help="policy-gradient (default: a round's weights are taken over) or reptile.")
@click.option("--workers", type=int, help="Processes that search a round's tasks; changes no result. Default 1.")
@COMMON
def meta_train(tasks_file: Path | None, out: Path, **flags: Any) -> int:
    """Meta-train an agent for rc-nas over sampled tasks; the folder is what --agent takes.

    TASKS.toml has buffers of data sets (with attacks and teachers), budgets and profiles; the default is that of the
    agent that ships, as far as its data is at hand. The same command again resumes a run that was cut.
    """
    from rcnas_edge.pipeline.meta_training import MetaSetting
    from rcnas_edge.pipeline.meta_training import meta_train as run_it

    run_it(MetaSetting(tasks_file=tasks_file, **_given(flags)), out, TerminalConsole())
    return 0


def _list_recipes(context: click.Context, _: click.Parameter, asked: bool) -> None:
    """Every recipe with what it does and where it is from."""
    if not asked:
        return
    from rcnas_edge.train.recipe import RECIPES

    for name, recipe in RECIPES.items():
        click.echo(f"{name:12} {recipe.words()}\n{'':12} {recipe.source}")
    context.exit()


@cli.command()
@OUT
@TRAIN
@click.option("--device", help="auto, cpu or cuda.")
@LOG
@click.option(
    "--list-recipes",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_recipes,
    help="Print the recipes, each with its source, and do nothing else.",
)
def train(out: Path, log: str | None, **flags: Any) -> int:
    """Train only: the picked architecture of a run (checkpoint/)."""
    _continue(out, flags, lambda pipeline: pipeline.train(), log)
    return 0


@cli.command()
@OUT
@EXPORT
@PRECISION
def export(out: Path, **flags: Any) -> int:
    """Export only: the trained network of a run, timed on this machine, the formats beside it (artefacts/), and all
    that ships (bundle/)."""
    from rcnas_edge.pipeline.bundling import make_bundle

    _continue(out, flags, lambda pipeline: (pipeline.export(), make_bundle(pipeline)))
    return 0


FEED = options(
    click.option("--layout", help="Order of the axes that a MODEL takes: nchw or nhwc; default by its input."),
    click.option("--input-range", help="Pixels as a MODEL takes them: 0,1 (default), 0,255 or -1,1."),
    click.option("--mean", help="Subtracted from pixels in [0, 1] before the MODEL, as 0.49,0.48,0.45; default none."),
    click.option("--std", help="What they are divided by then, as 0.25,0.24,0.26; default none."),
)
COMPARED = options(
    click.option("--reference", help="A network to lose against: an ONNX file, or what --teacher takes."),
    click.option(
        "--parent", help="The network that the MODEL was made of, likewise: transfer, differential evasion, its loss."
    ),
    click.option("--white-box/--no-white-box", default=None, help="Attack by gradients of the re-import; default yes."),
)


BOARD = options(
    click.option(
        "--import", "results", type=click.Path(path_type=Path), help="results.json that a board wrote by run.py."
    ),
    click.option("--name", help="What the board of --import is called; default as its device, else as it says itself."),
    click.option("--board", help="Which --profile of the run it is; default the only one that is not this machine."),
)


@cli.command()
@click.argument("model", required=False, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the run; with a MODEL, of its verdict.")
@DATA
@ATTACK
@VERIFY
@FEED
@COMPARED
@BOARD
@COMMON
def verify(
    model: Path | None, out: Path | None, results: Path | None, name: str | None, board: str | None, **flags: Any
) -> int:
    """Verify only: attack the artefact of a run, or any ONNX classifier MODEL, on test images.

    Exit code 4 if a gate fails or it is not robust, 5 if it is inconclusive. A run has its data and attack from its
    task; of a MODEL, --out gets verdict.json, verdict.npz and verdict.html. With --import the run also says what was
    seen on a board: a replay, and a latency that the budgets hold for (exit code 3).
    """
    if model is not None and results is not None:
        raise click.UsageError("--import takes results into a run: leave MODEL out, and name the run by --out")
    if model is not None:
        from rcnas_edge.pipeline.foreign_verdict import FileSetting, verify_file

        verdict = verify_file(model, FileSetting(**_given(flags)), out, TerminalConsole())
        click.echo(verdict.summary())
        return verdict.exit_code
    if out is None:
        raise click.UsageError("name an ONNX file, or the folder of a run with --out")
    of_runs = ("level", "min_robust", "max_robust_drop", "device")
    for flag, value in flags.items():
        if flag not in of_runs and value is not None:
            raise click.UsageError(f"--{flag.replace('_', '-')} is for an ONNX file: a run has its own, leave it out")
    asked = {key: flags[key] for key in of_runs}
    if results is not None:
        from rcnas_edge.pipeline.job import take_in

        return _continue(out, asked, lambda pipeline: take_in(pipeline, results, name=name, device=board))
    from rcnas_edge.pipeline.bundling import make_bundle
    from rcnas_edge.pipeline.outcome import exit_code

    def work(pipeline: Pipeline) -> tuple[Any, list[Any]]:
        verdict = pipeline.verify()
        make_bundle(pipeline)
        return verdict, pipeline.beside.verdicts()

    verdict, others = _continue(out, asked, work)
    click.echo(verdict.summary())
    return exit_code([verdict, *others], met=True)


SHIPPED = options(
    click.argument("bundle", type=click.Path(path_type=Path)),
    click.option("--model", help="File of the bundle; default the main one, for selftest and replay every ONNX file."),
    click.option("--threads", type=int, help="Threads of the runtime; default those of the bundle."),
    click.option(
        "--out", "results", default="results.json", show_default=True, help="File that what was found is added to."
    ),
)


@cli.command()
@SHIPPED
@click.argument("images", nargs=-1, required=True, metavar="IMAGE [IMAGE ...]")
@click.option("--resize", is_flag=True, help="Scale images of another size, and cut out their centre.")
def predict(bundle: Path, images: tuple[str, ...], resize: bool, **asked: Any) -> int:
    """Classify images (PNG, JPEG, .npy ...) with the network of a BUNDLE, as its run.py does."""
    return _run_py("predict", bundle, asked, *(["--resize"] if resize else []), "--", *images)


@cli.command()
@SHIPPED
@click.option(
    "--seconds",
    default="10s",
    show_default=True,
    help="How long it is timed; up to three times that on a busy machine.",
)
@click.option("--max-latency", help="Exit code 3 if the median is above, as 2ms.")
def bench(bundle: Path, seconds: str, max_latency: str | None, **asked: Any) -> int:
    """Time the network of a BUNDLE on this machine: median, 95th percentile, whether the machine held still."""
    limit = [] if max_latency is None else ["--max-latency", max_latency]
    return _run_py("bench", bundle, asked, "--seconds", seconds, *limit)


@cli.command()
@SHIPPED
def selftest(bundle: Path, **asked: Any) -> int:
    """Check that the files of a BUNDLE are whole (else exit code 2) and answer as where they were made (else 5)."""
    return _run_py("selftest", bundle, asked)


@cli.command()
@SHIPPED
def replay(bundle: Path, **asked: Any) -> int:
    """Accuracy here on the stored examples of a BUNDLE, as they are and as attacks changed them."""
    return _run_py("replay", bundle, asked)


def _run_py(command: str, bundle: Path, asked: dict[str, Any], *more: str) -> int:
    """A command of the bundle's run.py, in this process."""
    from rcnas_edge.board.run import main as run

    named = {"model": asked["model"], "threads": asked["threads"], "out": asked["results"]}
    given = [f"--{name}={value}" for name, value in named.items() if value is not None]
    return run(["--bundle", str(bundle), command, *given, *more])


@cli.command()
@click.argument("runs", nargs=-1, metavar="RUN [RUN ...]", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the run; the same as RUN.")
@click.option(
    "--html", type=click.Path(path_type=Path), help="File for the comparison as a page; without it, none is written."
)
def report(runs: tuple[Path, ...], out: Path | None, html: Path | None) -> int:
    """Write report.json and report.html of a RUN from what is there; with several, compare them.

    A comparison holds every later run against the first one, image by image where both attacked the same ones.
    """
    folders = [*runs, *([] if out is None else [out])]
    if not folders:
        raise click.UsageError("name the folder of a run, or of several to compare them")
    if len(folders) == 1:
        if html is not None:
            raise click.UsageError("--html is for a comparison: name two runs or more")
        from rcnas_edge.pipeline.job import tell

        _continue(folders[0], {}, lambda pipeline: tell(pipeline))
        click.echo(folders[0] / "report.html")
        return 0
    from rcnas_edge.compare import asked_differently, pairs, read_runs, side_by_side
    from rcnas_edge.compare_html import write_comparison

    told, console = read_runs(folders), TerminalConsole()
    names = ["", *(run.name for run in told)]
    asked = [(key, *words) for key, words in asked_differently(told)]
    if asked:
        console.table("asked differently", names, asked)
    console.table("found", names, [(label, *words) for label, words in side_by_side(told)])
    for run in told:
        if run.content["failed"]:
            console.say(f"{run.name} did not finish: {run.content['failed']}")
    for pair in pairs(told):
        console.say(f"{pair}")
    if html is not None:
        write_comparison(html, told)
        console.say(f"comparison: {html}")
    return 0


@cli.group()
def profile() -> None:
    """Device profiles: what a device costs, and where every number is from."""


@profile.command("list")
def profile_list() -> int:
    """The profiles there are: what runs them, where their numbers are from, and which package brought them."""
    from rcnas_edge.profile import catalogue

    for listed in catalogue():
        found = listed.profile
        if found is None:
            click.echo(f"warning: {listed.name} ({listed.brought_by}) cannot be used: {listed.problem}", err=True)
            continue
        for words, settings in found.origins.items():
            click.echo(
                f"{found.name:26} {found.runtime:20} {', '.join(settings) or '-':16} {words}  [{listed.brought_by}]"
            )
    return 0


@profile.command("show")
@click.argument("name", default="host")
def profile_show(name: str) -> int:
    """One profile, by name or by the path of its .toml file: runtime, tables, limits and the origin of its numbers."""
    from rcnas_edge.profile import load_profile, read_profile
    from rcnas_edge.profile.words import lines

    for line in lines(read_profile(name) if name.endswith(".toml") else load_profile(name)):
        click.echo(line)
    return 0


@profile.command("measure")
@click.option("--name", default="host", show_default=True, help="What the profile is called; host, or a name of yours.")
@click.option("--precision", default="fp32", show_default=True, help="Of the networks to cover: fp32 or int8.")
@click.option("--threads", default=1, show_default=True, help="Threads of the runtime.")
@click.option("--family", default="wrn", show_default=True, help="Family of the networks to cover, or all.")
@click.option("--base", help="Largest network of the space to cover; default the family's.")
@click.option("--image", default="3x32x32", show_default=True, help="Channels x height x width.")
@click.option("--classes", default=10, show_default=True, help="Classes.")
@click.option("--budget", default="5min", show_default=True, help="Time that it may take: 90s, 10min, 1h.")
@click.option("--anew", is_flag=True, help="Forget all that was measured before, then go on without it.")
def profile_measure(name: str, **asked: Any) -> int:
    """Measure a latency table of this machine for the students of a family, and how well it predicts whole networks.

    A killed measurement goes on with the same command.
    """
    from rcnas_edge.pipeline.measuring import measure_here
    from rcnas_edge.profile.words import measured_words

    with TerminalConsole().task(f"measuring {name}", 1.0) as advance:
        found, path = measure_here(name, advance, **asked)
    for line in measured_words(found, f"{asked['precision']}/{asked['threads']}"):
        click.echo(line)
    click.echo(f"{found.name}: {len(found.rows)} rows in {path}")
    return 0


@profile.command("kit")
@click.option("--family", default="wrn", show_default=True, help="Family of the networks to cover, or all.")
@click.option("--base", help="Largest network of the space to cover; default the family's.")
@click.option("--image", default="3x32x32", show_default=True, help="Channels x height x width.")
@click.option("--classes", default=10, show_default=True, help="Classes.")
@click.option("--threads", default="1", show_default=True, help="Threads that the board times by default, as 1,2.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="File of the kit, as kit.zip.")
def profile_kit(family: str, base: str | None, image: str, classes: int, threads: str, out: Path) -> int:
    """Write a kit that measures a board without torch and network: copy it there, run 'python3 kit.zip'.

    The board needs Python 3.9 or later, numpy and onnxruntime; what it writes is for 'rcnas-edge profile import'.
    """
    from rcnas_edge.kit import make_kit, threads_of

    with TerminalConsole().task(f"packing {out}", 1.0) as advance:
        packed = make_kit(out, family, base, image, classes, threads_of(threads), advance)
    click.echo(
        f"{out}: {packed.bytes / 1e6:.1f} MB, {packed.models} models ({packed.unpacked / 1e6:.0f} MB unpacked), "
        f"{packed.networks} whole networks, kernels by layout: "
        + ", ".join(f"{runtime} {count}" for runtime, count in packed.kernels.items())
    )
    click.echo(f"on the board: python3 {out.name}; then here: rcnas-edge profile import results.json --name NAME")
    return 0


@profile.command("import")
@click.argument("results", type=click.Path(path_type=Path))
@click.option("--name", required=True, help="Name of the profile, as pi5; then --profile pi5 takes it.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder of the profile; default the cache of this machine."
)
def profile_import(results: Path, name: str, out: Path | None) -> int:
    """Make a profile of the results.json that a board wrote by a kit, and check it on the board's whole networks."""
    from rcnas_edge.kit.recorded import import_results, summary

    found, path = import_results(results, name, out)
    for line in summary(found, path):
        click.echo(line)
    return 0


def _given(flags: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in flags.items() if value not in (None, ())}


def _setting(task: Path | None, flags: dict[str, Any]) -> TaskSetting:
    """A task file, overridden by the flags that were given."""
    from rcnas_edge.setting import TaskSetting, asked_of

    return TaskSetting.from_dict(_given(flags)) if task is None else asked_of(task, _given(flags))


def _continue(out: Path, flags: dict[str, Any], work: Callable[[Pipeline], Any], log: str | None = None) -> Any:
    """One stage of the run in `out`, with some of its task's values changed."""
    from rcnas_edge.pipeline.job import stage
    from rcnas_edge.pipeline.run import Run
    from rcnas_edge.setting import TaskSetting

    setting = TaskSetting.from_dict(Run(out).setting().to_dict() | _given(flags))
    return stage(setting, out, _console(log, out), work)


def _console(log: str | None, out: Path) -> Console:
    """What a run tells: the terminal, and a log of numbers if one is asked for."""
    if log is None:
        return TerminalConsole()
    from rcnas_edge.tensorboard import TensorboardConsole

    return TensorboardConsole(TerminalConsole(), out)


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script: every error of ours is one sentence with its exit code."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = cli.main(args=arguments, prog_name="rcnas-edge", standalone_mode=False)
    except RcnasError as error:
        click.echo(f"error: {error}", err=True)
        code = error.exit_code
    except click.ClickException as error:
        error.show()
        code = 2
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted: the same command resumes", err=True)
        code = INTERRUPTED
        exec("")  # where an exec was interrupted, CPython's -m dies by SIGINT and drops the code, unless one ends well
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        click.echo(f"error: the file system refused: {error}; the same command resumes", err=True)
        code = 2
    sys.exit(code if isinstance(code, int) else 0)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
