// Runs CUDA kernels on the CPU: one fiber for each CUDA thread, the blocks one after the other.
//
// A fiber runs until it waits (at a barrier, a shuffle) or ends; then another one of the block
// does. Which one is the schedule's choice: kernels must give the same bytes under all of them.
// What cannot be seen here: speed, memory order between blocks, approximate intrinsics.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

using std::max;
using std::min;

struct dim3 { unsigned x, y, z; };

#define __expf expf  // the C library has these names for itself
#define __logf logf
static inline float __fdividef(float a, float b) { return a / b; }
static inline float rsqrt(float x) { return 1.f / sqrtf(x); }
static inline double rsqrt(double x) { return 1.0 / sqrt(x); }
static inline float rsqrtf(float x) { return 1.f / sqrtf(x); }
template <class T> static inline T __ldg(const T* p) { return *p; }

// In CUDA these names take either type; in C++ only std:: does.
using std::exp; using std::exp2; using std::expm1; using std::fabs; using std::isfinite;
using std::isnan; using std::log; using std::log1p; using std::sqrt; using std::tanh;

namespace emulator {

struct Fiber { jmp_buf place; ucontext_t context; bool started = false, done = false; dim3 thread; int number; };
struct Barrier { int need = 0, count = 0; uint64_t generation = 0; };
struct SharedArray { void* start; size_t bytes; };

// Schedules: bit 0, greedy (one warp runs until it waits, then the next) instead of round and
// round; bit 1, from the last thread and block to the first; from 4 on, shuffled by the number.
struct State {
  std::vector<Fiber> fibers;
  std::vector<char*> stacks;
  std::vector<Barrier> warps;
  Barrier block;
  std::vector<uint64_t> slots;  // what lanes show each other: two rounds times threads
  std::vector<SharedArray> shared;
  jmp_buf scheduler;
  int current = 0, live = 0;
  bool progress = false;
  dim3 grid, size, index;
  void (*entry)(void*) = nullptr;
  void* argument = nullptr;
  const char* error = nullptr;
  unsigned schedule = 0;
};
inline State state;
constexpr size_t STACK = 256 * 1024;

// A block's shared array, from its declaration on: filled with NaN before each block.
inline bool declare_shared(void* start, size_t bytes) {
  state.shared.push_back({start, bytes});
  memset(start, 0xFF, bytes);
  return true;
}

inline void yield() { if (_setjmp(state.fibers[state.current].place) == 0) _longjmp(state.scheduler, 1); }

inline void wait(Barrier& barrier) {
  const uint64_t generation = barrier.generation;
  state.progress = true;
  if (++barrier.count >= barrier.need) { barrier.count = 0; ++barrier.generation; return; }
  while (barrier.generation == generation) yield();
}

inline void leave(Barrier& barrier) {  // a thread that has ended no longer counts
  --barrier.need;
  if (barrier.need > 0 && barrier.count >= barrier.need) { barrier.count = 0; ++barrier.generation; }
}

inline void fiber_main() {
  state.entry(state.argument);
  Fiber& me = state.fibers[state.current];
  me.done = true;
  state.progress = true;
  --state.live;
  leave(state.warps[me.number / 32]);
  leave(state.block);
  _longjmp(state.scheduler, 1);
}

inline void resume(int number) {
  Fiber& fiber = state.fibers[number];
  state.current = number;
  if (_setjmp(state.scheduler)) return;
  if (fiber.started) _longjmp(fiber.place, 1);
  fiber.started = true;
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = state.stacks[number];
  fiber.context.uc_stack.ss_size = STACK;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, (void (*)())fiber_main, 0);
  setcontext(&fiber.context);
}

inline std::vector<int> order_of(int count) {
  std::vector<int> order(count);
  for (int i = 0; i < count; i++) order[i] = i;
  if (state.schedule & 2) std::reverse(order.begin(), order.end());
  if (state.schedule > 3) {
    uint64_t r = state.schedule * 0x9E3779B97F4A7C15ull;
    for (int i = count - 1; i > 0; i--) {
      r ^= r << 13; r ^= r >> 7; r ^= r << 17;
      std::swap(order[i], order[r % (i + 1)]);
    }
  }
  return order;
}

inline void prepare(int threads) {
  while ((int)state.stacks.size() < threads) state.stacks.push_back((char*)aligned_alloc(64, STACK));
  state.fibers.assign(threads, Fiber{});
  state.slots.assign(2 * threads, 0);
  state.warps.assign((threads + 31) / 32, Barrier{});
  state.block = Barrier{};
  state.block.need = state.live = threads;
  for (int i = 0; i < threads; i++) {
    const unsigned x = state.size.x, y = state.size.y;
    state.fibers[i].number = i;
    state.fibers[i].thread = {i % x, i / x % y, i / (x * y)};
    state.warps[i / 32].need++;
  }
  for (const SharedArray& array : state.shared) memset(array.start, 0xFF, array.bytes);
}

