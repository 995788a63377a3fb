"""Activations as layers."""

from __future__ import annotations

from .. import functional as F
from .._check import choice
from ..functional._activations import Activation
from ._layer import Array, Layer

__all__ = ["GELU", "ReLU", "SiLU", "Sigmoid", "Tanh"]


class _Activation(Layer):
    """The base class of activations, which differ only in their function."""

    _name: Activation

    def __init__(self) -> None:
        super().__init__()

    def __call__(self, x: Array, *, out: Array | None = None) -> Array:
        """The activation of ``x``, in ``out`` if that is given, which may be ``x`` itself."""
        y, saved = F.activate(x, self._name, out=None if out is None else (out, None))
        self._kept = (saved,)
        return y

    def backward(self, dy: Array, *, out: Array | None = None) -> Array:
        """The gradient with respect to the last input, in ``out`` if that is given, which may be ``dy`` itself."""
        (saved,) = self._last()
        return F.activate_backward(dy, saved, self._name, out=None if out is None else (out, None))[0]


class ReLU(_Activation):
    """max(x, 0), see :func:`fastopt.functional.activate`.

    Example:
        >>> import numpy as np
        >>> from fastopt import nn
        >>> layer = nn.ReLU()
        >>> layer(np.array([-1.0, 2.0])), layer.backward(np.ones(2))
        (array([0., 2.]), array([0., 1.]))
    """

    _name = "relu"


class GELU(_Activation):
    """x·Φ(x) with Φ of the normal distribution, see :func:`fastopt.functional.activate`.

    Args:
        approximate: "none", or "tanh" for the approximation with tanh.

    Example:
        >>> import numpy as np
        >>> from fastopt import nn
        >>> layer = nn.GELU()
        >>> layer(np.array([-1.0, 2.0])).round(4)
        array([-0.1587,  1.9545])
        >>> layer.backward(np.ones(2)).round(4)
        array([-0.0833,  1.0852])

    References:
        Hendrycks & Gimpel 2016, arXiv:1606.08415.
    """

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = choice("GELU", "approximate", approximate, ("none", "tanh"))

    @property
    def _name(self) -> Activation:  # type: ignore[override]
        return "gelu" if self.approximate == "none" else "gelu_tanh"


class SiLU(_Activation):
    """x/(1 + e⁻ˣ), see :func:`fastopt.functional.activate`.

    Example:
        >>> import numpy as np
        >>> from fastopt import nn
        >>> nn.SiLU()(np.array([-1.0, 2.0])).round(4)
        array([-0.2689,  1.7616])

    References:
        Elfwing, Uchibe & Doya 2017, arXiv:1702.03118.
    """

    _name = "silu"


class Tanh(_Activation):
    """The hyperbolic tangent, see :func:`fastopt.functional.activate`.

    Example:
        >>> import numpy as np
        >>> from fastopt import nn
        >>> nn.Tanh()(np.array([-1.0, 2.0])).round(4)
        array([-0.7616,  0.964 ])
    """

    _name = "tanh"


class Sigmoid(_Activation):
    """1/(1 + e⁻ˣ), see :func:`fastopt.functional.activate`.

    Example:
        >>> import numpy as np
        >>> from fastopt import nn
        >>> nn.Sigmoid()(np.array([-1.0, 2.0])).round(4)
        array([0.2689, 0.8808])
    """

    _name = "sigmoid"
