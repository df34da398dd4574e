SELECT abs(here.mean - there.mean) / nullif(there.deviation, 0)
FROM (SELECT avg($statistic) AS mean FROM samples) AS here,
    (SELECT avg($statistic) AS mean, stddev_samp($statistic) AS deviation FROM reference.samples) AS there
