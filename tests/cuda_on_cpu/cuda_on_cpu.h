// Runs CUDA kernels on the CPU: one fiber for each CUDA thread, the blocks one after the other.
//
// A fiber runs until it waits (at a barrier, a shuffle) or ends; then another one of the block
// does. Which one is the schedule's choice: kernels must give the same bytes under all of them.
// Told as errors: threads that wait for ever, and threads that meet at barriers of different
// lines. NaN, and so seen in the results: shared memory before it is written, and what a shuffle
// reads from a lane that takes no part in it.
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
#include <deque>
#include <type_traits>
#include <utility>
#include <vector>

// ---- What CUDA has and C++ has not.

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

using std::max;
using std::min;

struct dim3 { unsigned x, y, z; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) double2 { double x, y; };
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline double2 make_double2(double x, double y) { return {x, y}; }

#define __expf expf  // the C library has these names for itself
#define __logf logf
static inline float __fdividef(float a, float b) { return a / b; }
static inline float rsqrt(float x) { return 1.f / sqrtf(x); }
static inline double rsqrt(double x) { return 1.0 / sqrt(x); }
static inline float rsqrtf(float x) { return 1.f / sqrtf(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
template <class T> static inline T __ldg(const T* p) { return *p; }

// In CUDA these names take either type; in C++ only std:: does.
using std::exp; using std::exp2; using std::expm1; using std::fabs; using std::fma; using std::isfinite;
using std::isinf; using std::isnan; using std::log; using std::log1p; using std::log2; using std::pow;
using std::sqrt; using std::tanh;

// ---- The machine.

namespace emulator {

struct Fiber { jmp_buf place; ucontext_t context; bool started = false, done = true; dim3 thread; };

struct Barrier { int need = 0, count = 0, line = 0; uint64_t generation = 0; };

// Lanes of one warp that meet, and what they show each other: in turns, so that the slow ones
// still see the values of one meeting while the quick ones bring those of the next.
struct Meeting { unsigned mask; Barrier barrier; unsigned present[2] = {}; uint64_t shown[2][32]; };
struct Warp { unsigned live = 0; std::deque<Meeting> meetings; };
struct SharedArray { void* start; size_t bytes; };

// Schedules: bit 0, greedy (one warp runs until it waits, then the next) instead of round and
// round; bit 1, from the last thread and block to the first; from 4 on, shuffled by the number.
struct State {
  std::deque<Fiber> fibers;  // they are kept: to begin one costs more than to run it
  std::vector<char*> stacks;
  std::vector<Warp> warps;
  Barrier block;
  jmp_buf scheduler;
  int current = 0, threads = 0, live = 0;
  bool progress = false;
  dim3 grid, size, index;
  void (*entry)(void*) = nullptr;
  void* argument = nullptr;
  char error[200] = "";
  unsigned schedule = 0;
};
inline State state;
static std::vector<SharedArray> shared_arrays;
constexpr size_t STACK = 256 * 1024;

// A block's shared array, from its declaration on: filled with NaN before each block.
static inline bool declare_shared(void* start, size_t bytes) {
  shared_arrays.push_back({start, bytes});
  memset(start, 0xFF, bytes);
  return true;
}

inline void yield() { if (_setjmp(state.fibers[state.current].place) == 0) _longjmp(state.scheduler, 1); }

template <class... A> void fail(const char* text, A... values) {
  snprintf(state.error, sizeof state.error, text, values...);
  yield();  // never to come back
}

inline void wait(Barrier& barrier, int line) {
  const uint64_t generation = barrier.generation;
  state.progress = true;
  if (barrier.count == 0) barrier.line = line;
  if (barrier.line != line) fail("threads meet at barriers of different lines, %d and %d", barrier.line, line);
  if (++barrier.count >= barrier.need) { barrier.count = 0; ++barrier.generation; return; }
  while (barrier.generation == generation) yield();
}

inline void leave(Barrier& barrier) {  // a thread that has ended no longer counts
  --barrier.need;
  if (barrier.need > 0 && barrier.count >= barrier.need) { barrier.count = 0; ++barrier.generation; }
}

inline Meeting& meeting(unsigned mask) {
  Warp& warp = state.warps[state.current / 32];
  if (!(mask >> state.current % 32 & 1)) fail("lane %d is not in its own mask %08x", state.current % 32, mask);
  for (Meeting& it : warp.meetings) if (it.mask == mask) return it;
  warp.meetings.push_back({mask, {}});
  warp.meetings.back().barrier.need = __builtin_popcount(mask & warp.live);
  return warp.meetings.back();
}

inline void end_thread() {
  Warp& warp = state.warps[state.current / 32];
  const unsigned lane = 1u << state.current % 32;
  state.fibers[state.current].done = true;
  state.progress = true;
  --state.live;
  warp.live &= ~lane;
  for (Meeting& it : warp.meetings) if (it.mask & lane) leave(it.barrier);
  leave(state.block);
}

inline void fiber_main() {
  for (;;) {
    state.entry(state.argument);
    end_thread();
    yield();  // until a later block needs a thread of this number
  }
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
  if (state.schedule > 3) {
    uint64_t r = state.schedule * 0x9E3779B97F4A7C15ull;
    for (int i = count - 1; i > 0; i--) {
      r ^= r << 13; r ^= r >> 7; r ^= r << 17;
      std::swap(order[i], order[r % (i + 1)]);
    }
  } else if (state.schedule & 2) {
    std::reverse(order.begin(), order.end());
  }
  return order;
}

inline void prepare(int threads) {
  while ((int)state.stacks.size() < threads) {
    state.stacks.push_back((char*)aligned_alloc(64, STACK));
    state.fibers.emplace_back();
  }
  state.threads = state.live = threads;
  state.warps.assign((threads + 31) / 32, Warp{});
  state.block = Barrier{};
  state.block.need = threads;
  for (int i = 0; i < threads; i++) {
    const unsigned x = state.size.x, y = state.size.y;
    state.fibers[i].thread = {i % x, i / x % y, i / (x * y)};
    state.fibers[i].done = false;
    state.warps[i / 32].live |= 1u << i % 32;
  }
  for (const SharedArray& array : shared_arrays) memset(array.start, 0xFF, array.bytes);
}

inline bool give_up() {
  for (Fiber& fiber : state.fibers) fiber.started = false;
  return false;
}

static inline bool run_block(const std::vector<int>& groups, const std::vector<int>& within, bool greedy) {
  prepare(state.size.x * state.size.y * state.size.z);
  while (state.live > 0) {
    bool any = false;
    for (int which : groups) {
      do {
        state.progress = false;
        for (int i : within) {
          const int number = which * (int)within.size() + i;
          if (number >= state.threads || state.fibers[number].done) continue;
          resume(number);
          if (*state.error) return give_up();
        }
        any = any || state.progress;
      } while (greedy && state.progress);
    }
    if (!any) {
      snprintf(state.error, sizeof state.error, "threads wait at different barriers for ever");
      return give_up();
    }
  }
  return true;
}

// All lanes of the mask show a value; the number of the meeting's turn. `lane` is what is asked for.
template <class T> inline T exchange(unsigned mask, T value, int from, bool valid, int line) {
  static_assert(sizeof(T) <= 8, "a lane shows at most eight bytes");
  const int lane = state.current % 32;
  Meeting& it = meeting(mask);
  const int turn = it.barrier.generation & 1;
  if (it.barrier.count == 0) it.present[turn] = 0;
  it.present[turn] |= 1u << lane;
  memcpy(&it.shown[turn][lane], &value, sizeof(T));
  wait(it.barrier, line);
  if (!valid) return value;
  T result;
  memset(&result, 0xFF, sizeof(T));
  if (it.present[turn] >> (from & 31) & 1) memcpy(&result, &it.shown[turn][from & 31], sizeof(T));
  return result;
}

inline unsigned ballot(unsigned mask, bool predicate, int line) {
  Meeting& it = meeting(mask);
  const int turn = it.barrier.generation & 1;
  exchange(mask, int(predicate), 0, false, line);
  unsigned bits = 0;
  for (int lane = 0; lane < 32; lane++) {
    if (it.present[turn] >> lane & 1) bits |= unsigned(it.shown[turn][lane] & 1) << lane;
  }
  return bits;
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
static const char* launch(void (*kernel)(A...), const unsigned* grid, const unsigned* block, void** arguments, unsigned schedule) {
  Call<A...> it{kernel, arguments};
  state.entry = &Call<A...>::go;
  state.argument = &it;
  state.grid = {grid[0], grid[1], grid[2]};
  state.size = {block[0], block[1], block[2]};
  state.error[0] = 0;
  state.schedule = schedule;
  const bool greedy = schedule & 1;
  const int threads = block[0] * block[1] * block[2], group = greedy ? 32 : threads;
  const std::vector<int> groups = order_of((threads + group - 1) / group), within = order_of(group);
  for (int number : order_of(grid[0] * grid[1] * grid[2])) {
    state.index = {number % grid[0], number / grid[0] % grid[1], number / (grid[0] * grid[1])};
    if (!run_block(groups, within, greedy)) return state.error;
  }
  return nullptr;
}

}  // namespace emulator

// ---- The names that kernels use.

#define threadIdx (::emulator::state.fibers[::emulator::state.current].thread)
#define blockIdx (::emulator::state.index)
#define blockDim (::emulator::state.size)
#define gridDim (::emulator::state.grid)

#define __syncthreads() ::emulator::wait(::emulator::state.block, __LINE__)
#define __syncwarp(...) sync_warp(__LINE__ __VA_OPT__(,) __VA_ARGS__)
#define __ballot_sync(mask, predicate) ::emulator::ballot(mask, predicate, __LINE__)
#define __any_sync(mask, predicate) (__ballot_sync(mask, predicate) != 0)
#define __all_sync(mask, predicate) (__ballot_sync(mask, !(predicate)) == 0)
#define __shfl_sync(...) shuffle(__LINE__, __VA_ARGS__)
#define __shfl_up_sync(...) shuffle_up(__LINE__, __VA_ARGS__)
#define __shfl_down_sync(...) shuffle_down(__LINE__, __VA_ARGS__)
#define __shfl_xor_sync(...) shuffle_xor(__LINE__, __VA_ARGS__)

static inline void sync_warp(int line, unsigned mask = ~0u) { ::emulator::wait(::emulator::meeting(mask).barrier, line); }
static inline int emulator_lane() { return ::emulator::state.current & 31; }
template <class T> static inline T shuffle(int line, unsigned mask, T v, int from, int width = 32) {
  return ::emulator::exchange(mask, v, (emulator_lane() & -width) | (from & (width - 1)), true, line);
}
template <class T> static inline T shuffle_up(int line, unsigned mask, T v, unsigned d, int width = 32) {
  const int from = emulator_lane() - (int)d;
  return ::emulator::exchange(mask, v, from, from >= (emulator_lane() & -width), line);
}
template <class T> static inline T shuffle_down(int line, unsigned mask, T v, unsigned d, int width = 32) {
  const int from = emulator_lane() + (int)d;
  return ::emulator::exchange(mask, v, from, from < (emulator_lane() & -width) + width, line);
}
template <class T> static inline T shuffle_xor(int line, unsigned mask, T v, int bits, int width = 32) {
  const int from = emulator_lane() ^ bits;
  return ::emulator::exchange(mask, v, from, from < (emulator_lane() & -width) + width, line);
}

#define EMULATOR_EXPORT(kernel) \
  extern "C" const char* run_##kernel(const unsigned* grid, const unsigned* block, void** arguments, unsigned schedule) { \
    return ::emulator::launch(kernel, grid, block, arguments, schedule); \
  }
