"""The layer as modules: experts alone, and experts with their router. They only call functions.

Options are the keyword arguments of `fused_moe`, given once: tensors among them become buffers of
the module, under their names.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from torch_sm80moe import functional
from torch_sm80moe._options import LayerOptions

if TYPE_CHECKING:
    from torch_sm80moe.quantization import Calibration, QuantScheme
    from torch_sm80moe.quantization.module import QuantizedFusedExperts

# The residual is new at every call.
_OPTIONS = tuple(name for name in LayerOptions.__dataclass_fields__ if name != "residual")


class FusedExperts(nn.Module):
    """Experts whose router lives elsewhere: parameters `w13 [E, 2I, H]` and `w2 [E, H, I]`.

    Example:
        >>> w13, w2 = torch.randn(4, 32, 64).half(), torch.randn(4, 64, 32).half()
        >>> experts = FusedExperts(w13, w2, activation="relu2", gated=False)
        >>> experts(torch.randn(3, 64).half(), torch.ones(3, 1), torch.zeros(3, 1).int()).shape
        torch.Size([3, 64])
    """

    def __init__(self, w13: torch.Tensor, w2: torch.Tensor, **options: Any) -> None:
        """Take the weights as they are (no copy), as parameters without gradient.

        Args:
            w13: as in `fused_moe`.
            w2: as in `fused_moe`.
            options: keyword arguments of `fused_moe`, but for `residual` and the tactics.

        Raises:
            TypeError: there is no such option.
        """
        super().__init__()
        self.w13 = nn.Parameter(w13, requires_grad=False)
        self.w2 = nn.Parameter(w2, requires_grad=False)
        self.options: dict[str, Any] = {}
        for name, value in options.items():
            if name not in _OPTIONS:
                raise TypeError(
                    f"FusedExperts: options must be among {', '.join(_OPTIONS)}, got {name}"
                )
            if isinstance(value, torch.Tensor):
                self.register_buffer(name, value)
            elif value is not None:
                self.options[name] = value

    def forward(
        self,
        hidden_states: torch.Tensor,
        topk_weights: torch.Tensor,
        topk_ids: torch.Tensor,
        residual: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Run `fused_moe` on `[..., H]` with routing `[..., k]`; return `[..., H]`."""
        hidden_size, top_k = hidden_states.size(-1), topk_ids.size(-1)
        tensors: dict[str, Any] = dict(self.named_buffers(recurse=False))
        out = functional.fused_moe(
            hidden_states.reshape(-1, hidden_size),
            self.w13,
            self.w2,
            topk_weights.reshape(-1, top_k),
            topk_ids.reshape(-1, top_k),
            residual=None if residual is None else residual.reshape(-1, hidden_size),
            **tensors,
            **self.options,
        )
        return out.reshape(hidden_states.shape)


