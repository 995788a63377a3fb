/// Pooling, and what surrounds the product of a convolution, for Python.  Functions of pools check everything before
/// anything is written; those of convolutions, which only conv2d calls, rely on its checks.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "bind/call.hpp"
#include "bind/gil.hpp"
#include "bind/layout.hpp"
#include "bind/module.hpp"
#include "core/cost.hpp"
#include "nn/convolution.hpp"
#include "nn/pool.hpp"

namespace fastopt {

namespace {

/// The axes of an array of images in the order samples, channels, rows, columns.
using ImageAxes = std::array<std::ptrdiff_t, 4>;

ImageAxes axes_with(std::ptrdiff_t channel) {
  ImageAxes axes{0, channel, 0, 0};
  std::size_t i = 0;
  for (std::ptrdiff_t axis = 0; axis < 4; ++axis)
    if (axis != channel) axes[i] = axis, i += i == 0 ? 2 : 1;
  return axes;
}

Images images_of(const Array& array, const ImageAxes& axes) {
  const auto step = [&](std::size_t i) {
    return array.size() == 0 || array.shape(axes[i]) <= 1 ? 0 : step_of(array, axes[i]);
  };
  return {array.shape(axes[0]), array.shape(axes[1]), step(0), step(1), step(2), step(3)};
}

/// Whether channels are innermost in memory; those of images of one pixel are if they are the last axis.
bool has_image_columns(const Array& array, const ImageAxes& axes) {
  const bool pixel = array.shape(axes[2]) == 1 && array.shape(axes[3]) == 1;
  return axes[1] == 3 || (!pixel && array.shape(axes[1]) > 1 && step_of(array, axes[1]) == 1);
}

/// What the functions of pools share: images, and windows over them.
class PoolArguments {
 public:
  explicit PoolArguments(Call& call) : call_(call), x_name_(call.has("x") ? "x" : "dy") {
    std::ptrdiff_t channel = call.integer("channel_axis");
    const std::array size = call.integers("kernel_size", 1);
    const std::array stride = call["stride"].is_none() ? size : call.integers("stride", 1);
    const std::array padding = call.integers("padding", 0);
    std::array<std::ptrdiff_t, 2> dilation{1, 1};
    if (call.has("dilation")) dilation = call.integers("dilation", 1);
    const bool ceil_mode = call.flag("ceil_mode");
    if (call.has("count_include_pad")) divisors_.padding = call.flag("count_include_pad");
    if (call.has("divisor_override") && !call["divisor_override"].is_none()) {
      const std::ptrdiff_t divisor = call.integer("divisor_override");
      if (divisor == 0) throw py::value_error(call.text("divisor_override") + " must not be 0, got 0");
      divisors_.always = static_cast<double>(divisor);
    }
    for (std::size_t i = 0; i < 2; ++i)
      if (2 * padding[i] > size[i])
        throw py::value_error(call.text("padding") + " must be at most half of kernel_size, got " +
                              std::to_string(padding[i]) + " with kernel_size " + std::to_string(size[i]));
    std::optional<Shape> given;
    if (call.has("input_size")) given = input_size();
    const Array x = call.read(x_name_);
    if (x.ndim() != 4)
      throw py::value_error(call.text(x_name_) + " has shape " + text_of(x.shape()) +
                            ", expected 4 axes: samples, channels and two of images; of one image give " + x_name_ +
                            "[np.newaxis]");
    if (channel < -4 || channel >= 4 || channel % 4 == 0)
      throw py::value_error(call.text("channel_axis") + " must name one of the axes of " + x_name_ +
                            " but the first, got " + std::to_string(channel));
    if (channel < 0) channel += 4;
    axes_ = axes_with(channel);
    dtype = x.dtype();
    data = x.data<void>();
    in = images_of(x, axes_);
    x_shape = given ? *given : x.shape();
    const auto windows = [&](std::size_t i) {
      Windows axis{x_shape[static_cast<std::size_t>(axes_[i + 2])], 0, size[i], stride[i], padding[i], dilation[i]};
      const std::ptrdiff_t room = axis.in + 2 * axis.padding - axis.reach() + (ceil_mode ? axis.stride - 1 : 0);
      axis.out = room < 0 ? 0 : room / axis.stride + 1;
      if (ceil_mode && axis.out > 0 && (axis.out - 1) * axis.stride >= axis.in + axis.padding) --axis.out;
      for (std::ptrdiff_t o = 0; o < axis.out; ++o)
        if (const auto [begin, end] = axis.elements(o); begin == end) axis.out = 0;
      if (axis.out == 0)
        throw py::value_error(call.text("kernel_size") + " must leave every window some elements, got " +
                              std::to_string(size[i]) + " along an axis of " + std::to_string(axis.in) +
                              " with padding " + std::to_string(padding[i]) + " and dilation " +
                              std::to_string(dilation[i]));
      return axis;
    };
    pool = {windows(0), windows(1), has_image_columns(x, axes_)};
    if (pool.plane() > std::numeric_limits<std::int32_t>::max())
      throw py::value_error(call.text(x_name_) + " must have planes of less than 2**31 elements, got " +
                            std::to_string(pool.plane()));
    y_shape = x_shape;
    y_shape[static_cast<std::size_t>(axes_[2])] = pool.y.out;
    y_shape[static_cast<std::size_t>(axes_[3])] = pool.x.out;
    if (given && x.shape() != y_shape)
      throw py::value_error(call.text(x_name_) + " has shape " + text_of(x.shape()) + ", expected " + text_of(y_shape) +
                            ", the result's for input_size " + text_of(x_shape));
  }

