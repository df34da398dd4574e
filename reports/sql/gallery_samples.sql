SELECT
    sample_index,
    sample_id,
    label,
    prediction,
    probability,
    is_correct,
    dominant_class,
    dominant_energy_frac,
    prediction_energy_frac,
    label_energy_frac
FROM samples
WHERE run_id = $run_id AND list_contains($indices, sample_index)
ORDER BY sample_index
