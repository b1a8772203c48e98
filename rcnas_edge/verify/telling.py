"""How far a verification is: stages take parts of the whole, and an attack counts what went through its network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from rcnas_edge.verify.subject import Progress


class Telling:
    """Tells what is done now and the share of all the work that is done, which never falls.

    `efforts` are about what the stages cost, in any unit, in their order.
    """

    def __init__(self, progress: Progress, efforts: Mapping[str, float]) -> None:
        self.progress = progress
        whole, before = sum(efforts.values()) or 1.0, 0.0
        self.spans = {}
        for stage, effort in efforts.items():
            self.spans[stage] = (before / whole, (before + effort) / whole)
            before += effort
        self.begin, self.end, self.share = 0.0, 0.0, 0.0

    def stage(self, name: str) -> None:
        """What is told from now on is of this stage."""
        self.begin, self.end = self.spans[name]

    def __call__(self, text: str, share: float) -> None:
        """This share of the stage is done."""
        self.share = max(self.share, self.begin + min(share, 1.0) * (self.end - self.begin))
        self.progress(text, self.share)

    @contextmanager
    def counted(self, network: nn.Module, text: str, begin: float, share: float, passes: int) -> Iterator[None]:
        """An attack takes this share of the stage, from `begin` on; it is over after so many passes of images."""
        done = 0

        def count(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            nonlocal done
            done += len(given[0])
            self(text, begin + share * min(1.0, done / max(passes, 1)))

        hook = network.register_forward_pre_hook(count)
        try:
            yield
        finally:
            hook.remove()