  const Divisors& divisors() const { return divisors_; }

  struct Result {
    py::object object;
    Images in;
  };
  /// A result in columns or planes as the first array, contiguous ones.
  Result result(std::size_t i, Dtype its_dtype, const Shape& shape) const {
    py::object object = call_.result(i, its_dtype, shape, [&]() -> py::object {
      if (!pool.columns || axes_[1] == 3) return fresh(its_dtype, shape);
      const Shape order{axes_[0], axes_[2], axes_[3], axes_[1]};
      return fresh(its_dtype, shape, strides_in(order, shape, its_dtype));
    });
    const Name name = call_.result_name(i);
    const Array array(object, name, its_dtype == Dtype::int32 ? Accepted::indices : Accepted::floats);
    if (array.size() != 0 && (!is_dense(array) || !runs(array)))
      throw py::type_error(name.text() + " must have its " + (pool.columns ? "channels" : "rows") +
                           " innermost in memory, as " + x_name_ +
                           " has, without gaps or negative strides; None makes "
                           "such an array");
    return {object, images_of(array, axes_)};
  }

  /// The argument indices, in columns or planes as the first array; a copy if they lie otherwise.
  std::pair<py::object, Images> indices() const {
    const Array array = call_.indices("indices", Dtype::int32, &y_shape, false);
    if (array.size() == 0 || runs(array))
      return {py::reinterpret_borrow<py::object>(array.object()), images_of(array, axes_)};
    py::object moved = pool.columns ? copy_in_columns(array.object()) : copy_of(array);
    return {moved, images_of(Array(moved, call_.name("indices"), Accepted::indices), axes_)};
  }

  /// ValueError that names the first index that is not in its window.
  void expect_placed(const std::int32_t* indices, const Images& indices_in) const {
    std::ptrdiff_t wrong = -1;
    {
      const WithoutGil release;
      wrong = call_.run<&first_misplaced>(pool, indices, indices_in);
    }
    if (wrong < 0) return;
    const std::ptrdiff_t ox = wrong % pool.x.out, oy = wrong / pool.x.out % pool.y.out;
    const std::ptrdiff_t c = wrong / pool.pooled() % in.channels, n = wrong / pool.pooled() / in.channels;
    Shape at(4);
    for (std::size_t k = 0; k < 4; ++k) at[static_cast<std::size_t>(axes_[k])] = std::array{n, c, oy, ox}[k];
    std::string position = text_of(at);
    position = "[" + position.substr(1, position.size() - 2) + "]";
    throw py::value_error(call_.text("indices") + position + " is " +
                          std::to_string(indices[indices_in.offset(n, c, oy, ox)]) +
                          ", which is not in the window of that element: give the arguments that forward had");
  }

  Pool pool{};
  Dtype dtype{};
  const void* data = nullptr;
  Images in{};
  Shape x_shape, y_shape;

