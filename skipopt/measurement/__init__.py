"""Speed and exactness: paired timing of runners, the methods table, the regression gate, costs."""
