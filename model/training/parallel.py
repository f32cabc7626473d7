"""One process or many: the same update of the same samples, whoever computes which part.

Each strategy wraps an objective and offers three steps: `backward` adds a micro-batch's gradients, `step` averages,
clips and updates, `trained` gathers what was learnt. The loss handed to `backward` is already divided by what the whole
update counts, so strategies sum over processes and nothing else; DDP, FSDP and DeepSpeed average, hence the factor of
the number of processes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn

from vigc.model.files.stored_tensors import require_same
from vigc.model.training.objective import Batch, Objective
from vigc.model.training.recipe import Recipe
from vigc.model.training.schedule import make_optimizer, make_optimizers, set_learning_rate
from vigc.platform.records import ConfigError, ModelError

OPTIMIZER_FILE = "optimizer.pt"
ZERO_FOLDER = "zero"


def rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def all_sum(values: list[float], device: torch.device) -> list[float]:
    """The sums over all processes; every process calls this."""
    total = torch.tensor(values, dtype=torch.float64, device=device)
    if distributed.is_initialized():
        distributed.all_reduce(total)
    return [float(v) for v in total]


class Parallel(ABC):
    """See the module."""

    objective: Objective[Any]
    device: torch.device
    whole = True  # every process holds all weights, so the network can be used between updates

    def backward(self, batch: Batch, num_counted: float, *, last: bool) -> tuple[float, dict[str, float]]:
        """Adds the gradients of one micro-batch; returns its summed loss and the objective's metrics.

        Args:
            num_counted: of the whole update, over all processes and micro-batches.
            last: whether gradients may be exchanged now.
        """
        total, metrics = self._backward(batch.to(self.device), world_size() / max(1.0, num_counted), last)
        return float(total.detach()), metrics

    @abstractmethod
    def _backward(self, batch: Batch, factor: float, last: bool) -> tuple[Tensor, dict[str, float]]: ...

    @abstractmethod
    def step(self, learning_rate: float) -> float:
        """Updates the weights and clears the gradients; returns the gradient's norm before clipping."""

    @abstractmethod
    def loss(self, batch: Batch) -> tuple[float, dict[str, float]]:
        """The summed loss without gradients; every process calls this equally often."""

    @abstractmethod
    def trained(self) -> dict[str, Tensor]:
        """The trained weights, whole, on the CPU, by their names in the objective; empty but on rank 0."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Writes what a resume needs besides the trained weights; every process calls this with a folder of its own,
        whose contents are merged.
        """

    @abstractmethod
    def load(self, folder: Path, trained: Mapping[str, Tensor]) -> None:
        """Goes on from the trained weights and what `save` wrote."""


def make_parallel(objective: Objective[Any], recipe: Recipe, device: torch.device) -> Parallel:
    """The recipe's strategy; the objective is on the device, its trainable weights chosen."""
    if recipe.parallel.startswith("zero"):
        return _Zero(objective, recipe, device)
    return _Sharded(objective, recipe, device) if recipe.parallel == "fsdp" else _Replicated(objective, recipe, device)


class _Own(Parallel):
    """What DDP and FSDP share: our optimiser, our scaler, our clipping."""

    def __init__(self, objective: Objective[Any], recipe: Recipe, device: torch.device, wrapped: nn.Module) -> None:
        self.objective, self.device, self._wrapped = objective, device, wrapped
        settings = recipe.optimizer
        self._optimizers = make_optimizers(
            objective, settings.peak, settings.weight_decay, settings.betas, settings.muon
        )
        self._clip = settings.clip or float("inf")
        # fp16 gradients underflow; the scaler multiplies the loss and skips updates that overflowed.
        self._scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
        self._parameters = [p for p in objective.parameters() if p.requires_grad]

    def _backward(self, batch: Batch, factor: float, last: bool) -> tuple[Tensor, dict[str, float]]:
        with nullcontext() if last else self._unsynchronised():
            total, metrics = self._wrapped(batch)
            self._scaler.scale(total * factor).backward()
        return total, metrics

    def _unsynchronised(self) -> Any:
        return nullcontext()

    def step(self, learning_rate: float) -> float:
        set_learning_rate(self._optimizers, learning_rate)
        for optimizer in self._optimizers:
            self._scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(self._parameters, self._clip)
        for optimizer in self._optimizers:
            self._scaler.step(optimizer)
        self._scaler.update()
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)
        return float(_whole(norm))

    def loss(self, batch: Batch) -> tuple[float, dict[str, float]]:
        with torch.no_grad():
            total, metrics = self._wrapped(batch.to(self.device))
        return float(total), metrics