 private:
  /// The argument input_size.
  Shape input_size() const {
    const py::handle object = call_["input_size"];
    if (!PyTuple_Check(object.ptr()) && !PyList_Check(object.ptr()))
      throw py::type_error(call_.text("input_size") + " must be a tuple, the shape of x, got " +
                           std::string(py::repr(object)));
    Shape shape;
    for (const py::handle one : object) shape.push_back(call_.integer(one, "input_size"));
    if (shape.size() != 4 || std::ranges::min(shape) < 0)
      throw py::value_error(call_.text("input_size") + " must be 4 integers >= 0, got " + text_of(shape));
    return shape;
  }

  /// Whether what vectors run along is contiguous.
  bool runs(const Array& array) const {
    const std::ptrdiff_t axis = axes_[pool.columns ? 1 : 3];
    return array.shape(axis) <= 1 || step_of(array, axis) == 1;
  }

  /// A copy whose channels are innermost in memory.
  py::object copy_in_columns(py::handle object) const {
    const py::tuple there = py::make_tuple(axes_[0], axes_[2], axes_[3], axes_[1]);
    Shape back(4);
    for (std::size_t i = 0; i < 4; ++i)
      back[static_cast<std::size_t>(std::array{axes_[0], axes_[2], axes_[3], axes_[1]}[i])] =
          static_cast<std::ptrdiff_t>(i);
    return object.attr("transpose")(there).attr("copy")().attr("transpose")(py::tuple(py::cast(back)));
  }

