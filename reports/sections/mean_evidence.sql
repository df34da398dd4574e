SELECT
    class_index,
    class_name,
    evidence_count,
    cell_pixel_count,
    column_count,
    list_sum(label_energy_frac_mean) AS label_energy_frac,
    list_max(list_concat(label_energy_frac_mean, other_energy_frac_mean)) AS cell_frac_max,
    label_energy_frac_mean,
    other_energy_frac_mean
FROM evidence
WHERE run_id = $run_id AND evidence_count > 0
ORDER BY
    evidence_count < $ranked_from,
    CASE WHEN evidence_count >= $ranked_from THEN label_energy_frac END NULLS LAST,
    class_index
LIMIT $count
