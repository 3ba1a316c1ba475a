// The only file that knows Python: views of the caller's memory in, exceptions out, the GIL
// released while the layer works.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <filesystem>
#include <optional>

#include "bandwidth.h"
#include "bindings_ops.h"
#include "bindings_tiles.h"
#include "cpu_features.h"
#include "dispatch.h"
#include "layer.h"
#include "runtime/openmp.h"
#include "weights.h"

namespace py = pybind11;

namespace kt {
namespace {

DType dtype_named(const std::string& name, const std::string& dtype) {
  for (const DType d : {DType::bfloat16, DType::float32, DType::float16, DType::int64, DType::int32,
                        DType::int8, DType::boolean}) {
    if (dtype == name_of(d)) return d;
  }
  throw std::invalid_argument(name + ": dtype " + dtype + " is not supported");
}

Tensor make_tensor(std::string name, std::uintptr_t address, const std::string& dtype,
                   std::vector<std::int64_t> shape) {
  for (const std::int64_t n : shape) {
    if (n < 0) throw std::invalid_argument(name + ": shape " + text(shape));
  }
  const DType type = dtype_named(name, dtype);
  // NOLINTNEXTLINE(performance-no-int-to-ptr): torch gives addresses
  auto* const data = reinterpret_cast<std::byte*>(address);
  return {std::move(name), data, type, std::move(shape)};
}

using Release = py::call_guard<py::gil_scoped_release>;

// OSError, of which Python makes the subclass that the error number has.
void translate(std::exception_ptr thrown) {
  try {
    std::rethrow_exception(std::move(thrown));
  } catch (const std::filesystem::filesystem_error& error) {
    const auto path = py::reinterpret_steal<py::object>(
        PyUnicode_DecodeFSDefault(error.path1().c_str()));  // of any bytes
    const py::tuple arguments = py::make_tuple(error.code().value(), error.code().message(), path);
    PyErr_SetObject(PyExc_OSError, arguments.ptr());
  }
}

}  // namespace
}  // namespace kt

PYBIND11_MODULE(kt_kernel_ext, m) {
  using namespace kt;
  m.doc() =
      "The C++ core of kt_kernel. It works on addresses; kt_kernel.experts checks what it is "
      "given.";
  m.attr("__version__") = KT_KERNEL_VERSION;
  py::register_local_exception_translator(&translate);
  try {
    default_isa();
  } catch (const std::invalid_argument& error) {  // of KT_KERNEL_ISA
    throw py::import_error(error.what());
  }

  m.def("isas", [] {
    py::list list;
    for (const IsaInfo& info : isas()) {
      py::dict d;
      d["name"] = info.name;
      d["family"] = info.family;
      d["supported"] = info.why.empty();
      d["why"] = info.why;
      list.append(d);
    }
    return list;
  });
  m.def("isa", &default_isa);
  m.def("force_isa", &force_isa, py::arg("name"));
  m.def("formats", &formats);
  m.def(
      "codes",
      [](const std::string& format) -> py::object {
        const Integers* const integers = kernels("", format).integers;
        if (integers == nullptr) return py::none();
        return py::make_tuple(integers->low, integers->high, integers->grouped);
      },
      py::arg("format"));
  m.def("quantize", &quantize, py::arg("format"), py::arg("weights"), py::arg("codes"),
        py::arg("scales"), py::arg("threads") = 0, Release());
  m.def("dequantize", &dequantize, py::arg("format"), py::arg("codes"), py::arg("scales"),
        py::arg("weights"), py::arg("threads") = 0, Release());
  m.def("cpu_count", &cpu_count);
  m.def("numa_nodes", &numa_nodes);
  m.def("share_openmp_threads", &openmp::join);
  m.def("read_bandwidth", &read_bandwidth, py::arg("threads") = 1, py::arg("mebibytes") = 512,
        Release());

  py::class_<Tensor>(m, "Tensor")
      .def(py::init(&make_tensor), py::arg("name"), py::arg("address"), py::arg("dtype"),
           py::arg("shape"))
      .def_readonly("name", &Tensor::name)
      .def_readonly("shape", &Tensor::shape);

  py::class_<Layer>(m, "Layer")
      .def(py::init([](int experts, int hidden, int inter, int top_k, const std::string& format,
                       int group, int rank, float scaling, int parts, int threads, int cache_depth,
                       int chunk_tokens, const std::string& folder) {
             return std::make_unique<Layer>(Config{experts, hidden, inter, top_k, format, group,
                                                   rank, scaling, parts, threads, cache_depth,
                                                   chunk_tokens, folder});
           }),
           py::kw_only(), py::arg("num_experts"), py::arg("hidden_size"),
           py::arg("intermediate_size"), py::arg("top_k"), py::arg("format") = "bf16",
           py::arg("group_size") = 128, py::arg("lora_rank") = 0, py::arg("lora_scaling") = 1.0F,
           py::arg("parts") = 1, py::arg("threads") = 0, py::arg("cache_depth") = 1,
           py::arg("chunk_tokens") = 25600, py::arg("folder") = "")
      .def("load_expert", &Layer::load_expert, py::arg("slot"), py::arg("gate"), py::arg("up"),
           py::arg("down"), Release())
      .def("check_expert", &Layer::check_expert, py::arg("slot"), py::arg("gate"), py::arg("up"),
           py::arg("down"), Release())
      .def("load_codes", &Layer::load_codes, py::arg("slot"), py::arg("codes"), py::arg("scales"),
           Release())
      .def("check_codes", &Layer::check_codes, py::arg("slot"), py::arg("codes"), py::arg("scales"),
           Release())
      .def("set_lora", &Layer::set_lora, py::arg("tensors"), Release())
      .def("forward", &Layer::forward, py::arg("hidden_states"), py::arg("expert_ids"),
           py::arg("weights"), py::arg("output"), py::arg("save"),
           py::arg("skip").none(true) = nullptr, py::arg("ticket") = 0, Release())
      .def("next_ticket", &Layer::next_ticket)
      .def("backward", &Layer::backward, py::arg("ticket"), py::arg("grad_output"),
           py::arg("grad_input"), py::arg("grad_loras"),
           py::arg("grad_weights").none(true) = nullptr, Release())
      .def("saved_tokens", &Layer::saved_tokens, py::arg("ticket") = 0, Release())
      .def("release", &Layer::release, py::arg("ticket") = 0, Release())
      .def_property_readonly("cache_used", py::cpp_function(&Layer::cache_used, Release()))
      .def_property_readonly("isa", py::cpp_function(&Layer::ran, Release()))
      .def_property_readonly("weight_bytes", py::cpp_function(&Layer::weight_bytes, Release()))
      .def_property_readonly("saved_bytes", py::cpp_function(&Layer::saved_bytes, Release()))
      .def_property_readonly("loaded", py::cpp_function(&Layer::loaded, Release()));

  bind_ops(m);
  bind_tiles(m);
}
