// Which set of elementwise loops this machine runs.
#include "cpu/elementwise.h"

#include <cstring>
#include <stdexcept>

#include "cpu/kernels.h"

namespace iql::cpu {

#define IQL_DECLARE_SET(isa)                               \
  namespace isa {                                          \
  extern const Elementwise<float> kElementwiseFloat;       \
  extern const Elementwise<double> kElementwiseDouble;     \
  extern const Elementwise<BFloat16> kElementwiseBFloat16; \
  }
IQL_DECLARE_SET(portable)
#if defined(__x86_64__)
IQL_DECLARE_SET(avx2)
IQL_DECLARE_SET(avx512)
#define IQL_X86_SETS(member) &avx512::member, &avx2::member,
#else
#define IQL_X86_SETS(member)
#endif
#undef IQL_DECLARE_SET

#define IQL_DEFINE_SETS(T, member)                                                        \
  template <>                                                                             \
  const Elementwise<T>* const* all_elementwise<T>() {                                     \
    static const Elementwise<T>* const sets[] = {IQL_X86_SETS(member) & portable::member, \
                                                 nullptr};                                \
    return sets;                                                                          \
  }                                                                                       \
  template <>                                                                             \
  const Elementwise<T>& elementwise<T>() {                                                \
    static const Elementwise<T>& chosen = named<T>(kernels<float>().name);                \
    return chosen;                                                                        \
  }

namespace {

// Of the instruction set that a set of kernels is named after.
template <class T>
const Elementwise<T>& named(const char* name) {
  for (const Elementwise<T>* const* set = all_elementwise<T>(); *set != nullptr; ++set) {
    if (std::strncmp((*set)->name, name, std::strlen((*set)->name)) == 0) return **set;
  }
  throw std::logic_error(std::string("no elementwise loops are compiled for ") + name);
}

}  // namespace

IQL_DEFINE_SETS(float, kElementwiseFloat)
IQL_DEFINE_SETS(double, kElementwiseDouble)
IQL_DEFINE_SETS(BFloat16, kElementwiseBFloat16)

}  // namespace iql::cpu
