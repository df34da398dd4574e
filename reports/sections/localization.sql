SELECT
    class_index,
    class_name,
    sample_count,
    centroid_y_mean,
    centroid_y_std,
    centroid_x_mean,
    centroid_x_std,
    spread_mean,
    half_energy_area_frac_mean,
    positive_area_frac_mean
FROM localization
WHERE run_id = $run_id AND sample_count > 0
ORDER BY
    sample_count < $ranked_from,
    CASE WHEN sample_count >= $ranked_from THEN half_energy_area_frac_mean END DESC NULLS LAST,
    class_index
