#pragma once

#include <pybind11/pybind11.h>

namespace iql {

// Adds the operators of torch.ops.iql_fast to the module as plain functions.
void bind_operators(pybind11::module_& module);

}  // namespace iql
