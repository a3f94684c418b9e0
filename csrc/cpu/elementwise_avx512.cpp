#define IQL_ISA avx512
#include "cpu/elementwise_impl.h"
