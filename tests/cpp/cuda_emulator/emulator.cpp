#include <algorithm>
#include <array>
#include <deque>
#include <limits>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "cuda_runtime.h"
#include "fiber.h"

dim3 threadIdx, blockIdx, blockDim, gridDim;

// Where the linker put the __shared__ arrays of all kernels; null where there are none.
extern "C" {
extern unsigned char __start_emulated_shared[] __attribute__((weak, visibility("hidden")));
extern unsigned char __stop_emulated_shared[] __attribute__((weak, visibility("hidden")));
}

namespace emulator {
namespace {

constexpr unsigned kBarriers = 16;  // of a block

// A rendezvous of the lanes of a warp. Lanes may begin the next one before all have taken their
// result from this one, but not the one after that: two sets of bytes are enough.
struct Warp {
  alignas(16) unsigned char bytes[2][32 * kLaneBytes];
  unsigned arrived = 0;  // mask
  const char* operation = nullptr;
  unsigned mask = 0;
  int turn = 0;
  std::vector<int> waiting;
};

constexpr int kWarpgroup = 128;  // threads

// A product of a warpgroup that was issued, as one of its threads knows it.
struct Wgmma {
  float* d;
  std::array<float, 64> before;
  const std::uint32_t* a;
  std::uint64_t b;
};

struct Block {
  dim3 index;
  int first = 0;                                      // of its fibers
  std::vector<std::deque<std::vector<Copy>>> copies;  // of each thread: groups, the last one open
  std::vector<int> barriers;                          // that each thread has reached
  std::vector<int> team_barriers;
  int grid_barriers = 0;      // that the block has
  std::vector<dim3> threads;  // their threadIdx
  std::vector<Warp> warps;
  std::vector<int> waiting[kBarriers];  // at each barrier
  std::unique_ptr<unsigned char[]> shared;
  std::unique_ptr<unsigned char[]> shown;  // of shared memory, to what reads it asynchronously
  std::size_t shared_bytes = 0;
  std::vector<unsigned char> arrays;                    // of __shared__, while another block runs
  std::vector<std::deque<std::vector<Wgmma>>> wgmmas;   // of each thread: groups, the last one open
  std::vector<bool> fenced;                             // each thread's registers
  std::vector<std::size_t> issued;                      // products of each thread
  std::vector<std::vector<std::uint64_t>> descriptors;  // of each warpgroup's products
};

// A thread that waits for other blocks.
struct Awaiting {
  int fiber;
  const unsigned* counter;
  unsigned wanted;
};

Block* block = nullptr;  // the one that runs
int current = 0;         // its thread that runs
std::vector<std::unique_ptr<Fiber>> fibers;
std::vector<int> runnable;  // fibers
std::vector<Awaiting> awaiting;
std::string fault;
unsigned schedule = 0;
std::mt19937 generator;
std::int64_t launch_count = 0;
std::int64_t buggy_launch = -1, left_out = 0;
int buggy_barrier = -1, buggy_team_barrier = -1, buggy_grid_barrier = -1;
void make_runnable(std::vector<int>& waiting) {
  for (const int thread : waiting) runnable.push_back(block->first + thread);
  waiting.clear();
}

void suspend() { fibers[block->first + current]->suspend(); }

// Every other schedule has a warp that goes on only when no other thread can.
bool slow_warp(int fiber, int warps) {
  return schedule % 2 == 0 && fiber / 32 == static_cast<int>(schedule / 2 % warps);
}

// Makes a block the one that runs.
void enter(Block& next) {
  if (block == &next) return;
  const auto begin = __start_emulated_shared, end = __stop_emulated_shared;
  if (block != nullptr) block->arrays.assign(begin, end);
  if (!next.arrays.empty()) std::copy(next.arrays.begin(), next.arrays.end(), begin);
  block = &next;
  blockIdx = next.index;
}

// What holds up blocks none of whose threads can go on.
std::string stuck(const std::vector<Block>& together, int count, int ended) {
  std::size_t at_barriers = 0;
  for (const Block& one : together) {
    for (const std::vector<int>& waiting : one.waiting) at_barriers += waiting.size();
  }
  const dim3 index = together[0].index;
  const std::string who = together.size() > 1
                              ? std::to_string(together.size()) + " blocks"
                              : "block (" + std::to_string(index.x) + ", " +
                                    std::to_string(index.y) + ", " + std::to_string(index.z) + ")";
  return who + ": " + std::to_string(at_barriers) + " of " + std::to_string(count) +
         " threads wait at __syncthreads, " + std::to_string(awaiting.size()) +
         " for other blocks, " + std::to_string(ended) +
         " have ended, the others wait for lanes of their warp";
}

// What is wrong with the asynchronous products of a block whose threads have ended.
std::string unfinished(const Block& of) {
  for (std::size_t i = 0; i < of.threads.size(); ++i) {
    if (of.issued[i] != of.descriptors[i / kWarpgroup].size()) {
      return "a wgmma that not all threads of the warpgroup issued";
    }
    if (of.wgmmas[i].size() > 1 || !of.wgmmas[i].back().empty()) {
      return "a wgmma that nobody waited for";
    }
  }
  return "";
}

// Runs blocks whose threads are all alive at once.
void run_together(std::vector<Block>& together, const std::function<void()>& body) {
  const int size = static_cast<int>(together[0].threads.size());
  const int count = static_cast<int>(together.size()) * size;
  while (static_cast<int>(fibers.size()) < count) fibers.push_back(std::make_unique<Fiber>());
  for (int i = 0; i < count; ++i) {
    fibers[i]->start(&body);
    runnable.push_back(i);
  }
  int ended = 0;
  std::size_t next = 0;
  while (ended < count && fault.empty()) {
    if (next >= runnable.size()) {
      runnable.clear();
      next = 0;
    }
    if (runnable.empty()) {
      fault = stuck(together, count, ended);
      break;
    }
    int fiber = 0;
    if (schedule == 0) {
      fiber = runnable[next++];
    } else {
      std::size_t drawn = generator() % runnable.size();
      const int warps = (count + 31) / 32;
      for (std::size_t tries = 0; slow_warp(runnable[drawn], warps) && tries < runnable.size();
           ++tries) {
        drawn = (drawn + 1) % runnable.size();
      }
      fiber = runnable[drawn];
      runnable[drawn] = runnable.back();
      runnable.pop_back();
    }
    enter(together[fiber / size]);
    current = fiber % size;
    threadIdx = block->threads[current];
    fibers[fiber]->resume();
    if (fibers[fiber]->ended()) ++ended;
  }
  for (const Block& one : together) {
    if (fault.empty()) fault = unfinished(one);
  }
  runnable.clear();
  awaiting.clear();
  block = nullptr;
  if (!fault.empty()) {
    fibers.clear();  // some stopped half-way
    const std::string what = std::exchange(fault, "");
    throw Fault(what);
  }
}

Block new_block(dim3 index, int first, dim3 size, std::size_t shared, bool alone) {
  Block block;
  block.index = index;
  block.first = first;
  const unsigned count = size.x * size.y * size.z;
  for (unsigned i = 0; i < count; ++i) {
    block.threads.emplace_back(i % size.x, i / size.x % size.y, i / (size.x * size.y));
  }
  block.barriers.resize(count);
  block.team_barriers.resize(count);
  block.copies.assign(count, {{}});
  block.warps.resize((count + 31) / 32);
  block.wgmmas.assign(count, {{}});
  block.fenced.resize(count);
  block.issued.resize(count);
  block.descriptors.resize((count + kWarpgroup - 1) / kWarpgroup);
  block.shared_bytes = shared;
  block.shown.reset(new unsigned char[shared]);
  std::memset(block.shown.get(), 0xFF, shared);
  // Exactly as much as was asked for, so that the address sanitizer sees what goes beyond.
  block.shared.reset(new unsigned char[shared]);
  std::memset(block.shared.get(), 0xFF, shared);
  if (!alone) block.arrays.assign(__stop_emulated_shared - __start_emulated_shared, 0xFF);
  return block;
}

// For all lanes of a warp: their rows of A by B as the descriptor finds it, added to d.
void multiply_by_shared(const Wgmma& product) {
  struct Lane {
    float* d;
    const std::uint32_t* a;
    std::uint64_t b;
  } lane{product.d, product.a, product.b};
  with_warp("wgmma.wait_group", ~0u, &lane, sizeof lane, [](unsigned char* lanes) {
    const auto at = [lanes](int i) { return reinterpret_cast<Lane*>(lanes + i * kLaneBytes); };
    const auto bf16 = [](std::uint32_t pair, int upper) {
      return __uint_as_float(upper ? pair & 0xFFFF0000u : pair << 16);
    };
    float A[16][16], B[16][128];
    for (int l = 0; l < 32; ++l) {
      for (int i = 0; i < 4; ++i) {
        for (int h = 0; h < 2; ++h) {
          A[l / 4 + i % 2 * 8][l % 4 * 2 + i / 2 * 8 + h] = bf16(at(l)->a[i], h);
        }
      }
    }
    // Bits 0 to 13 of a descriptor: the address; 16 to 29 and 32 to 45: how far a core matrix is
    // from the next one along the inputs and along the columns; all in 16 bytes. 62 and 63: the
    // swizzle, of which none is known here.
    const std::uint64_t b = at(0)->b;
    const auto field = [b](int bit) { return (b >> bit & 0x3FFF) << 4; };
    for (std::size_t k = 0; k < 16; ++k) {
      for (std::size_t n = 0; n < 128; ++n) {
        const std::size_t from =
            field(0) + k / 8 * field(16) + n / 8 * field(32) + n % 8 * 16 + k % 8 * 2;
        std::uint16_t half = 0xFFFF;  // beyond what there is: NaN
        if (b >> 62 == 0 && from + 2 <= block->shared_bytes) {
          std::memcpy(&half, block->shown.get() + from, 2);
        }
        B[k][n] = bf16(half, 0);
      }
    }
    for (int l = 0; l < 32; ++l) {
      for (int i = 0; i < 64; ++i) {
        const int row = l / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + l % 4 * 2 + i % 2;
        float& sum = at(l)->d[i];
        for (int k = 0; k < 16; ++k) sum += A[row][k] * B[k][column];
      }
    }
  });
}

}  // namespace

void run_kernel(const Launch& launch) {
  ++launch_count;
  const dim3 grid = launch.grid;
  std::vector<dim3> order;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) order.emplace_back(x, y, z);
    }
  }
  if (schedule != 0) std::shuffle(order.begin(), order.end(), generator);
  blockDim = launch.block;
  gridDim = grid;
  std::vector<Block> together;
  for (const dim3& index : order) {
    const int first =
        static_cast<int>(together.size() * launch.block.x * launch.block.y * launch.block.z);
    together.push_back(new_block(index, first, launch.block, launch.shared, !launch.cooperative));
    if (launch.cooperative) continue;
    run_together(together, launch.body);
    together.clear();
  }
  if (launch.cooperative) run_together(together, launch.body);
}