  Call& call_;
  const char* x_name_;
  Divisors divisors_;
  ImageAxes axes_{};
};

py::object max_pool2d(Call& call) {
  const bool indexed = call.flag("return_indices");
  const PoolArguments arguments(call);
  call.results(indexed ? 2 : 1);
  const auto y = arguments.result(0, arguments.dtype, arguments.y_shape);
  std::optional<PoolArguments::Result> indices;
  if (indexed) indices = arguments.result(1, Dtype::int32, arguments.y_shape);
  call.expect_disjoint();
  if (indices && !(indices->in == y.in))
    throw py::type_error(call.text("out[1]") + " must have its axes in the order that those of out[0] have in memory");
  with_storage(arguments.dtype, [&](auto number) {
    using S = decltype(number);
    S* const to = data_of<S>(y.object);
    std::int32_t* const places = indices ? data_of<std::int32_t>(indices->object) : nullptr;
    const WithoutGil release;
    call.run<&PoolKernels<S>::max>(arguments.pool, static_cast<const S*>(arguments.data), arguments.in, to, places,
                                   y.in);
  });
  if (!indices) return y.object;
  return py::make_tuple(y.object, indices->object);
}

py::object max_pool2d_backward(Call& call) {
  const PoolArguments arguments(call);
  const auto [indices, indices_in] = arguments.indices();
  call.results(1);
  const auto dx = arguments.result(0, arguments.dtype, arguments.x_shape);
  call.expect_disjoint();
  const auto* const places = data_of<std::int32_t>(indices);
  arguments.expect_placed(places, indices_in);
  with_storage(arguments.dtype, [&, in = indices_in](auto number) {
    using S = decltype(number);
    S* const to = data_of<S>(dx.object);
    const WithoutGil release;
    call.run<&PoolKernels<S>::max_backward>(arguments.pool, static_cast<const S*>(arguments.data), arguments.in, places,
                                            in, to, dx.in);
  });
  return dx.object;
}

py::object avg_pool2d(Call& call) {
  const PoolArguments arguments(call);
  call.results(1);
  const bool forward = call.has("x");
  const auto result = arguments.result(0, arguments.dtype, forward ? arguments.y_shape : arguments.x_shape);
  call.expect_disjoint();
  with_storage(arguments.dtype, [&](auto number) {
    using S = decltype(number);
    S* const to = data_of<S>(result.object);
    const auto* const from = static_cast<const S*>(arguments.data);
    const WithoutGil release;
    if (forward)
      call.run<&PoolKernels<S>::mean>(arguments.pool, arguments.divisors(), from, arguments.in, to, result.in);
    else
      call.run<&PoolKernels<S>::mean_backward>(arguments.pool, arguments.divisors(), from, arguments.in, to, result.in);
  });
  return result.object;
}

const std::vector<Function> kPools{
    {"max_pool2d",
     {"x", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices", "channel_axis", "out"},
     max_pool2d},
    {"max_pool2d_backward",
     {"dy", "indices", "input_size", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "channel_axis",
      "out"},
     max_pool2d_backward},
    {"avg_pool2d",
     {"x", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override", "channel_axis",
      "out"},
     avg_pool2d},
    {"avg_pool2d_backward",
     {"dy", "input_size", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override",
      "channel_axis", "out"},
     avg_pool2d},
};

// Convolution

using Axis = std::array<std::ptrdiff_t, 6>;

/// Windows of a convolution, as conv2d has checked them; images are arrays with the axes samples, channels, rows and
/// columns, of which only the channels may be missing.
struct Convolving {
  const Kernels& kernels;
  Convolution conv;

  Convolving(const Kernels& of_set, const Axis& y, const Axis& x, bool columns, std::ptrdiff_t groups)
      : kernels(of_set),
        conv{{y[0], y[1], y[2], y[3], y[4], y[5]}, {x[0], x[1], x[2], x[3], x[4], x[5]}, columns, groups} {}
};

constexpr ImageAxes kInOrder{0, 1, 2, 3};

Array array_of(py::handle object, const char* argument) { return {object, {"conv2d", argument}}; }

/// Calls body(functions of the arrays' type, pointer to each array) without Python's lock.
template <class Body> void convolve(const Array& first, const Array& second, const Body& body) {
  const auto run = [&](auto number) {
    using T = decltype(number);
    T *const a = first.data<T>(), *const b = second.data<T>();
    const WithoutGil release;
    body(ConvolutionKernels<T>{}, a, b);
  };
  with_computed(first.dtype(), run);
}

using Rowed = std::array<std::ptrdiff_t, 2>;

}  // namespace

void bind_convolutions(py::module_& m) {
  m.attr("PRODUCT_BYTES") = kProductBytes;
  m.attr("PRODUCT_PIXELS") = kProductPixels;
  py::class_<Convolving>(m, "Convolution", py::module_local())
      .def("unfold",
           [](const Convolving& self, const Rowed& piece, py::handle x, py::handle matrix) {
             const Array from = array_of(x, "x"), to = array_of(matrix, "matrix");
             const Images in = images_of(from, kInOrder);
             convolve(from, to, [&](auto of, const auto* a, auto* b) {
               self.kernels.run<&decltype(of)::unfold>(self.conv, Piece{piece[0], piece[1]}, a, in, b);
             });
           })
      .def("fold",
           [](const Convolving& self, const Rowed& piece, py::handle matrix, py::handle dx) {
             const Array from = array_of(matrix, "matrix"), to = array_of(dx, "dx");
             const Images in = images_of(to, kInOrder);
             convolve(from, to, [&](auto of, auto* a, auto* b) {
               self.kernels.run<&decltype(of)::fold>(self.conv, Piece{piece[0], piece[1]}, a, b, in);
             });
           })
      .def("place",
           [](const Convolving& self, const Rowed& piece, py::handle matrix, py::handle bias, py::handle y) {
             const Array from = array_of(matrix, "matrix"), to = array_of(y, "y");
             const Images in = images_of(to, kInOrder);
             const void* const more = bias.is_none() ? nullptr : array_of(bias, "bias").data<void>();
             convolve(from, to, [&]<class T>(ConvolutionKernels<T>, const T* a, T* b) {
               self.kernels.run<&ConvolutionKernels<T>::place>(self.conv, Piece{piece[0], piece[1]}, a,
                                                               static_cast<const T*>(more), b, in);
             });
           })
      .def("collect",
           [](const Convolving& self, const Rowed& piece, py::handle dy, py::handle matrix) {
             const Array from = array_of(dy, "dy"), to = array_of(matrix, "matrix");
             const Images in = images_of(from, kInOrder);
             convolve(from, to, [&](auto of, const auto* a, auto* b) {
               self.kernels.run<&decltype(of)::collect>(self.conv, Piece{piece[0], piece[1]}, a, in, b);
             });
           })
      .def("add_bias", [](const Convolving& self, py::handle y, py::handle bias) {
        const Array to = array_of(y, "y"), from = array_of(bias, "bias");
        convolve(to, from, [&](auto of, auto* a, const auto* b) {
          self.kernels.run<&decltype(of)::add_bias>(a, to.shape(0), to.shape(1), b);
        });
      });
}

void bind_images(py::module_& m, const Kernels& kernels) {
  bind_functions(m, kernels, kPools);
  bind_subclass<Convolving, Axis, Axis, bool, std::ptrdiff_t>(m, kernels, "Convolution");
}

}  // namespace fastopt
