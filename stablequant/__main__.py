"""`python -m stablequant` is `sfm-quant`."""

from .cli.main import run

run()
