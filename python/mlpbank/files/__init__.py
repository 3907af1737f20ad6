"""Files of models: the mapped form that a bank opens, and the plain form that any safetensors reader can read."""
