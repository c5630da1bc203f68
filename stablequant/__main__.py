"""`python -m stablequant` is `sfm-quant`."""

from .cli import main

main(prog_name="sfm-quant")
