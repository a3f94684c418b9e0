// Which set of kernels this machine runs.
#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#endif
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "cpu/kernels.h"

namespace iql::cpu {

#define IQL_DECLARE_KERNELS(isa)                \
  namespace isa {                               \
  extern const Kernels<float> kFloat;           \
  extern const Kernels<double> kDouble;         \
  extern const Kernels<float, BFloat16> kMixed; \
  }
IQL_DECLARE_KERNELS(portable)
#if defined(__x86_64__)
IQL_DECLARE_KERNELS(avx2)
IQL_DECLARE_KERNELS(avx512)
namespace avx512bf16 {
extern const Kernels<float, BFloat16> kMixed, kMixedWide;
}
namespace amx {
extern const Kernels<float, BFloat16> kMixed;
}
#if defined(IQL_EMULATED_AMX)  // the tests' build: last, so that only its name chooses it
namespace amx_emulated {
extern const Kernels<float, BFloat16> kMixed;
}
#endif
#endif
#undef IQL_DECLARE_KERNELS

template <>
const Kernels<float>* const* all_kernels<float>() {
  static const Kernels<float>* const sets[] = {
#if defined(__x86_64__)
      &avx512::kFloat, &avx2::kFloat,
#endif
      &portable::kFloat, nullptr};
  return sets;
}

template <>
const Kernels<double>* const* all_kernels<double>() {
  static const Kernels<double>* const sets[] = {
#if defined(__x86_64__)
      &avx512::kDouble, &avx2::kDouble,
#endif
      &portable::kDouble, nullptr};
  return sets;
}

template <>
const Kernels<float, BFloat16>* const* all_kernels<float, BFloat16>() {
  static const Kernels<float, BFloat16>* const sets[] = {
#if defined(__x86_64__)
      &amx::kMixed,
      &avx512bf16::kMixedWide,
      &avx512bf16::kMixed,
      &avx512::kMixed,
      &avx2::kMixed,
#endif
      &portable::kMixed,
#if defined(IQL_EMULATED_AMX)
      &amx_emulated::kMixed,
#endif
      nullptr};
  return sets;
}

namespace {

// Whether there are matrix registers for bf16, and the system lets this process have them: their
// state is large, so Linux saves it for those alone that ask.
bool have_tiles() {
#if defined(__x86_64__) && defined(__linux__)
  constexpr unsigned kBf16 = 1u << 22, kTiles = 1u << 24;
  constexpr long kAskFor = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  return (d & kBf16) != 0 && (d & kTiles) != 0 && syscall(SYS_arch_prctl, kAskFor, kTileData) == 0;
#else
  return false;
#endif
}

}  // namespace

bool can_run(const char* name) {
#if defined(__x86_64__)
  if (std::strcmp(name, "amx") == 0) {
    static const bool tiles = have_tiles();
    return tiles && can_run("avx512bf16");
  }
  if (std::strcmp(name, "amx-emulated") == 0) return can_run("avx512bf16");
  if (std::strcmp(name, "avx2") == 0) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  }
  if (std::strcmp(name, "avx512bf16") == 0 || std::strcmp(name, "avx512bf16-wide") == 0) {
    return can_run("avx512") && __builtin_cpu_supports("avx512bf16") &&
           __builtin_cpu_supports("avx512vbmi2");
  }
  if (std::strcmp(name, "avx512") == 0) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
  }
#endif
  return std::strcmp(name, "portable") == 0;
}

long l1_data_cache() {
#if defined(_SC_LEVEL1_DCACHE_SIZE)
  const long bytes = sysconf(_SC_LEVEL1_DCACHE_SIZE);
  return bytes > 0 ? bytes : 0;
#else
  return 0;
#endif
}

template <class T, class Operand>
const Kernels<T, Operand>& kernels(const std::string& name, long l1_bytes) {
  const char* from_environment = std::getenv("IQL_FAST_CPU_KERNELS");
  const std::string wanted = !name.empty() || from_environment == nullptr ? name : from_environment;
  const Kernels<T, Operand>* first = nullptr;
  std::string names;
  for (const Kernels<T, Operand>* const* set = all_kernels<T, Operand>(); *set != nullptr; ++set) {
    if (!can_run((*set)->name)) continue;
    if (wanted == (*set)->name) return **set;
    if (first == nullptr && l1_bytes >= (*set)->l1_bytes) first = *set;
    names += names.empty() ? "" : ", ";
    names += (*set)->name;
  }
  if (wanted.empty()) return *first;
  throw std::runtime_error((name.empty() ? "IQL_FAST_CPU_KERNELS is '" : "the kernels are '") +
                           wanted + "', which this machine cannot run" +
                           (std::is_same_v<T, Operand> ? "" : " in mixed precision") +
                           "; it can run: " + names);
}

template const Kernels<float>& kernels<float>(const std::string&, long);
template const Kernels<double>& kernels<double>(const std::string&, long);
template const Kernels<float, BFloat16>& kernels<float, BFloat16>(const std::string&, long);

}  // namespace iql::cpu
