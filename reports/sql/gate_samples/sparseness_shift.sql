SELECT sample_index
FROM samples, (SELECT avg(sparseness) AS mean, stddev_samp(sparseness) AS deviation FROM reference.samples)
WHERE abs(sparseness - mean) > deviation
ORDER BY abs(sparseness - mean) DESC, sample_index
