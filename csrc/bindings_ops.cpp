// Single kernels on numpy arrays, each on a named instruction set, so that tests can compare them
// with plain references one by one. Activations are arrays of uint16 that hold bfloat16 bits.
#include "bindings_ops.h"

#include <pybind11/numpy.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "dispatch.h"
#include "runtime/threads.h"
#include "tensor.h"

namespace py = pybind11;

namespace kt {
namespace {

using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;
using Acts = py::array_t<std::uint16_t, py::array::c_style>;

void require(bool good, const char* what) {
  if (!good) throw std::invalid_argument(what);
}

Rows rows_of(const void* data, py::ssize_t columns, DType dtype) {
  Rows r;
  r.base = static_cast<const std::byte*>(data);
  r.stride = columns * static_cast<std::int64_t>(size_of(dtype));
  r.dtype = dtype;
  return r;
}

Shape shape_of(const Kernels& kernels, const Floats& weights, int group) {
  require(weights.ndim() == 2, "weights: wanted [n, k]");
  const Shape shape{static_cast<int>(weights.shape(0)), static_cast<int>(weights.shape(1)), group};
  if (kernels.integers != nullptr && kernels.integers->grouped) {
    require(group == 32 || group == 64 || group == 128, "group: wanted 32, 64 or 128");
    require(shape.k % group == 0, "weights: wanted a multiple of group columns");
  }
  return shape;
}

// weights [n][k] packed in the format, whole.
Memory pack(const Kernels& kernels, const Floats& weights, const Shape& shape) {
  Memory packed(kernels.packed_bytes(shape));
  kernels.pack(rows_of(weights.data(), shape.k, DType::float32), 0, shape.n, shape, packed.data());
  return packed;
}

Floats roundtrip(const std::string& isa, const std::string& format, const Floats& weights,
                 int group) {
  const Kernels& table = kernels(isa, format);
  const Shape shape = shape_of(table, weights, group);
  const Memory packed = pack(table, weights, shape);
  Floats out({weights.shape(0), weights.shape(1)});
  table.unpack({shape, packed.data()}, out.mutable_data());
  return out;
}

// (codes [n][k], scales [n], or [n][k / group] where groups have their own) that the format holds
// for these weights.
py::tuple codes(const std::string& isa, const std::string& format, const Floats& weights,
                int group) {
  const Kernels& table = kernels(isa, format);
  require(table.integers != nullptr, "format: wanted one that has codes");
  const Shape shape = shape_of(table, weights, group);
  const Memory packed = pack(table, weights, shape);
  py::array_t<std::int8_t> out({shape.n, shape.k});
  Floats scales(table.integers->grouped ? std::vector<py::ssize_t>{shape.n, shape.k / shape.group}
                                        : std::vector<py::ssize_t>{shape.n});
  table.unpack_codes({shape, packed.data()}, out.mutable_data(), scales.mutable_data());
  return py::make_tuple(out, scales);
}

// a [m][k] W' (along "k") or a [m][n] W (along "n") for columns [from, to) of the result, with W
// packed in the format or, format "", used row by row. Returns (fp32 product, instruction set).
py::tuple product(const std::string& isa, const std::string& format, const std::string& along,
                  const Acts& a, const Floats& weights, int from, int to, int group) {
  require(a.ndim() == 2 && weights.ndim() == 2, "a, weights: wanted two dimensions");
  require(along == "k" || along == "n", "along: wanted 'k' or 'n'");
  const bool k_axis = along == "k";
  require(a.shape(1) == weights.shape(k_axis ? 1 : 0), "a, weights: lengths differ");
  const auto outputs = static_cast<int>(weights.shape(k_axis ? 0 : 1));
  require(from >= 0 && from % kLanes == 0 && from < to && to <= outputs && to - from <= kMaxCols,
          "from, to: wanted at most 256 columns of the result from a multiple of 16");
  const auto m = static_cast<int>(a.shape(0));
  require(m > 0 && m <= kMaxRows, "a: wanted 1 to 256 rows");
  const auto n = static_cast<int>(weights.shape(0));
  const auto k = static_cast<int>(weights.shape(1));
  const Kernels& table = kernels(isa, format.empty() ? formats().front() : format);
  const int ldc = c_stride(to - from);
  Pool::Use pool(1);
  Scratch& s = pool.scratch();
  for (int i = 0; i < m * ldc; ++i) s.c[0][i] = 0.0F;
  Rows rows = rows_of(a.data(), a.shape(1), DType::bfloat16);
  const int axis = k_axis ? 0 : 1;
  if (format.empty()) {
    const RowMajor w{rows_of(weights.data(), k, DType::float32), n, k};
    table.gemm_rows[axis](rows, m, &w, s.c, ldc, 1, from, to, s);
  } else {
    const Shape shape = shape_of(table, weights, group);
    const Memory packed = pack(table, weights, shape);
    const Packed w{shape, packed.data()};
    std::vector<std::byte> rounded;
    if (table.round[axis] != nullptr && m <= table.rounded_rows[axis](shape)) {
      const std::int64_t bytes = table.rounded_bytes[axis](shape, rows.granule);
      rounded.resize(static_cast<std::size_t>(m * bytes));
      table.round[axis](rows, m, w, rounded.data());
      rows.base = rounded.data();
      rows.stride = bytes;
      rows.dtype = DType::int8;
    }
    table.gemm[axis](rows, m, &w, s.c, ldc, 1, from, to, s);
  }
  Floats out({m, to - from});
  for (int i = 0; i < m; ++i) {
    for (int j = 0; j < to - from; ++j) out.mutable_at(i, j) = s.c[0][i * ldc + j];
  }
  return py::make_tuple(out, pool.ran());
}

// Sums over tokens of weight * low' wide for columns [from, to): low [tokens][rank], wide
// [tokens][columns] as activations; [rank][to - from], or its transpose.
Floats outer(const std::string& isa, const Floats& low, const Floats& weight, const Acts& wide,
             int from, int to, bool transposed) {
  require(low.ndim() == 2 && wide.ndim() == 2 && weight.ndim() == 1 &&
              low.shape(0) == wide.shape(0) && weight.shape(0) == low.shape(0) &&
              low.shape(1) > 0 && low.shape(1) <= kMaxCols,
          "low: wanted [tokens, 1 .. 256], weight: [tokens], wide: [tokens, columns]");
  require(
      from >= 0 && from % kLanes == 0 && from < to && to <= wide.shape(1) && to - from <= kMaxCols,
      "from, to: wanted at most 256 columns from a multiple of 16");
  const auto rank = static_cast<int>(low.shape(1));
  Pool::Use pool(1);
  Scratch& s = pool.scratch();
  kernels(isa, formats().front())
      .outer(rows_of(low.data(), rank, DType::float32), weight.data(), rank,
             rows_of(wide.data(), wide.shape(1), DType::bfloat16), from, to,
             static_cast<int>(low.shape(0)), transposed, s.c[0], s);
  const int lines = transposed ? to - from : rank;
  const int length = transposed ? rank : to - from;
  Floats out({lines, length});
  for (int i = 0; i < lines; ++i) {
    for (int j = 0; j < length; ++j) {
      out.mutable_at(i, j) = s.c[0][i * round_up(length, kLanes) + j];
    }
  }
  return out;
}

// g, u [m][n], n a multiple of 16; returns (gate, up, h) as activations.
py::tuple swiglu(const std::string& isa, const Floats& g, const Floats& u) {
  require(g.ndim() == 2 && u.ndim() == 2 && g.shape(0) == u.shape(0) && g.shape(1) == u.shape(1) &&
              g.shape(1) % kLanes == 0,
          "g, u: wanted [m, n] with n a multiple of 16");
  const auto m = static_cast<int>(g.shape(0));
  const auto n = static_cast<int>(g.shape(1));
  Acts out[3] = {Acts({m, n}), Acts({m, n}), Acts({m, n})};
  act_t* p[3];
  for (int i = 0; i < 3; ++i) p[i] = reinterpret_cast<act_t*>(out[i].mutable_data());
  kernels(isa, formats().front()).swiglu(g.data(), u.data(), n, m, n, p[0], p[1], p[2], n);
  return py::make_tuple(out[0], out[1], out[2]);
}

// Returns (dgate, dup, h, dr).
py::tuple swiglu_backward(const std::string& isa, const Floats& dh, const Floats& r,
                          const Acts& gate, const Acts& up) {
  require(dh.ndim() == 2 && r.ndim() == 1 && gate.ndim() == 2 && up.ndim() == 2 &&
              dh.shape(1) % kLanes == 0 && r.shape(0) == dh.shape(0) && gate.size() == dh.size() &&
              up.size() == dh.size(),
          "dh, gate, up: wanted [m, n] with n a multiple of 16; r: [m]");
  const auto m = static_cast<int>(dh.shape(0));
  const auto n = static_cast<int>(dh.shape(1));
  Acts out[3] = {Acts({m, n}), Acts({m, n}), Acts({m, n})};
  act_t* p[3];
  for (int i = 0; i < 3; ++i) p[i] = reinterpret_cast<act_t*>(out[i].mutable_data());
  Floats dr(m);
  kernels(isa, formats().front())
      .swiglu_backward(dh.data(), n, r.data(), m, n, reinterpret_cast<const act_t*>(gate.data()),
                       reinterpret_cast<const act_t*>(up.data()), p[0], p[1], p[2], n,
                       dr.mutable_data(), 1);
  return py::make_tuple(out[0], out[1], out[2], dr);
}

// Bytes of `count` values of `dtype` as activations, and activations' fp32 sums back to `dtype`.
Acts to_act(const std::string& isa, const py::bytes& data, const std::string& dtype) {
  const std::string bytes = data;
  const DType type = dtype == "float32"   ? DType::float32
                     : dtype == "float16" ? DType::float16
                                          : DType::bfloat16;
  const auto count = static_cast<py::ssize_t>(bytes.size() / size_of(type));
  Acts out(count);
  kernels(isa, formats().front())
      .to_act(reinterpret_cast<const std::byte*>(bytes.data()), type, count,
              reinterpret_cast<act_t*>(out.mutable_data()));
  return out;
}

py::bytes sum_parts(const std::string& isa, const Floats& parts, const std::string& dtype) {
  require(parts.ndim() == 2, "parts: wanted [parts, n]");
  const DType type = dtype == "float32"   ? DType::float32
                     : dtype == "float16" ? DType::float16
                                          : DType::bfloat16;
  std::string out(static_cast<std::size_t>(parts.shape(1)) * size_of(type), '\0');
  kernels(isa, formats().front())
      .sum_parts(parts.data(), static_cast<int>(parts.shape(0)), parts.shape(1), parts.shape(1),
                 type, reinterpret_cast<std::byte*>(out.data()));
  return out;
}

Floats scatter_add(const std::string& isa, const Floats& c, const py::array_t<std::int32_t>& index,
                   const Floats& scale, const Floats& out) {
  require(c.ndim() == 2 && index.ndim() == 1 && scale.ndim() == 1 && out.ndim() == 2 &&
              c.shape(1) == out.shape(1) && c.shape(1) % kLanes == 0 &&
              index.shape(0) == c.shape(0) && scale.shape(0) == c.shape(0),
          "c: wanted [m, n], index, scale: [m], out: [tokens, n], n a multiple of 16");
  for (py::ssize_t i = 0; i < index.shape(0); ++i) {
    require(index.at(i) >= 0 && index.at(i) < out.shape(0), "index: out of range");
  }
  Floats result({out.shape(0), out.shape(1)});
  std::memcpy(result.mutable_data(), out.data(), static_cast<std::size_t>(out.nbytes()));
  const auto n = static_cast<int>(c.shape(1));
  kernels(isa, formats().front())
      .scatter_add(c.data(), n, static_cast<int>(c.shape(0)), n, index.data(), scale.data(),
                   result.mutable_data(), n);
  return result;
}

}  // namespace

void bind_ops(py::module_& m) {
  py::module_ ops = m.def_submodule("_ops", "Single kernels for their tests.");
  ops.def("roundtrip", &roundtrip, py::arg("isa"), py::arg("format"), py::arg("weights"),
          py::arg("group") = 128);
  ops.def("codes", &codes, py::arg("isa"), py::arg("format"), py::arg("weights"),
          py::arg("group") = 128);
  ops.def("product", &product, py::arg("isa"), py::arg("format"), py::arg("along"), py::arg("a"),
          py::arg("weights"), py::arg("first"), py::arg("last"), py::arg("group") = 128);
  ops.def(
      "rounded_rows",
      [](const std::string& isa, const std::string& format, const std::string& along, int group) {
        const Kernels& table = kernels(isa, format);
        require(table.integers != nullptr, "format: wanted one that has codes");
        require(along == "k" || along == "n", "along: wanted 'k' or 'n'");
        Shape shape;
        shape.group = group;
        return table.rounded_rows[along == "k" ? 0 : 1](shape);
      },
      py::arg("isa"), py::arg("format"), py::arg("along"), py::arg("group") = 128);
  ops.def("outer", &outer, py::arg("isa"), py::arg("low"), py::arg("weight"), py::arg("wide"),
          py::arg("first"), py::arg("last"), py::arg("transposed"));
  ops.def("swiglu", &swiglu, py::arg("isa"), py::arg("g"), py::arg("u"));
  ops.def("swiglu_backward", &swiglu_backward, py::arg("isa"), py::arg("dh"), py::arg("r"),
          py::arg("gate"), py::arg("up"));
  ops.def("to_act", &to_act, py::arg("isa"), py::arg("data"), py::arg("dtype"));
  ops.def("sum_parts", &sum_parts, py::arg("isa"), py::arg("parts"), py::arg("dtype"));
  ops.def("scatter_add", &scatter_add, py::arg("isa"), py::arg("c"), py::arg("index"),
          py::arg("scale"), py::arg("out"));
}

}  // namespace kt
