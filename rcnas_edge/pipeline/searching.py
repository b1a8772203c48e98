"""The stage that searches: candidates by the strategy, the best of them timed for real, one picked."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rcnas_edge.agent import NO_AGENT
from rcnas_edge.checkpoint import pack, read_state, unpack, write_state
from rcnas_edge.cost import Budget, Cost, show
from rcnas_edge.cost.feasibility import require
from rcnas_edge.errors import BudgetError, InputError
from rcnas_edge.pipeline.here import Timed, counted, predicted, time_here, timed, timed_how, whole
from rcnas_edge.pipeline.opened import Opened, export_network
from rcnas_edge.pipeline.prepare import FINAL_TIMING_SECONDS, TIMING_SECONDS, budget_table, for_timing, real_costs
from rcnas_edge.profile import Target
from rcnas_edge.search import strategy
from rcnas_edge.search.judge import TrainedJudge
from rcnas_edge.search.policy import PolicySearch
from rcnas_edge.search.protocol import Candidate
from rcnas_edge.space import Architecture, named
from rcnas_edge.task import Task
from rcnas_edge.train.recipe import recipe

JUDGE_RECIPE, JUDGE_STEPS = "rslad-fast", 5
"""The judge's short training and the steps of its inner attack. It does not follow --recipe and the other flags of the
training, so that a trained run can be trained anew in another way after the same search."""

CLOSE = 0.03
"""Share of a latency's limit: a finalist that is nearer to it than timings repeat themselves is timed once more."""
UNSURE = 0.08
"""The same where the timing is unstable: on a busy machine shares repeat themselves to several percent."""


@dataclass(frozen=True)
class Finalist:
    """A network with what its file takes: whether it keeps every budget, and whether the machine was slow when it was
    timed (`Timing.at_pace`).
    """

    architecture: Architecture
    costs: Mapping[Target, Cost]
    met: bool
    slow: bool


