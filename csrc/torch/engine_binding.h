#pragma once

#include <pybind11/pybind11.h>

namespace iql {

// Adds the engines' configuration and the CPU engine to the extension module.
void bind_engine(pybind11::module_& module);
// Adds the CUDA engine where it was built, and why it cannot be used.
void bind_cuda_engine(pybind11::module_& module);

}  // namespace iql
