// INT4 weights: codes -8 .. 7 of 4 bits, a scale per output channel (shared/row_scaled.h).
#pragma once

namespace kt {
namespace {

struct INT4 : RowScaled<4, -8, 7> {
  static constexpr const char* kName = "int4";
};

}  // namespace
}  // namespace kt