class Searching:
    """search.json and architecture.json."""

    def __init__(self, opened: Opened) -> None:
        self.opened = opened
        self.run, self.console, self.setting = opened.run, opened.console, opened.setting

    def feasibility(self) -> None:
        """Show for each budget the teacher's cost, the cheapest found and whether it can be met; BudgetError if not."""
        rows, targets = budget_table(self.opened.bench), self.opened.task.targets
        self.console.table(
            f"budgets on {', '.join(map(str, targets))} (all at once; 1 MAC = 2 FLOPs)",
            ("budget", "asked", "limit", "teacher", "cheapest found", "can be met"),
            [
                (
                    row.budget.called(several=len(targets) > 1),
                    row.budget.asked,
                    show(row.budget.quantity, row.budget.limit),
                    show(row.budget.quantity, row.teacher),
                    show(row.budget.quantity, row.cheapest),
                    "yes" if row.satisfiable else "NO",
                )
                for row in rows
            ],
        )
        for target in predicted(self.opened.bench):
            origin = self.opened.bench.profiles[target].origin(target)
            self.console.say(f"latencies on {target} are predicted, by numbers that are {origin}")
        require(rows)

    @cached_property
    def judge(self) -> TrainedJudge:
        return short_judge(self.opened.task, epochs=self.setting.judge_epochs, cache=self.run.shared / "scores")

    def depends(self) -> dict[str, Any]:
        """What a search depends on."""
        task, bench = self.opened.task, self.opened.bench
        several = len(task.targets) > 1
        return {
            "data": task.data.digest,
            "teacher": task.teacher.digest,
            "attack": str(task.threat),
            "family": task.family.name,
            "base": task.base.to_dict(),
            "target": ", ".join(map(str, task.targets)),
            "budgets": {budget.called(several=several): budget.limit for budget in bench.budgets},
            "profile": ", ".join(profile.digest() for profile in bench.profiles.values()),
            "strategy": self.setting.strategy,
            "agent": NO_AGENT if self.opened.start.agent is None else self.opened.start.agent.sha256,
            "reward": self.setting.reward,
            "evaluations": self.setting.evaluations,
            "judge": self.judge.digest,
            "seed": self.setting.seed,
        }

    def search(self) -> dict[str, Any]:
        """Judge `evaluations` architectures by the strategy; search.json has them all."""
        depends = self.depends()
        known = self.run.done("search.json", depends)
        if known is not None:
            return known
        self.feasibility()
        judge = self.judge
        search = strategy(
            self.setting.strategy, self.opened.bench, judge, seed=self.setting.seed, reward=self.setting.reward
        )
        agent = self.opened.start.agent
        if self.opened.start.words:
            self.console.say(self.opened.start.words)
        if agent is not None and isinstance(search, PolicySearch):
            search.adopt(agent.weights)
        candidates: list[Candidate] = []
        spent = judged = 0.0
        state_path = self.run / "search.state"
        if state_path.is_file():
            tensors, values = read_state(state_path)
            if values["depends"] != depends:
                raise InputError(
                    f"a run's folder holds one task, the search begun in {self.run.folder} is another's: take "
                    "another --out, or delete search.state to begin again"
                )
            search.load_state_dict(unpack(values["search"], tensors))
            candidates = [Candidate.from_dict(candidate) for candidate in values["candidates"]]
            spent, judged = values["seconds"], values["judge_seconds"]
        judge.prepare()
        title = f"search: {self.setting.strategy}, judge: {judge.name}"
        with self.console.task(title, self.setting.evaluations) as advance:
            while len(candidates) < self.setting.evaluations:
                started, before = time.perf_counter(), judge.spent
                found = search.step()
                for candidate in found:
                    candidates.append(candidate)
                    self.record(candidates)
                spent += time.perf_counter() - started
                judged += judge.spent - before
                tensors = {}
                packed = pack(search.state_dict(), tensors)
                state = {"depends": depends, "search": packed, "seconds": spent, "judge_seconds": judged}
                write_state(state_path, tensors, state | {"candidates": [item.to_dict() for item in candidates]})
                if not found:
                    self.console.say("every network that the strategy can reach has been judged")
                    break
                best = max(candidate.score.robust for candidate in candidates)
                done = min(len(candidates), self.setting.evaluations)
                advance(done, f"best {100 * best:.1f} % robust on held-out")
        order = search.recommend(len(candidates))
        task = self.opened.task
        values = {
            "strategy": self.setting.strategy,
            "agent": None if agent is None else agent.told(task.data.name, task.threat, task.data.digest),
            "judge": judge.name,
            "evaluations": len(candidates),
            "seconds": spent,
            "judge_seconds": judged,
            "candidates": [candidate.to_dict() for candidate in candidates],
            "recommended": [list(architecture.picks) for architecture in order],
        }
        kept = self.run.keep("search.json", depends, values)
        state_path.unlink(missing_ok=True)
        return kept

    def record(self, candidates: Sequence[Candidate]) -> None:
        """The numbers of the network that was judged last, and the best so far."""
        last = candidates[-1]
        values = {"robust": last.score.robust, "clean": last.score.clean, **last.costs}
        fitting = [candidate.score.robust for candidate in candidates if candidate.feasible]
        if fitting:
            values["best_within_budgets"] = max(fitting)
        self.console.record("search", len(candidates), values)

    def pick(self) -> dict[str, Any]:
        """Export and time the recommended ones for real; the best judged that keeps every budget is picked.

        On a target that is not this machine the prediction counts. One that misses while the machine is not at its pace
        is timed again after the others.
        """
        found, bench, space = self.search(), self.opened.bench, self.opened.task.space
        depends = {"search": self.depends(), "finalists": self.setting.finalists}
        done = self.run.done("architecture.json", depends)
        if done is not None:
            return done
        finalists: list[Finalist] = []
        for rank, picks in enumerate(found["recommended"]):
            if rank >= self.setting.finalists and any(one.met for one in finalists):
                break
            finalists.append(self.finalist(Architecture(tuple(picks))))
            self._say(f"finalist {rank + 1}", finalists[-1], ", to be timed again: the machine was slow")
        for rank, one in enumerate(finalists):
            if not one.met and one.slow:
                finalists[rank] = self.finalist(one.architecture, anew=True)
                self._say(f"finalist {rank + 1}, timed again", finalists[rank], ", and the machine was still slow")
        chosen = next((one.architecture for one in finalists if one.met), None)
        if chosen is None:
            missed = _missed([one.costs for one in finalists], bench.budgets, several=len(bench.targets) > 1)
            raise BudgetError(
                f"budgets hold for the measured artefact, none of the {len(finalists)} recommended networks keeps them "
                f"all ({missed}): allow more, or search longer with --evaluations"
            )
        values = {
            "family": self.opened.task.family.name,
            "picks": list(chosen.picks),
            "options": named(space.genes, chosen),
            "network": space.describe(chosen),
            "finalists": [
                {
                    "picks": list(one.architecture.picks),
                    "costs": {str(target): cost.to_dict() for target, cost in one.costs.items()},
                    "met": one.met,
                }
                for one in finalists
            ],
        }
        return self.run.keep("architecture.json", depends, values)

    def _say(self, name: str, finalist: Finalist, if_slow: str) -> None:
        """How a finalist stands, with these words after it where it missed while the machine was slow."""
        words = f"{name}: {self._latencies(finalist.architecture, finalist.costs)}"
        slow = if_slow if finalist.slow and not finalist.met else ""
        self.console.say(f"{words}, {'within' if finalist.met else 'OVER'} the budgets{slow}")

    def _latencies(self, architecture: Architecture, measured: Mapping[Target, Cost]) -> str:
        """Predicted and, where the target is this machine, measured, in words."""
        bench, words = self.opened.bench, []
        for target in bench.targets:
            here = self._measured(measured[target].latency, target) if target in timed(bench) else ""
            where = f"{target}: " if len(bench.targets) > 1 else ""
            words.append(f"{where}{show('latency', bench.cost(architecture, target).latency)} predicted{here}")
        return "; ".join(words)

    def _measured(self, ms: float | None, target: Target) -> str:
        """A measured latency, which is a share of the teacher's where the limit is."""
        teacher = whole(self.opened.bench).get(target)
        share = f" ({100 * ms / teacher:.1f} % of the teacher's)" if ms is not None and teacher else ""
        return f", {show('latency', ms)} measured{share}"

    def finalist(self, architecture: Architecture, *, anew: bool = False) -> Finalist:
        """The predicted costs with what the exported file really takes put in; kept before it is used.

        That is its size, and its latency on each target that is this machine, or timed `anew`.
        """
        task, here = self.opened.task, timed(self.opened.bench)
        key = f"measured/{'-'.join(map(str, architecture.picks))}"
        depends = {
            "base": task.base.to_dict(),
            **timed_how(self.opened.bench, task.teacher.digest),
            "opset": self.setting.opset,
            "precision": self.setting.aim,
        }
        known = None if anew else self.run.done(f"{key}.json", depends)
        if known is None:
            path = self.run / f"{key}.{self.setting.format}"
            student = task.student(architecture, seed=self.setting.seed).eval()
            artefact = export_network(
                self.opened,
                student,
                path,
                digest="untrained",
                precision=self.setting.aim,
                calibration=for_timing(task.data),
            )
            found = self._timed(path)
            timings = {str(target): one.to_dict() for target, one in found.items()}
            known = self.run.keep(f"{key}.json", depends, {"timings": timings, "bytes": artefact.bytes})
            for left in path.parent.glob(path.name + "*"):
                left.unlink()
        found = {target: Timed.from_dict(known["timings"][str(target)]) for target in here}
        latencies = counted(found, self.opened.bench)
        costs = real_costs(self.opened.bench.costs(architecture), known["bytes"], latencies)
        met = all(budget.met(costs[budget.target]) for budget in self.opened.bench.budgets)
        return Finalist(architecture, costs, met, not all(one.timing.at_pace for one in found.values()))

    def _timed(self, path: Path) -> dict[Target, Timed]:
        """The latencies of a file here; timed longer where one keeps its limit narrowly, or misses it unstably.

        Then the larger counts, but of an unstable one the longer: what ships is timed anew, and should not miss by
        noise what its finalist kept by noise, nor should a finalist.
        """
        bench, teacher = self.opened.bench, self.opened.teacher_file
        found = time_here(path, bench, seconds=TIMING_SECONDS, teacher=teacher, patient=False)
        limits = [(one.target, one.limit) for one in bench.budgets if one.quantity == "latency" and one.target in found]
        first = counted(found, bench)
        if not any(_doubtful(first[target], limit, found[target].timing.stable) for target, limit in limits):
            return found
        again = time_here(path, bench, seconds=FINAL_TIMING_SECONDS, teacher=teacher)
        second = counted(again, bench)
        return {
            target: one if one.timing.stable and first[target] >= second[target] else again[target]
            for target, one in found.items()
        }

    @property
    def architecture(self) -> Architecture:
        """The architecture that was picked."""
        return Architecture(tuple(self.pick()["picks"]))


def short_judge(task: Task, *, epochs: int, cache: Path) -> TrainedJudge:
    """The judge of a task that trains for so many epochs; its scores are kept in the folder `cache`."""
    short = recipe(JUDGE_RECIPE, examples=len(task.data.train), epochs=epochs, attack_steps=JUDGE_STEPS)
    return TrainedJudge(task, short.with_(learning_rate=short.learning_rate / 2), cache=cache)


def _doubtful(ms: float, limit: float, stable: bool) -> bool:
    """Whether a further timing may say otherwise of a limit."""
    if ms > limit:
        return not stable
    return ms > (1 - (CLOSE if stable else UNSURE)) * limit


def _missed(finalists: Sequence[Mapping[Target, Cost]], budgets: Sequence[Budget], *, several: bool) -> str:
    """The budgets that not every finalist keeps, each with the least that was found."""
    words = []
    for budget in budgets:
        costs = [finalist[budget.target] for finalist in finalists]
        if not all(budget.met(cost) for cost in costs):
            least, limit = min(budget.spent(cost) for cost in costs), show(budget.quantity, budget.limit)
            name = budget.called(several=several)
            words.append(f"{name} at most {limit}, the least measured is {show(budget.quantity, least)}")
    return "; ".join(words)
