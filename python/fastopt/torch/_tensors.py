"""Tensors and arrays that share their memory."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]

_FIRST_TORCH = "2.10"


def exchange_table() -> Any:
    """The capsule with DLPack's table of C functions, which torch has since 2.10; raises ImportError with an older one."""
    try:
        return torch.Tensor.__dlpack_c_exchange_api__
    except AttributeError:
        raise ImportError(f"fastopt.torch needs torch {_FIRST_TORCH} or newer, found {torch.__version__}") from None


def array_of(tensor: torch.Tensor) -> Array:
    """A tensor of the CPU as an array; of one with bfloat16 an array of ml_dtypes' bfloat16."""
    tensor = tensor.detach()
    if tensor.dtype is not torch.bfloat16:
        array: Array = tensor.numpy()
        return array
    if not tensor.ndim:  # only a tensor with axes can be viewed as another dtype of any size
        return array_of(tensor[None])[0, ...]
    array = tensor.view(torch.int16).numpy()
    return array.view(bfloat16())


def tensor_of(array: Array) -> torch.Tensor:
    """An array as a tensor."""
    if array.dtype.kind != "V" and array.dtype.name != "bfloat16":
        return torch.from_numpy(array)
    if not array.ndim:
        return tensor_of(array[np.newaxis])[0]
    return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)


def bfloat16() -> Any:
    try:
        from ml_dtypes import bfloat16
    except ImportError:
        raise ImportError("fastopt.torch: tensors of bfloat16 need ml_dtypes: pip install ml_dtypes") from None
    return bfloat16


def order_of(tensor: torch.Tensor) -> list[int] | None:
    """The order of the axes in which the tensor is contiguous, ``None`` if there is none."""
    order = list(range(tensor.ndim))
    if not tensor.is_contiguous():
        strides, sizes = tensor.stride(), tensor.shape
        order.sort(key=lambda axis: (-strides[axis] if sizes[axis] > 1 else 0, axis))
        if not tensor.permute(order).is_contiguous():
            return None
    return order
