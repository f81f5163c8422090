"""How many values differ, and quantiles, approximately: sketches of a few kilobytes, whatever they have seen.

    approx_count_distinct   HyperLogLog of 4096 registers of a byte: 1.6 % standard error, exact for a few values
    approx_quantile         KLL with k = 200: ranks to within 1.3 %, exact for less than 200 values

Apache DataSketches counts; a sketch travels as its bytes in base64. Rules: its reader trusts what it reads, and a byte
that is off ends the process, so every length, offset and order in foreign bytes is checked here first. Values are equal
as everywhere in the language: 1 and 1.0 are one value. Loads the library at the first use.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from query.errors import WrongArguments
from query.partials import BadPartial, numbers, present
from query.text_form import to_text
from query.values import described

if TYPE_CHECKING:
    from datasketches import hll_sketch, kll_doubles_sketch

SKETCH_BYTES_MAX: Final = 32 * 1024
REGISTERS_LOG2: Final = 12
QUANTILES_K: Final = 200
LEVELS_MAX: Final = 48  # of a KLL sketch: 2^48 values and more
SMALLEST_LEVEL: Final = 8

_LIST, _SET, _HLL = 0, 1, 2
_BYTE_REGISTERS: Final = 2  # the library's number for registers of 8 bits
_EMPTY, _COMPACT, _OUT_OF_ORDER = 4, 8, 16
_SORTED, _SINGLE = 2, 4


def _bytes(wire: Any, what: str) -> bytes:
    if type(wire) is not str or len(wire) > SKETCH_BYTES_MAX * 4 // 3 + 4:
        raise BadPartial(f"a part of {what}: expected a sketch, found {type(wire).__name__}")
    try:
        return base64.b64decode(wire, validate=True)
    except (binascii.Error, ValueError):
        raise BadPartial(f"a part of {what}: the sketch is not base64") from None


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


# --- distinct values ------------------------------------------------------------------------------------------------


def _canonical(value: Any) -> Any:
    """A value as the one of its equals that stands for all of them."""
    kind = type(value)
    if kind is float and value.is_integer():
        return int(value)
    if kind is list:
        return [_canonical(part) for part in value]
    if kind is dict:
        return {key: _canonical(value[key]) for key in sorted(value)}
    return value


def distinct_sketch(values: list[Any]) -> hll_sketch:
    import datasketches

    made = datasketches.hll_sketch(REGISTERS_LOG2, datasketches.HLL_8)
    for value in present(values):
        made.update(to_text(_canonical(value)))
    return made


def distinct_state(values: list[Any]) -> str:
    return write_distinct(distinct_sketch(values))


def write_distinct(part: hll_sketch) -> str:
    return _text(part.serialize_compact())


def read_distinct(wire: Any) -> hll_sketch:
    import datasketches

    content = _bytes(wire, "approx_count_distinct")
    if not _is_distinct(content):
        raise BadPartial("a part of approx_count_distinct: the bytes are no sketch of this kind")
    try:
        return datasketches.hll_sketch.deserialize(content)
    except (ValueError, RuntimeError, IndexError) as error:
        raise BadPartial(f"a part of approx_count_distinct: {error}") from None


def merge_distinct(one: hll_sketch, other: hll_sketch) -> hll_sketch:
    import datasketches

    union = datasketches.hll_union(REGISTERS_LOG2)
    union.update(one)
    union.update(other)
    return union.get_result(datasketches.HLL_8)


def distinct_count(part: hll_sketch) -> int:
    return round(float(part.get_estimate()))


def _is_distinct(content: bytes) -> bool:
    """Whether bytes are a compact HyperLogLog sketch of the one size and kind that is used here.

    Format: HllSketchImplFactory, CouponList, CouponHashSet and HllArray of datasketches-cpp 5.
    """
    if len(content) < 8:
        return False
    integers, version, family, log2, log2_array, flags, count, mode = content[:8]
    kind = mode >> 2 & 3
    mode &= 3
    if (version, family, log2, kind) != (1, 7, REGISTERS_LOG2, _BYTE_REGISTERS) or content[7] > 15:
        return False
    if flags & ~(_EMPTY | _COMPACT | _OUT_OF_ORDER) or not flags & _COMPACT:
        return False
    if mode == _LIST:
        empty = bool(flags & _EMPTY)
        fits = (integers, log2_array) == (2, 3) and count < 8 and empty == (count == 0)
        return fits and len(content) == 8 + 4 * count and _are_coupons(content[8:])
    if mode == _SET:
        if len(content) < 12 or integers != 3 or flags & _EMPTY or not 5 <= log2_array <= REGISTERS_LOG2 - 3:
            return False
        (number,) = struct.unpack_from("<I", content, 8)
        fits = 8 <= number <= (3 << log2_array) // 4 and len(content) == 12 + 4 * number
        return fits and _are_coupons(content[12:])
    return mode == _HLL and integers == 10 and not flags & _EMPTY and count == 0 and _are_registers(content)


def _are_coupons(content: bytes) -> bool:
    coupons = struct.unpack(f"<{len(content) // 4}I", content)
    return len(set(coupons)) == len(coupons) and all(1 <= coupon >> 26 <= 62 for coupon in coupons)


def _are_registers(content: bytes) -> bool:
    registers = content[40:]
    if len(registers) != 1 << REGISTERS_LOG2 or max(registers) > 62:
        return False
    total, low, high, unset, exceptions = struct.unpack_from("<dddII", content, 8)
    finite = all(map(math.isfinite, (total, low, high)))
    return (
        finite and total >= 0 and 0 <= low <= 4096 and 0 <= high < 1 and (unset, exceptions) == (registers.count(0), 0)
    )


# --- quantiles ------------------------------------------------------------------------------------------------------


def quantile_sketch(values: list[Any]) -> kll_doubles_sketch:
    import datasketches

    made = datasketches.kll_doubles_sketch(QUANTILES_K)
    for number in numbers("approx_quantile", values):
        try:
            made.update(float(number))
        except OverflowError:
            made.update(math.copysign(math.inf, number))
    return made


def checked_rank(q: Any) -> float:
    if type(q) not in (int, float) or not 0 <= q <= 1:
        raise WrongArguments(f"approx_quantile: q: expected a Number from 0 to 1, found {described(q)}")
    return float(q)


def quantile_state(values: list[Any], q: Any) -> str:
    checked_rank(q)
    return write_quantiles(quantile_sketch(values))


def write_quantiles(part: kll_doubles_sketch) -> str:
    return _text(part.serialize())


def read_quantiles(wire: Any) -> kll_doubles_sketch:
    import datasketches

    content = _bytes(wire, "approx_quantile")
    if not _is_quantiles(content):
        raise BadPartial("a part of approx_quantile: the bytes are no sketch of this kind")
    try:
        return datasketches.kll_doubles_sketch.deserialize(content)
    except (ValueError, RuntimeError, IndexError) as error:
        raise BadPartial(f"a part of approx_quantile: {error}") from None


def merge_quantiles(one: kll_doubles_sketch, other: kll_doubles_sketch) -> kll_doubles_sketch:
    import datasketches

    made = datasketches.kll_doubles_sketch(QUANTILES_K)
    made.merge(one)
    made.merge(other)
    return made


def quantile(part: kll_doubles_sketch, q: Any) -> float | None:
    rank = checked_rank(q)
    return None if part.is_empty() else float(part.get_quantile(rank, inclusive=True))


def _is_quantiles(content: bytes) -> bool:
    """Whether bytes are a KLL sketch of doubles as it is made here. Format: kll_sketch of datasketches-cpp 5."""
    if len(content) < 8:
        return False
    integers, version, family, flags, k, smallest, unused = struct.unpack_from("<BBBBHBB", content)
    if (family, k, smallest, unused) != (15, QUANTILES_K, SMALLEST_LEVEL, 0):
        return False
    if flags & 1:
        return (integers, version) == (2, 1) and flags & ~_SORTED == 1 and len(content) == 8
    if flags & _SINGLE:
        fits = (integers, version) == (2, 2) and flags & ~_SORTED == _SINGLE and len(content) == 16
        return fits and not math.isnan(struct.unpack_from("<d", content, 8)[0])
    if (integers, version) != (5, 1) or flags & ~_SORTED or len(content) < 20:
        return False
    count, least_k, levels, also_unused = struct.unpack_from("<QHBB", content, 8)
    if not 1 <= levels <= LEVELS_MAX or not SMALLEST_LEVEL <= least_k <= QUANTILES_K or also_unused:
        return False
    if len(content) < 20 + 4 * levels + 16:
        return False
    ends = (*struct.unpack_from(f"<{levels}I", content, 20), _capacity(levels))
    kept = ends[-1] - ends[0]
    start = 20 + 4 * levels
    if any(low > high for low, high in pairwise(ends)) or len(content) != start + 16 + 8 * kept:
        return False
    least, greatest, *items = struct.unpack_from(f"<{kept + 2}d", content, start)
    sizes = [high - low for low, high in pairwise(ends)]
    if sum(size << level for level, size in enumerate(sizes)) != count:
        return False
    return all(least <= item <= greatest for item in items) and _in_order(items, sizes, first=bool(flags & _SORTED))


def _in_order(items: list[float], sizes: list[int], *, first: bool) -> bool:
    """Whether each level is sorted, the lowest only where it says so."""
    start = 0
    for level, size in enumerate(sizes):
        part = items[start : start + size]
        if (level or first) and any(one > other for one, other in pairwise(part)):
            return False
        start += size
    return True


def _capacity(levels: int) -> int:
    """The items of a sketch of so many levels: ``kll_helper::compute_total_capacity``."""

    def of_depth(depth: int) -> int:
        if depth > 30:
            half = depth // 2
            return _at_depth(_at_depth(QUANTILES_K, half), depth - half)
        return _at_depth(QUANTILES_K, depth)

    return sum(max(SMALLEST_LEVEL, of_depth(levels - height - 1)) for height in range(levels))


def _at_depth(k: int, depth: int) -> int:
    return int((((k << 1) << depth) // 3**depth + 1) >> 1)
