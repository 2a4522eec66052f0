"""Each wrong kernel of selftest.cu: the check that must end it, and words of its report."""

MISTAKES = {
    "read_past_the_end": ("out-of-bounds", "byte 256 of in (256 bytes)"),
    "blocks_overlap": ("race", "byte 0 of out"),
    "warps_overlap": ("race", "thread 32 (warp 1, lane 0)"),
    "write_after_read": ("race", "smem"),
    "thread_waits_forever": ("deadlock", "waits for __syncwarp at tests/host/selftest/selftest.cu"),
    "barriers_differ": ("divergence", "__syncthreads at tests/host/selftest/selftest.cu"),
    "read_before_write": ("uninitialised", "byte 4 of smem"),
    "write_past_shared": ("shared-out-of-bounds", "byte 252 of dynamic shared memory (252 bytes)"),
    "misaligned_copy": ("misaligned", "must be a multiple of 16"),
    "misaligned_vector": ("undefined-behaviour", "misaligned address"),
    "copy_never_awaited": ("unfinished-copy", ""),
    "read_in_flight": ("in-flight", "a copy issued by thread 0"),
    "barrier_before_wait": ("race|in-flight", "by thread 0 (warp 0, lane 0)"),
    "shift_too_far": ("undefined-behaviour", "exponent 32 is too large"),
    "index_past_a_local_array": ("undefined-behaviour", "ndex 4 out of bounds"),
}
