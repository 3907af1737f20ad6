"""``python -m mlpbank bench``: how fast mlpbank is here, against other libraries and against the machine's limits.

The parts, in the order in which a run meets them:

- `options`: the command's arguments, checked;
- `cases`: what is computed: a case, its random weights and inputs, the right answer;
- `contender`, `peers*`: who computes it: mlpbank, NumPy, PyTorch, JAX, ONNX Runtime, OpenVINO;
- `measure`: verification first, then timing, all contenders in turns, and the machine's limits between them;
- `ids`, `dtypes`, `swap`, `more`: the other sections of the suite, made of what `contest` has; `traffic` and
  `peers_traffic` are for `ids`;
- `report`, `table`, `plot`: the tables, the JSON file, the pictures.
"""