void set_schedule(unsigned seed) {
  schedule = seed;
  generator.seed(seed);
}

std::int64_t launches() { return launch_count; }
unsigned lane() { return current % 32; }
unsigned char* shared_memory() { return block->shared.get(); }

void leave_out_barrier(int launch, int barrier) {
  buggy_launch = launch < 0 ? -1 : launch_count + launch;
  buggy_barrier = barrier;
  buggy_team_barrier = buggy_grid_barrier = -1;
  left_out = 0;
}
void leave_out_team_barrier(int launch, int barrier) {
  leave_out_barrier(launch, -1);
  buggy_team_barrier = barrier;
}
void leave_out_grid_barrier(int launch, int barrier) {
  leave_out_barrier(launch, -1);
  buggy_grid_barrier = barrier;
}
std::int64_t barriers_left_out() { return left_out; }

void stop(const char* why) {
  fault = why;
  suspend();  // for good: the scheduler throws
}

void wait_for_block() { wait_for_threads(0, static_cast<unsigned>(block->threads.size())); }

void wait_for_threads(unsigned number, unsigned threads) {
  if (number >= kBarriers || (threads % 32 != 0 && threads != block->threads.size())) {
    stop("a barrier that no block has");
  }
  const bool buggy = launch_count - 1 == buggy_launch;
  const bool whole = number == 0;
  int& reached = (whole ? block->barriers : block->team_barriers)[current];
  if (reached++ == (whole ? buggy_barrier : buggy_team_barrier) && buggy) {
    ++left_out;
    return;
  }
  std::vector<int>& waiting = block->waiting[number];
  waiting.push_back(current);
  if (waiting.size() == threads) make_runnable(waiting);
  suspend();
}

