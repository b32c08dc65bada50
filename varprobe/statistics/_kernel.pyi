"""The compiled module; its source is in the folder ``kernel`` of the repository."""

FLOAT32: int
FLOAT64: int
BFLOAT16: int
FLOAT16: int

def measure(
    address: int, count: int, code: int, full: bool, /
) -> tuple[int, float, float, float, int, int, int | None, dict[int, int] | None]: ...
