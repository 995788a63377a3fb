"""The modules."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.compiler import is_compiling

from ..._words import speak
from .. import functional as F
from ._replacement import Replacement, Whole, made_from

__all__ = [
    "GELU",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "BatchNormReLU",
    "CrossEntropyLoss",
    "Dropout",
    "GroupNorm",
    "LayerNorm",
    "MaxPool2d",
    "RMSNorm",
]


class LayerNorm(Replacement, torch.nn.LayerNorm):
    """``torch.nn.LayerNorm`` by :func:`fastopt.torch.functional.layer_norm`; the arguments are torch's.

    Example:
        >>> import torch
        >>> from fastopt.torch import nn
        >>> nn.LayerNorm(2, eps=0.0)(torch.tensor([[1.0, 3.0]])).detach()
        tensor([[-1.,  1.]])
    """

    replaces: ClassVar[Any] = torch.nn.LayerNorm

    def forward(self, input: Tensor) -> Tensor:
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)


class RMSNorm(Replacement, torch.nn.RMSNorm):
    """``torch.nn.RMSNorm`` by :func:`fastopt.torch.functional.rms_norm`; the arguments are torch's.

    Example:
        >>> import torch
        >>> from fastopt.torch import nn
        >>> nn.RMSNorm(2, eps=0.0)(torch.tensor([[1.0, 7.0]])).detach()
        tensor([[0.2000, 1.4000]])
    """

    replaces: ClassVar[Any] = torch.nn.RMSNorm

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight, self.eps)


class GroupNorm(Replacement, torch.nn.GroupNorm):
    """``torch.nn.GroupNorm`` by :func:`fastopt.torch.functional.group_norm`; the arguments are torch's.

    Example:
        >>> import torch
        >>> from fastopt.torch import nn
        >>> nn.GroupNorm(2, 4, eps=0.0)(torch.tensor([[1.0, 3.0, 5.0, 9.0]])).detach()
        tensor([[-1.,  1., -1.,  1.]])
    """

    replaces: ClassVar[Any] = torch.nn.GroupNorm

    def forward(self, input: Tensor) -> Tensor:
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


def _normalized(self: Any, function: Any, input: Any) -> Any:
    """The forward of torch's batch normalizations, with another function."""
    self._check_input_dim(input)
    momentum, training = self.momentum, self.training
    recorded = training and self.track_running_stats
    factor = 0.0 if momentum is None else momentum
    if recorded and self.num_batches_tracked is not None:
        self.num_batches_tracked.add_(1)
        if momentum is None:  # a cumulative average
            factor = 1.0 / float(self.num_batches_tracked)
    of_batch = training or (self.running_mean is None and self.running_var is None)
    running = (self.running_mean, self.running_var) if recorded or not training else (None, None)
    return function(input, *running, self.weight, self.bias, of_batch, factor, self.eps)


class BatchNorm1d(Replacement, torch.nn.BatchNorm1d):
    """``torch.nn.BatchNorm1d`` by :func:`fastopt.torch.functional.batch_norm`; the arguments are torch's.

    Example:
        >>> import torch
        >>> from fastopt.torch import nn
        >>> nn.BatchNorm1d(1)(torch.tensor([[1.0], [3.0]])).detach().ravel()
        tensor([-1.0000,  1.0000])
    """

    replaces: ClassVar[Any] = torch.nn.BatchNorm1d

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) if is_compiling() else _normalized(self, F.batch_norm, input)


class BatchNorm2d(Replacement, torch.nn.BatchNorm2d):
    """``torch.nn.BatchNorm2d`` by :func:`fastopt.torch.functional.batch_norm`; the arguments are torch's.

    Example:
        >>> import torch
        >>> from fastopt.torch import nn
        >>> nn.BatchNorm2d(3)(torch.randn(2, 3, 4, 4)).shape
        torch.Size([2, 3, 4, 4])
    """

    replaces: ClassVar[Any] = torch.nn.BatchNorm2d

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) if is_compiling() else _normalized(self, F.batch_norm, input)


class BatchNorm3d(Replacement, torch.nn.BatchNorm3d):
    """``torch.nn.BatchNorm3d`` by :func:`fastopt.torch.functional.batch_norm`; the arguments are torch's.

    Example:
        >>> import torch
        >>> from fastopt.torch import nn
        >>> nn.BatchNorm3d(3)(torch.randn(2, 3, 4, 4, 4)).shape
        torch.Size([2, 3, 4, 4, 4])
    """

    replaces: ClassVar[Any] = torch.nn.BatchNorm3d

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) if is_compiling() else _normalized(self, F.batch_norm, input)


