SELECT sample_index
FROM samples
WHERE $statistic $beyond (SELECT avg($statistic) FROM samples)
ORDER BY $statistic $worst_first, sample_index
