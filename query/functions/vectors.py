"""Functions of vectors and records. Positions count from 1."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from query import limits, operators
from query.declarations import Call, Example, function
from query.errors import WrongArguments
from query.limits import over
from query.values import described, is_tensor, type_of


def _flat(vector: Iterable[Any]) -> Iterable[Any]:
    for part in vector:
        if type(part) is list:
            yield from _flat(part)
        else:
            yield part


class VectorFunctions:
    """Vectors hold values of any kind, also vectors."""

    @function("dim(Vector v) -> Integer", example=Example("dim([4,5])", shows="2"))
    @function("dim(Tensor v) -> Integer", example=Example("dim(tensor('float32', [4,5]))", shows="2"))
    def dim(self, call: Call, v: Any) -> int:
        """The number of elements; of a tensor, the length of its first dimension."""
        return len(v) if type(v) is list or v.ndim else 1

    @function("extract(Object v) -> Bag of Object", example=Example("count(extract([1,2]))", shows="2"))
    def extract(self, call: Call, v: Any) -> list[Any]:
        """The elements of a vector or tensor, one a row."""
        if type(v) is list:
            return v
        if is_tensor(v) and v.ndim:
            return list(v)
        raise WrongArguments(f"extract: expected a Vector or Tensor, found {described(v)}")

    @function("bag(Vector v) -> Bag of Object", example=Example("count(bag([1,2]))", shows="2"))
    def bag(self, call: Call, v: list[Any]) -> list[Any]:
        """The elements of a vector, one a row."""
        return v

    @function("concat(Vector a, Vector b) -> Vector", example=Example("concat([1],[2,3])", shows="[1,2,3]"))
    def concat(self, call: Call, a: list[Any], b: list[Any]) -> list[Any]:
        """The elements of two vectors, one after the other."""
        if len(a) + len(b) > limits.VALUE_ELEMENTS_MAX:
            raise over("a vector", limits.VALUE_ELEMENTS_MAX, len(a) + len(b), "elements")
        return a + b

    @function(
        "section(Vector v, Integer first, Integer last) -> Vector",
        example=Example("section([1,2,3,4], 2, 3)", shows="[2,3]"),
    )
    def section(self, call: Call, v: list[Any], first: int, last: int) -> list[Any]:
        """The elements from ``first`` to ``last``, both included."""
        if first < 1:
            raise WrongArguments(f"section: first: expected an Integer from 1, found {first}")
        return v[first - 1 : max(0, last)]

    @function("flatten(Vector v) -> Vector", example=Example("flatten([1,[2,[3]]])", shows="[1,2,3]"))
    def flatten(self, call: Call, v: list[Any]) -> list[Any]:
        """The elements of a vector and of the vectors in it, in one."""
        return list(_flat(v))

    @function("reverse(Vector v) -> Vector", example=Example("reverse([1,2])", shows="[2,1]"))
    def reverse(self, call: Call, v: list[Any]) -> list[Any]:
        """The elements from last to first."""
        return v[::-1]

    @function("zeros(Integer n) -> Vector of Integer", example=Example("zeros(3)", shows="[0,0,0]"))
    def zeros(self, call: Call, n: int) -> list[int]:
        """A vector of ``n`` zeros."""
        return [0] * _size("zeros", n)

    @function("ones(Integer n) -> Vector of Integer", example=Example("ones(2)", shows="[1,1]"))
    def ones(self, call: Call, n: int) -> list[int]:
        """A vector of ``n`` ones."""
        return [1] * _size("ones", n)

    @function("dot(Object a, Object b) -> Object", example=Example("dot([1,2],[3,4])", shows="11"))
    def dot(self, call: Call, a: Any, b: Any) -> Any:
        """The scalar product of two vectors; the matrix product of tensors."""
        if type(a) is list and type(b) is list and operators.rank(a) == operators.rank(b) == 1:
            if len(a) != len(b):
                raise WrongArguments(f"dot: expected vectors of one length, found {len(a)} and {len(b)} elements")
            total: Any = 0
            for one, other in zip(a, b, strict=True):
                total = operators.arithmetic("+", total, operators.arithmetic("*", one, other))
            return total
        from query.functions.tensors import matrix_product

        return matrix_product(a, b)

    @function("euclid(Vector a, Vector b) -> Real", example=Example("euclid([0,0],[3,4])", shows="5.0"))
    def euclid(self, call: Call, a: list[Any], b: list[Any]) -> Any:
        """The Euclidean distance of two vectors."""
        difference = operators.arithmetic("-", a, b)
        total = self.dot(call, difference, difference)
        return None if total is None else float(operators.arithmetic("^", total, 0.5))

    @function("keys(Record r) -> Vector of String", example=Example('keys({"a":1})', shows="['a']"))
    def keys(self, call: Call, r: dict[str, Any]) -> list[str]:
        """The keys of a record in their order."""
        return list(r)

    @function("type_of(Object value) -> String", example=Example("type_of([1,2])", shows='"Vector of Integer"'))
    def type_name(self, call: Call, value: Any) -> str:
        """The name of a value's type; Object for null."""
        return str(type_of(value))

    @function("coalesce(Object value, Object otherwise) -> Object", example=Example("coalesce(null, 3)", shows="3"))
    def coalesce(self, call: Call, value: Any, otherwise: Any) -> Any:
        """The value, or ``otherwise`` when it is null."""
        return otherwise if value is None else value


def _size(name: str, n: int) -> int:
    if not 0 <= n < limits.VALUE_ELEMENTS_MAX:
        raise WrongArguments(f"{name}: n: expected 0 to {limits.VALUE_ELEMENTS_MAX - 1}, found {n}")
    return n
