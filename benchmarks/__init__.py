"""Every measurement of mlpbank beside ``mlpbank bench``. ``python -m benchmarks`` runs them."""
