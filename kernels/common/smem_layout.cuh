#pragma once
// How a tile lies in shared memory, and the proof that reading it has no bank conflict.

#include "common/math.cuh"

namespace sm80moe {

inline constexpr int kChunkBytes = 16;  // what one cp.async moves and one ldmatrix row holds

// A [kRows, kCols] tile in shared memory, addressed in 16-byte chunks.
//
// ldmatrix reads one chunk from each of 8 consecutive rows. Rows that share a 128-byte bank line
// keep their chunk; the next line XORs its chunk index, so the 8 chunks land on 8 bank groups.
template <class T, int kRows_, int kCols_>
struct SwizzledTile {
  static constexpr int kRows = kRows_, kCols = kCols_;
  static constexpr int kRowBytes = kCols * static_cast<int>(sizeof(T));
  static constexpr int kChunksPerRow = kRowBytes / kChunkBytes;
  static constexpr int kElemsPerChunk = kChunkBytes / static_cast<int>(sizeof(T));
  static constexpr int kBytes = kRows * kRowBytes;

  static constexpr int kRowsPerLine = max_of(1, 128 / kRowBytes);
  static constexpr int kXorMask = min_of(8, kChunksPerRow) - 1;

  SM80MOE_HOST_DEVICE static constexpr int byte_offset(int row, int chunk) {
    return row * kRowBytes + (chunk ^ ((row / kRowsPerLine) & kXorMask)) * kChunkBytes;
  }

  // The offset of the same row `chunks` further on, without recomputing the swizzle: exact when
  // the chunk of `offset` and `chunks` have no bit in common.
  SM80MOE_HOST_DEVICE static constexpr int advance(int offset, int chunks) {
    return offset ^ (chunks * kChunkBytes);
  }

  static constexpr bool conflict_free() {
    for (int row0 = 0; row0 + 8 <= kRows; row0 += 8)
      for (int chunk = 0; chunk < kChunksPerRow; ++chunk) {
        unsigned groups = 0;
        for (int row = row0; row < row0 + 8; ++row)
          groups |= 1u << (byte_offset(row, chunk) / kChunkBytes % 8);
        if (groups != 0xffu) return false;
      }
    return true;
  }

  static constexpr bool advance_is_exact() {
    for (int row = 0; row < min_of(kRows, 16); ++row)
      for (int chunk = 0; chunk < kChunksPerRow; ++chunk)
        for (int chunks = 0; chunks < kChunksPerRow; ++chunks)
          if ((chunk & chunks) == 0 &&
              advance(byte_offset(row, chunk), chunks) != byte_offset(row, chunk + chunks))
            return false;
    return true;
  }

  static_assert(kRowBytes % 32 == 0 && is_power_of_two(kRowBytes),
                "a row must hold a power of two of chunk pairs");
};

static_assert(SwizzledTile<short, 16, 16>::conflict_free());   //  32-byte rows
static_assert(SwizzledTile<short, 16, 32>::conflict_free());   //  64-byte rows
static_assert(SwizzledTile<short, 16, 64>::conflict_free());   // 128-byte rows
static_assert(SwizzledTile<short, 16, 128>::conflict_free());  // 256-byte rows

}  // namespace sm80moe
