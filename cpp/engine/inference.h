// BatchedInference: every row through its model, in one call. Each call sees one revision of each
// model.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "engine/engine.h"
#include "weights/weights.h"

namespace mlpbank {

// What a forward does with rows of a slot that holds no model.
enum class Missing { error, nan };

struct ForwardOptions {
  int num_threads = 0;  // 0: the engine's
  Missing missing = Missing::error;
  // The number of models in the arrays of a dense forward, 0: all. The weights may have grown since
  // the arrays were made.
  int64_t num_models = 0;
  // BatchedWeights::moment() that the forward is to see. Throws MomentPassed, before anything is
  // written, if models have changed since.
  std::optional<uint64_t> moment = std::nullopt;
};

class BatchedInference {
 public:
  BatchedInference(std::shared_ptr<BatchedWeights> weights, Engine engine);

  const BatchedWeights& weights() const { return *weights_; }
  const Engine& engine() const { return engine_; }

  // Whether a forward of `models` models with `rows` rows each takes only microseconds, on the
  // calling thread and without reading a mapped file.
  bool runs_inline(int64_t models, int64_t rows) const;

  // x (models, rows, input_size) -> y (models, rows, output_size): entry i through model i.
  void forward(const float* x, int64_t rows, float* y, const ForwardOptions& options) const;
  // x (rows, input_size) -> y (models, rows, output_size): the same rows through every model.
  void forward_shared(const float* x, int64_t rows, float* y, const ForwardOptions& options) const;
  // x (entries, rows, input_size) -> y (entries, rows, output_size): entry i through the model in
  // slots[i]. Throws std::out_of_range for the first slot that does not exist.
  void forward_models(const int64_t* slots, int64_t entries, const float* x, int64_t rows, float* y,
                      const ForwardOptions& options) const;

 private:
  void forward_dense(const float* x, bool shared, int64_t rows, float* y,
                     const ForwardOptions& options) const;

  std::shared_ptr<BatchedWeights> weights_;
  Engine engine_;
};

}  // namespace mlpbank
