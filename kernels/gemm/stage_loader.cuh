#pragma once
// The producer side of the cp.async ring: which bytes of global memory the next stage holds.

#include "common/ptx.cuh"
#include "common/smem_layout.cuh"
#include "gemm/problem.h"
#include "gemm/tile_config.cuh"
#include "gemm/tile_scheduler.cuh"

namespace sm80moe::gemm {

// How kThreads threads share the 16-byte chunks of a tile: each keeps one chunk column and takes
// every kRowsPerPass-th row.
template <class Tile, int kThreads>
struct TileCopy {
  static constexpr int kRowsPerPass = kThreads / Tile::kChunksPerRow;
  static constexpr int kPasses = ceil_div(Tile::kRows, kRowsPerPass);
  static_assert(kThreads % Tile::kChunksPerRow == 0);

  SM80MOE_DEVICE static int thread_row() { return threadIdx.x / Tile::kChunksPerRow; }
  SM80MOE_DEVICE static int thread_chunk() { return threadIdx.x % Tile::kChunksPerRow; }
  SM80MOE_DEVICE static bool owns_pass(int pass) {
    return Tile::kRows % kRowsPerPass == 0 || thread_row() + pass * kRowsPerPass < Tile::kRows;
  }
};

// Walks the (tile, k tile) pairs of this CTA ahead of the consumer, across tile boundaries, so that
// the ring never drains between two tiles. Source addresses are worked out once a tile and kept as
// 32-bit chunk counts.
template <class Config, class T, class Weight, class Epilogue>
class StageLoader {
 public:
  using ATile = SwizzledTile<T, Config::kCtaM, Config::kCtaK>;
  using WTile = SwizzledTile<typename Weight::Stored, Config::kCtaN, Config::kCtaK>;
  using Columns = typename Epilogue::template Columns<Config::kWarpN>;
  using Scheduler = ExpertTileScheduler<Config>;

  static constexpr int kStageBytes = ATile::kBytes + WTile::kBytes;
  static constexpr int kRingBytes = kStageBytes * Config::kStages;
  static constexpr int kColumnsPerTile = Config::kCtaN / Epilogue::kWeightRowsPerColumn;

  SM80MOE_DEVICE StageLoader(const GroupedGemmArgs& args, const Scheduler& scheduler, uint32_t ring)
      : args_(args), scheduler_(scheduler), ring_(ring), tile_index_(blockIdx.x) {
    enter_tile();
  }

  // True while stages remain to be issued.
  SM80MOE_DEVICE bool has_stage() const { return has_tile_; }

  // Issues part `part` of kParts of the current stage's copies.
  template <int kParts>
  SM80MOE_DEVICE void issue(int part) const {
    if (!has_tile_) return;
    const uint32_t a_smem = ring_ + slot_ * kStageBytes;
    const uint32_t w_smem = a_smem + ATile::kBytes;
    const bool k_valid =
        (k_tile_ * ATile::kChunksPerRow + ACopy::thread_chunk()) * ATile::kElemsPerChunk < args_.k;
    const uint32_t k_chunk = k_tile_ * ATile::kChunksPerRow;
#pragma unroll
    for (int copy = 0; copy < kCopies; ++copy) {
      if (copy * kParts / kCopies != part) continue;
      if (copy < ACopy::kPasses) {
        copy_a(a_smem, copy, k_chunk, k_valid);
      } else {
        copy_w(w_smem, copy - ACopy::kPasses, k_chunk, k_valid);
      }
    }
  }

  // Moves to the next stage; the slot it will land in is the next of the ring.
  SM80MOE_DEVICE void advance() {
    if (!has_tile_) return;
    slot_ = slot_ + 1 == Config::kStages ? 0 : slot_ + 1;
    if (++k_tile_ * Config::kCtaK < args_.k) return;
    tile_index_ += gridDim.x;
    enter_tile();
  }

 private:
  using ACopy = TileCopy<ATile, Config::kThreads>;
  using WCopy = TileCopy<WTile, Config::kThreads>;
  static constexpr int kCopies = ACopy::kPasses + WCopy::kPasses;
  static_assert(ACopy::kPasses <= 32 && WCopy::kPasses <= 32, "one validity bit a pass");
  static_assert(WTile::conflict_free() && WTile::advance_is_exact());
  static_assert(ATile::conflict_free() && ATile::advance_is_exact());
  static_assert(additive_for_step<Columns, Config::kCtaN>(WCopy::kRowsPerPass));

