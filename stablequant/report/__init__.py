"""What a quantized folder says: a table for the terminal, and a page with plots (page.py, the extra `report`)."""

from ..quantization.plan.table import plan_table

__all__ = ["plan_table"]
