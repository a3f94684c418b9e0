#define IQL_ISA portable
#include "cpu/elementwise_impl.h"
