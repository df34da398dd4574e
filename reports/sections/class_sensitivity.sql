SELECT
    class_index,
    class_name,
    sample_count,
    class_cosine_mean,
    dominance_margin_mean
FROM class_stats
WHERE run_id = $run_id AND sample_count > 0
ORDER BY class_cosine_mean DESC NULLS LAST, class_index
