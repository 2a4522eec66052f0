#pragma once
// The producer side of the cp.async ring: which bytes of global memory the next stage holds.

#include <climits>
#include <type_traits>

#include "common/ptx.cuh"
#include "common/smem_layout.cuh"
#include "gemm/column_order.cuh"
#include "gemm/problem.h"
#include "gemm/tile_config.cuh"
#include "gemm/tile_queue.cuh"
#include "gemm/weight_groups.cuh"

namespace sm80moe::gemm {

// How kThreads threads share the 16-byte chunks of a tile: each keeps one chunk column and takes
// every kRowsPerPass-th row.
template <class Tile, int kThreads>
struct TileCopy {
  static constexpr int kRowsPerPass = kThreads / Tile::kChunksPerRow;
  static constexpr int kPasses = ceil_div(Tile::kRows, kRowsPerPass);
  static_assert(kThreads % Tile::kChunksPerRow == 0);

  SM80MOE_DEVICE static int thread_row(unsigned thread = threadIdx.x) {
    return thread / Tile::kChunksPerRow;
  }
  SM80MOE_DEVICE static int thread_chunk(unsigned thread = threadIdx.x) {
    return thread % Tile::kChunksPerRow;
  }
  SM80MOE_DEVICE static bool owns_pass(int pass) {
    const bool whole = (pass + 1) * kRowsPerPass <= Tile::kRows;  // known to the compiler
    return whole || thread_row() + pass * kRowsPerPass < Tile::kRows;
  }

  // Where the thread's chunk of `pass` goes, given where that of pass 0 goes: passes that are whole
  // swizzle periods apart differ by a constant.
  static constexpr int kSwizzlePeriod = 8 * Tile::kRowsPerLine;
  SM80MOE_DEVICE static uint32_t destination(uint32_t first, int pass) {
    const int rows = pass * kRowsPerPass;
    if (kRowsPerPass % kSwizzlePeriod == 0) return first + rows * Tile::kRowBytes;
    return first - Tile::byte_offset(thread_row(), thread_chunk()) +
           Tile::byte_offset(thread_row() + rows, thread_chunk());
  }
};

// Walks the (tile, k tile) pairs of this CTA ahead of the consumer, across tile boundaries, so that
// the ring never drains between two tiles. What can be worked out once a tile is: in the loop a
// copy costs one address, one predicate and the copy itself.
template <class Config, class T, class Weight, class Epilogue>
class StageLoader {
 public:
  using ATile = SwizzledTile<T, Config::kCtaM, Config::kCtaK>;
  using WTile = SwizzledTile<uint8_t, Config::kCtaN, Config::kCtaK * Weight::kBits / 8>;
  using Columns = typename Epilogue::template Columns<Config::kWarpN>;  // of a warp's tile rows

  static constexpr int kCopies = TileCopy<ATile, Config::kThreads>::kPasses +
                                 TileCopy<WTile, Config::kThreads>::kPasses;  // a thread, a stage
  static constexpr int kGroupsOffset = ATile::kBytes + WTile::kBytes;         // in a stage
  static constexpr int kStageBytes = kGroupsOffset + GroupTile<Config, Weight>::kBytes;
  static constexpr int kRingBytes = kStageBytes * Config::kStages;

  SM80MOE_DEVICE StageLoader(const GroupedGemmArgs& args, TileQueue<Config>& tiles, uint32_t ring)
      : args_(args),
        tiles_(tiles),
        ring_(ring),
        stage_(ring),
        a_thread_(ATile::byte_offset(ACopy::thread_row(), ACopy::thread_chunk())),
        w_thread_(ATile::kBytes + WTile::byte_offset(WCopy::thread_row(), WCopy::thread_chunk())) {
    enter_tile();
  }

  // Of each tile. With packed weights a shift, since unsigned, that ptxas does not keep in
  // registers; to the tallest tiles of 16 bits it leaves fewer of them.
  SM80MOE_DEVICE static int num_k_tiles(const GroupedGemmArgs& args) {
    using Number = std::conditional_t<Weight::kIsPacked, uint32_t, int>;
    return ceil_div<Number>(args.k, Config::kCtaK);
  }

