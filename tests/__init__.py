"""All tests: those of a module alone (unit), those with a database (integration), those of whole stacks (e2e)."""

import os

# Before numpy and torch are loaded. The models of tests are tiny: the threads of a fit would only wait for each other,
# and for the tests that run beside it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
