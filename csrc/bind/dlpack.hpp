/// DLPack's table of C functions, by which torch gives its tensors: 30 to 80 ns each, where Tensor.numpy() takes 500.
/// DLPack 1.2, https://dmlc.github.io/dlpack/latest/c_api.html.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>

namespace fastopt {

namespace py = pybind11;

namespace dlpack {
struct Version {
  std::uint32_t major, minor;
};
struct Device {
  std::int32_t type, id;
};
struct Type {
  std::uint8_t code, bits;
  std::uint16_t lanes;
  bool operator==(const Type&) const = default;
};
struct Tensor {
  void* data;
  Device device;
  std::int32_t ndim;
  Type dtype;
  std::int64_t *shape, *strides;  // strides in elements
  std::uint64_t byte_offset;
};
struct Table {
  Version version;
  Table* older;
  void *allocate, *owned_from_object, *object_from_owned;
  int (*from_object)(void* object, Tensor* tensor);  // borrows; -1 with Python's error set
  void* stream;
};
inline constexpr std::int32_t kCpu = 1;
inline constexpr std::uint32_t kMajor = 1;  // of the version that these structs are

/// The numbers of types' codes.
inline constexpr std::uint8_t kFloat = 2, kBfloat = 4;

/// The table in a capsule of torch's.
inline const Table* table_of(const py::capsule& capsule) {
  const auto* const table = static_cast<const Table*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
  if (table == nullptr) throw py::error_already_set();
  if (table->version.major != kMajor)
    throw py::value_error("fastopt.torch: torch has version " + std::to_string(table->version.major) +
                          " of DLPack's functions, expected 1");
  return table;
}

/// Whether the object is a tensor in the CPU's memory, and what it is.
inline bool read(const Table& table, PyObject* object, Tensor& tensor) {
  if (table.from_object(object, &tensor) != 0) {
    PyErr_Clear();
    return false;
  }
  return tensor.device.type == kCpu && (tensor.ndim == 0 || tensor.strides != nullptr);
}

}  // namespace dlpack

}  // namespace fastopt
