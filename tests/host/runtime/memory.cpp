#include "runtime/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "runtime/machine.h"

// The program's own constants and variables, by the linker.
extern "C" char __executable_start, _end;

namespace simt {
namespace {

// An access is remembered as an index into `stamps`, so that a byte's history stays small.
struct Stamp {
  Moment moment;
  Site site;
};

// The history of one byte.
struct Cell {
  uint32_t write, read, other_read;  // the latest reads by two different threads
  bool initialised, in_flight, written_atomically;
};

struct Region {
  std::string name;
  char* begin;
  size_t bytes;
  std::vector<Cell> cells;

  bool contains(const char* address, size_t size) const {
    return address >= begin && address + size <= begin + bytes;
  }
};

constexpr int kPoison = 0xff;  // a NaN in every floating-point type

constexpr size_t kArenaBytes = size_t{8} << 30;
constexpr size_t kGapBytes = 4096;  // between two tensors
constexpr size_t kTensorAlignment = 256;

constexpr size_t kWindowBytes = size_t{1} << 20;
constexpr size_t kStaticOffset = kWindowBytes / 2;

char* map(size_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    std::perror("memory: address space must be mapped");
    std::exit(1);
  }
  return static_cast<char*>(memory);
}

char* const arena = map(kArenaBytes);
size_t arena_used = kGapBytes;
std::vector<Region> tensors;

char* const window = map(kWindowBytes);
size_t dynamic_bytes_asked = 0;
std::vector<Region> shared_regions;  // the dynamic one, then static variables

std::vector<Stamp> stamps(1);

uint32_t stamp(Site site) {
  const Moment now = moment_now();
  const Stamp& last = stamps.back();
  const bool repeated =
      last.site == site && last.moment.thread == now.thread && last.moment.block == now.block &&
      last.moment.block_clock == now.block_clock && last.moment.warp_clock == now.warp_clock;
  if (!repeated || stamps.size() == 1) stamps.push_back({now, site});
  return static_cast<uint32_t>(stamps.size() - 1);
}

const char* verb(Access access) {
  if (access == Access::kAtomic) return "atomic";
  return access == Access::kRead ? "read" : "write";
}

std::string describe_access(const char* what, size_t bytes, const Region& region,
                            const char* address, Site site) {
  return format("  %s of %zu bytes at byte %td of %s (%zu bytes)\n", what, bytes,
                address - region.begin, region.name.c_str(), region.bytes) +
         describe(site);
}

std::string describe_stamp(const char* what, uint32_t index) {
  const Stamp& stamp = stamps[index];
  return format("  %s by %s\n", what, thread_name(stamp.moment).c_str()) + describe(stamp.site);
}

[[noreturn]] void report(const char* check, const Region& region, const char* address,
                         Access access, size_t bytes, Site site, const char* earlier,
                         uint32_t stamp_index) {
  std::string details = describe_access(verb(access), bytes, region, address, site);
  if (stamp_index) details += describe_stamp(earlier, stamp_index);
  fail(check, details);
}

bool conflicts(uint32_t stamp_index) {
  return stamp_index && !happened_before(stamps[stamp_index].moment);
}

// Brings one byte's history up to date, or fails.
void touch(Region& region, char* address, Access access, size_t bytes, Site site, uint32_t now,
           bool check_races) {
  Cell& cell = region.cells[address - region.begin];
  if (cell.in_flight)
    report("in-flight", region, address, access, bytes, site, "while in flight is a copy issued",
           cell.write);
  if (check_races && !(access == Access::kAtomic && cell.written_atomically) &&
      conflicts(cell.write))
    report("race", region, address, access, bytes, site, "unordered with a write", cell.write);

  if (access == Access::kRead) {
    if (!cell.initialised) report("uninitialised", region, address, access, bytes, site, "", 0);
    if (cell.read && stamps[cell.read].moment.thread != stamps[now].moment.thread)
      cell.other_read = cell.read;
    cell.read = now;
    return;
  }
  if (access == Access::kAtomic && !cell.initialised)
    report("uninitialised", region, address, access, bytes, site, "", 0);
  if (check_races)
    for (const uint32_t read : {cell.read, cell.other_read})
      if (conflicts(read))
        report("race", region, address, access, bytes, site, "unordered with a read", read);
  cell.write = now;
  cell.written_atomically = access == Access::kAtomic;
  cell.initialised = true;
}

// The region whose begin is the last at or below `address`: the one meant by an access that
// overshoots.
Region* nearest(std::vector<Region>& regions, const char* address) {
  Region* best = nullptr;
  for (Region& region : regions)
    if (region.begin <= address && (!best || best->begin <= region.begin)) best = &region;
  return best ? best : regions.empty() ? nullptr : &regions.front();
}

Region& region_of(std::vector<Region>& regions, char* address, size_t bytes, Access access,
                  Site site, const char* out_of_bounds) {
  Region* region = nearest(regions, address);
  if (!region) fail(out_of_bounds, format("  %s before anything was allocated\n", verb(access)));
  if (!region->contains(address, bytes))
    report(out_of_bounds, *region, address, access, bytes, site, "", 0);
  return *region;
}

void check_in(std::vector<Region>& regions, char* address, size_t bytes, Access access, Site site,
              const char* out_of_bounds, bool check_races) {
  Region& region = region_of(regions, address, bytes, access, site, out_of_bounds);
  const uint32_t now = stamp(site);
  for (size_t i = 0; i < bytes; ++i)
    touch(region, address + i, access, bytes, site, now, check_races);
}

bool in_program(const char* address) { return address >= &__executable_start && address < &_end; }

Region& shared_region(uint32_t address, size_t bytes, Site site) {
  char* pointer = shared_pointer(address);
  Region* region = nearest(shared_regions, pointer);
  if (!region) fail("shared-out-of-bounds", "  the kernel has no shared memory\n");
  if (!region->contains(pointer, bytes))
    report("shared-out-of-bounds", *region, pointer, Access::kWrite, bytes, site, "", 0);
  return *region;
}

}  // namespace

