"""The report on a quantized folder: one page with plots, the extra `report`."""
