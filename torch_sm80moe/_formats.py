"""What packed weights hold, written once, by the number that operators take: its place here.

The build generates the rules of the kernels' side from these tables. This file imports nothing, so
that a build can read it without torch.
"""

# The last is int8 that meets int8.
WEIGHT_FORMATS = ("int8", "int4", "fp8", "mxfp4", "w8a8")
WEIGHT_BITS = {"int8": 8, "int4": 4, "fp8": 8, "mxfp4": 4, "w8a8": 8}
# Weights of a row that may share a scale; 0 for all.
GROUP_SIZES = {
    "int8": (0, 32, 64, 128),
    "int4": (0, 32, 64, 128),
    "fp8": (0, 128),
    "mxfp4": (32,),
    "w8a8": (0,),
}


def group_sizes_in_words(weight_format: str) -> str:
    """Return what an error says, such as "0, 32, 64 or 128"."""
    *others, last = map(str, GROUP_SIZES[weight_format])
    return f"{', '.join(others)} or {last}" if others else last
