#include "runtime/machine.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "runtime/bank_conflicts.h"
#include "runtime/copied_sectors.h"
#include "runtime/memory.h"

// The built-in variables. Kernels see them as constants, which for each thread they are.
uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace simt {
namespace {

// Which of the threads that can run is next; chosen by the seed.
enum class Policy { kAny, kNewest, kOldest };
constexpr int kNumPolicies = 3;

struct Block {
  uint32_t linear = 0;
  uint3 index = {};
  std::vector<Thread> threads = std::vector<Thread>(kMaxThreads);
  int num_threads = 0;
  int num_live = 0;
  std::vector<Warp> warps = std::vector<Warp>(kMaxThreads / kWarpSize);
  std::vector<Thread*> ready;
  int num_at_barrier = 0, num_at_grid_barrier = 0;
  Line barrier_line = {}, grid_barrier_line = {};
  const Body* body = nullptr;
  std::unique_ptr<SharedMemory> shared_memory;  // while another block runs
};

// Blocks of a cooperative grid are kept until all have ended; of others there is one at a time.
std::vector<std::unique_ptr<Block>> blocks;
Block* block = nullptr;
bool is_cooperative = false;
Fiber main_fiber;
Thread* running = nullptr;

Policy policy() { return static_cast<Policy>(settings().seed / 2 % kNumPolicies); }

Thread* take_ready() {
  size_t chosen = 0;
  if (policy() == Policy::kAny) chosen = schedule_random().below(block->ready.size());
  if (policy() == Policy::kNewest) chosen = block->ready.size() - 1;
  Thread* thread = block->ready[chosen];
  if (policy() == Policy::kAny) {
    block->ready[chosen] = block->ready.back();
    block->ready.pop_back();
  } else {
    block->ready.erase(block->ready.begin() + chosen);
  }
  return thread;
}

// Continues some thread that can run, or main() if there is none.
void run_another() {
  Thread* before = running;
  Fiber& from = before ? before->fiber : main_fiber;
  Thread* next = block->ready.empty() ? nullptr : take_ready();
  if (next == before) return;
  running = next;
  if (next) threadIdx = next->index;
  Fiber::switch_to(from, next ? next->fiber : main_fiber);
}

void wait_for(const char* what, Line line) {
  running->waits_for = what;
  running->waits_at = line;
  run_another();
}

void wake(Thread& thread) {
  thread.waits_for = nullptr;
  block->ready.push_back(&thread);
}

// Woken threads take up again in an order of the seed's choosing.
void wake_all(std::vector<Thread*>& threads) {
  schedule_random().shuffle(threads);
  for (Thread* thread : threads) wake(*thread);
}

void open_barrier_if_complete() {
  if (block->num_at_barrier == 0 || block->num_at_barrier < block->num_live) return;
  block->num_at_barrier = 0;
  std::vector<Thread*> waiting;
  for (int i = 0; i < block->num_threads; ++i) {
    Thread& thread = block->threads[i];
    ++thread.block_clock;
    if (!thread.finished) waiting.push_back(&thread);
  }
  wake_all(waiting);
}

void run_thread() {
  block->body->call(block->body->data);
  if (running->copies.in_flight())
    fail("unfinished-copy", "  a thread ends while copies of its own are in flight\n");
  running->finished = true;
  --block->num_live;
  open_barrier_if_complete();
  run_another();
}

void start_thread(Thread& thread, int linear, dim3 dim) {
  const unsigned x = linear % dim.x, y = linear / dim.x % dim.y, z = linear / dim.x / dim.y;
  thread.index = {x, y, z};
  thread.linear = linear;
  thread.warp = linear / kWarpSize;
  thread.lane = linear % kWarpSize;
  thread.finished = false;
  thread.waits_for = nullptr;
  thread.block_clock = thread.warp_clock = 0;
  std::fill(std::begin(thread.seen), std::end(thread.seen), 0);
  thread.copies.clear();
  thread.fiber.start(run_thread);
}

[[noreturn]] void report_deadlock() {
  std::string waiting;
  for (int i = 0; i < block->num_threads; ++i) {
    const Thread& thread = block->threads[i];
    if (thread.waits_for && thread.lane == 0)
      waiting += format("  warp %d waits for %s at %s:%d\n", thread.warp, thread.waits_for,
                        thread.waits_at.file, thread.waits_at.number);
  }
  fail("deadlock",
       waiting + format("  %d threads have ended\n", block->num_threads - block->num_live));
}

std::string place(uint32_t block_linear, int thread) {
  return format("thread %d (warp %d, lane %d) of block %u", thread, thread / kWarpSize,
                thread % kWarpSize, block_linear);
}

}  // namespace

Settings& settings() {
  static Settings values;
  return values;
}

Random& schedule_random() {
  static Random random(settings().seed);
  return random;
}

Thread* current_thread() { return running; }
std::string thread_name(const Thread& thread) { return place(block->linear, thread.linear); }
std::string thread_name(const Moment& moment) { return place(moment.block, moment.thread); }

Moment moment_now() {
  return {block->linear, static_cast<uint16_t>(running->linear), running->block_clock,
          running->warp_clock};
}

bool happened_before(const Moment& before) {
  if (before.block != block->linear) return false;
  if (before.thread == running->linear || before.block_clock < running->block_clock) return true;
  return before.thread / kWarpSize == running->warp &&
         before.warp_clock < running->seen[before.thread % kWarpSize];
}

void block_barrier(Line line) {
  if (block->num_at_barrier > 0 && (line.number != block->barrier_line.number ||
                                    std::string(line.file) != block->barrier_line.file))
    fail("divergence", format("  __syncthreads at %s:%d while others wait at %s:%d\n", line.file,
                              line.number, block->barrier_line.file, block->barrier_line.number));
  block->barrier_line = line;
  ++block->num_at_barrier;
  running->waits_for = "__syncthreads";
  running->waits_at = line;
  open_barrier_if_complete();
  run_another();
}

void warp_collective(const char* operation, Line line, unsigned mask, void* mine,
                     const std::function<void(LaneData)>& together) {
  Warp& warp = block->warps[running->warp];
  const unsigned bit = 1u << running->lane;
  if (!(mask & bit))
    fail("divergence", format("  %s by a lane that its mask 0x%x leaves out\n", operation, mask));
  if (warp.operation && (warp.operation != operation || warp.mask != mask))
    fail("divergence", format("  %s (mask 0x%x) while lanes 0x%x of the warp are at %s (0x%x)\n",
                              operation, mask, warp.arrived, warp.operation, warp.mask));
  warp.operation = operation;
  warp.mask = mask;
  warp.arrived |= bit;
  warp.lane_data[running->lane] = mine;
  if (warp.arrived != mask) return wait_for(operation, line);

  together(warp.lane_data);
  warp.operation = nullptr;
  warp.arrived = 0;
  std::vector<Thread*> lanes;
  for (int lane = 0; lane < kWarpSize; ++lane)
    if (mask >> lane & 1) lanes.push_back(&block->threads[running->warp * kWarpSize + lane]);
  wake_all(lanes);
  run_another();
}

void shuffle(const char* operation, Line line, unsigned mask, void* value, size_t bytes,
             int source) {
  struct Lane {
    void* value;
    int source;
    char taken[8];
  } mine{value, source, {}};
  warp_collective(operation, line, mask, &mine, [=](LaneData lanes) {
    for (int lane = 0; lane < kWarpSize; ++lane) {
      if (!(mask >> lane & 1)) continue;
      auto* to = static_cast<Lane*>(lanes[lane]);
      if (!(mask >> to->source & 1))
        fail("divergence", format("  %s from a lane that the mask leaves out\n", operation));
      memcpy(to->taken, static_cast<Lane*>(lanes[to->source])->value, bytes);
    }
  });
  memcpy(value, mine.taken, bytes);
}

unsigned match(const char* operation, Line line, unsigned mask, const void* value, size_t bytes) {
  struct Lane {
    const void* value;
    unsigned same;
  } mine{value, 0};
  warp_collective(operation, line, mask, &mine, [=](LaneData lanes) {
    for (int lane = 0; lane < kWarpSize; ++lane)
      for (int other = 0; other < kWarpSize; ++other) {
        if (!(mask >> lane & 1) || !(mask >> other & 1)) continue;
        auto *a = static_cast<Lane*>(lanes[lane]), *b = static_cast<Lane*>(lanes[other]);
        if (memcmp(a->value, b->value, bytes) == 0) a->same |= 1u << other;
      }
  });
  return mine.same;
}

int64_t reduce(const char* operation, Line line, unsigned mask, int64_t value,
               Reduction reduction) {
  warp_collective(operation, line, mask, &value, [=](LaneData lanes) {
    int64_t largest = INT64_MIN, sum = 0;
    for (int lane = 0; lane < kWarpSize; ++lane) {
      if (!(mask >> lane & 1)) continue;
      largest = std::max(largest, *static_cast<int64_t*>(lanes[lane]));
      sum += *static_cast<int64_t*>(lanes[lane]);
    }
    for (int lane = 0; lane < kWarpSize; ++lane)
      if (mask >> lane & 1)
        *static_cast<int64_t*>(lanes[lane]) = reduction == Reduction::kMax ? largest : sum;
  });
  return value;
}

int own_lane() { return running->lane; }

void warp_barrier(Line line, unsigned mask) {
  warp_collective("__syncwarp", line, mask, running, [mask](LaneData lanes) {
    for (int lane = 0; lane < kWarpSize; ++lane)
      if (mask >> lane & 1) ++static_cast<Thread*>(lanes[lane])->warp_clock;
    for (int lane = 0; lane < kWarpSize; ++lane)
      for (int other = 0; other < kWarpSize; ++other)
        if ((mask >> lane & 1) && (mask >> other & 1))
          static_cast<Thread*>(lanes[lane])->seen[other] =
              static_cast<Thread*>(lanes[other])->warp_clock;
  });
}

void grid_barrier(Line line) {
  if (!is_cooperative)
    fail("divergence", format("  the grid's barrier at %s:%d in a launch that is not cooperative\n",
                              line.file, line.number));
  ++block->num_at_grid_barrier;
  block->grid_barrier_line = line;
  wait_for("the grid's barrier", line);
}

namespace {

// Runs the threads of `block` until all have ended or wait for the grid.
void run_threads() {
  blockIdx = block->index;
  run_another();
  if (block->num_live > 0 && block->num_at_grid_barrier < block->num_live) report_deadlock();
  bank_conflicts().end_block();
  copied_sectors().end_block();
}

void start_block(uint32_t linear, uint3 index, dim3 block_dim, int dynamic_smem_bytes,
                 const Body& body) {
  block->linear = linear;
  block->index = index;
  block->body = &body;
  block->num_threads = block->num_live = block_dim.x * block_dim.y * block_dim.z;
  block->num_at_barrier = block->num_at_grid_barrier = 0;
  blockDim = block_dim;
  reset_shared_memory(dynamic_smem_bytes);
  std::vector<Thread*> all;
  for (int i = 0; i < block->num_threads; ++i) {
    start_thread(block->threads[i], i, block_dim);
    all.push_back(&block->threads[i]);
  }
  wake_all(all);
  run_threads();
}

// What comes after the grid's barrier, which orders the block's accesses as its own does.
void continue_block() {
  exchange_shared_memory(*block->shared_memory);
  block->num_at_grid_barrier = 0;
  std::vector<Thread*> waiting;
  for (int i = 0; i < block->num_threads; ++i) {
    ++block->threads[i].block_clock;
    waiting.push_back(&block->threads[i]);
  }
  wake_all(waiting);
  run_threads();
}

Block* block_at(size_t index) {
  while (blocks.size() <= index) blocks.push_back(std::make_unique<Block>());
  return blocks[index].get();
}

}  // namespace

void run_block(uint32_t linear, uint3 index, dim3 block_dim, int dynamic_smem_bytes,
               const Body& body) {
  is_cooperative = false;
  block = block_at(0);
  start_block(linear, index, block_dim, dynamic_smem_bytes, body);
}

void run_cooperative_blocks(const std::vector<uint32_t>& order, dim3 block_dim,
                            int dynamic_smem_bytes, const Body& body) {
  is_cooperative = true;
  const auto set_aside = [] {
    block->shared_memory = std::make_unique<SharedMemory>();
    exchange_shared_memory(*block->shared_memory);
  };
  for (size_t i = 0; i < order.size(); ++i) {
    block = block_at(i);
    start_block(order[i], {order[i], 0, 0}, block_dim, dynamic_smem_bytes, body);
    set_aside();
  }
  const auto is_waiting = [](const Block& b) { return b.num_live > 0; };
  while (is_waiting(*blocks[0])) {
    for (size_t i = 0; i < order.size(); ++i)
      if (blocks[i]->num_at_grid_barrier != blocks[i]->num_threads)
        fail("deadlock", format("  block %u has threads that never come to the grid's barrier at "
                                "%s:%d\n",
                                blocks[i]->linear, blocks[0]->grid_barrier_line.file,
                                blocks[0]->grid_barrier_line.number));
    forget_accesses();
    std::vector<uint32_t> next(order.size());
    for (uint32_t i = 0; i < next.size(); ++i) next[i] = i;
    schedule_random().shuffle(next);
    for (const uint32_t i : next) {
      block = blocks[i].get();
      continue_block();
      set_aside();
    }
  }
  for (size_t i = 0; i < order.size(); ++i)
    if (is_waiting(*blocks[i]))
      fail("deadlock", "  some blocks have ended while others wait for the grid's barrier\n");
}

}  // namespace simt
