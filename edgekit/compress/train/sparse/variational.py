"""Variational dropout: Molchanov, Ashukha & Vetrov, "Variational Dropout Sparsifies Deep Neural
Networks", ICML 2017.

Every weight is a Gaussian ``N(theta, sigma^2)``. Training pays for information: the divergence of the
posterior from a log-uniform prior falls as ``alpha = sigma^2 / theta^2`` grows, so weights whose value
does not matter drown in noise and can go. The noise is drawn behind a layer, where it has a mean and a
variance of its own for each sample (Kingma, Salimans & Welling, "Variational Dropout and the Local
Reparameterization Trick", NIPS 2015): ``z ~ N(theta x, sigma^2 x^2)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from edgekit.compress.train.batches import TrainData
from edgekit.compress.train.masks import largest, maskable, masked
from edgekit.compress.train.module import Hook, TrainModule
from edgekit.compress.train.objectives import Objective
from edgekit.compress.train.options import TrainOptions
from edgekit.compress.train.trainer import Extension, train
from edgekit.errors import InputError
from edgekit.graph.ir import Graph

#: Approximation of the negative divergence (equation 14 of the paper).
_K1, _K2, _K3 = 0.63576, 1.87320, 1.48695
#: log alpha above which a weight is noise.
NOISE = 3.0
_START = -8.0  #: log of sigma^2 over the layer's mean square at the start
_RATE = 20.0  #: of the noise's parameters relative to weights: they have ten e-folds to go


def divergence(log_alpha: torch.Tensor) -> torch.Tensor:
    """KL(q || log-uniform) up to a constant, elementwise; zero for infinite alpha."""
    return _K1 * (1.0 - torch.sigmoid(_K2 + _K3 * log_alpha)) + 0.5 * torch.log1p(
        torch.exp(-log_alpha)
    )


class Variational(Extension):
    """Noise on the named weights and its price. samples: of the training set (the divergence counts once
    for all of them). weight: of the divergence; it rises linearly over the share ``warm`` of ``steps``."""

    def __init__(
        self, names: Sequence[str], samples: int, steps: int, *, weight: float = 1.0,
        warm: float = 0.3, seed: int = 0,
    ) -> None:  # fmt: skip
        if not weight > 0:
            raise InputError(f"the weight of the divergence is {weight}; it must be above 0")
        self.names, self.samples, self.steps = list(names), samples, steps
        self.weight, self.warm, self.seed = weight, warm, seed

    def key(self) -> str:
        settings = (self.names, self.samples, self.steps, self.weight, self.warm, self.seed)
        return f"Variational {settings}"

    def attach(self, module: TrainModule) -> None:
        self._log_sigma: dict[str, torch.Tensor] = {}
        self._unit: dict[str, float] = {}
        self._seen: dict[str, torch.Tensor] = {}
        device = next(module.parameters()).device
        module.register_buffer("noise_step", torch.zeros((), dtype=torch.int64, device=device))
        self._step: torch.Tensor = module.get_buffer("noise_step")
        position = {n.inputs[1]: k for k, n in enumerate(module.graph.nodes) if len(n.inputs) > 1}
        for i, name in enumerate(self.names):
            w = module.constant(name)
            self._unit[name] = max(float(w.detach().pow(2).mean()), 1e-30)
            # one axis: weight decay is for parameters of several
            p = torch.nn.Parameter(torch.full((w.numel(),), _START, device=w.device))
            module.register_parameter(f"log_sigma_{i}", p)
            self._log_sigma[name] = p
            k = position[name]
            node = module.graph.nodes[k]
            source, out = node.inputs[0] or "", node.outputs[0]
            if node.attr("activation", "NONE") != "NONE":
                module.hook_constant(name, self._on_weights(module, name, i))
                continue
            module.hook_value(source, self._remember(name))
            before = module.on_value.get(out)
            module.on_value[out] = self._behind(module, name, i, k, before)

    def _remember(self, name: str) -> Hook:
        def hook(x: torch.Tensor) -> torch.Tensor:
            self._seen[name] = x
            return x

        return hook

    def _noise(self, like: torch.Tensor, index: int) -> torch.Tensor:
        generator = torch.Generator(like.device)
        generator.manual_seed(
            ((self.seed * 1_000_003 + int(self._step)) * 4099 + index) % (1 << 62)
        )
        return torch.randn(like.shape, generator=generator, device=like.device, dtype=torch.float32)

    def _sigma2(self, module: TrainModule, name: str) -> torch.Tensor:
        rho = self._log_sigma[name].clamp(-20.0, 6.0)
        return self._unit[name] * torch.exp(rho).reshape(module.constant(name).shape)

    def _behind(
        self, module: TrainModule, name: str, index: int, position: int, before: Hook | None
    ) -> Hook:
        def hook(z: torch.Tensor) -> torch.Tensor:
            if module.training:
                x = self._seen.pop(name)
                squares = [x * x, self._sigma2(module, name).to(x.dtype), None]
                variance = module._steps[position](squares)[0].float().clamp_min(0.0)
                spread = torch.sqrt(variance + 1e-12 * self._unit[name])
                z = z + (spread * self._noise(z, index)).to(z.dtype)
            return z if before is None else before(z)

        return hook

    def _on_weights(self, module: TrainModule, name: str, index: int) -> Hook:
        """For layers with an activation of their own: noise on the weights, one draw a batch."""

        def hook(w: torch.Tensor) -> torch.Tensor:
            if not module.training:
                return w
            return w + torch.sqrt(self._sigma2(module, name)) * self._noise(w, index)

        return hook

    def log_alpha(self, module: TrainModule, name: str) -> torch.Tensor:
        """``log(sigma^2 / theta^2)``, in the weights' shape."""
        w = module.constant(name)
        rho = self._log_sigma[name].clamp(-20.0, 6.0).reshape(w.shape)
        return rho + float(np.log(self._unit[name])) - torch.log(w * w + 1e-12 * self._unit[name])

    def after_backward(
        self, module: TrainModule, step: int, optimizer: torch.optim.Optimizer
    ) -> None:
        rise = min(1.0, (step + 1) / max(1.0, self.warm * self.steps))
        price = sum(divergence(self.log_alpha(module, n)).sum() for n in self.names)
        assert isinstance(price, torch.Tensor)
        (price * (self.weight * rise / self.samples)).backward()
        self._step.add_(1)

    def scales(self, module: TrainModule) -> dict[int, float]:
        return {id(p): _RATE for p in self._log_sigma.values()}


