"""Tensors and arrays that share their memory."""

from __future__ import annotations

from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_FIRST_TORCH = "2.10"


def exchange_table() -> Any:
    """The capsule with DLPack's table of C functions, which torch has since 2.10; raises ImportError with an older one."""
    try:
        return torch.Tensor.__dlpack_c_exchange_api__
    except AttributeError:
        raise ImportError(f"fastopt.torch needs torch {_FIRST_TORCH} or newer, found {torch.__version__}") from None


def array_of(tensor: Any) -> Any:
    """A view of a tensor's memory; ``None`` of ``None``."""
    if tensor is None:
        return None
    tensor = tensor.detach()
    if tensor.dtype is torch.bfloat16:  # which NumPy does not know
        return tensor.view(torch.int16).numpy().view(_BFLOAT16)
    return tensor.numpy()


def tensor_of(array: Array) -> Any:
    """A tensor on an array's memory, which it keeps alive."""
    if array.dtype != _BFLOAT16:
        return torch.from_numpy(array)
    bits = torch.from_numpy(array.view(np.int16))
    # Not a view in torch's sense: the result of an autograd function could not be changed in place then.
    return torch.empty(0, dtype=torch.bfloat16, device="cpu").set_(
        bits.untyped_storage(), bits.storage_offset(), bits.shape, bits.stride()
    )


def order_of(tensor: Any) -> list[int] | None:
    """The order of the axes in which the tensor is contiguous, ``None`` if there is none.  A first axis of length 1 stays the first."""
    order = list(range(tensor.ndim))
    if not tensor.is_contiguous():
        strides, sizes = tensor.stride(), tensor.shape
        outermost = {0} if tensor.ndim and sizes[0] == 1 else set()
        order.sort(key=lambda axis: (axis not in outermost, -strides[axis] if sizes[axis] > 1 else 0, axis))
        if not tensor.permute(order).is_contiguous():
            return None
    return order
