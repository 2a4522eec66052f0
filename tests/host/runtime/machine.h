#pragma once
// The threads of the block that runs: who may run next, who waits for whom, and which of two
// accesses happened before the other.

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "runtime/async_copy.h"
#include "runtime/dim.h"
#include "runtime/fiber.h"
#include "runtime/launch.h"
#include "runtime/random.h"
#include "runtime/report.h"
#include "runtime/settings.h"

namespace simt {

constexpr int kWarpSize = 32;
constexpr unsigned kFullWarp = 0xffffffffu;
constexpr int kMaxThreads = 1024;

// A source line of the kernel, given by the default arguments of the built-ins.
struct Line {
  const char* file;
  int number;
};

// When an access was made. Two accesses of different threads are ordered only by a barrier of the
// block (block_clock) or of the warp (warp_clock) between them.
struct Moment {
  uint32_t block;
  uint16_t thread;
  uint32_t block_clock;  // barriers of the block that the thread has passed
  uint32_t warp_clock;   // barriers of the warp that the thread has passed
};

struct Thread {
  Fiber fiber;
  uint3 index;  // threadIdx
  int linear, warp, lane;
  bool finished;
  const char* waits_for;  // null while it can run
  Line waits_at;
  uint32_t block_clock, warp_clock;
  uint32_t seen[kWarpSize];  // the warp clocks of its warp at their last common barrier
  CopyQueue copies;
};

struct Warp {
  const char* operation = nullptr;  // the collective that some lanes have reached
  unsigned mask = 0, arrived = 0;
  void* lane_data[kWarpSize];
};

Thread* current_thread();  // null in host code
std::string thread_name(const Thread& thread);
std::string thread_name(const Moment& moment);

Moment moment_now();
// True if what happened at `before` is visible to the thread that runs now.
bool happened_before(const Moment& before);

// The barrier of the block.
void block_barrier(Line line);

// The barrier of all blocks of a cooperative launch. All threads come to it, as to one of the
// block.
void grid_barrier(Line line);

// Lanes wait until every lane of `mask` has called; the last one runs `together` with what each
// lane brought. No ordering of memory comes with it.
using LaneData = void* const (&)[kWarpSize];
void warp_collective(const char* operation, Line line, unsigned mask, void* mine,
                     const std::function<void(LaneData)>& together);
// `value` becomes that of lane `source`.
void shuffle(const char* operation, Line line, unsigned mask, void* value, size_t bytes,
             int source);
// The lanes of `mask` whose values are the same as mine.
unsigned match(const char* operation, Line line, unsigned mask, const void* value, size_t bytes);
// The largest value of the lanes of `mask`.
enum class Reduction { kMax, kSum };
int64_t reduce(const char* operation, Line line, unsigned mask, int64_t value, Reduction reduction);
int own_lane();
// The barrier of a warp, which does order memory.
void warp_barrier(Line line, unsigned mask);

// Runs all blocks of a one-dimensional grid, in turns from one barrier of the grid to the next.
void run_cooperative_blocks(const std::vector<uint32_t>& order, dim3 block_dim,
                            int dynamic_smem_bytes, const Body& body);
// Runs one block to its end.
void run_block(uint32_t linear, uint3 index, dim3 block_dim, int dynamic_smem_bytes,
               const Body& body);

Random& schedule_random();

}  // namespace simt