  SM80MOE_DEVICE void enter_tile() {
    ExpertTile tile;
    has_tile_ = scheduler_.tile_at(tile_index_, tile);
    if (!has_tile_) return;
    k_tile_ = 0;
    find_a_rows(tile);
    find_w_rows(tile);
  }

  SM80MOE_DEVICE void find_a_rows(const ExpertTile& tile) {
    a_valid_ = 0;
#pragma unroll
    for (int pass = 0; pass < ACopy::kPasses; ++pass) {
      const int m = tile.m_begin + ACopy::thread_row() + pass * ACopy::kRowsPerPass;
      a_chunk_[pass] = ACopy::thread_chunk();
      if (m >= tile.m_end) continue;
      const int source = args_.row_index ? args_.row_index[m] / args_.top_k : m;
      // An index that the caller got wrong reads as a row of zeros.
      if (source < 0 || source >= args_.num_source_rows) continue;
      a_chunk_[pass] += source * static_cast<uint32_t>(args_.a_row_stride / ATile::kElemsPerChunk);
      a_valid_ |= 1u << pass;
    }
  }

  SM80MOE_DEVICE void find_w_rows(const ExpertTile& tile) {
    const int out_n = args_.n / Epilogue::kWeightRowsPerColumn;
    const int col0 = tile.tile_n * kColumnsPerTile;
    w_expert_ =
        static_cast<const char*>(args_.w) +
        tile.expert * args_.w_expert_stride * static_cast<int64_t>(sizeof(typename Weight::Stored));
    w_chunk_ = source_row(WCopy::thread_row(), col0) * w_row_chunks() + WCopy::thread_chunk();
    w_valid_ = 0;
#pragma unroll
    for (int pass = 0; pass < WCopy::kPasses; ++pass) {
      const int row = WCopy::thread_row() + pass * WCopy::kRowsPerPass;
      if (col0 + Columns::output_column(row) < out_n) w_valid_ |= 1u << pass;
    }
  }

  // The row of W that lies in `tile_row` of a tile whose first output column is col0.
  SM80MOE_DEVICE uint32_t source_row(int tile_row, int col0) const {
    return col0 + Columns::output_column(tile_row) + (Columns::is_up(tile_row) ? args_.n / 2 : 0);
  }
  SM80MOE_DEVICE uint32_t w_row_chunks() const {
    return static_cast<uint32_t>(args_.w_row_stride / WTile::kElemsPerChunk);
  }

  SM80MOE_DEVICE void copy_a(uint32_t smem, int pass, uint32_t k_chunk, bool k_valid) const {
    if (!ACopy::owns_pass(pass)) return;
    const int row = ACopy::thread_row() + pass * ACopy::kRowsPerPass;
    const bool valid = k_valid && (a_valid_ >> pass & 1);
    const uint32_t chunk = valid ? a_chunk_[pass] + k_chunk : 0;
    ptx::cp_async_16(smem + ATile::byte_offset(row, ACopy::thread_chunk()),
                     static_cast<const char*>(args_.a) + static_cast<int64_t>(chunk) * kChunkBytes,
                     valid);
  }

  SM80MOE_DEVICE void copy_w(uint32_t smem, int pass, uint32_t k_chunk, bool k_valid) const {
    if (!WCopy::owns_pass(pass)) return;
    const int row = WCopy::thread_row() + pass * WCopy::kRowsPerPass;
    const bool valid = k_valid && (w_valid_ >> pass & 1);
    const uint32_t rows_on = source_row(pass * WCopy::kRowsPerPass, 0);
    const uint32_t chunk = valid ? w_chunk_ + rows_on * w_row_chunks() + k_chunk : 0;
    ptx::cp_async_16(smem + WTile::byte_offset(row, WCopy::thread_chunk()),
                     w_expert_ + static_cast<int64_t>(chunk) * kChunkBytes, valid);
  }

  const GroupedGemmArgs& args_;
  const Scheduler& scheduler_;
  const uint32_t ring_;

  int tile_index_;
  int k_tile_ = 0;
  int slot_ = 0;
  bool has_tile_;

  uint32_t a_chunk_[ACopy::kPasses];
  uint32_t a_valid_;  // one bit a pass
  const char* w_expert_;
  uint32_t w_chunk_;
  uint32_t w_valid_;
};

}  // namespace sm80moe::gemm
