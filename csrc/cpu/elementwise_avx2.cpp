#define IQL_ISA avx2
#include "cpu/elementwise_impl.h"
