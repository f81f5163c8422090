"""Functions of tensors: numpy's, with bounds. Vectors of numbers are taken as tensors. Positions count from 1."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from query import limits
from query.declarations import Call, Example, function
from query.errors import WrongArguments
from query.limits import over
from query.values import is_tensor


def matrix_product(a: Any, b: Any) -> Any:
    """numpy's ``matmul``, bounded. Raises WrongArguments when the shapes do not fit."""
    import numpy as np

    from query.tensors import as_array

    one, other = as_array(a), as_array(b)
    work = one.size * (other.shape[-1] if other.ndim > 1 else 1)
    if work > limits.MATRIX_WORK_MAX:
        raise over("a matrix product", limits.MATRIX_WORK_MAX, work, "multiplications")
    try:
        with np.errstate(all="ignore"):
            return np.asarray(one @ other)
    except ValueError:
        raise WrongArguments(f"dot: the shapes {list(one.shape)} and {list(other.shape)} do not fit together") from None


def _array(x: Any) -> Any:
    from query.tensors import as_array

    return as_array(x)


def _axis(name: str, x: Any, axis: int | None) -> int | None:
    if axis is None:
        return None
    if not 1 <= axis <= x.ndim:
        raise WrongArguments(f"{name}: axis: expected 1 to {x.ndim}, found {axis}")
    return axis - 1


def _reduced(name: str, operation: Callable[..., Any], x: Any, axis: int | None) -> Any:
    array = _array(x)
    if array.size == 0:
        return None
    found = operation(array, axis=_axis(name, array, axis))
    return found if is_tensor(found) and found.ndim else found.item()


class TensorFunctions:
    """Axes count from 1; without an axis, all elements are taken together."""

    @function(
        "tensor(String type, Object data) -> Tensor", example="tensor('float32', [[1,2],[3,4]])", aliases=("array",)
    )
    def tensor(self, call: Call, type: str, data: Any) -> Any:  # noqa: A002 — the parameter's name in the language
        """A tensor of a type (float32, int64, uint8, bool, …) from a number or nested vectors of one shape."""
        from query.tensors import tensor

        return tensor(type, data)

    @function("shape(Object x) -> Vector of Integer", example=Example("shape([[1,2,3],[4,5,6]])", shows="[2,3]"))
    def shape(self, call: Call, x: Any) -> list[int]:
        """The lengths of a tensor's dimensions."""
        return list(_array(x).shape)

    @function("dtype(Tensor x) -> String", example=Example("dtype(tensor('f4', [1]))", shows='"float32"'))
    def dtype(self, call: Call, x: Any) -> str:
        """The type of a tensor's elements."""
        return str(x.dtype.name)

    @function(
        "reshape(Object x, Vector of Integer shape) -> Tensor",
        example=Example("shape(reshape([1,2,3,4], [2,2]))", shows="[2,2]"),
    )
    def reshape(self, call: Call, x: Any, shape: list[int]) -> Any:
        """The same elements in another shape; one dimension may be -1 and follows from the others."""
        from query.tensors import reshape

        return reshape(x, shape)

    @function("transpose(Object x) -> Tensor", example=Example("shape(transpose([[1,2,3]]))", shows="[3,1]"))
    def transpose(self, call: Call, x: Any) -> Any:
        """The dimensions in reverse order."""
        return _array(x).T

    @function("vector(Object x) -> Vector", example=Example("vector(tensor('int64', [1,2]))", shows="[1,2]"))
    def vector(self, call: Call, x: Any) -> list[Any]:
        """A tensor's elements as nested vectors; a number as a vector of one."""
        found = _array(x).tolist()
        return found if isinstance(found, list) else [found]

    @function("argmax(Object x, Integer axis?) -> Object", example=Example("argmax([0.1,0.7,0.2])", shows="2"))
    def argmax(self, call: Call, x: Any, axis: int | None = None) -> Any:
        """The position of the greatest element, from 1; along an axis, a tensor of positions. The first of equals."""
        import numpy as np

        found = _reduced("argmax", np.argmax, x, axis)
        return None if found is None else found + 1

    @function("argmin(Object x, Integer axis?) -> Object", example=Example("argmin([0.1,0.7,0.2])", shows="1"))
    def argmin(self, call: Call, x: Any, axis: int | None = None) -> Any:
        """The position of the least element, from 1; along an axis, a tensor of positions. The first of equals."""
        import numpy as np

        found = _reduced("argmin", np.argmin, x, axis)
        return None if found is None else found + 1

    @function("tensor_sum(Object x, Integer axis?) -> Object", example=Example("tensor_sum([[1,2],[3,4]])", shows="10"))
    def tensor_sum(self, call: Call, x: Any, axis: int | None = None) -> Any:
        """The sum of all elements, or along an axis."""
        import numpy as np

        return _reduced("tensor_sum", np.sum, x, axis)

    @function(
        "tensor_mean(Object x, Integer axis?) -> Object", example=Example("tensor_mean([[1,2],[3,4]])", shows="2.5")
    )
    def tensor_mean(self, call: Call, x: Any, axis: int | None = None) -> Any:
        """The mean of all elements, or along an axis."""
        import numpy as np

        return _reduced("tensor_mean", np.mean, x, axis)

    @function("tensor_max(Object x, Integer axis?) -> Object", example=Example("tensor_max([[1,2],[3,4]])", shows="4"))
    def tensor_max(self, call: Call, x: Any, axis: int | None = None) -> Any:
        """The greatest of all elements, or along an axis."""
        import numpy as np

        return _reduced("tensor_max", np.max, x, axis)

    @function("softmax(Object x) -> Tensor", example="softmax([1.0, 2.0])")
    def softmax(self, call: Call, x: Any) -> Any:
        """exp(x) divided by its sum along the last axis, computed without overflow."""
        import numpy as np

        array = _array(x)
        if array.ndim == 0:
            raise WrongArguments("softmax: expected a vector or tensor, found a number")
        if array.dtype.kind != "f":
            array = array.astype("float64")
        if array.size == 0:
            return array
        with np.errstate(all="ignore"):
            raised = np.exp(array - array.max(axis=-1, keepdims=True))
            return raised / raised.sum(axis=-1, keepdims=True)

    @function(
        "tensor_zeros(String type, Vector of Integer shape) -> Tensor",
        example=Example("shape(tensor_zeros('f4', [2,3]))", shows="[2,3]"),
    )
    def tensor_zeros(self, call: Call, type: str, shape: list[int]) -> Any:  # noqa: A002 — the parameter's name in the language
        """A tensor of zeros."""
        import numpy as np

        from query.tensors import dtype_named

        wanted = dtype_named(type)
        if not all(size >= 0 for size in shape) or len(shape) > limits.TENSOR_RANK_MAX:
            raise WrongArguments(f"tensor_zeros: shape: expected up to {limits.TENSOR_RANK_MAX} numbers from 0")
        size = math.prod(shape) * wanted.itemsize
        if size > limits.TENSOR_BYTES_MAX:
            raise over("a tensor", limits.TENSOR_BYTES_MAX, size, "bytes")
        return np.zeros(shape, dtype=wanted)
