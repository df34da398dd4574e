SELECT sample_index
FROM samples, (SELECT avg($statistic) AS mean, stddev_samp($statistic) AS deviation FROM reference.samples)
WHERE abs($statistic - mean) > deviation
ORDER BY abs($statistic - mean) DESC, sample_index
