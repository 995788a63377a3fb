"""torch's functions of normalization, dropout, GELU, max pooling and cross entropy, by fastopt's kernels.

They have torch's names, arguments, results and errors.  Each of them calls torch's own function where that is faster, which a
measured number of elements decides, and where a kernel cannot see what happens: on another device, for other dtypes, in
``torch.compile``, under transforms of ``torch.func`` and forward-mode differentiation (``docs/torch_modules.md``).

.. code-block:: python

    import torch
    from fastopt.torch import functional as F

    x = torch.randn(256, 1000, requires_grad=True)
    loss = F.cross_entropy(F.dropout(x, 0.1), torch.randint(1000, (256,)))
    loss.backward()

Needs torch 2.10 or newer; tested with 2.13.
"""

try:
    from ._cross_entropy import cross_entropy
    from ._dropout import dropout
    from ._gelu import gelu
    from ._max_pool import max_pool2d
    from ._norms import batch_norm, batch_norm_relu, group_norm, layer_norm, rms_norm
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ImportError("fastopt.torch.functional needs torch, which is not installed: pip install torch") from None

__all__ = [
    "batch_norm",
    "batch_norm_relu",
    "cross_entropy",
    "dropout",
    "gelu",
    "group_norm",
    "layer_norm",
    "max_pool2d",
    "rms_norm",
]

for _name in __all__:
    globals()[_name].__module__ = __name__


def __dir__() -> list[str]:
    return sorted(__all__)
