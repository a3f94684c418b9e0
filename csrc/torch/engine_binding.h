#pragma once

#include <pybind11/pybind11.h>

namespace iql {

// Adds the CPU engine's classes to the extension module.
void bind_engine(pybind11::module_& module);

}  // namespace iql