void arrive(unsigned* counter) {
  ++*counter;
  for (std::size_t i = 0; i < awaiting.size();) {
    if (awaiting[i].counter != counter || *counter < awaiting[i].wanted) {
      ++i;
      continue;
    }
    runnable.push_back(awaiting[i].fiber);
    awaiting.erase(awaiting.begin() + static_cast<std::ptrdiff_t>(i));
  }
}

void wait_for_arrivals(const unsigned* counter, unsigned wanted) {
  const bool buggy = launch_count - 1 == buggy_launch;
  if (block->grid_barriers++ == buggy_grid_barrier && buggy) {
    ++left_out;
    return;
  }
  if (*counter >= wanted) {
    runnable.push_back(block->first + current);
  } else {
    awaiting.push_back({block->first + current, counter, wanted});
  }
  suspend();
}

void copy_later(void* to, const void* from, std::size_t bytes) {
  if (schedule % 3 == 2) {
    std::memcpy(to, from, bytes);
    return;
  }
  block->copies[current].back().push_back({to, from, bytes});
}
void end_of_copies() { block->copies[current].emplace_back(); }
void wait_for_copies(int groups_left) {
  std::deque<std::vector<Copy>>& groups = block->copies[current];
  while (static_cast<int>(groups.size()) - 1 > groups_left) {
    for (const Copy& copy : groups.front()) std::memcpy(copy.to, copy.from, copy.bytes);
    groups.pop_front();
  }
}

