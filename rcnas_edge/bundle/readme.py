"""README.md of a bundle, for the person who gets it: what it is, what was found, how to run it, what to send back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rcnas_edge.report.words import amount, interval, percent


def readme(manifest: Mapping[str, Any]) -> str:
    """The text of README.md, of what the manifest says."""
    channels, height, width = manifest["input"]["shape"]
    main = manifest["artefacts"][0]
    labels = ", ".join(manifest["labels"][:20]) + (", ..." if len(manifest["labels"]) > 20 else "")
    lines = [
        f"# {manifest['network']}: an image classifier, made and checked by {manifest['made_by']}",
        "",
        f"It tells {len(manifest['labels'])} classes apart ({labels}) in images of {width} x {height} pixels, "
        f"{manifest['input']['colours'] or f'{channels} channels'}. It was trained on {manifest['data']}.",
        "",
        "What is done to an image before the network:",
        "",
        *(f"* {step}" for step in manifest["input"]["preprocessing"]),
        "",
        "## What was found",
        "",
        *(line for artefact in manifest["artefacts"] for line in _found(artefact)),
        "",
        *_budgets(manifest),
        "## On your board",
        "",
        "Copy this folder there. It needs Python 3.9 or later with numpy and onnxruntime "
        f"({main['runtime']['least'] or 'a recent one'} or later; what is above was found with "
        f"{main['runtime']['version']}); run.py installs nothing and sends nothing.",
        "",
        "```sh",
        "python3 run.py selftest              # are the files whole, and do they answer here as they did there",
        "python3 run.py bench                 # how long an image takes here",
        *(
            ["python3 run.py replay                # accuracy here, without and with an attack"]
            * bool(manifest["replay"])
        ),
        "python3 run.py predict photo.png     # what the network sees in an image",
        "python3 run.py build-engine          # with an NVIDIA GPU and TensorRT: an engine for it",
        "```",
        "",
        "Each adds what it found to `results.json` in the folder where you run it. Send that file back to who gave you "
        "this: `rcnas-edge verify --out RUN --import results.json` takes it into the run, whose report then says what "
        "was seen on your board. `python3 run.py COMMAND --help` lists the options.",
        "",
        *_replayed(manifest),
        "In Python, with `rcnas-edge` installed: `rcnas_edge.deploy.load(FOLDER).predict(images)`. Without it, run the "
        "file with any runtime: its input is float32 (N, "
        f"{channels}, {height}, {width}) in [0, 1], its output the logits (N, {len(manifest['labels'])}).",
        "",
        "`manifest.json` says all this for programs, with the sha256 of every file.",
    ]
    return "\n".join(lines) + "\n"


def _found(artefact: Mapping[str, Any]) -> list[str]:
    """One file, with its precision, size, latency and verdict."""
    verdict, latency = artefact["verdict"], artefact["latency"]
    told = f"* `{artefact['file']}` ({artefact['precision']}, {amount(artefact['bytes'], 'bytes')}): "
    if latency:
        steady = "" if latency["stable"] else ", not a stable timing"
        told += (
            f"{amount(latency['p50_ms'], 'ms')} an image on the machine that made it ({latency['runtime']}{steady}); "
        )
    if not verdict:
        return [told + "it was not attacked: nothing is claimed about its robustness."]
    if not verdict["robust"]:
        return [told + f"{verdict['decision']}: {'; '.join(verdict['reasons'])}."]
    return [
        told + f"**{verdict['decision']}** under {verdict['threat']}: robust accuracy "
        f"{percent(verdict['robust']['value'])} {interval(verdict['robust'])}, clean "
        f"{percent(verdict['clean']['value'])}. {'; '.join(verdict['reasons'])}."
    ]


def _budgets(manifest: Mapping[str, Any]) -> list[str]:
    """What it was allowed to cost, and whether it keeps that."""
    if not manifest["budgets"]:
        return []
    rows = []
    for row in manifest["budgets"]:
        unit = row["unit"] if row["unit"] in ("ms", "bytes") else row["name"]
        taken = row["measured"] if row["measured"] is not None else row["predicted"]
        met = {True: "kept", False: "NOT kept", None: "not known"}[row["met"]]
        rows.append(f"* {row['name']} on {row['target']}: {amount(taken, unit)} of {amount(row['limit'], unit)} "
                    f"({row['basis']}), {met}")  # fmt: skip
    return ["What it was allowed to cost:", "", *rows, ""]


def _replayed(manifest: Mapping[str, Any]) -> list[str]:
    """What a replay is worth."""
    replay = manifest["replay"]
    if not replay:
        return []
    return [
        f"`replay.npz` holds {replay['n']} of the {replay['of_images']} test images that were attacked, and "
        f"{replay['points']} points that the attacks made of them. A replay shows them to the network on your board, "
        "where other arithmetic may answer otherwise. It is no attack on your board: an accuracy that drops there is "
        "real, one that does not drop says that the verdict above carries over, and no more.",
        "",
    ]
