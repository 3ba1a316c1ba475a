// Expert weights outside of a layer: what can be loaded, and the layer's own rounding for tools and
// tests.
#pragma once

#include <string>

#include "kernels.h"
#include "runtime/threads.h"
#include "tensor.h"

namespace kt {

// Each throws std::invalid_argument that names the tensor and the first bad row.
// Weights [n][k] that are NaN or infinite, which codes can't be.
void want_finite(Pool::Use& pool, const Kernels& kernels, const Tensor& t);
// Codes [n][k] out of the format's range, and scales [n] or [n][groups] that are not finite or,
// where codes are not, zero.
void want_codes(Pool::Use& pool, const Kernels& kernels, const Tensor& codes, const Tensor& scales);

// bf16 or float32 weights [n][k] to the int8 codes [n][k] and float32 scales, [n] or
// [n][k / group], that a layer holds of them; and codes and scales to the float32 weights that a
// layer computes with. Throw std::invalid_argument, before anything is written.
void quantize(const std::string& format, const Tensor& weights, const Tensor& codes,
              const Tensor& scales, int threads);
void dequantize(const std::string& format, const Tensor& codes, const Tensor& scales,
                const Tensor& weights, int threads);

}  // namespace kt