@dataclass(frozen=True, eq=False)
class Sparsified:
    """graph: trained, zeros outside masks. noise: share of the weights with ``log alpha`` above 3.
    signal: how much of each weight is not noise, in (0, 1): 1/2 at ``log alpha = 3``."""

    graph: Graph
    masks: dict[str, np.ndarray]
    noise: float
    signal: dict[str, np.ndarray]


def variational_dropout(
    initial: Graph,
    objective: Objective,
    data: TrainData,
    options: TrainOptions,
    *,
    keep: float | None = None,
    weight: float = 1.0,
    work: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> Sparsified:
    """Train ``initial`` with variational dropout and drop what is noise: weights with ``log alpha > 3``,
    or with ``keep`` all but that share of lowest ``alpha``."""
    names = maskable(initial)
    extension = Variational(names, len(data), options.steps, weight=weight, seed=options.seed)
    run = train(initial, data, objective, options, extensions=[extension], work=work,
                name="variational dropout", progress=progress)  # fmt: skip
    with torch.no_grad():
        scores = {n: -extension.log_alpha(run.module, n).cpu().double().numpy() for n in names}
    total = sum(s.size for s in scores.values())
    noise = sum(int((s < -NOISE).sum()) for s in scores.values()) / total
    masks = largest(scores, max(1.0 - noise, 1.0 / total) if keep is None else keep)
    signal = {n: 1.0 / (1.0 + np.exp(-np.clip(s + NOISE, -50.0, 50.0))) for n, s in scores.items()}
    return Sparsified(masked(run.graph, masks), masks, noise, signal)