inline bool run_block() {
  const int threads = state.size.x * state.size.y * state.size.z;
  prepare(threads);
  const bool greedy = state.schedule & 1;
  const int group = greedy ? 32 : threads;
  const std::vector<int> groups = order_of((threads + group - 1) / group);
  const std::vector<int> within = order_of(group);
  while (state.live > 0) {
    bool any = false;
    for (int which : groups) {
      do {
        state.progress = false;
        for (int i : within) {
          const int number = which * group + i;
          if (number < threads && !state.fibers[number].done) resume(number);
        }
        any = any || state.progress;
      } while (greedy && state.progress);
    }
    if (!any) {
      state.error = "threads wait at different barriers for ever";
      return false;
    }
  }
  return true;
}

template <class T> inline T exchange(T value, int lane, bool valid) {
  static_assert(sizeof(T) <= 8, "a lane shows at most eight bytes");
  const int threads = (int)state.fibers.size(), me = state.fibers[state.current].number;
  Barrier& warp = state.warps[me / 32];
  const int round = (int)(warp.generation & 1) * threads;
  uint64_t raw = 0;
  memcpy(&raw, &value, sizeof(T));
  state.slots[round + me] = raw;
  wait(warp);
  int from = me / 32 * 32 + lane;
  if (!valid || from >= threads) from = me;
  T result;
  memcpy(&result, &state.slots[round + from], sizeof(T));
  return result;
}

template <class... A, size_t... I>
void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
  kernel(*reinterpret_cast<std::remove_reference_t<A>*>(arguments[I])...);
}

template <class... A> struct Call {
  void (*kernel)(A...);
  void** arguments;
  static void go(void* self) {
    auto* it = (Call*)self;
    call(it->kernel, it->arguments, std::index_sequence_for<A...>{});
  }
};

template <class... A>
const char* launch(void (*kernel)(A...), const unsigned* grid, const unsigned* block, void** arguments, unsigned schedule) {
  Call<A...> it{kernel, arguments};
  state.entry = &Call<A...>::go;
  state.argument = &it;
  state.grid = {grid[0], grid[1], grid[2]};
  state.size = {block[0], block[1], block[2]};
  state.error = nullptr;
  state.schedule = schedule;
  const int count = grid[0] * grid[1] * grid[2];
  for (int number : order_of(count)) {
    state.index = {number % grid[0], number / grid[0] % grid[1], number / (grid[0] * grid[1])};
    if (!run_block()) return state.error;
  }
  return nullptr;
}

}  // namespace emulator

#define threadIdx (::emulator::state.fibers[::emulator::state.current].thread)
#define blockIdx (::emulator::state.index)
#define blockDim (::emulator::state.size)
#define gridDim (::emulator::state.grid)
#define EMULATOR_LANE (::emulator::state.fibers[::emulator::state.current].number & 31)

static inline void __syncthreads() { ::emulator::wait(::emulator::state.block); }
static inline void __syncwarp(unsigned = ~0u) {
  ::emulator::wait(::emulator::state.warps[::emulator::state.fibers[::emulator::state.current].number / 32]);
}
template <class T> static inline T __shfl_sync(unsigned, T v, int lane, int = 32) { return ::emulator::exchange(v, lane & 31, true); }
template <class T> static inline T __shfl_up_sync(unsigned, T v, unsigned d, int = 32) { const int lane = EMULATOR_LANE - (int)d; return ::emulator::exchange(v, lane, lane >= 0); }
template <class T> static inline T __shfl_down_sync(unsigned, T v, unsigned d, int = 32) { const int lane = EMULATOR_LANE + (int)d; return ::emulator::exchange(v, lane, lane < 32); }
template <class T> static inline T __shfl_xor_sync(unsigned, T v, int mask, int = 32) { return ::emulator::exchange(v, EMULATOR_LANE ^ mask, true); }
static inline unsigned __ballot_sync(unsigned, int predicate) {
  unsigned bits = 0;
  for (int lane = 0; lane < 32; lane++) bits |= (unsigned)(__shfl_sync(~0u, predicate != 0, lane) & 1) << lane;
  return bits;
}
static inline int __popc(unsigned x) { return __builtin_popcount(x); }

#define EMULATOR_EXPORT(kernel) \
  extern "C" const char* run_##kernel(const unsigned* grid, const unsigned* block, void** arguments, unsigned schedule) { \
    return ::emulator::launch(kernel, grid, block, arguments, schedule); \
  }
