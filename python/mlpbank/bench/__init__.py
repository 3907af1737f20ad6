"""``mlpbank bench``: speed beside other libraries and beside the limits of the machine.

- `options`, `command`: arguments; plan, run, print, write;
- `cases`: a case, its random weights and inputs, the right answer;
- `contender`, `peers*`: those who compute it: mlpbank, NumPy, PyTorch, JAX, ONNX Runtime, OpenVINO;
- `measure`, `limits`: verification, then timing in turns, with the machine's limits around it;
- `report`, `plot`: the tables, the JSON file, the pictures.
"""