class _Replicated(_Own):
    """Every process holds everything: plain in one process, DistributedDataParallel in several."""

    def __init__(self, objective: Objective[Any], recipe: Recipe, device: torch.device) -> None:
        wrapped: nn.Module = objective
        if world_size() > 1:
            wrapped = nn.parallel.DistributedDataParallel(
                objective, device_ids=[device.index] if device.type == "cuda" else None, broadcast_buffers=False
            )
        super().__init__(objective, recipe, device, wrapped)

    def _unsynchronised(self) -> Any:
        return self._wrapped.no_sync() if world_size() > 1 else nullcontext()  # type: ignore[operator]

    def trained(self) -> dict[str, Tensor]:
        return {n: p.detach().cpu().clone() for n, p in self.objective.trained().items()} if rank() == 0 else {}

    def save(self, folder: Path) -> None:
        if rank() == 0:
            optimizers = [optimizer.state_dict() for optimizer in self._optimizers]
            state = {"optimizers": optimizers, "scaler": self._scaler.state_dict()}
            torch.save(state, folder / OPTIMIZER_FILE)

    def load(self, folder: Path, trained: Mapping[str, Tensor]) -> None:
        copy_into(self.objective.trained(), trained)
        state = torch.load(folder / OPTIMIZER_FILE, map_location=self.device, weights_only=True)
        for optimizer, kept in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        self._scaler.load_state_dict(state["scaler"])


class _Sharded(_Own):
    """FSDP: weights, gradients and optimiser state are spread over the processes, layer by layer."""

    whole = False

    def __init__(self, objective: Objective[Any], recipe: Recipe, device: torch.device) -> None:
        from torch.distributed.fsdp import fully_shard

        if not distributed.is_initialized():
            raise ConfigError("FSDP spreads weights over processes; use it with two workers or more, or parallel=ddp.")
        require_adamw(recipe)
        network = objective.network
        for layer in [*network.decoder_layers, *network.vision_encoder.layers]:
            fully_shard(layer)
        fully_shard(objective)
        super().__init__(objective, recipe, device, objective)
        (self._optimizer,) = self._optimizers

    def trained(self) -> dict[str, Tensor]:
        whole = {}
        for name, parameter in self.objective.trained().items():
            value = _whole(parameter).cpu()
            if rank() == 0:
                whole[name] = value
        return whole

    def save(self, folder: Path) -> None:
        state = self._optimizer.state_dict()
        whole = {
            index: {name: _whole(value).cpu() for name, value in moments.items()}
            for index, moments in state["state"].items()
        }
        if rank() == 0:
            saved = {"optimizer": state | {"state": whole}, "scaler": self._scaler.state_dict()}
            torch.save(saved, folder / OPTIMIZER_FILE)

    def load(self, folder: Path, trained: Mapping[str, Tensor]) -> None:
        parameters = self.objective.trained()
        copy_into(parameters, {n: _spread(trained[n], like=p) for n, p in parameters.items() if n in trained})
        saved = torch.load(folder / OPTIMIZER_FILE, map_location="cpu", weights_only=True)
        state = saved["optimizer"]
        ordered = [p for group in self._optimizer.param_groups for p in group["params"]]
        state["state"] = {
            index: {
                name: _spread(value, like=ordered[index]) if value.ndim else value for name, value in moments.items()
            }
            for index, moments in state["state"].items()
        }
        self._optimizer.load_state_dict(state)
        self._scaler.load_state_dict(saved["scaler"])


