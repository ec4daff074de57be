// What a call answered, success included, so that a test compares one value.
#pragma once

#include "machine/result.hpp"

namespace kexec_sim {

template <typename T> Errno errno_of(const Result<T>& result) { return result ? Errno::ok : result.error(); }

}  // namespace kexec_sim
