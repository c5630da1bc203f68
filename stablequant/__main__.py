"""`python -m stablequant` is `sfm-quant`."""

from .cli import run

run()
