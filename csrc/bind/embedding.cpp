/// Embeddings for Python.  Everything is checked before anything is written.
#include "nn/embedding.hpp"

#include <limits>
#include <string>
#include <vector>

#include "bind/call.hpp"
#include "bind/gil.hpp"
#include "bind/module.hpp"

namespace fastopt {

namespace {

/// The indices: a copy, as another thread may change the array between their check and their use.
struct Indices {
  std::vector<std::int64_t> data;
  std::size_t count;
  Shape shape;

  explicit Indices(Call& call) {
    const Array array = call.indices("indices", Dtype::int64);
    count = array.size();
    shape = array.shape();
    data.assign(array.data<std::int64_t>(), array.data<std::int64_t>() + count);
    if (count > std::numeric_limits<std::uint32_t>::max())
      throw py::value_error(call.text("indices") + " must have less than 2**32 elements, got " + std::to_string(count));
  }

  /// The shape of an array with a row for each.
  Shape with(std::ptrdiff_t width) const {
    Shape all = shape;
    all.push_back(width);
    return all;
  }

  void expect_below(const Call& call, std::size_t rows, const std::string& whose) const {
    std::size_t i = 0;
    {
      const WithoutGil release;
      i = call.run<&first_outside>(data.data(), count, rows);
    }
    if (i == count) return;
    std::string position;
    std::size_t rest = i, block = count;
    for (const std::ptrdiff_t axis : shape) {
      block /= static_cast<std::size_t>(axis);
      position += (position.empty() ? "" : ", ") + std::to_string(rest / block);
      rest %= block;
    }
    throw py::value_error(call.text("indices") + "[" + (shape.empty() ? "()" : position) + "] is " +
                          std::to_string(data[i]) + ", must be in [0, " + std::to_string(rows) + "), as " + whose);
  }
};

/// The row that gets no gradient; −1 if there is none.
std::ptrdiff_t padding_row(const Call& call, std::ptrdiff_t rows) {
  if (call["padding_idx"].is_none()) return -1;
  const std::ptrdiff_t given = call.integer("padding_idx");
  if (given < -rows || given >= rows)
    throw py::value_error(call.text("padding_idx") + " must be in [" + std::to_string(-rows) + ", " +
                          std::to_string(rows) + "), got " + std::to_string(given));
  return given < 0 ? given + rows : given;
}

py::object embedding(Call& call) {
  const Array weight = call.read("weight");
  if (weight.ndim() != 2)
    throw py::value_error(call.text("weight") + " has shape " + text_of(weight.shape()) + ", expected 2 axes");
  const std::ptrdiff_t count = weight.shape(0), width = weight.shape(1);
  const Dtype dtype = weight.dtype();
  const Rows rows = rows_of(weight, axes_from(0, 1), axes_from(1, 2));
  const void* const data = weight.data<void>();
  padding_row(call, count);
  const Indices indices(call);
  call.results(1);
  py::object y = call.contiguous_result(0, dtype, indices.with(width));
  call.expect_disjoint();
  indices.expect_below(call, static_cast<std::size_t>(count), "weight has " + std::to_string(count) + " rows");
  with_storage(dtype, [&](auto number) {
    using S = decltype(number);
    S* const to = data_of<S>(y);
    const WithoutGil release;
    call.run<&EmbeddingKernels<S>::forward>(static_cast<const S*>(data), rows, indices.data.data(), indices.count, to);
  });
  return y;
}

py::object embedding_backward(Call& call) {
  const Array dy = call.read("dy");
  if (dy.ndim() < 1)
    throw py::value_error(call.text("dy") + " has shape (), expected that of indices and one more axis");
  const std::ptrdiff_t width = dy.shape(dy.ndim() - 1);
  const Dtype dtype = dy.dtype();
  const Shape shape = dy.shape();
  const Rows rows = rows_of(dy, axes_from(0, dy.ndim() - 1), axes_from(dy.ndim() - 1, dy.ndim()));
  const void* const data = dy.data<void>();
  const std::ptrdiff_t count = call.integer("num_embeddings");
  if (count < 0 || count > std::numeric_limits<std::int32_t>::max())
    throw py::value_error(call.text("num_embeddings") + " must be in [0, 2**31), got " + std::to_string(count));
  const std::ptrdiff_t skipped = padding_row(call, count);
  const Indices indices(call);
  if (shape != indices.with(width))
    throw py::value_error(call.text("dy") + " has shape " + text_of(shape) + ", expected " +
                          text_of(indices.with(width)) + ", as indices has shape " + text_of(indices.shape));
  call.results(1);
  py::object dweight = call.contiguous_result(0, dtype, {count, width});
  call.expect_disjoint();
  indices.expect_below(call, static_cast<std::size_t>(count), "num_embeddings is " + std::to_string(count));
  with_storage(dtype, [&](auto number) {
    using S = decltype(number);
    S* const to = data_of<S>(dweight);
    const WithoutGil release;
    call.run<&EmbeddingKernels<S>::backward>(static_cast<const S*>(data), rows, indices.data.data(), indices.count,
                                             skipped, to, static_cast<std::size_t>(count));
  });
  return dweight;
}

const std::vector<Function> kEmbeddings{
    {"embedding", {"indices", "weight", "padding_idx", "out"}, embedding},
    {"embedding_backward", {"dy", "indices", "num_embeddings", "padding_idx", "out"}, embedding_backward},
};

}  // namespace

void bind_embedding(py::module_& m, const Kernels& kernels) { bind_functions(m, kernels, kEmbeddings); }

}  // namespace fastopt