  // Issues part `part` of kParts of the current stage's copies; zeros when no stage remains.
  // Without kIsFine the caller knows that stages hold one group at most.
  template <int kParts, bool kIsFine>
  SM80MOE_DEVICE void issue(int part) const {
    if (part == 0)
      groups_.template issue<kIsFine>(args_.packed, stage_ + kGroupsOffset, depth(), args_.k);
#pragma unroll
    for (int copy = 0; copy < kCopies; ++copy) {
      if (copy * kParts / kCopies != part) continue;
      if (copy < ACopy::kPasses)
        copy_a(copy);
      else
        copy_w(copy - ACopy::kPasses);
    }
  }

  // Moves to the next stage and the next slot of the ring.
  SM80MOE_DEVICE void advance() {
    stage_ = next_stage(ring_, stage_);
    if (kWithStage && k_tiles_left_ <= 0) return;
    if (--k_tiles_left_ == 0 && kWithStage) {
      enter_tile();
    } else {
      a_source_ += ATile::kRowBytes;
      w_source_ += WTile::kRowBytes;
      if (kAlternates) w_up_source_ += WTile::kRowBytes;
      if (kWithStage) drop_chunks_past_k();
    }
  }

  // Without kWithStage turn() is due after so many stages: it prepares for a tile's last stage, or
  // enters the next tile.
  static constexpr int kNoTurn = INT_MAX / 2;
  SM80MOE_DEVICE int stages_before_turn() const {
    if (k_tiles_left_ > 1) return k_tiles_left_ - 1;
    return k_tiles_left_ == 1 ? 1 : kNoTurn;
  }
  SM80MOE_DEVICE void turn() {
    if (k_tiles_left_ == 0)
      enter_tile();
    else
      drop_chunks_past_k();
  }

  SM80MOE_DEVICE static uint32_t next_stage(uint32_t ring, uint32_t stage) {
    return stage == ring + kRingBytes - kStageBytes ? ring : stage + kStageBytes;
  }

 private:
  using ACopy = TileCopy<ATile, Config::kThreads>;
  using WCopy = TileCopy<WTile, Config::kThreads>;
  static constexpr bool kWithStage = Weight::turns(Config::kTactic) == Turns::kWithStage;
  static_assert(kCopies <= 32, "one validity bit a copy");
  static constexpr int kWeightsPerChunk = kChunkBytes * 8 / Weight::kBits;
  static constexpr uint32_t kACopies = (1u << ACopy::kPasses) - 1;
  static_assert(WTile::conflict_free() && WTile::advance_is_exact());
  static_assert(ATile::conflict_free() && ATile::advance_is_exact());
  // Otherwise a thread copies gates or ups alone.
  static constexpr bool kAlternates =
      Columns::is_up(WCopy::kRowsPerPass) || Columns::is_up(2 * WCopy::kRowsPerPass);
  static_assert(additive_for_step<Columns, Config::kCtaN>(WCopy::kRowsPerPass));

  SM80MOE_DEVICE void enter_tile() {
    ExpertTile tile;
    live_ = 0;
    k_tiles_left_ = kWithStage ? 0 : -1;
    groups_.leave_rows();
    if (!tiles_.enter_next(tile)) return;
    k_tiles_left_ = num_k_tiles(args_);
    // Columns are not negative, which ptxas does not know: what follows from the thread's number
    // alone it would work out before the first tile, and keep, in registers that there are not.
    const unsigned thread = threadIdx.x + (kWithStage ? 0 : min_of(tile.tile_n, 0));
    find_a_rows(tile, thread);
    find_w_rows(tile, thread);
    drop_chunks_past_k();
  }

  SM80MOE_DEVICE void find_a_rows(const ExpertTile& tile, unsigned thread) {
    const bool gathers = args_.row_index != nullptr;
    a_source_ = static_cast<const char*>(args_.a) + ACopy::thread_chunk(thread) * kChunkBytes;
#pragma unroll
    for (int pass = 0; pass < ACopy::kPasses; ++pass) {
      const int m = tile.m_begin + ACopy::thread_row(thread) + pass * ACopy::kRowsPerPass;
      a_chunk_[pass] = 0;
      if (m >= tile.m_end) continue;
      const int pair = gathers ? args_.row_index[m] : m;
      const int source = gathers ? pair / args_.top_k : m;
      // An index that the caller got wrong reads as a row of zeros.
      if (pair < 0 || source >= args_.num_source_rows) continue;
      a_chunk_[pass] = source * args_.a_row_chunks;
      live_ |= 1u << pass;
    }
  }

