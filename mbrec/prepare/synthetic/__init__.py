"""A synthetic impression log with a click-conversion funnel and a known Bayes optimum."""
