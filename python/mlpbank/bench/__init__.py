"""``mlpbank bench``: speed against other libraries and against the limits of the machine.

- `options`, `command`: the arguments, and the run;
- `cases`: a case, its random weights and inputs, and the right answer;
- `contender`, `peers*`: the libraries: mlpbank, NumPy, PyTorch, JAX, ONNX Runtime, OpenVINO;
- `measure`, `limits`: verification, then timing in turns between measurements of the limits;
- `report`, `plot`: tables, the JSON file, pictures.
"""