  SM80MOE_DEVICE void find_w_rows(const ExpertTile& tile, unsigned thread) {
    const int thread_row = WCopy::thread_row(thread);
    const TileColumns columns = Epilogue::columns(args_, Config::kCtaN);
    const int col0 = tile.tile_n * columns.per_tile;
    w_source_ = static_cast<const char*>(args_.w) + WCopy::thread_chunk(thread) * kChunkBytes +
                tile.expert * args_.w_expert_bytes + int64_t{col0} * args_.w_column_bytes +
                column_bytes(thread_row) + (Columns::is_up(thread_row) ? args_.w_up_bytes : 0);
    if (kAlternates) w_up_source_ = w_source_ + args_.w_up_bytes;
#pragma unroll
    for (int pass = 0; pass < WCopy::kPasses; ++pass) {
      const int tile_row = thread_row + pass * WCopy::kRowsPerPass;
      const int column = Columns::output_column(tile_row) + Columns::is_up(tile_row) * columns.up;
      if (col0 + column < columns.total) live_ |= 1u << (ACopy::kPasses + pass);
    }
    find_group_rows(tile.expert, columns, col0, thread);
  }

  // Scales and codes of this thread's rows.
  SM80MOE_DEVICE void find_group_rows(int expert, const TileColumns& columns, int col0,
                                      unsigned thread) {
    if constexpr (Weight::kIsPacked) {
#pragma unroll
      for (int i = 0; i < groups_.kRows; ++i) {
        const int tile_row = Columns::with_neighbours(groups_.place(i, thread) % Config::kCtaN);
        const bool is_up = Columns::is_up(tile_row);
        const int column = col0 + Columns::output_column(tile_row);
        if (column + is_up * columns.up < columns.total)
          groups_.enter_row(args_.packed, i, packed_row(args_, columns, expert, column, is_up));
      }
    }
  }

  // How far in the reduction the stage begins.
  SM80MOE_DEVICE int depth() const { return (num_k_tiles(args_) - k_tiles_left_) * Config::kCtaK; }

  // Only the last k tile can be short; of it the chunks past the end are zeros.
  SM80MOE_DEVICE void drop_chunks_past_k() {
    if (k_tiles_left_ > 1) return;
    const int k_in_tile = args_.k - (num_k_tiles(args_) - 1) * Config::kCtaK;
    if (ACopy::thread_chunk() * ATile::kElemsPerChunk >= k_in_tile) live_ &= ~kACopies;
    if (WCopy::thread_chunk() * kWeightsPerChunk >= k_in_tile) live_ &= kACopies;
  }

  // From a row of W of the tile's first column to that of the column which lies in `tile_row`.
  SM80MOE_DEVICE uint64_t column_bytes(int tile_row) const {
    const auto columns_on = static_cast<uint32_t>(Columns::output_column(tile_row));
    return static_cast<uint64_t>(columns_on) * args_.w_column_bytes;
  }

  SM80MOE_DEVICE void copy_a(int pass) const {
    if (!ACopy::owns_pass(pass)) return;
    ptx::cp_async_16(ACopy::destination(stage_ + a_thread_, pass),
                     a_source_ + static_cast<uint64_t>(a_chunk_[pass]) * kChunkBytes,
                     live_ & (1u << pass));
  }

  SM80MOE_DEVICE void copy_w(int pass) const {
    if (!WCopy::owns_pass(pass)) return;
    const int tile_row = pass * WCopy::kRowsPerPass;
    const char* first = Columns::is_up(tile_row) ? w_up_source_ : w_source_;
    ptx::cp_async_16(WCopy::destination(stage_ + w_thread_, pass), first + column_bytes(tile_row),
                     live_ & (1u << (ACopy::kPasses + pass)));
  }

  const GroupedGemmArgs& args_;
  TileQueue<Config>& tiles_;
  const uint32_t ring_;

  // Of the tile, the current one included. When there is no tile: 0 with kWithStage, else negative.
  int k_tiles_left_;

  // Where the stage goes, where in it this thread's first chunks go, and where they come from. A
  // bit of live_ says that a copy has a source: first those of the activations, then of the
  // weights.
  uint32_t stage_;
  const uint32_t a_thread_, w_thread_;
  const char* a_source_ = nullptr;
  const char* w_source_ = nullptr;
  const char* w_up_source_ = nullptr;      // where passes alternate between gates and ups
  uint32_t a_chunk_[ACopy::kPasses] = {};  // gathered rows, in chunks from the tensor's start
  uint32_t live_;
  GroupLoader<Config, Weight> groups_;
};

}  // namespace sm80moe::gemm
