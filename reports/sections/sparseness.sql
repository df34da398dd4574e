SELECT
    class_index,
    class_name,
    sample_count,
    sparseness_p10,
    sparseness_p50,
    sparseness_p90,
    sparseness_mean,
    complexity_mean
FROM class_stats
WHERE run_id = $run_id AND sample_count > 0
ORDER BY
    sample_count < $ranked_from,
    CASE WHEN sample_count >= $ranked_from THEN sparseness_p50 END NULLS LAST,
    class_index
