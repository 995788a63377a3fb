/// Converts whole arrays of fewer bits to float32 and back, with all threads.
#pragma once

#include <cstddef>

#include "core/codec/stored.hpp"

namespace fastopt {

/// Writes the n numbers of an array to `to` as float32.
void unpack(const StoredArray& stored, std::size_t n, float* to);

/// Fills an array with n numbers, rounded to the nearest.
void pack(const float* from, std::size_t n, const StoredArray& stored);

}  // namespace fastopt
