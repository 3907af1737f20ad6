// BatchedInference: every row through its model, in one call. Each call sees one generation of each model.
#pragma once

#include <cstdint>
#include <memory>

#include "engine/engine.h"
#include "weights/weights.h"

namespace mlpbank {

// What a forward does with rows of a model that was never loaded.
enum class Missing { error, nan };

struct ForwardOptions {
  int num_threads = 0;  // 0: the engine's
  Missing missing = Missing::error;
  // How many models the arrays of a dense forward are for, 0: all. The bank may have grown since they were made.
  int64_t models = 0;
};

class BatchedInference {
 public:
  BatchedInference(std::shared_ptr<BatchedWeights> weights, Engine engine);

  const BatchedWeights& weights() const { return *weights_; }
  const Engine& engine() const { return engine_; }

  // Whether rows for so many models are computed within microseconds, on the calling thread and in memory of our own.
  bool is_brief(int64_t models, int64_t rows) const;

  // x (models, rows, input_size) -> y (models, rows, output_size): block i through model i.
  void forward(const float* x, int64_t rows, float* y, const ForwardOptions& options) const;
  // x (rows, input_size) -> y (models, rows, output_size): the same rows through every model.
  void forward_shared(const float* x, int64_t rows, float* y, const ForwardOptions& options) const;
  // x (entries, rows, input_size) -> y (entries, rows, output_size): block i through model models[i].
  // Throws std::out_of_range naming the first bad position.
  void forward_models(const int64_t* models, int64_t entries, const float* x, int64_t rows, float* y,
                      const ForwardOptions& options) const;

 private:
  void forward_dense(const float* x, bool shared, int64_t rows, float* y, const ForwardOptions& options) const;
  int threads_for(const ForwardOptions& options) const;

  std::shared_ptr<BatchedWeights> weights_;
  Engine engine_;
};

}  // namespace mlpbank
