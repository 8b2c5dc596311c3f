"""The process group of training workers: Ray Train's own, but on one machine no other one reaches its store."""

from __future__ import annotations

from dataclasses import dataclass

from ray.train._internal.base_worker_group import BaseWorkerGroup
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

from wrpo_ray.loopback import keep_stores_on_loopback


class _Backend(_TorchBackend):
    def on_start(self, worker_group: BaseWorkerGroup, backend_config: TorchConfig) -> None:
        worker_group.execute(keep_stores_on_loopback)
        super().on_start(worker_group, backend_config)


@dataclass
class LoopbackTorchConfig(TorchConfig):
    """TorchConfig whose workers keep torch's store on the loopback address where they reach it by that."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _Backend
