// INT8 weights: codes -127 .. 127 of 8 bits, a scale per output channel (shared/row_scaled.h).
#pragma once

namespace kt {
namespace {

struct INT8 : RowScaled<8, -127, 127> {
  static constexpr const char* kName = "int8";
};

}  // namespace
}  // namespace kt
