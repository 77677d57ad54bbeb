"""`python -m benchmarks NAME ...` is `python -m benchmarks.NAME ...`."""

import runpy
import sys

if __name__ == "__main__":
    if len(sys.argv) < 2 or not sys.argv[1].isidentifier():
        raise SystemExit("usage: python -m benchmarks NAME ...")
    name = sys.argv.pop(1)
    sys.argv[0] = f"python -m benchmarks {name}"
    runpy.run_module(f"benchmarks.{name}", run_name="__main__")
