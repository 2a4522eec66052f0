"""What is promised about the binary, as compiler flags; nothing of this machine is known here."""

# Compute capabilities that get machine code; sm_80's runs on 8.9 too, the PTX on everything newer.
ARCHITECTURES = ("80", "86", "90")
PTX_ARCHITECTURE = "80"

# The oldest torch whose stable ABI the library asks for: 2.10.
TORCH_TARGET_VERSION = "0x020a000000000000"
MINIMUM_TORCH = (2, 10)

_HOST = ("-O3", "-DNDEBUG", "-fPIC", "-fvisibility=hidden", "-fvisibility-inlines-hidden")
_WARNINGS = ("-Wall", "-Wextra")

CXX_FLAGS = (
    "-std=c++17",
    *_HOST,
    *_WARNINGS,
    f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}",
)

NVCC_FLAGS = (
    "-std=c++17",
    "-O3",
    "-DNDEBUG",
    "--expt-relaxed-constexpr",
    "-Xfatbin",
    "-compress-all",
    # Temporary files named after the object: a process number would end up in the symbol table.
    "--objdir-as-tempdir",
    # The log of -v is what check_resources reads.
    "-Xptxas",
    "-v,--warn-on-spills",
    "-Xcompiler",
    ",".join((*_HOST, "-Wall")),
)

LINK_FLAGS = (
    "-shared",
    "-Wl,-O1",
    "-Wl,--gc-sections",
    "-Wl,--version-script=build_tools/exports.map",
    # Torch's symbols come from whichever libtorch.so the process has loaded: the stub has none, and
    # the entry in DT_NEEDED must stay although nothing resolves to it.
    "-Wl,--no-as-needed",
    "-ltorch",
    "-Wl,--as-needed",
    "-l:libcudart_static.a",
    "-ldl",
    "-lrt",
    "-lpthread",
)


def gencode(architectures: tuple[str, ...]) -> tuple[str, ...]:
    """One pass of the front end (compute_80), then one assembler run an architecture, then PTX."""
    virtual = f"arch=compute_{PTX_ARCHITECTURE}"
    targets = [f"{virtual},code=sm_{arch}" for arch in architectures]
    targets.append(f"{virtual},code=compute_{PTX_ARCHITECTURE}")
    return tuple(part for target in targets for part in ("-gencode", target))
