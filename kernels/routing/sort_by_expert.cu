// A stable counting sort of pairs by expert, in one launch: every CTA reads all ids and places the
// pairs of one expert. Reading so often costs less than a second launch, since the ids fit in L2.

#include "common/expert_ids.cuh"
#include "common/warp.cuh"
#include "routing/routing.h"

namespace sm80moe::routing {
namespace {

constexpr int kMaxWarps = 32;  // a lane for each when they add up

// Ids that a thread reads before it looks at them: 32 bytes of int32, a whole sector.
constexpr int kRun = 8;
constexpr int kBytesAtOnce = 16;

// The neighbouring pairs that one thread looks at. Nearly all of them are other experts', so that a
// thread may well walk them alone.
class Segment {
 public:
  SM80MOE_DEVICE explicit Segment(const SortArgs& args)
      : args_(args),
        read_as_they_are_(args.topk_ids.row_stride == args.top_k &&
                          args.topk_ids.expert_map == nullptr &&
                          reinterpret_cast<uintptr_t>(args.topk_ids.ids) % kBytesAtOnce == 0) {
    const int runs_a_thread =
        ceil_div(ceil_div(args.num_pairs, kRun), static_cast<int>(blockDim.x));
    begin_ = min_of<int64_t>(int64_t{kRun} * runs_a_thread * threadIdx.x, args.num_pairs);
    end_ = min_of<int64_t>(int64_t{begin_} + kRun * runs_a_thread, args.num_pairs);
  }

  SM80MOE_DEVICE int size() const { return end_ - begin_; }
  SM80MOE_DEVICE int pair(int index) const { return begin_ + index; }

  // Calls visit(pair, expert) in the order of the pairs.
  template <class Visit>
  SM80MOE_DEVICE void for_each_pair(Visit visit) const {
    int pair = begin_;
    if (read_as_they_are_)
      for (; pair + kRun <= end_; pair += kRun) {
        int experts[kRun];
        read_run(pair, experts);
#pragma unroll
        for (int i = 0; i < kRun; ++i) visit(pair + i, experts[i]);
      }
    for (; pair < end_; ++pair) {
      const int token = pair / args_.top_k, choice = pair - token * args_.top_k;
      visit(pair, expert_at(args_.topk_ids, token, choice, args_.num_experts));
    }
  }

 private:
  SM80MOE_DEVICE void read_run(int pair, int (&experts)[kRun]) const {
    args_.topk_ids.are_int64 ? read_run_of<int64_t>(pair, experts)
                             : read_run_of<int32_t>(pair, experts);
  }

  template <class Id>
  SM80MOE_DEVICE void read_run_of(int pair, int (&experts)[kRun]) const {
    constexpr int kIds = kBytesAtOnce / sizeof(Id);
    struct alignas(kBytesAtOnce) Vector {
      Id ids[kIds];
    };
    const Id* first = static_cast<const Id*>(args_.topk_ids.ids) + pair;
    Vector vectors[kRun / kIds];
#pragma unroll
    for (int i = 0; i < kRun / kIds; ++i) vectors[i] = reinterpret_cast<const Vector*>(first)[i];
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      const Id id = vectors[i / kIds].ids[i % kIds];
      experts[i] = id >= 0 && id < args_.num_experts ? static_cast<int>(id) : kInvalidExpert;
    }
  }

  const SortArgs& args_;
  const bool read_as_they_are_;  // one after the other, in vectors
  int begin_, end_;
};

struct Counts {
  int lower;  // pairs of experts before this one
  int own;    // pairs of this one
};

// Which of a thread's pairs are whose, as far as a word has bits for them.
struct Marks {
  uint32_t own = 0, invalid = 0;
};
constexpr int kMarks = 32;

SM80MOE_DEVICE Counts count_pairs(const Segment& segment, int expert, Marks& marks) {
  Counts counts = {0, 0};
  uint32_t bit = 1;
  segment.for_each_pair([&](int, int its_expert) {
    const bool is_own = its_expert == expert, is_invalid = its_expert == kInvalidExpert;
    counts.lower += !is_invalid && its_expert < expert;
    counts.own += is_own;
    marks.own |= is_own ? bit : 0;
    marks.invalid |= is_invalid ? bit : 0;
    bit <<= 1;
  });
  return counts;
}

// Writes the rows of this CTA's expert from `row` on; that of expert 0 also marks invalid pairs.
SM80MOE_DEVICE void place_pairs(const SortArgs& args, const Segment& segment, int expert, int row,
                                Marks marks) {
  const auto place = [&](int pair) {
    args.row_index[row] = pair;
    args.row_position[pair] = row++;
  };
  if (segment.size() > kMarks) {  // the ids are read once more
    segment.for_each_pair([&](int pair, int its_expert) {
      if (its_expert == expert) place(pair);
      if (expert == 0 && its_expert == kInvalidExpert) args.row_position[pair] = -1;
    });
    return;
  }
  for (; marks.own != 0; marks.own &= marks.own - 1) place(segment.pair(__ffs(marks.own) - 1));
  if (expert != 0) return;
  for (; marks.invalid != 0; marks.invalid &= marks.invalid - 1)
    args.row_position[segment.pair(__ffs(marks.invalid) - 1)] = -1;
}

// What one CTA writes for all: the end of the rows, and the counters.
SM80MOE_DEVICE void finish(const SortArgs& args, int num_rows) {
  if (threadIdx.x == 0) args.expert_offsets[args.num_experts] = num_rows;
  for (int row = num_rows + threadIdx.x; row < args.num_pairs; row += blockDim.x)
    args.row_index[row] = -1;
  for (int i = threadIdx.x; i < args.num_counters; i += blockDim.x) args.counters[i] = 0;
}

__global__ void __launch_bounds__(kMaxWarps* kWarpSize, 1)
    sort_kernel(const __grid_constant__ SortArgs args) {
  __shared__ Counts counts_of_warp[kMaxWarps];
  const int expert = blockIdx.x, warp = warp_index(), lane = lane_index();
  const Segment segment(args);

  Marks marks;
  const Counts counts = count_pairs(segment, expert, marks);
  const int own_up_to_lane = warp_inclusive_sum(counts.own);
  const int lower_of_warp = warp_sum(counts.lower);
  if (lane == kWarpSize - 1) counts_of_warp[warp] = {lower_of_warp, own_up_to_lane};
  __syncthreads();
  const bool has_warp = lane < static_cast<int>(blockDim.x) / kWarpSize;
  const Counts of_lane = has_warp ? counts_of_warp[lane] : Counts{0, 0};
  const int first_row = warp_sum(of_lane.lower);
  const int own_before_warp = warp_sum(lane < warp ? of_lane.own : 0);

  if (threadIdx.x == 0) args.expert_offsets[expert] = first_row;
  place_pairs(args, segment, expert, first_row + own_before_warp + own_up_to_lane - counts.own,
              marks);
  if (expert == args.num_experts - 1) finish(args, first_row + warp_sum(of_lane.own));
}

}  // namespace

cudaError_t sort_by_expert(const SortArgs& args, cudaStream_t stream) {
  const int num_warps = clamp(ceil_div(args.num_pairs, kRun * kWarpSize), 1, kMaxWarps);
  sort_kernel<<<args.num_experts, num_warps * kWarpSize, 0, stream>>>(args);
  return cudaGetLastError();
}

}  // namespace sm80moe::routing
