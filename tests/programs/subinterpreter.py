"""Import the core in a subinterpreter: subinterpreter.py alone|after.

With `after`, the main interpreter has imported it before. Prints the error, then "end".
"""

# mypy: disable-error-code="import-not-found, unreachable"
from __future__ import annotations

import sys

CODE = """
try:
    import mlpbank._core
except ImportError as error:
    print(error)
"""

if sys.argv[1] == "after":
    import mlpbank  # noqa: F401
if sys.version_info >= (3, 13):
    import _interpreters as interpreters

    one = interpreters.create("legacy")
    error = interpreters.exec(one, CODE)
else:
    import _xxsubinterpreters as interpreters

    one = interpreters.create()
    error = interpreters.run_string(one, CODE)
assert error is None, error
interpreters.destroy(one)
print("end")
