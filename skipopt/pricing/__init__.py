"""What things cost, measured in real decoding. Knows nothing of which mask is good."""

from skipopt.pricing.beyond import measure_beyond
from skipopt.pricing.chains import measure_prices

__all__ = ["measure_beyond", "measure_prices"]