void* device_allocate(const char* name, size_t bytes) {
  char* begin = arena + arena_used;
  arena_used += (bytes + kGapBytes + kTensorAlignment - 1) / kTensorAlignment * kTensorAlignment;
  if (arena_used > kArenaBytes) fail("out-of-memory", "  the tensors must fit the arena\n");
  memset(begin, kPoison, bytes);
  tensors.push_back({name, begin, bytes, std::vector<Cell>(bytes)});
  return begin;
}

void mark_initialised(const void* address, size_t bytes) {
  const char* at = static_cast<const char*>(address);
  Region* region = nearest(tensors, at);
  for (size_t i = 0; i < bytes; ++i) region->cells[at + i - region->begin].initialised = true;
}

void check_access(const void* address, size_t bytes, Access access, Site site) {
  const Thread* thread = current_thread();
  if (!thread || thread->fiber.owns_stack_address(address)) return;
  char* at = static_cast<char*>(const_cast<void*>(address));
  if (is_shared(at))
    check_in(shared_regions, at, bytes, access, site, "shared-out-of-bounds", true);
  else if (!in_program(at))
    check_in(tensors, at, bytes, access, site, "out-of-bounds", settings().check_global_races);
}

void check_alignment(uint64_t address, size_t bytes, Site site) {
  if (address % bytes != 0)
    fail("misaligned",
         format("  address 0x%lx must be a multiple of %zu\n", address, bytes) + describe(site));
}

void begin_async_write(uint32_t address, size_t bytes, Site site) {
  Region& region = shared_region(address, bytes, site);
  const uint32_t now = stamp(site);
  for (size_t i = 0; i < bytes; ++i) {
    char* at = shared_pointer(address) + i;
    touch(region, at, Access::kWrite, bytes, site, now, true);
    region.cells[at - region.begin].in_flight = true;
  }
}

void end_async_write(uint32_t address, size_t bytes, Site site) {
  Region& region = shared_region(address, bytes, site);
  const uint32_t now = stamp(site);
  Cell* cell = &region.cells[shared_pointer(address) - region.begin];
  for (size_t i = 0; i < bytes; ++i) {
    cell[i].in_flight = false;
    cell[i].write = now;
  }
}

void reset_shared_memory(size_t dynamic_bytes) {
  for (const Region& region : shared_regions) memset(region.begin, kPoison, region.bytes);
  shared_regions.clear();
  dynamic_bytes_asked = dynamic_bytes;
}

struct SharedMemory::State {
  std::vector<Region> regions;
  std::vector<std::vector<char>> contents;
  size_t dynamic_bytes = 0;
};
SharedMemory::SharedMemory() : state_(std::make_unique<State>()) {}
SharedMemory::~SharedMemory() = default;

void exchange_shared_memory(SharedMemory& waiting) {
  SharedMemory::State& state = *waiting.state_;
  SharedMemory::State now{std::move(shared_regions), {}, dynamic_bytes_asked};
  for (Region& region : now.regions) {
    now.contents.emplace_back(region.begin, region.begin + region.bytes);
    memset(region.begin, kPoison, region.bytes);
    // Its stamps are those of a time that the barrier of the grid ends.
    for (Cell& cell : region.cells) cell.write = cell.read = cell.other_read = 0;
  }
  shared_regions = std::move(state.regions);
  dynamic_bytes_asked = state.dynamic_bytes;
  for (size_t i = 0; i < shared_regions.size(); ++i)
    std::copy(state.contents[i].begin(), state.contents[i].end(), shared_regions[i].begin);
  state = std::move(now);
}

void* dynamic_shared_memory(size_t alignment) {
  // Not aligned to more than was asked for: an odd multiple, and never address 0.
  char* begin = window + alignment;
  for (const Region& region : shared_regions)
    if (region.begin == begin) return begin;
  memset(begin, kPoison, dynamic_bytes_asked);
  shared_regions.push_back({"dynamic shared memory", begin, dynamic_bytes_asked,
                            std::vector<Cell>(dynamic_bytes_asked)});
  return begin;
}

void* static_shared_memory(const char* name, size_t bytes, size_t alignment) {
  size_t end = kStaticOffset;
  for (const Region& region : shared_regions) {
    if (region.name == name) return region.begin;
    end = std::max<size_t>(end, region.begin + region.bytes - window);
  }
  char* begin = window + (end + kGapBytes + alignment - 1) / alignment * alignment;
  memset(begin, kPoison, bytes);
  shared_regions.push_back({name, begin, bytes, std::vector<Cell>(bytes)});
  return begin;
}

char* shared_pointer(uint32_t address) { return window + address; }
uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(static_cast<const char*>(pointer) - window);
}
bool is_shared(const void* pointer) {
  const char* at = static_cast<const char*>(pointer);
  return at >= window && at < window + kWindowBytes;
}

void forget_accesses() {
  stamps.resize(1);
  for (Region& tensor : tensors)
    for (Cell& cell : tensor.cells) cell.write = cell.read = cell.other_read = 0;
}

}  // namespace simt