class _Zero(Parallel):
    """DeepSpeed: ZeRO 0 keeps everything everywhere, 1 spreads the optimiser state, 2 gradients, 3 weights, too.

    Arithmetic precision is the objective's own (autocast), so DeepSpeed's master weights stay what they are: fp32.
    """

    def __init__(self, objective: Objective[Any], recipe: Recipe, device: torch.device) -> None:
        import deepspeed

        if recipe.precision == "fp16":
            # Measured with 0.19: under its torch_autocast, ZeRO 1 to 3 clip gradients that are still scaled.
            raise ConfigError("DeepSpeed runs in fp32 or bf16 here; set precision=bf16, or parallel=ddp for fp16.")
        if not distributed.is_initialized():
            raise ConfigError("DeepSpeed needs a process group; run it through `vigc train`, also with one worker.")
        require_adamw(recipe)
        if device.type == "cpu":
            # Otherwise its first use compiles a C++ extension for two minutes; gloo does the same work.
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        self.objective, self.device, self._stage = objective, device, int(recipe.parallel[-1])
        self.whole = self._stage < 3
        settings = recipe.optimizer
        optimizer = make_optimizer([objective], settings.peak, settings.weight_decay, settings.betas)
        rows = recipe.micro_batch_size
        self._engine, *_ = deepspeed.initialize(
            model=objective,
            optimizer=optimizer,
            config={
                "train_micro_batch_size_per_gpu": rows,
                "gradient_accumulation_steps": num_micro_batches(recipe),
                "gradient_clipping": settings.clip,
                "zero_optimization": {"stage": self._stage, "overlap_comm": device.type == "cuda"},
                "zero_force_ds_cpu_optimizer": False,
                "steps_per_print": 10**9,
            },
        )
        queries = getattr(objective.network.model, "query_tokens", None)
        if self._stage == 3 and queries is not None:  # read outside of the module that owns them
            deepspeed.zero.register_external_parameter(objective, queries)

    def _backward(self, batch: Batch, factor: float, last: bool) -> tuple[Tensor, dict[str, float]]:
        total, metrics = self._engine(batch)
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(total * factor, scale_wrt_gas=False)
        if not last:
            self._engine.step()  # counts the micro-batch; weights change at the boundary only
        return total, metrics

    def step(self, learning_rate: float) -> float:
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        self._engine.step()
        return float(self._engine.get_global_grad_norm() or 0.0)

    def loss(self, batch: Batch) -> tuple[float, dict[str, float]]:
        with torch.no_grad():
            total, metrics = self._engine(batch.to(self.device))
        return float(total), metrics

    def trained(self) -> dict[str, Tensor]:
        import deepspeed

        parameters = self.objective.trained()
        with deepspeed.zero.GatheredParameters([*parameters.values()], enabled=self._stage == 3):
            return {n: p.detach().cpu().clone() for n, p in parameters.items()} if rank() == 0 else {}

    def save(self, folder: Path) -> None:
        self._engine.save_checkpoint(str(folder / ZERO_FOLDER), tag="state", exclude_frozen_parameters=True)

    def load(self, folder: Path, trained: Mapping[str, Tensor]) -> None:
        path, _ = self._engine.load_checkpoint(str(folder / ZERO_FOLDER), tag="state", load_module_strict=False)
        if path is None:
            raise ModelError(f"{folder}: DeepSpeed found no state of its own there to go on from.")


def require_adamw(recipe: Recipe) -> None:
    """Raises ConfigError for a recipe whose optimiser cannot work on parts of matrices."""
    if recipe.optimizer.muon:
        raise ConfigError(
            f"Muon needs whole matrices; with parallel={recipe.parallel} set optimizer.muon=0, or use ddp."
        )


def _whole(value: Tensor) -> Tensor:
    """A sharded tensor gathered from all processes; others as they are."""
    from torch.distributed.tensor import DTensor

    value = value.detach()
    return value.full_tensor() if isinstance(value, DTensor) else value


def _spread(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, sharded as `like` is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


def num_micro_batches(recipe: Recipe) -> int:
    """Micro-batches of one process per update."""
    return -(-rows_per_process(recipe) // recipe.micro_batch_size)


def rows_per_process(recipe: Recipe) -> int:
    """Rows of one process per update.

    Raises:
        ConfigError: the batch cannot be dealt evenly.
    """
    if recipe.batch_size % world_size():
        raise ConfigError(
            f"batch_size {recipe.batch_size} cannot be dealt evenly to {world_size()} workers; "
            "set batch_size to a multiple of the number of workers."
        )
    return recipe.batch_size // world_size()


def copy_into(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    """Puts saved weights in place, all of them or none.

    Raises:
        ModelError: names or shapes differ.
    """
    found, wanted = ({name: tensor.shape for name, tensor in of.items()} for of in (values, parameters))
    require_same("The checkpoint", found, wanted)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(values[name])
