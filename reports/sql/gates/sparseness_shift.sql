SELECT abs(here.mean - there.mean) / nullif(there.deviation, 0)
FROM (SELECT avg(sparseness) AS mean FROM samples) AS here,
    (SELECT avg(sparseness) AS mean, stddev_samp(sparseness) AS deviation FROM reference.samples) AS there
