SELECT
    class_index,
    class_name,
    sample_count,
    class_cosine_mean,
    dominance_margin_mean
FROM class_stats
WHERE run_id = $run_id AND sample_count > 0
ORDER BY
    sample_count < $ranked_from,
    CASE WHEN sample_count >= $ranked_from THEN class_cosine_mean END DESC NULLS LAST,
    class_index
