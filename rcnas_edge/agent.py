"""A meta-trained policy on disk: agent.safetensors with its weights, agent.json with what they are for and from.

A new search starts from it where the genes have equal shape, for any teacher of the family.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rcnas_edge.attacks import Threat
from rcnas_edge.buffers import Pair
from rcnas_edge.checkpoint import file_sha256, read_json, read_state, write_json, write_state
from rcnas_edge.data import FOLDER
from rcnas_edge.embedding import ENTRIES
from rcnas_edge.errors import InputError
from rcnas_edge.space import Gene

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA = 1
WEIGHTS, FACTS = "agent.safetensors", "agent.json"
ASSETS = Path(__file__).parent / "assets"
SHIPPED = {"wrn": "agent-wrn"}
"""The agent that ships with the package, by family."""
NO_AGENT = "none"
REQUIRED = {"family": str, "genes": list, "entries": list, "tasks": list, "seed": int, "made": dict}


@dataclass(frozen=True)
class Agent:
    """What `PolicySearch.adopt` takes (the weights of a policy, and its memory) and what is known of it.

    `genes` are (name, options, group) of the space; `entries` are the names of its task vector; `tasks` are those that
    it saw, as `MetaTask.to_dict`; `made` has the configuration, the versions and the time of its meta-training.
    """

    name: str
    family: str
    genes: tuple[tuple[str, int, str], ...]
    entries: tuple[str, ...]
    tasks: tuple[Mapping[str, Any], ...]
    seed: int
    made: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    sha256: str

    def saw(self, dataset: str, threat: Threat, data: str | None = None) -> bool:
        """Whether a task of its meta-training had this data set and this ball.

        Two data sets called "folder" are the same where both have the digest `data`.
        """
        seen = [task for task in self.tasks if dataset != FOLDER or (data is not None and task.get("data") == data)]
        return Pair.of(dataset, threat) in {Pair.of(task["dataset"], Threat.parse(task["attack"])) for task in seen}

    def misfit(self, family: str, genes: Sequence[Gene]) -> str:
        """Why a search over these genes cannot start from it, in a sentence; empty where it can."""
        if family != self.family:
            return f"an agent is of one family, {self.name} is of {self.family} and the students are of {family}"
        ours, theirs = shape_of(genes), self.genes
        if ours != theirs:
            names = {gene[0] for gene in {*ours, *theirs} if (gene in ours) != (gene in theirs)}
            order = "their order" if not names else ", ".join(sorted(names))
            return f"an agent is for genes of equal shape, {self.name} and the space differ in {order}"
        if self.entries != ENTRIES:
            return (
                f"an agent knows a task by the vector of its version, {self.name} has {len(self.entries)} entries "
                f"and this version {len(ENTRIES)}, or others"
            )
        return ""

    def words(self, dataset: str, threat: Threat, data: str | None = None) -> str:
        """One line for people: where the search starts, and what the agent knows of the task."""
        saw = self.saw(dataset, threat, data)
        seen = "among them this data set and attack" if saw else "not this data set and attack"
        return f"the search starts from the agent {self.name}, meta-trained on {len(self.tasks)} tasks, {seen}"

    def told(self, dataset: str, threat: Threat, data: str | None = None) -> dict[str, Any]:
        """What a report says of it."""
        saw = self.saw(dataset, threat, data)
        return {"name": self.name, "sha256": self.sha256, "tasks": len(self.tasks), "saw_data_and_attack": saw}


def shape_of(genes: Sequence[Gene]) -> tuple[tuple[str, int, str], ...]:
    """What two spaces have to have in common: names, numbers of options and groups of their genes."""
    return tuple((gene.name, len(gene.options), gene.group) for gene in genes)


def write_agent(
    folder: Path,
    weights: Mapping[str, Tensor],
    *,
    family: str,
    genes: Sequence[Gene],
    tasks: Sequence[Mapping[str, Any]],
    seed: int,
    made: Mapping[str, Any],
) -> Agent:
    """Write the weights, then the JSON that makes the folder an agent."""
    write_state(folder / WEIGHTS, weights, {})
    values = {
        "schema": SCHEMA,
        "family": family,
        "genes": [list(gene) for gene in shape_of(genes)],
        "entries": list(ENTRIES),
        "tasks": [dict(task) for task in tasks],
        "seed": seed,
        "made": dict(made),
        "sha256": file_sha256(folder / WEIGHTS),
    }
    write_json(folder / FACTS, values)
    return load_agent(folder)


def load_agent(name: str | Path) -> Agent:
    """The agent of a folder, or one that ships, by its name; InputError says what is missing or does not fit."""
    folder = Path(name)
    if not (folder / FACTS).is_file() and (ASSETS / str(name) / FACTS).is_file():
        folder = ASSETS / str(name)
    if not (folder / FACTS).is_file():
        raise InputError(
            f"--agent is {NO_AGENT}, a folder of 'rcnas-edge meta-train', or one that ships "
            f"({', '.join(SHIPPED.values())}), {name} holds no {FACTS}"
        )
    values = read_json(folder / FACTS)
    if not isinstance(values, dict) or values.get("schema") != SCHEMA:
        raise InputError(
            f"{folder / FACTS} must describe an agent of schema {SCHEMA}, it does not: meta-train it again"
        )
    for key, kind in REQUIRED.items():
        if not isinstance(values.get(key), kind):
            raise InputError(f"{folder / FACTS} must have {key} ({kind.__name__}), it has not: copy it anew")
    if not (folder / WEIGHTS).is_file() or file_sha256(folder / WEIGHTS) != values.get("sha256"):
        raise InputError(f"{folder / WEIGHTS} must be the file that {FACTS} names by sha256, it is not: copy both")
    weights, _ = read_state(folder / WEIGHTS)
    try:
        genes = tuple((str(gene), int(options), str(group)) for gene, options, group in values["genes"])
        for task in values["tasks"]:
            Pair.of(task["dataset"], Threat.parse(task["attack"]))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise InputError(f"{folder / FACTS} must list genes and tasks as an agent has them: copy it anew") from error
    return Agent(
        name=folder.name,
        family=values["family"],
        genes=genes,
        entries=tuple(map(str, values["entries"])),
        tasks=tuple(values["tasks"]),
        seed=values["seed"],
        made=values["made"],
        weights=weights,
        sha256=values["sha256"],
    )


@dataclass(frozen=True)
class Start:
    """Where a search starts: from an agent or from scratch, with the sentence that says so."""

    agent: Agent | None
    words: str


def find_agent(
    asked: str | None,
    *,
    family: str,
    genes: Sequence[Gene],
    dataset: str,
    threat: Threat,
    data: str | None = None,
) -> Start:
    """The agent that was asked for, or the one that ships where it fits; InputError where the one asked for does not.

    `asked` is a path or name, "none", or None for the default; `data` is the digest of the data set.
    """
    if asked == NO_AGENT:
        return Start(None, "the search starts from scratch, as --agent none asks")
    if asked is None and not (ASSETS / SHIPPED.get(family, "") / FACTS).is_file():
        return Start(None, f"the search starts from scratch: no agent for the family {family} ships")
    agent = load_agent(asked or SHIPPED[family])
    misfit = agent.misfit(family, genes)
    if misfit and asked is None:
        return Start(None, f"the search starts from scratch: {misfit}")
    if misfit:
        raise InputError(f"{misfit}: take another --agent, or --agent none")
    return Start(agent, agent.words(dataset, threat, data))
