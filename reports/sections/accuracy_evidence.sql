SELECT
    class_index,
    class_name,
    sample_count,
    correct_frac,
    agreement_frac,
    label_energy_frac_mean,
    probability_mean
FROM class_stats
WHERE run_id = $run_id AND sample_count > 0
ORDER BY
    sample_count < $ranked_from,
    CASE WHEN sample_count >= $ranked_from THEN agreement_frac END NULLS LAST,
    class_index
