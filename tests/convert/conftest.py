"""What has to be so before any test module here is imported."""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")  # read when Keras is imported
