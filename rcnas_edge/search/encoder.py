"""RC-NAS's networks: the stage-wise state encoder and the policy with one head per stage.

"Reinforced Compressive Neural Architecture Search for Versatile Adversarial Robustness", KDD 2024 (arXiv 2406.06792),
the figure of its framework: per stage [stem stride, D, W, robust flag] -> bidirectional LSTM over the stages ->
[LIPS, H_forward, H_backward, Cost] -> one MLP per stage -> s_i -> one policy head per stage. The paper gives no sizes:
they are ours, and so are the links between picks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rcnas_edge.search.observe import State
from rcnas_edge.space import Gene

FORBIDDEN = -1e9
"""The logit of a masked pick: finite, so that 0 x log 0 of an entropy stays 0."""


class StageEncoder(nn.Module):
    """s_i of every stage from the rows of all stages, LIPS and the costs."""

    def __init__(self, *, stages: int, features: int, costs: int, hidden: int = 32, width: int = 32) -> None:
        super().__init__()
        self.width = width
        self.lstm = nn.LSTM(features, hidden, batch_first=True, bidirectional=True)
        joint = 1 + 2 * hidden + costs
        self.mlps = nn.ModuleList(nn.Sequential(nn.Linear(joint, width), nn.Tanh()) for _ in range(stages))

    def forward(self, state: State) -> list[Tensor]:
        """One s_i (N, width) per stage."""
        hidden, _ = self.lstm(state.stages)  # (N, G, 2 x hidden): H_forward, H_backward of each stage
        return [
            mlp(torch.cat([state.lips, hidden[:, stage], state.cost], dim=1)) for stage, mlp in enumerate(self.mlps)
        ]


class PolicyNetwork(nn.Module):
    """Logits of every pick of every gene: a head per stage, plus links from the picks made before.

    The links [ours] make the policy autoregressive over the genes at the price of one encoding per step: the logit of
    a pick gets one learned number for each pick of the genes before it. Heads and links start at zero, so that a fresh
    policy is even.

    The value head [ours] says of a whole network what the judge would: its robust accuracy as a share of the
    teacher's. It is trained with the encoder, before a search, and zero in a fresh network.
    """

    _before: Tensor

    def __init__(self, genes: Sequence[Gene], stages: Sequence[Sequence[int]], *, features: int, costs: int) -> None:
        super().__init__()
        self._stages = [list(members) for members in stages]
        self.sizes = [len(gene.options) for gene in genes]
        self.encoder = StageEncoder(stages=len(stages), features=features, costs=costs)
        self.heads = nn.ModuleList(
            nn.Linear(self.encoder.width, sum(self.sizes[index] for index in members)) for members in stages
        )
        self.value = nn.Linear(len(stages) * self.encoder.width, 1)
        gene_of = torch.repeat_interleave(torch.arange(len(genes)), torch.tensor(self.sizes))
        self.links = nn.Parameter(torch.zeros(len(gene_of), len(gene_of)))
        self.register_buffer("_before", (gene_of[:, None] < gene_of[None, :]).float(), persistent=False)

    @classmethod
    def fresh(
        cls,
        genes: Sequence[Gene],
        stages: Sequence[Sequence[int]],
        *,
        features: int,
        costs: int,
        generator: torch.Generator,
    ) -> PolicyNetwork:
        """With weights from this generator alone: uniform +- 1 / sqrt(fan in) in the encoder, zero elsewhere."""
        with torch.random.fork_rng(devices=[]):  # the layers draw from the global generator when they are made
            network = cls(genes, stages, features=features, costs=costs)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.zero_()
            for parameter in network.encoder.parameters():
                if parameter.dim() > 1:
                    bound = parameter.shape[1] ** -0.5
                    parameter.uniform_(-bound, bound, generator=generator)
        return network

    def logits(self, state: State) -> Tensor:
        """(N, options of all genes), before links and masks."""
        parts: list[Tensor] = [torch.empty(0)] * len(self.sizes)
        for members, head, encoded in zip(self._stages, self.heads, self.encoder(state), strict=True):
            for index, part in zip(members, head(encoded).split([self.sizes[i] for i in members], dim=1), strict=True):
                parts[index] = part
        return torch.cat(parts, dim=1)

    def values(self, state: State) -> Tensor:
        """(N,): the robust accuracy of networks as a share of the teacher's, from `Observer.finished`."""
        values: Tensor = self.value(torch.cat(self.encoder(state), dim=1))
        return values.squeeze(1)

    def link_weights(self) -> Tensor:
        """(options, options): what a pick made (row) adds to the logit of a pick of a later gene (column)."""
        return self.links * self._before

    def log_probabilities(self, state: State, picks: Tensor, allowed: Tensor) -> Tensor:
        """(N, options of all genes): of each pick given the picks (N, options; one-hot) of the genes before it."""
        logits = self.logits(state) + picks @ self.link_weights()
        logits = logits.masked_fill(~allowed, FORBIDDEN)
        return torch.cat([part.log_softmax(dim=1) for part in logits.split(self.sizes, dim=1)], dim=1)
