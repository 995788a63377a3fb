/// Converts arrays of fewer bits to float32 and back, for Python.
#include "core/codec/convert.hpp"

#include <pybind11/numpy.h>

#include <cstddef>
#include <string>

#include "bind/arrays.hpp"
#include "bind/gil.hpp"
#include "bind/module.hpp"

namespace fastopt {

namespace {

/// The arrays of one function, after the checks that all functions need.
struct Arguments {
  const Kernels& kernels;
  std::string function;

  Array array(py::handle object, const char* argument, bool written) const {
    const Array found(object, {function, argument}, Accepted::all);
    expect_contiguous(found, {function, argument});
    if (written) expect_writeable(found, {function, argument});
    return found;
  }

  StoredArray kept(const Array& numbers, const std::string& kind, py::handle scales, bool written) const {
    if (kind != "moment" && kind != "square")
      throw py::value_error(function + ": kind must be 'moment' or 'square', got '" + kind + "'");
    StoredArray kept{Format::exact, numbers.data<void>()};
    if (numbers.dtype() == Dtype::float16) kept.format = Format::float16;
    if (numbers.dtype() == Dtype::bfloat16) kept.format = Format::bfloat16;
    if (numbers.dtype() == Dtype::uint8) {
      const Array exponents = array(scales, "scales", written);
      expect_dtype(exponents, Dtype::uint8, {function, "scales"});
      expect_shape(exponents, {static_cast<std::ptrdiff_t>((numbers.size() + kScaleBlock - 1) / kScaleBlock)},
                   {function, "scales"});
      kept.format = kind == "square" ? Format::square8 : Format::moment8;
      kept.scales = exponents.data<std::uint8_t>();
    } else if (kept.format == Format::exact) {
      expect_dtype(numbers, Dtype::float32, {function, "numbers"});
    }
    return kept;
  }

  /// 16-bit weights with their residual.
  StoredArray weights(const Array& halves, py::handle object, bool written) const {
    if (!is_half(halves.dtype()))
      throw py::type_error(function + ": numbers has dtype " + name_of(halves.dtype()) +
                           ", expected float16 or bfloat16");
    StoredArray kept{halves.dtype() == Dtype::float16 ? Format::float16 : Format::bfloat16, halves.data<void>()};
    if (object.is_none()) return kept;
    const Array beside = array(object, "rest", written);
    expect_shape(beside, halves.shape(), {function, "rest"});
    kept.more = beside.data<void>();
    if (beside.dtype() == halves.dtype())
      kept.rest = Rest::compensation;
    else if (beside.dtype() == Dtype::int8 && halves.dtype() == Dtype::bfloat16)
      kept.rest = Rest::correction;
    else
      throw py::type_error(
          function + ": rest has dtype " + name_of(beside.dtype()) + ", expected " + name_of(halves.dtype()) +
          (halves.dtype() == Dtype::bfloat16 ? " (compensations) or int8 (corrections)" : " (compensations)"));
    return kept;
  }
};

py::array unpacked(const Kernels& kernels, const Array& like, const StoredArray& kept) {
  py::array_t<float> result(like.shape());
  float* to = result.mutable_data();
  {
    const WithoutGil release;
    kernels.run<&fastopt::unpack>(kept, like.size(), to);
  }
  return result;
}

void pack_into(const Arguments& arguments, py::handle values, const Array& numbers, const StoredArray& kept) {
  const Array from = arguments.array(values, "values", false);
  expect_dtype(from, Dtype::float32, {arguments.function, "values"});
  expect_shape(numbers, from.shape(), {arguments.function, "numbers"});
  const float* data = from.data<float>();
  const WithoutGil release;
  arguments.kernels.run<&fastopt::pack>(data, from.size(), kept);
}

py::array unpack_moments(const Kernels& kernels, py::handle numbers, const std::string& kind, py::handle scales) {
  const Arguments arguments{kernels, "unpack"};
  const Array array = arguments.array(numbers, "numbers", false);
  return unpacked(kernels, array, arguments.kept(array, kind, scales, false));
}

void pack_moments(const Kernels& kernels, py::handle values, const std::string& kind, py::handle numbers,
                  py::handle scales) {
  const Arguments arguments{kernels, "pack"};
  const Array array = arguments.array(numbers, "numbers", true);
  pack_into(arguments, values, array, arguments.kept(array, kind, scales, true));
}

py::array unpack_weights(const Kernels& kernels, py::handle numbers, py::handle rest) {
  const Arguments arguments{kernels, "unpack_weights"};
  const Array array = arguments.array(numbers, "numbers", false);
  return unpacked(kernels, array, arguments.weights(array, rest, false));
}

void pack_weights(const Kernels& kernels, py::handle values, py::handle numbers, py::handle rest) {
  const Arguments arguments{kernels, "pack_weights"};
  const Array array = arguments.array(numbers, "numbers", true);
  pack_into(arguments, values, array, arguments.weights(array, rest, true));
}

}  // namespace

void bind_formats(py::module_& m, const Kernels& kernels) {
  m.attr("SHARE") = kScaleBlock;
  m.def("unpack", bound(kernels, unpack_moments), py::arg("numbers"), py::arg("kind"), py::arg("scales") = py::none(),
        "The float32 numbers in an array of float16, bfloat16 or 8-bit codes with their scales; kind is 'moment' or "
        "'square'.");
  m.def("pack", bound(kernels, pack_moments), py::arg("values"), py::arg("kind"), py::arg("numbers"),
        py::arg("scales") = py::none(),
        "Fills numbers, and scales where they are 8-bit codes, with float32 values, rounded to the nearest.");
  m.def("unpack_weights", bound(kernels, unpack_weights), py::arg("numbers"), py::arg("rest") = py::none(),
        "The float32 weights in 16 bits and their compensations or corrections.");
  m.def("pack_weights", bound(kernels, pack_weights), py::arg("values"), py::arg("numbers"),
        py::arg("rest") = py::none(),
        "Fills numbers of 16 bits, and their compensations or corrections, with float32 values.");
}

}  // namespace fastopt