class BatchNormReLU(Whole, torch.nn.modules.batchnorm._BatchNorm):
    """Batch normalization and ReLU in one pass, by :func:`fastopt.torch.functional.batch_norm_relu`, for inputs of 2 to 5 dimensions.

    The arguments and the names in ``state_dict`` are those of ``torch.nn.BatchNorm2d``.  It takes the place of two modules: the
    ReLU behind it becomes ``torch.nn.Identity()``.  Do not pass it to ``torch.nn.SyncBatchNorm.convert_sync_batchnorm``, which would
    take it for a batch normalization and drop the ReLU.

    Attributes:
        replaces: torch's classes, each followed by a ReLU.

    Example:
        >>> import torch
        >>> from fastopt.torch import nn
        >>> nn.BatchNormReLU(1)(torch.tensor([[1.0], [3.0]])).detach().ravel()
        tensor([0.0000, 1.0000])
    """

    replaces: ClassVar[tuple[Any, ...]] = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d)

    @classmethod
    def from_torch(cls, module: Any) -> Any:
        """Makes a module of a ``module`` that is a BatchNorm1d, 2d or 3d, torch's or of this package, which has a ReLU behind it.

        Parameters, buffers, hooks and the training flag are shared; hooks see what comes out of the ReLU.
        """
        if type(module) not in (*cls.replaces, BatchNorm1d, BatchNorm2d, BatchNorm3d):
            raise TypeError(
                f"BatchNormReLU.from_torch: module must be a BatchNorm1d, BatchNorm2d or BatchNorm3d itself, "
                f"got {type(module).__name__}, which may compute something else"
            )
        return made_from(cls, module)

    def _check_input_dim(self, input: Any) -> None:
        if not 2 <= input.dim() <= 5:
            raise ValueError(f"expected 2D to 5D input (got {input.dim()}D input)")

    def forward(self, input: Tensor) -> Tensor:
        return torch.relu(super().forward(input)) if is_compiling() else _normalized(self, F.batch_norm_relu, input)


speak(BatchNormReLU, inherited=True)


class Dropout(Replacement, torch.nn.Dropout):
    """``torch.nn.Dropout`` by :func:`fastopt.torch.functional.dropout`; the arguments are torch's.

    Example:
        >>> import torch
        >>> from fastopt.torch import nn
        >>> sorted({*nn.Dropout(0.5)(torch.ones(1000)).tolist()})
        [0.0, 2.0]
    """

    replaces: ClassVar[Any] = torch.nn.Dropout

    def forward(self, input: Tensor) -> Tensor:
        return F.dropout(input, self.p, self.training, self.inplace)


class GELU(Replacement, torch.nn.GELU):
    """``torch.nn.GELU`` by :func:`fastopt.torch.functional.gelu`; the arguments are torch's.

    Example:
        >>> import torch
        >>> from fastopt.torch import nn
        >>> nn.GELU(approximate="tanh")(torch.tensor([-1.0, 2.0]))
        tensor([-0.1588,  1.9546])
    """

    replaces: ClassVar[Any] = torch.nn.GELU

    def forward(self, input: Tensor) -> Tensor:
        return F.gelu(input, approximate=self.approximate)


class MaxPool2d(Replacement, torch.nn.MaxPool2d):
    """``torch.nn.MaxPool2d`` by :func:`fastopt.torch.functional.max_pool2d`; the arguments are torch's.

    Example:
        >>> import torch
        >>> from fastopt.torch import nn
        >>> nn.MaxPool2d(2)(torch.arange(16.0).view(1, 1, 4, 4)).ravel()
        tensor([ 5.,  7., 13., 15.])
    """

    replaces: ClassVar[Any] = torch.nn.MaxPool2d

    def forward(self, input: Tensor) -> Any:
        return F.max_pool2d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            ceil_mode=self.ceil_mode,
            return_indices=self.return_indices,
        )


class CrossEntropyLoss(Replacement, torch.nn.CrossEntropyLoss):
    """``torch.nn.CrossEntropyLoss`` by :func:`fastopt.torch.functional.cross_entropy`; the arguments are torch's.

    Example:
        >>> import torch
        >>> from fastopt.torch import nn
        >>> nn.CrossEntropyLoss()(torch.zeros(3, 2), torch.tensor([0, 1, -100]))
        tensor(0.6931)
    """

    replaces: ClassVar[Any] = torch.nn.CrossEntropyLoss

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )
