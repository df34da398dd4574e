SELECT avg($statistic) FROM samples
