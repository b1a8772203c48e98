"""The stage that searches: candidates by the strategy, the best of them timed for real, one picked."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any

from rcnas_edge.checkpoint import pack, read_state, unpack, write_state
from rcnas_edge.cost import Budget, Cost, require, show
from rcnas_edge.errors import BudgetError, InputError
from rcnas_edge.measure import time_model
from rcnas_edge.opened import Opened, export_network
from rcnas_edge.prepare import TIMING_SECONDS, budget_table
from rcnas_edge.search import strategy
from rcnas_edge.search.judge import TrainedJudge
from rcnas_edge.search.protocol import Candidate
from rcnas_edge.space import Architecture, named
from rcnas_edge.train.recipe import recipe

JUDGE_RECIPE, JUDGE_STEPS = "rslad-fast", 5
"""The judge's short training and the steps of its inner attack. It does not follow --recipe and the other flags of the
training, so that a trained run can be trained anew in another way after the same search."""


class Searching:
    """search.json and architecture.json."""

    def __init__(self, opened: Opened) -> None:
        self.opened = opened
        self.run, self.console, self.setting = opened.run, opened.console, opened.setting

    def feasibility(self) -> None:
        """Show for each budget the teacher's cost, the cheapest found and whether it can be met; BudgetError if not."""
        rows = budget_table(self.opened.bench)
        self.console.table(
            f"budgets on {self.opened.task.target} (all at once; 1 MAC = 2 FLOPs)",
            ("budget", "asked", "limit", "teacher", "cheapest found", "can be met"),
            [
                (
                    row.budget.quantity,
                    row.budget.asked,
                    show(row.budget.quantity, row.budget.limit),
                    show(row.budget.quantity, row.teacher),
                    show(row.budget.quantity, row.cheapest),
                    "yes" if row.satisfiable else "NO",
                )
                for row in rows
            ],
        )
        require(rows)

    @cached_property
    def judge(self) -> TrainedJudge:
        images = len(self.opened.task.data.train)
        short = recipe(JUDGE_RECIPE, examples=images, epochs=self.setting.judge_epochs, attack_steps=JUDGE_STEPS)
        short = short.with_(learning_rate=short.learning_rate / 2)
        return TrainedJudge(self.opened.task, short, cache=self.run / "scores")

    def depends(self) -> dict[str, Any]:
        """What a search depends on."""
        task, bench = self.opened.task, self.opened.bench
        return {
            "data": task.data.digest,
            "teacher": task.teacher.digest,
            "attack": str(task.threat),
            "family": task.family.name,
            "base": task.base.to_dict(),
            "target": str(task.target),
            "budgets": {budget.quantity: budget.limit for budget in bench.budgets},
            "profile": bench.profile.digest(),
            "strategy": self.setting.strategy,
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
        search = strategy(self.setting.strategy, self.opened.bench, judge, seed=self.setting.seed)
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
        values = {
            "strategy": self.setting.strategy,
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
        """Export and time the recommended ones for real; the best judged that keeps every budget is picked."""
        found, bench, space = self.search(), self.opened.bench, self.opened.task.space
        depends = {"search": self.depends(), "finalists": self.setting.finalists}
        done = self.run.done("architecture.json", depends)
        if done is not None:
            return done
        timed: list[dict[str, Any]] = []
        chosen = None
        for rank, picks in enumerate(found["recommended"]):
            if rank >= self.setting.finalists and chosen is not None:
                break
            architecture = Architecture(tuple(picks))
            measured = self.measured_cost(architecture)
            met = all(budget.met(measured) for budget in bench.budgets)
            timed.append({"picks": picks, "cost": measured.to_dict(), "met": met})
            words = f"{show('latency', bench.cost(architecture).latency)} predicted, "
            words += f"{show('latency', measured.latency)} measured"
            self.console.say(f"finalist {rank + 1}: {words}, {'within' if met else 'OVER'} the budgets")
            if met and chosen is None:
                chosen = architecture
        if chosen is None:
            missed = _missed([Cost.from_dict(entry["cost"]) for entry in timed], bench.budgets)
            raise BudgetError(
                f"budgets hold for the measured artefact, none of the {len(timed)} recommended networks keeps them all "
                f"({missed}): allow more, or search longer with --evaluations"
            )
        values = {
            "family": self.opened.task.family.name,
            "picks": list(chosen.picks),
            "options": named(space.genes, chosen),
            "network": space.describe(chosen),
            "finalists": timed,
        }
        return self.run.keep("architecture.json", depends, values)

    def measured_cost(self, architecture: Architecture) -> Cost:
        """The predicted cost with the latency and the size of the exported file put in; kept before it is used."""
        task = self.opened.task
        key = f"measured/{'-'.join(map(str, architecture.picks))}"
        depends = {
            "base": task.base.to_dict(),
            "target": str(task.target),
            "opset": self.setting.opset,
        }
        known = self.run.done(f"{key}.json", depends)
        if known is None:
            path = self.run / f"{key}.{self.setting.format}"
            student = task.student(architecture, seed=self.setting.seed).eval()
            artefact = export_network(self.opened, student, path, digest="untrained")
            timing = time_model(path, threads=self.setting.threads, seconds=TIMING_SECONDS)
            known = self.run.keep(f"{key}.json", depends, {"timing": asdict(timing), "bytes": artefact.bytes})
            for left in path.parent.glob(path.name + "*"):
                left.unlink()
        cost = self.opened.bench.cost(architecture)
        return replace(cost, latency=known["timing"]["p50_ms"], size=known["bytes"], measured=1.0)

    @property
    def architecture(self) -> Architecture:
        """The architecture that was picked."""
        return Architecture(tuple(self.pick()["picks"]))


def _missed(costs: Sequence[Cost], budgets: Sequence[Budget]) -> str:
    """The budgets that not every measured cost keeps, each with the least that was measured."""
    words = []
    for budget in budgets:
        if not all(budget.met(cost) for cost in costs):
            least = min(amount for cost in costs if (amount := cost.get(budget.quantity)) is not None)
            limit = show(budget.quantity, budget.limit)
            words.append(f"{budget.quantity} at most {limit}, the least measured is {show(budget.quantity, least)}")
    return "; ".join(words)
