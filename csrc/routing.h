// Which expert works on which tokens: the router's choice turned round, in a fixed order.
#pragma once

#include <cstdint>
#include <vector>

#include "tensor.h"

namespace kt {

// At most kMaxRows consecutive rows of one expert.
struct Block {
  int expert;
  int first;  // row
  int rows;
};

// The routed rows of a chunk of tokens, sorted by expert, then token, then place among its k.
struct Routing {
  std::vector<int> offset;  // [experts + 1]: rows of expert e are offset[e] .. offset[e + 1]
  std::vector<std::int32_t> token;  // [rows], within the chunk
  std::vector<std::int32_t> place;  // [rows]: token * k + j within the chunk
  std::vector<float> weight;        // [rows]
  std::vector<Block> blocks;        // all rows, expert by expert

  [[nodiscard]] int rows() const { return static_cast<int>(token.size()); }

  // Tokens [first, first + tokens) of `ids` and `weights` [T, k].
  Routing(const Tensor& ids, const Tensor& weights, const Tensor* skip, int experts,
          std::int64_t first, int tokens);
};

// Throws std::invalid_argument if an id is below -1 or not below `experts`, or the weight of a slot
// that is not skipped is NaN or infinite.
void check_routing(const Tensor& ids, const Tensor& weights, const Tensor* skip, int experts);

}  // namespace kt
