"""Files of models: the mapped form of a bank, and the plain form for any safetensors reader."""
