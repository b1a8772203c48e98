"""The processes that train one network together: started by torchrun, or just this one.

Every process draws the same batch, works on its own part of it, and averages gradients and batch statistics with
the others, as data-parallel training does; their networks stay equal to the bit.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as distributed
from torch import Tensor, nn


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is."""

    rank: int = 0
    world: int = 1

    @classmethod
    def here(cls, device: torch.device) -> Ranks:
        """The processes that torchrun started (WORLD_SIZE), joined by NCCL on GPUs and gloo elsewhere."""
        if not distributed.is_available():
            return cls()
        if not distributed.is_initialized():
            if int(os.environ.get("WORLD_SIZE", "1")) < 2:
                return cls()
            if device.type == "cuda":
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
            distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def share(self, batch: Tensor) -> Tensor:
        """This process's part of a batch (N, ...): every world-th example."""
        return batch[self.rank :: self.world]

    def sum_(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over the processes."""
        listed = list(tensors)
        if self.world == 1 or not listed:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in listed])
        distributed.all_reduce(flat)
        for tensor, part in zip(listed, flat.split([tensor.numel() for tensor in listed]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def average_statistics(self, network: nn.Module) -> None:
        """Bring the floating-point buffers (running statistics) of all processes to their mean."""
        if self.world == 1:
            return
        buffers = [buffer for buffer in network.buffers() if buffer.is_floating_point()]
        with torch.no_grad():
            self.sum_(buffers)
            for buffer in buffers:
                buffer.div_(self.world)

    def agreed(self, values: tuple[float, ...], device: torch.device) -> tuple[float, ...]:
        """The first process's numbers, in every process."""
        if self.world == 1:
            return values
        shared = torch.tensor(values, dtype=torch.float64, device=device)
        distributed.broadcast(shared, 0)
        return tuple(shared.tolist())

    def wait(self) -> None:
        """Until every process has come here."""
        if self.world > 1:
            distributed.barrier()