void with_warp(const char* operation, unsigned mask, void* bytes, std::size_t size,
               void (*combine)(unsigned char* lanes)) {
  Warp& warp = block->warps[current / 32];
  const unsigned lane = current % 32;
  if (warp.arrived == 0) {
    warp.operation = operation;
    warp.mask = mask;
  }
  if (std::strcmp(warp.operation, operation) != 0 || warp.mask != mask || !(mask >> lane & 1)) {
    // No string lies in the fiber, which never comes to its end.
    fault = std::string("lanes of one warp are at ") + warp.operation + " and at " + operation;
    suspend();
  }
  unsigned char* lanes = warp.bytes[warp.turn];
  if (size > 0) std::memcpy(lanes + lane * kLaneBytes, bytes, size);
  warp.arrived |= 1u << lane;
  warp.waiting.push_back(current);
  if (warp.arrived == mask) {
    if (combine != nullptr) combine(lanes);
    warp.arrived = 0;
    warp.turn ^= 1;
    make_runnable(warp.waiting);
  }
  suspend();
  if (size > 0) std::memcpy(bytes, lanes + lane * kLaneBytes, size);
}

std::uint32_t shared_address(const void* at) {
  return static_cast<std::uint32_t>(static_cast<const unsigned char*>(at) - block->shared.get());
}
void fence_proxy_async() {
  std::memcpy(block->shown.get(), block->shared.get(), block->shared_bytes);
}
void wgmma_fence() { block->fenced[current] = true; }
void wgmma_commit() {
  block->wgmmas[current].emplace_back();
  block->fenced[current] = false;
}

void wgmma_m64n128k16_bf16(float* d, const std::uint32_t (&a)[4], std::uint64_t b) {
  if (!block->fenced[current]) {
    stop("a wgmma whose registers no wgmma.fence comes after");
  }
  Wgmma issued{d, {}, a, b};
  std::vector<Wgmma>& group = block->wgmmas[current].back();
  // One after another may add to the same sums.
  const bool first =
      std::none_of(group.begin(), group.end(), [d](const Wgmma& other) { return other.d == d; });
  if (first) {
    std::copy(d, d + 64, issued.before.begin());
    std::fill(d, d + 64, std::numeric_limits<float>::quiet_NaN());
  }
  group.push_back(issued);
  std::vector<std::uint64_t>& all = block->descriptors[current / kWarpgroup];
  const std::size_t number = block->issued[current]++;
  if (number == all.size()) all.push_back(b);
  if (all[number] != b) {
    stop("threads of a warpgroup gave a wgmma different descriptors");
  }
}

void wgmma_wait(int groups_left) {
  std::deque<std::vector<Wgmma>>& groups = block->wgmmas[current];
  while (static_cast<int>(groups.size()) - 1 > groups_left) {
    std::vector<Wgmma>& group = groups.front();
    for (std::size_t i = 0; i < group.size(); ++i) {
      Wgmma& product = group[i];
      if (i == 0) std::copy(product.before.begin(), product.before.end(), product.d);
      multiply_by_shared(product);
    }
    groups.pop_front();
  }
}

}  // namespace emulator
