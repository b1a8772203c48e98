"""`SCHEMA`, the one description of report.json (schema 1): what is written is checked against it.

Every key is always there; null means not reached, not measured, or not a finite number. A key may be added within a
schema number, none is renamed or changes its unit. 1 MAC = 2 FLOPs everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator

from rcnas_edge.report.fields import Anything, Each, Field, Flag, Many, Number, Record, Text, described

SCHEMA_NUMBER = 1
DECISIONS = ("robust", "not robust", "inconclusive", "not checked")

COUNT = Number(whole=True, least=0)
AMOUNT = Number(least=0)


def _name(meaning: str, among: tuple[str, ...] = ()) -> Field:
    return Field(Text(among), meaning, null=False)


RATE = Record(
    {
        "hits": Field(COUNT, "examples for which it holds", null=False),
        "total": Field(COUNT, "examples asked", null=False),
        "value": Field(AMOUNT, "hits / total, a fraction", null=False),
        "low": Field(AMOUNT, "lower end of the 95 % Wilson interval, a fraction", null=False),
        "high": Field(AMOUNT, "upper end of the 95 % Wilson interval, a fraction", null=False),
    }
)
COST = Record(
    {
        "macs": Field(COUNT, "multiply-accumulates for one image; 1 MAC = 2 FLOPs"),
        "flops": Field(COUNT, "2 x macs", optional=True),
        "params": Field(COUNT, "trainable parameters"),
        "size": Field(COUNT, "bytes of the file that ships, estimated"),
        "memory": Field(COUNT, "bytes of peak activations and weights, estimated"),
        "latency": Field(AMOUNT, "milliseconds for one image, predicted by the profile"),
        "measured": Field(AMOUNT, "share of the latency that rests on measured rows, a fraction"),
    }
)
COSTS = Each(COST)
LATENCY = Record(
    {
        "p50_ms": Field(AMOUNT, "median for one image, milliseconds"),
        "p95_ms": Field(AMOUNT, "95th percentile, milliseconds"),
        "stable": Field(Flag(), "whether the machine held still enough while it was timed"),
        "runtime": Field(Text(), "runtime and version"),
        "threads": Field(COUNT, "threads"),
        "runs": Field(COUNT, "timed runs, all that the 95th percentile is of", optional=True),
        "at_pace": Field(
            AMOUNT, "share of the timing in which the machine ran at its pace, which the median is of", optional=True
        ),
        "provider": Field(Text(), "execution provider", optional=True),
        "share": Field(
            AMOUNT,
            "of the teacher's latency, a fraction, timed in turns with it; null but where a limit is in percent",
            optional=True,
        ),
    }
)
TARGET = Record(
    {
        "profile": _name("name of the device profile"),
        "precision": _name("precision of the artefact, e.g. fp32"),
        "threads": Field(Number(whole=True, least=1), "threads of the runtime", null=False),
        "origin": Field(Text(), "where the numbers of its profile are from", optional=True),
        "here": Field(Flag(), "whether it is the machine of the run; elsewhere latencies are predicted", optional=True),
        "latency": Field(LATENCY, "of the first artefact, as measured there", optional=True),
        "warning": Field(
            Text(), "a sentence, where a prediction rests on less than 98 % measured rows; else null", optional=True
        ),
    }
)
BUDGET = Record(
    {
        "target": _name("profile/precision/threads, one of the targets"),
        "name": _name("quantity: latency, macs, flops, params, size or memory"),
        "unit": _name("unit of every amount of this row"),
        "asked": Field(Text(), "the limit as the user wrote it, e.g. 40%", optional=True),
        "limit": Field(AMOUNT, "the limit"),
        "teacher": Field(AMOUNT, "what the teacher costs"),
        "cheapest": Field(AMOUNT, "the cheapest found in the space"),
        "exact": Field(Flag(), "whether the cheapest was found by enumeration", optional=True),
        "predicted": Field(AMOUNT, "what the student costs by the profile and its rows"),
        "measured": Field(
            AMOUNT, "what the artefact costs; of a latency beside the teacher, that share of its latency"
        ),
        "met": Field(Flag(), "whether the student is within the limit, by the measured amount where there is one"),
        "basis": Field(
            Text(),
            "what that rests on: measured (on a board, beside the teacher), counted, or predicted, not measured",
            optional=True,
        ),
    }
)
STAGE = Record(
    {
        "name": _name("name of the stage"),
        "depth": Field(COUNT, "blocks"),
        "width": Field(COUNT, "channels"),
        "block": Field(Text(), "kind of block"),
    },
    open=True,
)
LAYER = Record(
    {
        "name": _name("the row that names the kernel"),
        "kind": _name("what the kernel computes, e.g. conv+batchnorm+relu; overhead is the call itself"),
        "macs": Field(COUNT, "multiply-accumulates for one image", null=False),
        "params": Field(COUNT, "trainable parameters", null=False),
        "latency_ms": Field(AMOUNT, "milliseconds for one image, predicted; all of them add up to the prediction"),
        "measured": Field(Flag(), "whether the latency rests on measured rows alone"),
    }
)
ARCHITECTURE = Record(
    {
        "family": _name("network family"),
        "name": _name("what people call the network"),
        "options": Field(Each(Anything()), "the option picked, by gene", optional=True),
        "stages": Field(Many(STAGE), "the student, stage by stage", optional=True),
        "teacher_stages": Field(Many(STAGE), "the teacher, stage by stage", optional=True),
        "layers": Field(Many(LAYER), "the student, kernel by kernel, as the runtime fuses its rows", optional=True),
    },
    open=True,
)
TEACHER = Record(
    {
        "name": Field(Text(), "what people call the network", optional=True),
        "cost": Field(COSTS, "cost by target"),
        "clean": Field(RATE, "right without an attack, on test images"),
        "robust": Field(RATE, "still right under the same attacks as the student, on the same test images"),
    }
)
SCORE = Record(
    {
        "robust": Field(Number(), "robust accuracy on held-out images by this judge, a fraction"),
        "clean": Field(Number(), "clean accuracy on held-out images, a fraction", optional=True),
        "n": Field(COUNT, "held-out images", optional=True),
        "judge": Field(Text(), "digest of the judge", optional=True),
        "seconds": Field(AMOUNT, "time the judge took", optional=True),
    }
)
CANDIDATE = Record(
    {
        "architecture": Field(Anything(), "the option picked, by gene", null=False),
        "score": Field(SCORE, "what the judge found"),
        "cost": Field(
            Each(AMOUNT),
            "amount by quantity, in the budgets' units; latency is on the first target, `latency on TARGET` on others",
        ),
        "feasible": Field(Flag(), "whether it is within every budget", null=False),
        "chosen": Field(Flag(), "whether it became the student", null=False),
    }
)
AGENT = Record(
    {
        "name": _name("the meta-trained agent's folder"),
        "sha256": _name("of its weights' file"),
        "tasks": Field(COUNT, "tasks of its meta-training"),
        "saw_data_and_attack": Field(Flag(), "whether one of them had this data set and this ball", null=False),
    }
)
SEARCH = Record(
    {
        "strategy": _name("search strategy"),
        "agent": Field(AGENT, "what the search started from; null: from scratch", optional=True),
        "judge": _name("what judged the candidates"),
        "evaluations": Field(COUNT, "architectures judged"),
        "seconds": Field(AMOUNT, "time of the search, judging included"),
        "candidates": Field(Many(CANDIDATE), "what was judged, in order", null=False),
    }
)
EPOCH = Record(
    {
        "epoch": Field(COUNT, "number of the epoch, from 1", optional=True),
        "loss": Field(AMOUNT, "mean training loss", optional=True),
        "clean": Field(Number(), "held-out accuracy, a fraction", optional=True),
        "robust": Field(Number(), "held-out accuracy under PGD-10, a fraction", optional=True),
        "learning_rate": Field(AMOUNT, "of the epoch's last step", optional=True),
        "seconds": Field(AMOUNT, "time of the epoch", optional=True),
        "attack": Field(Text(), "the inner attack that it trained with", optional=True),
    }
)
TRAINING = Record(
    {
        "recipe": Field(Anything(), "name of the recipe, or its settings", null=False),
        "epochs": Field(COUNT, "epochs trained"),
        "seconds": Field(AMOUNT, "time of the training"),
        "best_epoch": Field(COUNT, "the epoch that was kept: best robust accuracy on held-out images"),
        "history": Field(
            Many(EPOCH),
            "one object per epoch",
            optional=True,
        ),
    }
)
ATTACK = Record(
    {
        "name": _name("the attack"),
        "source": _name(
            "what its points were made on: checkpoint, re-import (naive: not straight through rounding), reference, "
            "artefact, or another file by its name; all are judged on the artefact"
        ),
        "robust": Field(RATE, "still right after this attack and all above it"),
        "forwards": Field(COUNT, "images pushed forwards through the network"),
        "backwards": Field(COUNT, "images pushed backwards through the network"),
        "seconds": Field(AMOUNT, "time of the attack"),
    }
)
SWEEP_POINT = Record(
    {
        "epsilon": Field(AMOUNT, "radius of the ball, in units of [0, 1] pixels", null=False),
        "attack": _name("what was tried at this epsilon; weaker than the verdict's own attacks but at its epsilon"),
        "robust": Field(RATE, "still right, of the images that were tried", null=False),
    }
)
STEP_POINT = Record(
    {
        "steps": Field(COUNT, "steps of the attack, in the threat's own ball", null=False),
        "attack": _name("what was tried; weaker than the verdict's own attacks"),
        "robust": Field(RATE, "still right, of the images that were tried", null=False),
    }
)
INTERVAL = Record(
    {
        "low": Field(Number(), "lower end, a fraction", null=False),
        "high": Field(Number(), "upper end, a fraction", null=False),
    }
)
EVASION = Record(
    {
        "rate": Field(
            RATE,
            "of the images that artefact and checkpoint both get right, those with a point in the ball that the "
            "checkpoint gets right and the artefact wrong",
            null=False,
        ),
        "attack": _name("what looked for them"),
    }
)
NAIVE_GAP = Record(
    {
        "naive": Field(RATE, "still right after PGD by the graph's own gradients, which rounding stops", null=False),
        "straight_through": Field(RATE, "still right after PGD straight through rounding", null=False),
    }
)
LOSS = Record(
    {
        "value": Field(Number(), "how much less often the artefact is right, a fraction", null=False),
        "low": Field(Number(), "lower end of its 95 % interval", null=False),
        "high": Field(Number(), "upper end of its 95 % interval", null=False),
        "p_value": Field(AMOUNT, "exact McNemar's, two-sided"),
        "bootstrap": Field(INTERVAL, "its 95 % interval by 10,000 resamples of the examples, in pairs", optional=True),
    }
)
COMPARISON = Record(
    {
        "clean": Field(RATE, "right without an attack"),
        "robust": Field(RATE, "right under the attacks"),
        "loss": Field(LOSS, "robust accuracy that the artefact loses against it, on the same images"),
        "same": Field(RATE, "inputs, clean and adversarial, that both put into the same class", optional=True),
    }
)
GATES = Record(
    {
        "min_robust": Field(AMOUNT, "least robust accuracy asked for, a fraction"),
        "max_robust_drop": Field(AMOUNT, "largest loss against the reference asked for, a fraction"),
    }
)
VERDICT = Record(
    {
        "decision": _name("robust, not robust, inconclusive or not checked", DECISIONS),
        "reasons": Field(Many(Text()), "why, one sentence each", null=False),
        "flags": Field(
            Many(Text()), "signs of masked gradients that were raised; with one it is never robust", null=False
        ),
        "threat": _name("threat model, e.g. linf:8/255:10"),
        "n": Field(COUNT, "test images attacked", null=False),
        "drawn": Field(Text(), "how they were chosen", optional=True),
        "clean": Field(RATE, "right without an attack"),
        "robust": Field(RATE, "right under every attack from every source, worst case per example"),
        "parity": Field(RATE, "inputs that artefact and twin put into the same class"),
        "attacks": Field(Many(ATTACK), "each attack", null=False),
        "name": Field(Text(), "name of the file", optional=True),
        "sha256": Field(Text(), "digest of the file that was attacked", optional=True),
        "level": Field(Text(), "how much was tried: smoke, standard, publish or custom", optional=True),
        "seed": Field(Number(whole=True), "seed of the drawing and of the attacks", optional=True),
        "classes": Field(COUNT, "classes of the artefact", optional=True),
        "twin": Field(
            Text(),
            "what the gradients are of: checkpoint, or re-import and how it rounds; empty without",
            optional=True,
        ),
        "repairs": Field(
            Many(Text()), "how outputs were brought into a form that attacks can use, one sentence each", optional=True
        ),
        "drift": Field(
            Each(AMOUNT),
            "logit drift against the twin, relative to its largest logit; checkpoint_* against another checkpoint",
            optional=True,
        ),
        "eps_sweep": Field(
            Many(SWEEP_POINT), "robust accuracy against epsilon, from 0 on; the headline is `robust`", optional=True
        ),
        "step_sweep": Field(
            Many(STEP_POINT), "robust accuracy against the steps of one attack at the threat's epsilon", optional=True
        ),
        "evasion": Field(EVASION, "differential evasion: what a watch on the checkpoint does not see", optional=True),
        "naive_gap": Field(NAIVE_GAP, "what a tool without straight-through gradients would report", optional=True),
        "parity_fault": Field(Text(), "why the twin is not the artefact's twin; empty if it is", optional=True),
        "checkpoint": Field(
            COMPARISON, "the trained network that the file was made of, under the same attacks", optional=True
        ),
        "reference": Field(COMPARISON, "the teacher under its own attacks", optional=True),
        "gates": Field(GATES, "what was asked for", optional=True),
        "margin": Field(AMOUNT, "largest loss against the checkpoint that counts as none, a fraction", optional=True),
        "not_checked": Field(Many(Text()), "what nobody should read into this verdict", optional=True),
        "seconds": Field(AMOUNT, "time of the verification", optional=True),
    }
)
ARTEFACT = Record(
    {
        "path": _name("file, relative to the run's folder"),
        "format": _name("e.g. onnx"),
        "precision": _name("e.g. fp32"),
        "sha256": _name("digest of the very file that ships"),
        "bytes": Field(COUNT, "size of the file", null=False),
        "latency": Field(LATENCY, "as measured on this machine"),
        "verdict": Field(VERDICT, "is the very file robust"),
        "built": Field(
            Each(Anything()),
            "how it was built, as its sidecar says: opset or builder, batch sizes, layers and MACs by data type",
            optional=True,
        ),
    }
)
REPLAYED = Record(
    {
        "decision": Field(
            Text(("replay agrees", "replay fails", "inconclusive", "not replayed")),
            "whether the host's verdict carries over; a replay is transfer, no attack on the board, no more than that",
            null=False,
        ),
        "reasons": Field(Many(Text()), "why, one sentence each", null=False),
        "when": Field(Text(), "when it was replayed, by the board's clock"),
        "n": Field(COUNT, "stored test images", null=False),
        "points": Field(COUNT, "stored points that attacks made of them on the host", null=False),
        "clean": Field(RATE, "right on the board, without an attack"),
        "robust": Field(RATE, "right on the board as they are and at each of their points"),
        "host_clean": Field(RATE, "the same on the host"),
        "host_robust": Field(RATE, "the same on the host"),
        "same": Field(RATE, "answers, right or wrong, of images and points that are as on the host"),
        "loss": Field(LOSS, "robust accuracy that the board loses against the host, on the same images and points"),
    }
)
BOARD_FILE = Record(
    {
        "file": _name("file of the bundle, or an engine that was built on the board"),
        "sha256": _name("digest of the file that ran"),
        "of": _name("ONNX file that an engine was built of, else the file itself"),
        "of_sha256": _name("digest of that"),
        "runtime": _name("runtime and version on the board"),
        "provider": _name("execution provider, or the GPU"),
        "threads": Field(Number(whole=True, least=1), "threads of the runtime", null=False),
        "drift": Field(AMOUNT, "logits of the reference images against the host's, relative to the largest"),
        "as_expected": Field(Flag(), "whether that is within the file's tolerance"),
        "latency": Field(LATENCY, "as measured on the board"),
        "replay": Field(REPLAYED, "accuracy on the board on stored examples"),
    }
)
BOARD = Record(
    {
        "name": _name("what the board is called"),
        "target": Field(
            Text(), "profile/precision/threads of the target that it is, whose budgets its latency decides"
        ),
        "source": _name("imported, or the command that measured it"),
        "machine": Field(Each(Anything()), "what the board says of itself: cpu, board, cores, system, python, numpy"),
        "files_whole": Field(Flag(), "whether every file of the bundle was as it was made; null if not tested"),
        "files": Field(Many(BOARD_FILE), "what ran there", null=False),
    }
)
BUNDLE = Record(
    {
        "path": _name("folder, relative to the run's folder"),
        "digest": _name("digest of the manifest, and with it of every file"),
        "files": Field(Many(Text()), "names of its files", null=False),
        "replay_images": Field(COUNT, "stored test images", null=False),
        "replay_points": Field(COUNT, "stored points that attacks made of them", null=False),
    }
)
SCHEMA = Record(
    {
        "task": Field(Anything(), "what was asked, as in task.toml", null=False),
        "seed": Field(Number(whole=True), "the seed that everything random follows from", null=False),
        "targets": Field(Many(TARGET), "where the network is to run", optional=True),
        "budgets": Field(Many(BUDGET), "what it may cost; all of them hold at once", optional=True),
        "architecture": Field(ARCHITECTURE, "the student", optional=True),
        "cost": Field(COSTS, "what the student costs, by target", optional=True),
        "teacher": Field(TEACHER, "the network it was made from", optional=True),
        "search": Field(SEARCH, "how the architecture was found", optional=True),
        "training": Field(TRAINING, "how the student was trained", optional=True),
        "artefacts": Field(Many(ARTEFACT), "the files that ship", optional=True),
        "boards": Field(Many(BOARD), "what was seen of these files on boards", optional=True),
        "bundle": Field(BUNDLE, "the folder that ships", optional=True),
        "not_checked": Field(Many(Text()), "what this run did not check, one sentence each", optional=True),
        "versions": Field(Each(Anything()), "version by package, interpreter and machine", optional=True),
        "seconds": Field(Each(AMOUNT), "time by stage of the run", optional=True),
        "failed": Field(Text(), "why the run ended before its last stage; null if it did not", optional=True),
        "advice": Field(Many(Text()), "what to try after a run that failed, one sentence each", optional=True),
    }
)


def fields() -> Iterator[tuple[str, str, str]]:
    """Every field of report.json as (place, kind, meaning), in order: the rows of the README's table."""
    yield "schema", "integer", f"{SCHEMA_NUMBER}; a reader refuses a number it does not know"
    yield from described(SCHEMA)
