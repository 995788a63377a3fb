"""Gradients that touch few rows of a parameter, as those of an embedding do."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._check import flag, not_an_array, whole
from ._core import kernels

Array = NDArray[Any]


class SparseRows:
    """A gradient that touches few rows of a parameter; a step takes it in place of an array.

    .. code-block:: text

        grad[r] = Σ values[i] over all i with indices[i] = r, in their order;   0 in all other rows

    A step is lazy by default: it updates the rows that occur, as a step of a dense gradient would update them, and leaves all
    other rows alone, with all that belongs to them: moments do not decay, weight decay does not shrink.  That is what torch's
    SparseAdam does.  SGD, Adagrad, RMSprop, Adam and AdamW can do that, in all their variants.  With ``exact`` the step is that
    of the dense gradient, to the last bit, with every rule and every option, and takes about as long; but no dense gradient is
    made.  For SGD without momentum and Adagrad, both ways leave the same weights where nothing decays.

    The arrays are not copied, and must not be changed before the step.

    Args:
        indices: (n,) integers of any type, at least 0 and below the parameter's number of rows, in any order.  An index may
            occur more than once: its values are added.
        values: (n, ...): a row of the gradient for each index, with the parameter's axes behind the first one.  float32,
            float64, float16 or bfloat16, in any memory layout; see ``Optimizer.step`` for which of them a parameter takes.
        exact: Whether a step treats the other rows as having a gradient of zero, and not as having none.

    Raises:
        TypeError: An argument is no array, or has a dtype that is not listed above.
        ValueError: ``indices`` has not one axis, or not as many entries as ``values`` has rows.

    Example:
        >>> import numpy as np, fastopt as fo
        >>> weight = np.ones((1000, 2), np.float32)
        >>> opt = fo.optim.SGD([weight], lr=0.5)
        >>> grad = fo.SparseRows(np.array([7, 3, 7]), np.array([[1, 0], [1, 1], [0, 1]], np.float32))
        >>> opt.step([grad]).step
        1
        >>> weight[[3, 7, 8]]
        array([[0.5, 0.5],
               [0.5, 0.5],
               [1. , 1. ]], dtype=float32)

    References:
        Lazy steps: torch.optim.SparseAdam; TensorFlow Addons' LazyAdam.
    """

    __slots__ = ("exact", "indices", "values")

    indices: Array
    """(n,): the rows."""
    values: Array
    """(n, ...): their values."""
    exact: bool
    """Whether a step treats other rows as having a gradient of zero."""

    def __init__(self, indices: Array, values: Array, *, exact: bool = False) -> None:
        for name, array in ("indices", indices), ("values", values):
            if not isinstance(array, np.ndarray):
                raise TypeError(f"SparseRows: {name} must be a numpy array, got {not_an_array(array)}")
            if isinstance(array, np.ma.MaskedArray):
                raise TypeError(
                    f"SparseRows: {name} is a masked array, whose mask would be ignored: pass {name}.filled(...)"
                )
        if indices.dtype.kind not in "iu" or not indices.dtype.isnative:
            way = "; the order of arguments is indices, values" if values.dtype.kind in "iu" else ""
            way = "; numpy.flatnonzero(indices) are the places of True" if indices.dtype == bool else way
            way = ", in the machine's own byte order" if not indices.dtype.isnative else way
            raise TypeError(f"SparseRows: indices has dtype {indices.dtype}, expected integers{way}")
        if values.dtype.name not in ("float32", "float64", "float16", "bfloat16") or not values.dtype.isnative:
            raise TypeError(
                f"SparseRows: values has dtype {values.dtype}, expected float32, float64, float16 or bfloat16"
                + ("" if values.dtype.isnative else " in the machine's own byte order")
            )
        if indices.ndim != 1:
            raise ValueError(f"SparseRows: indices has shape {indices.shape}, expected one axis; give indices.ravel()")
        if values.ndim == 0 or len(values) != len(indices):
            raise ValueError(
                f"SparseRows: values has shape {values.shape}, expected ({len(indices)}, ...), a row for each index"
            )
        self._set(indices, values, flag("SparseRows", "exact", exact))

    def _set(self, *contents: Any) -> None:
        for name, value in zip(("indices", "values", "exact"), contents, strict=True):
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"SparseRows: {name} cannot be set; make a new one")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"SparseRows: {name} cannot be removed")

    def coalesce(self) -> SparseRows:
        """The same gradient with every index once, in increasing order: int64 indices, and sums in the order of the values.

        Sums of 16-bit values are float32.

        Raises:
            ValueError: An index is negative.
        """
        rows, sums = kernels.coalesce("SparseRows.coalesce", self.indices, self.values)
        return SparseRows(rows, sums, exact=self.exact)

    def to_dense(self, rows: int) -> Array:
        """The same gradient as an array.

        Args:
            rows: The number of rows of the array: the parameter's.

        Returns:
            Sums of values, and zero in all other rows, in the dtype of the values; of 16-bit values in float32.

        Raises:
            TypeError: ``rows`` is not an integer.
            ValueError: An index is negative, or not below ``rows``.
        """
        rows = whole("SparseRows.to_dense", "rows", rows)
        indices, sums = kernels.coalesce("SparseRows.to_dense", self.indices, self.values)
        if len(indices) and indices[-1] >= rows:
            raise ValueError(f"SparseRows.to_dense: indices must be below rows, which is {rows}, got {indices[-1]}")
        dense = np.zeros((rows, *sums.shape[1:]), sums.dtype)
        dense[indices] = sums
        return dense

    def __repr__(self) -> str:
        exact = ", exact=True" if self.exact else ""
        return f"SparseRows({len(self.indices)} rows of shape {self.values.shape[1:]}, {self.values.dtype}{exact})"

    def __reduce__(self) -> Any:
        return _restored, (self.indices, self.values, self.exact)


def _restored(indices: Array, values: Array, exact: bool) -> SparseRows:
    return SparseRows(indices, values, exact=exact)


SparseRows.__module__ = "fastopt"  # pickles and documentation show the public path
