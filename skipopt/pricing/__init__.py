"""What things cost, measured in real decoding. Knows nothing of which mask is good."""

from skipopt.bench.measure_costs import measure_prices
from skipopt.bench.measure_tree_costs import measure_beyond

__all__ = ["measure_beyond", "measure_prices"]