class FusedMoE(nn.Module):
    """A mixture-of-experts layer: softmax top-k router, experts, weighted sum.

    The experts are SwiGLU unless options say otherwise.

    The layer has no backward: its parameters do not require grad.

    Example:
        >>> layer = FusedMoE(64, 32, num_experts=8, top_k=2, dtype=torch.bfloat16)
        >>> layer(torch.randn(2, 5, 64).bfloat16()).shape
        torch.Size([2, 5, 64])
    """

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        num_experts: int,
        top_k: int,
        *,
        renormalize: bool = True,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str | None = None,
        **options: Any,
    ) -> None:
        """Make a layer with random weights, scaled so that activations keep their size.

        Options are those of `FusedExperts`.
        """

        def random(*shape: int) -> torch.Tensor:
            return torch.randn(shape, dtype=dtype, device=device) / math.sqrt(shape[-1])

        super().__init__()
        gates = 2 if options.get("gated", True) else 1
        self.top_k = top_k
        self.renormalize = renormalize
        self.router_weight = nn.Parameter(random(num_experts, hidden_size), requires_grad=False)
        self.experts: FusedExperts | QuantizedFusedExperts = FusedExperts(
            random(num_experts, gates * intermediate_size, hidden_size),
            random(num_experts, hidden_size, intermediate_size),
            **options,
        )

    @classmethod
    def from_weights(
        cls,
        router_weight: torch.Tensor,
        w13: torch.Tensor,
        w2: torch.Tensor,
        top_k: int,
        *,
        renormalize: bool = True,
        **options: Any,
    ) -> FusedMoE:
        """Make a layer of a checkpoint's tensors, without copying them.

        Args:
            router_weight: `[E, H]`, dtype of the experts.
            w13: `[E, 2I, H]`, gate rows, then up rows; as in `fused_moe`.
            w2: `[E, H, I]`.
            top_k: experts per token.
            renormalize: whether the k weights of a token sum to one.
            options: those of `FusedExperts`.

        Returns:
            A layer whose parameters share the tensors' memory.
        """
        num_experts, hidden_size, intermediate_size = w2.shape
        layer = cls(
            hidden_size,
            intermediate_size,
            num_experts,
            top_k,
            renormalize=renormalize,
            dtype=w2.dtype,
            device="meta",
        )
        layer.router_weight = nn.Parameter(router_weight, requires_grad=False)
        layer.experts = FusedExperts(w13, w2, **options)
        return layer

    def forward(
        self, hidden_states: torch.Tensor, residual: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Route and run `[..., H]`; return `[..., H]`, with the residual added if there is one."""
        flat = hidden_states.reshape(-1, hidden_states.size(-1))
        flat_residual = None if residual is None else residual.reshape(flat.shape)
        out: torch.Tensor = self.experts(flat, *self._route(flat), flat_residual)
        return out.reshape(hidden_states.shape)

    def _route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = nn.functional.linear(flat, self.router_weight)
        weights, ids = functional.topk_route(logits, self.top_k, renormalize=self.renormalize)
        return weights, ids

    def quantize_(
        self,
        scheme: QuantScheme | str,
        *,
        method: str = "mse",
        calibration: Iterable[torch.Tensor] | None = None,
        settings: Calibration | None = None,
    ) -> FusedMoE:
        """Quantise the experts in place.

        Args:
            scheme: what the weights become, or its name.
            method: how their scales are chosen: "absmax" or "mse".
            calibration: for static schemes, what the layer sees in use: batches `[..., H]`. None
                for all other schemes.
            settings: how ranges of activations are chosen; by least squared error if None.

        Returns:
            The layer.

        Raises:
            ValueError: the experts are quantised already, the scheme does not suit their sizes or
                options, or there are batches and no static scheme, or the reverse.
        """
        # Who does not quantise need not wait for it to be imported.
        from torch_sm80moe.quantization import Calibration, QuantScheme
        from torch_sm80moe.quantization.calibration import LayerActivations
        from torch_sm80moe.quantization.module import QuantizedFusedExperts
        from torch_sm80moe.quantization.quantizers import quantize_experts

        if not isinstance(self.experts, FusedExperts):
            raise ValueError("quantize_: experts must be in 16 bits, got quantised ones")
        w13, w2 = self.experts.w13, self.experts.w2
        options = {**dict(self.experts.named_buffers(recurse=False)), **self.experts.options}
        scheme = QuantScheme.parse(scheme) if isinstance(scheme, str) else scheme
        inputs = None
        if scheme.needs_calibration(calibration):
            seen = LayerActivations()
            for batch in calibration or ():
                flat = batch.reshape(-1, batch.size(-1))
                seen.add(flat, w13, *self._route(flat), **options)
            inputs = seen.choose(settings or Calibration())
        quantized = quantize_experts(w13, w2, scheme, method=method, inputs=inputs)
        self.experts = QuantizedFusedExperts.from_experts(quantized, **options)
        return self
