// Single instructions of the tile unit on the software model and, where the CPU has AMX, on the
// unit itself, so that tests can compare the two step by step.
#include "bindings_tiles.h"

#include <immintrin.h>
#include <pybind11/numpy.h>

#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu_features.h"
#include "isa/amx_model.h"

namespace py = pybind11;

namespace kt {
namespace {

using Bytes = py::array_t<std::uint8_t, py::array::c_style>;

// An instruction's name and up to three numbers: (ldtilecfg), of the first 64 bytes; (tileloadd or
// tilestored, tile, offset, stride); (tilezero, tile); (tilerelease); (a product, tile, tile,
// tile). Offsets and strides are bytes of the memory that is given with the steps.
struct Step {
  std::string name;
  std::int64_t x[3] = {};
};

std::vector<Step> steps_of(const py::list& list) {
  std::vector<Step> steps;
  for (const py::handle item : list) {
    const auto tuple = item.cast<py::tuple>();
    if (tuple.empty() || tuple.size() > 4) throw std::invalid_argument("steps: a name, 3 numbers");
    Step step;
    step.name = tuple[0].cast<std::string>();
    for (std::size_t i = 1; i < tuple.size(); ++i) step.x[i - 1] = tuple[i].cast<std::int64_t>();
    steps.push_back(step);
  }
  return steps;
}

// The address at `offset` if `rows` rows of `bytes` bytes from there on lie in memory.
std::uint8_t* inside(std::vector<std::uint8_t>& memory, std::int64_t offset, std::int64_t stride,
                     int rows, int bytes) {
  const std::int64_t last = offset + stride * (rows - 1);
  const auto size = static_cast<std::int64_t>(memory.size());
  if (offset < 0 || last < 0 || offset + bytes > size || last + bytes > size) {
    throw std::invalid_argument("steps: memory ends before the tile");
  }
  return memory.data() + offset;
}

using Product = void (*)(int, int, int);

Product product_named(const std::string& name) {
  if (name == "tdpbf16ps") return tile_model::tdpbf16ps;
  if (name == "tdpbssd") return tile_model::tdpbssd;
  if (name == "tdpbsud") return tile_model::tdpbsud;
  if (name == "tdpbusd") return tile_model::tdpbusd;
  if (name == "tdpbuud") return tile_model::tdpbuud;
  return nullptr;
}

void run_on_model(const Step& step, std::vector<std::uint8_t>& memory) {
  const auto t = static_cast<int>(step.x[0]);
  const auto at = [&step, &memory, t] {
    const tile_model::Tile& tile = tile_model::of_dwords(step.name.c_str(), t);
    return inside(memory, step.x[1], step.x[2], tile.rows, tile.colsb);
  };
  if (step.name == "ldtilecfg") {
    tile_model::ldtilecfg(inside(memory, 0, 0, 1, 64));
  } else if (step.name == "tilerelease") {
    tile_model::tilerelease();
  } else if (step.name == "tilezero") {
    tile_model::tilezero(t);
  } else if (step.name == "tileloadd") {
    tile_model::tileloadd(t, at(), step.x[2]);
  } else if (step.name == "tilestored") {
    tile_model::tilestored(t, at(), step.x[2]);
  } else if (const Product product = product_named(step.name); product != nullptr) {
    product(t, static_cast<int>(step.x[1]), static_cast<int>(step.x[2]));
  } else {
    throw std::invalid_argument("steps: there is no " + step.name);
  }
}

#if !defined(KT_MODEL)
// A step that the model took without a fault. The instructions' operands are part of their code,
// so there are three tiles, and one product's.
__attribute__((target("amx-tile,amx-bf16,amx-int8"))) void run_on_cpu(
    const Step& step, std::vector<std::uint8_t>& memory) {
  const std::int64_t t = step.x[0];
  std::uint8_t* const at = memory.data() + step.x[1];
  const std::int64_t stride = step.x[2];
  __asm__ volatile("" : : "r"(memory.data()) : "memory");  // see amx_tiles.h
  if (step.name == "ldtilecfg") _tile_loadconfig(memory.data());
  if (step.name == "tilerelease") _tile_release();
  if (step.name == "tilezero") {
    if (t == 0) _tile_zero(0);
    if (t == 1) _tile_zero(1);
    if (t == 2) _tile_zero(2);
  }
  if (step.name == "tileloadd") {
    if (t == 0) _tile_loadd(0, at, stride);
    if (t == 1) _tile_loadd(1, at, stride);
    if (t == 2) _tile_loadd(2, at, stride);
  }
  if (step.name == "tilestored") {
    if (t == 0) _tile_stored(0, at, stride);
    if (t == 1) _tile_stored(1, at, stride);
    if (t == 2) _tile_stored(2, at, stride);
  }
  if (step.name == "tdpbf16ps") _tile_dpbf16ps(0, 1, 2);
  if (step.name == "tdpbssd") _tile_dpbssd(0, 1, 2);
  if (step.name == "tdpbsud") _tile_dpbsud(0, 1, 2);
  if (step.name == "tdpbusd") _tile_dpbusd(0, 1, 2);
  if (step.name == "tdpbuud") _tile_dpbuud(0, 1, 2);
}

__attribute__((target("amx-tile"))) int palette_of_cpu() {
  alignas(64) std::uint8_t config[64] = {};
  _tile_storeconfig(config);
  __asm__ volatile("" : : "r"(config) : "memory");
  return config[0];
}

std::string missing() { return missing_features("amx"); }
#else
void run_on_cpu(const Step& /*step*/, std::vector<std::uint8_t>& /*memory*/) {}
int palette_of_cpu() { return 0; }
std::string missing() { return "this build computes on the model"; }
#endif

struct Released {  // whatever the steps left
  ~Released() {
    tile_model::tilerelease();
    if (missing().empty()) run_on_cpu({"tilerelease"}, none);
  }
  std::vector<std::uint8_t> none;
};

// The memory after the steps on the model and, if `native`, on the CPU: (bytes, bytes or None).
// Throws what the model does where the CPU would raise an exception.
py::tuple run(const Bytes& memory, const py::list& list, bool native) {
  if (native && !missing().empty()) throw std::runtime_error(missing());
  const std::vector<Step> steps = steps_of(list);
  std::vector<std::uint8_t> model(memory.data(), memory.data() + memory.size());
  std::vector<std::uint8_t> cpu = model;
  const Released released;
  for (const Step& step : steps) {
    run_on_model(step, model);
    if (!native) continue;
    const bool product = product_named(step.name) != nullptr;
    if (product ? step.x[0] != 0 || step.x[1] != 1 || step.x[2] != 2 : step.x[0] > 2) {
      throw std::invalid_argument("steps: on the CPU tiles are 0 to 2, products of (0, 1, 2)");
    }
    run_on_cpu(step, cpu);
  }
  const auto array = [](const std::vector<std::uint8_t>& bytes) {
    return Bytes(static_cast<py::ssize_t>(bytes.size()), bytes.data());
  };
  return py::make_tuple(array(model), native ? py::object(array(cpu)) : py::none());
}

// Of the calling thread's unit, or of its model where that stands for it; 0: released.
int palette() { return missing().empty() ? palette_of_cpu() : tile_model::unit.palette; }

}  // namespace

void bind_tiles(py::module_& m) {
  py::module_ tiles = m.def_submodule("_tiles", "Single tile instructions for their tests.");
  tiles.def("run", &run, py::arg("memory"), py::arg("steps"), py::arg("native") = false);
  tiles.def("palette", &palette);
  tiles.def("missing", &missing);  // why there is no native unit, "" if there is
}

}  // namespace kt
