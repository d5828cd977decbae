"""What the agent may take of its machine: processor, threads, and memory of the GPU.

Hours and days are a matter of the site's policy (``time`` in ``policy.yaml``), asked before each round.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from cloister.privacy.errors import StateError, UsageError


@dataclass(frozen=True)
class Share:
    """What the process may take of the machine.

    Attributes:
        nice: how far it steps back for other programs, 0 to 19.
        threads: of torch; 0 leaves torch's own choice.
        gpu_memory: share of the GPU's memory, above 0 up to 1; 1 for all of it.
    """

    nice: int = 0
    threads: int = 0
    gpu_memory: float = 1.0

    def apply(self, device: str) -> None:
        """Sets the limits for this process and all threads that it starts from now on.

        Raises:
            UsageError: ``option_invalid``, a share of GPU memory where training is on no GPU.
            StateError: ``state_unwritable``, the system does not let the process step back.
        """
        if not 0 < self.gpu_memory <= 1:
            raise UsageError("option_invalid", "The share of GPU memory must be above 0, and 1 at most.")
        if self.gpu_memory < 1 and not device.startswith("cuda"):
            raise UsageError(
                "option_invalid",
                f"Training is on {device}, which has no GPU memory.",
                "Leave --gpu-memory out.",
            )
        if self.nice:
            try:
                os.nice(self.nice)
            except OSError as error:
                raise StateError(
                    "state_unwritable", f"The priority cannot be set: {error.strerror}."
                ) from error
        if self.threads or self.gpu_memory < 1:
            self._tell_torch(device)

    def _tell_torch(self, device: str) -> None:
        import torch

        if self.threads:
            torch.set_num_threads(self.threads)
        if self.gpu_memory < 1:
            torch.cuda.set_per_process_memory_fraction(self.gpu_memory, torch.device(device))
